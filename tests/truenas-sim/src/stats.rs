//! What was asked of the appliance: counts per method and the longest chain of calls.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;

/// Counters since the last reset.
#[derive(Debug, Default, Clone, Serialize, PartialEq, Eq)]
pub struct Snapshot {
    /// Calls per method, those that keep the session included.
    pub methods: BTreeMap<String, u64>,
    /// Calls that ended in an error, per method.
    pub errors: BTreeMap<String, u64>,
    /// Calls without those that keep the session (`auth.*`, `core.*`).
    pub calls: u64,
    /// Longest chain of such calls in which each began after the one before had ended. Calls that a client sends side
    /// by side count once only when they overlap, so give them some latency.
    pub hops: u64,
    /// Microseconds from a call's arrival to its end, summed over those of `calls` that have ended: divided by their
    /// number, the latency as the appliance sees it.
    pub served_us: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Requests or answers that broke the appliance's schema.
    pub schema_violations: Vec<String>,
    /// Whether requests and answers are checked against the schemas.
    pub schemas_checked: bool,
}

#[derive(Debug, Default)]
struct Inner {
    counts: Snapshot,
    /// Longest chain among the calls that have ended.
    ended: u64,
    /// Calls begun before a reset do not count after it.
    epoch: u64,
}

/// The counters.
#[derive(Debug, Default)]
pub struct Stats {
    inner: Mutex<Inner>,
}

/// A call that has begun.
#[derive(Debug)]
pub struct Begun {
    depth: Option<u64>,
    epoch: u64,
    at: Instant,
}

impl Stats {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call whose frame has arrived.
    pub fn begin(&self, method: &str) -> Begun {
        let mut inner = self.inner();
        *inner.counts.methods.entry(method.to_owned()).or_default() += 1;
        let keeps_session = method.starts_with("auth.") || method.starts_with("core.");
        let depth = (!keeps_session).then(|| {
            inner.counts.calls += 1;
            inner.ended + 1
        });
        if let Some(depth) = depth {
            inner.counts.hops = inner.counts.hops.max(depth);
        }
        Begun { depth, epoch: inner.epoch, at: Instant::now() }
    }

    /// Marks a call's end; called before its answer leaves.
    pub fn end(&self, begun: &Begun, method: &str, failed: bool) {
        let mut inner = self.inner();
        if begun.epoch != inner.epoch {
            return;
        }
        if let Some(depth) = begun.depth {
            inner.ended = inner.ended.max(depth);
            inner.counts.served_us += u64::try_from(begun.at.elapsed().as_micros()).unwrap_or(u64::MAX);
        }
        if failed {
            *inner.counts.errors.entry(method.to_owned()).or_default() += 1;
        }
    }

    /// Counts a connection.
    pub fn connected(&self) {
        self.inner().counts.connections += 1;
    }

    /// Records a violation of the schema.
    pub fn violation(&self, text: String) {
        tracing::error!(violation = %text, "message does not match the appliance's schema");
        self.inner().counts.schema_violations.push(text);
    }

    /// The counters at this moment.
    pub fn snapshot(&self, schemas_checked: bool) -> Snapshot {
        Snapshot { schemas_checked, ..self.inner().counts.clone() }
    }

    /// Starts counting anew; violations stay.
    pub fn reset(&self) {
        let mut inner = self.inner();
        let schema_violations = std::mem::take(&mut inner.counts.schema_violations);
        *inner = Inner {
            counts: Snapshot { schema_violations, ..Snapshot::default() },
            ended: 0,
            epoch: inner.epoch + 1,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_are_the_longest_chain_and_side_by_side_calls_count_once() {
        let stats = Stats::default();
        let (a, b) = (stats.begin("pool.dataset.create"), stats.begin("nvmet.subsys.create"));
        stats.end(&a, "pool.dataset.create", false);
        stats.end(&b, "nvmet.subsys.create", false);
        let c = stats.begin("nvmet.namespace.create");
        stats.end(&c, "nvmet.namespace.create", true);
        let ping = stats.begin("core.ping");
        stats.end(&ping, "core.ping", false);
        let seen = stats.snapshot(false);
        assert_eq!((seen.calls, seen.hops), (3, 2));
        assert_eq!(seen.methods["core.ping"], 1);
        assert_eq!(seen.errors["nvmet.namespace.create"], 1);
    }

    #[test]
    fn the_time_of_calls_that_keep_the_session_is_left_out() {
        let stats = Stats::default();
        for method in ["pool.dataset.create", "core.ping"] {
            let mut begun = stats.begin(method);
            begun.at -= std::time::Duration::from_secs(3);
            stats.end(&begun, method, false);
        }
        let served = stats.snapshot(false).served_us;
        assert!((3_000_000..6_000_000).contains(&served), "{served}");
    }

    #[test]
    fn a_call_begun_before_a_reset_lengthens_no_later_chain() {
        let stats = Stats::default();
        let old = stats.begin("sharing.nfs.create");
        stats.reset();
        stats.end(&old, "sharing.nfs.create", false);
        stats.begin("sharing.nfs.query");
        assert_eq!(stats.snapshot(false).hops, 1);
    }
}
