//! Create calls that were sent and never answered.
//!
//! The rule it keeps: what such a call makes may still come, so until then no answer about its volume is final: a final
//! one would end the matter for the orchestrator, and a volume that comes after it is deleted by nobody.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long the appliance may work on a call that it did not answer. ZFS makes a dataset and sets its properties in two
/// transaction groups, each of which a busy pool writes in seconds, at worst in minutes.
const REACH: Duration = Duration::from_secs(600);

/// The volumes whose create call was not answered, by id.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    since: Mutex<HashMap<String, Instant>>,
}

impl Unanswered {
    fn since(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        // Each change is one call, so nothing is half done when a holder panics.
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A create call for this volume ended without an answer.
    pub(super) fn note(&self, volume: &str) {
        let mut since = self.since();
        since.retain(|_, begun| begun.elapsed() < REACH);
        since.insert(volume.to_owned(), Instant::now());
    }

    /// The volume is there: nothing of it comes any more.
    pub(super) fn forget(&self, volume: &str) {
        self.since().remove(volume);
    }

    /// Whether something of this volume may still come.
    pub(super) fn is_open(&self, volume: &str) -> bool {
        self.since().get(volume).is_some_and(|begun| begun.elapsed() < REACH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_open_until_it_is_seen_or_its_time_is_over() {
        let unanswered = Unanswered::default();
        unanswered.note("tank/a");
        unanswered.note("tank/b");
        assert!(unanswered.is_open("tank/a") && !unanswered.is_open("tank/c"));
        unanswered.forget("tank/a");
        assert!(!unanswered.is_open("tank/a") && unanswered.is_open("tank/b"));
        if let Some(long_ago) = Instant::now().checked_sub(REACH) {
            unanswered.since().insert("tank/b".to_owned(), long_ago);
            assert!(!unanswered.is_open("tank/b"));
            unanswered.note("tank/a");
            assert_eq!(unanswered.since().len(), 1, "what is over is not kept");
        }
    }
}
