//! Waiting for the block device of a new zvol.
//!
//! The appliance answers a zvol's creation before its device is there, and refuses to serve a device that it does not
//! see. Nothing was done then, so the call is made again, with growing pauses.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use truenas::{CallError, Calls};

/// First wait for the device of a new zvol.
const FIRST: Duration = Duration::from_millis(10);
/// Longest wait between two tries.
const MAX: Duration = Duration::from_secs(1);
/// How long the device of a new zvol may take altogether.
const DEADLINE: Duration = Duration::from_secs(30);

/// Makes a call that needs the device until its answer is another one than that the device is missing, or time is up.
pub(super) async fn once_there<T, F>(calls: &Calls, mut make: impl FnMut() -> F) -> Result<T, CallError>
where
    F: Future<Output = Result<T, CallError>>,
{
    let deadline = (Instant::now() + DEADLINE).min(calls.deadline());
    let mut pause = FIRST;
    loop {
        let made = make().await;
        let missing = made.as_ref().err().and_then(CallError::refused).is_some_and(|e| e.is_device_missing());
        if !missing || Instant::now() + pause >= deadline {
            return made;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX);
    }
}
