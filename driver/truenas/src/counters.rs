//! Figures for metrics: what went over the connection and how each method fared.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the duration buckets, in seconds; a last bucket without bound follows.
pub const BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// A snapshot of everything counted since the client was made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counters {
    /// Successful logins.
    pub sessions: u64,
    /// Successful logins after the first.
    pub reconnects: u64,
    /// Connections that ended after the login.
    pub connections_lost: u64,
    /// Connection attempts that failed before the login.
    pub failed_attempts: u64,
    /// Logins that the appliance refused.
    pub logins_refused: u64,
    /// Messages sent, logins included, pings not.
    pub messages_sent: u64,
    /// Messages received, pongs not.
    pub messages_received: u64,
    /// Bytes of the messages sent.
    pub bytes_sent: u64,
    /// Bytes of the messages received.
    pub bytes_received: u64,
    /// Messages that were no JSON-RPC, or larger than allowed; each ended its connection.
    pub bad_messages: u64,
    /// Per method, ordered by name.
    pub methods: Vec<MethodCounters>,
}

/// How one method fared.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodCounters {
    /// The TrueNAS method.
    pub method: &'static str,
    /// Calls with a usable answer.
    pub answered: u64,
    /// Calls that the appliance refused.
    pub refused: u64,
    /// Calls whose outcome is unknown.
    pub unknown: u64,
    /// Calls that were never sent.
    pub not_sent: u64,
    /// Answers "too many concurrent calls", each sent again.
    pub throttled: u64,
    /// From the call to its end, waiting for a slot included; all outcomes.
    pub durations: Durations,
}

/// A histogram of durations.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Durations {
    /// Calls per bucket of [`BUCKETS`], not cumulated; the last one has no upper bound.
    pub buckets: [u64; BUCKETS.len() + 1],
    /// Sum of all durations in seconds.
    pub sum: f64,
    /// Number of durations.
    pub count: u64,
}

impl Durations {
    fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BUCKETS.iter().position(|b| seconds <= *b).unwrap_or(BUCKETS.len());
        if let Some(n) = self.buckets.get_mut(bucket) {
            *n += 1;
        }
        self.sum += seconds;
        self.count += 1;
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With a usable answer.
    Answered,
    /// [`CallError::Refused`](crate::CallError::Refused).
    Refused,
    /// [`CallError::OutcomeUnknown`](crate::CallError::OutcomeUnknown).
    Unknown,
    /// [`CallError::NotSent`](crate::CallError::NotSent).
    NotSent,
}

/// The live counters.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) sessions: AtomicU64,
    pub(crate) connections_lost: AtomicU64,
    pub(crate) failed_attempts: AtomicU64,
    pub(crate) logins_refused: AtomicU64,
    messages_sent: AtomicU64,
    messages_received: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    pub(crate) bad_messages: AtomicU64,
    methods: Mutex<BTreeMap<&'static str, MethodCounters>>,
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Table {
    pub(crate) fn sent(&self, bytes: usize) {
        count(&self.messages_sent);
        self.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        count(&self.messages_received);
        self.bytes_received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn call_ended(&self, method: &'static str, outcome: Outcome, duration: Duration) {
        self.with(method, |m| {
            match outcome {
                Outcome::Answered => m.answered += 1,
                Outcome::Refused => m.refused += 1,
                Outcome::Unknown => m.unknown += 1,
                Outcome::NotSent => m.not_sent += 1,
            }
            m.durations.observe(duration);
        });
    }

    pub(crate) fn throttled(&self, method: &'static str) {
        self.with(method, |m| m.throttled += 1);
    }

    fn with(&self, method: &'static str, change: impl FnOnce(&mut MethodCounters)) {
        let mut methods = self.methods.lock().unwrap_or_else(PoisonError::into_inner);
        change(methods.entry(method).or_insert_with(|| MethodCounters {
            method,
            answered: 0,
            refused: 0,
            unknown: 0,
            not_sent: 0,
            throttled: 0,
            durations: Durations::default(),
        }));
    }

    pub(crate) fn snapshot(&self) -> Counters {
        let read = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let sessions = read(&self.sessions);
        Counters {
            sessions,
            reconnects: sessions.saturating_sub(1),
            connections_lost: read(&self.connections_lost),
            failed_attempts: read(&self.failed_attempts),
            logins_refused: read(&self.logins_refused),
            messages_sent: read(&self.messages_sent),
            messages_received: read(&self.messages_received),
            bytes_sent: read(&self.bytes_sent),
            bytes_received: read(&self.bytes_received),
            bad_messages: read(&self.bad_messages),
            methods: self.methods.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_their_buckets() {
        let table = Table::default();
        table.call_ended("core.ping", Outcome::Answered, Duration::from_millis(5));
        table.call_ended("core.ping", Outcome::Refused, Duration::from_secs(3600));
        let snapshot = table.snapshot();
        let m = snapshot.methods.first().unwrap();
        assert_eq!((m.answered, m.refused, m.durations.count), (1, 1, 2));
        assert_eq!((m.durations.buckets[0], m.durations.buckets[BUCKETS.len()]), (1, 1));
    }
}
