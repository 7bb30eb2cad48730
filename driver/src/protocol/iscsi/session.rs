//! Who is logged in to a target, and how that is ended.
//!
//! The rule it keeps: a revocation is over when the appliance shows no session any more. Taking a name away keeps an
//! initiator from logging in again; one that is logged in goes only with the target.

use truenas::Calls;
use truenas::calls::{Filter, IscsiTarget};

use crate::protocol::Volume;
use crate::protocol::appliance::Appliance;
use crate::protocol::call::{Answer as _, gone};
use crate::protocol::iscsi::target;
use crate::volume::failure::{Failure, Kind};
use crate::volume::metadata::Metadata;
use crate::volume::parameter::export::ExportSettings;

/// Ends the sessions of a closed target, if there are any.
pub(super) async fn end_sessions(
    appliance: &Appliance,
    calls: &Calls,
    volume: &Volume,
    metadata: Option<&Metadata>,
    target: &IscsiTarget,
) -> Result<(), Failure> {
    if live(appliance, calls, volume, target, |_| true).await?.is_empty() {
        return Ok(());
    }
    cut(appliance, calls, volume, metadata, target).await
}

/// Initiators that are logged in to the target and fit.
pub(super) async fn live(
    appliance: &Appliance,
    calls: &Calls,
    volume: &Volume,
    target: &IscsiTarget,
    fits: impl Fn(&str) -> bool,
) -> Result<Vec<String>, Failure> {
    let iqn = appliance.iscsi_facts(calls).await?.iqn(&target.name);
    let sessions = calls.iscsi_sessions(&[Filter::eq("target", iqn.as_str())]).await;
    let sessions =
        sessions.or_failed(&format!("reading who is logged in to the iSCSI target of {}", volume.id))?;
    let here = sessions.into_iter().filter(|s| s.target == iqn && fits(&s.initiator));
    Ok(here.map(|s| s.initiator).collect())
}

/// Ends the sessions of a closed target: the target is removed, which ends them, and made again. The zvol is not
/// touched.
pub(super) async fn cut(
    appliance: &Appliance,
    calls: &Calls,
    volume: &Volume,
    metadata: Option<&Metadata>,
    target: &IscsiTarget,
) -> Result<(), Failure> {
    tracing::info!(volume = %volume.id, "a revoked initiator is still logged in: removing its target and making it again");
    appliance.iscsi.forget(volume);
    let doing = format!("ending the iSCSI sessions of {}", volume.id);
    gone(calls.iscsi_target_delete(target.id, true).await, &doing)?;
    let left = live(appliance, calls, volume, target, |_| true).await?;
    if let Some(metadata) = metadata
        && target.name == volume.global
    {
        let settings = ExportSettings::recorded(metadata)?;
        target::ensure(calls, volume, &settings.iscsi, metadata, None).await?;
    }
    if left.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Kind::Unavailable,
        format!(
            "{doing}: {} is still logged in although its target was removed: not fenced",
            left.join(", ")
        ),
    ))
}
