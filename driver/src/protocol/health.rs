//! Checks that all protocols share.

use truenas::Calls;
use truenas::calls::{Filter, ServiceState};

use crate::protocol::call::Answer as _;
use crate::volume::failure::Failure;
use crate::volume::health::{Entry, Status};

/// What is wrong with the appliance's service `name`, without which none of its exports is reached.
///
/// # Errors
/// The state cannot be read.
pub async fn of_service(calls: &Calls, name: &'static str) -> Result<Option<Entry>, Failure> {
    let found = calls.services_query(&[Filter::eq("service", name)]).await;
    let found = found.or_failed(&format!("reading the state of service {name}"))?;
    let runs = found.iter().any(|s| s.service == name && s.state == ServiceState::Running);
    let words = || format!("service {name} of the appliance does not run; start it under System, Services");
    Ok((!runs).then(|| Entry::new(Status::Inaccessible, "ServiceStopped", words())))
}
