//! Faults on request: delays, holds, refusals, dropped connections.
//!
//! The rule it keeps: a fault is armed by a control command, names the method it waits for, and fires as often as it
//! was told to; without one the appliance behaves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::failure::Failure;

/// Before or after the effect of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// The call has no effect.
    #[default]
    Before,
    /// `pool.dataset.create` only, and only for holds: the dataset is there, its user properties are not. ZFS makes a
    /// dataset in one transaction and sets its properties in a later one (`module/zfs/zfs_ioctl.c`, `zfs_ioc_create`).
    Halfway,
    /// The effect is there, the answer is not.
    After,
}

/// What a call is to meet.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub latency: Duration,
    pub drop: Option<When>,
    pub fail: Option<(When, Failure)>,
}

#[derive(Debug)]
struct Counted<T> {
    method: String,
    /// Matching calls to let pass before it fires.
    skip: u64,
    /// How often it fires; `None`: until cleared.
    times: Option<u64>,
    what: T,
}

impl<T> Counted<T> {
    /// Whether this rule fires for the call.
    fn fires(&mut self, method: &str) -> bool {
        if !covers(&self.method, method) || self.times == Some(0) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if let Some(times) = &mut self.times {
            *times -= 1;
        }
        true
    }
}

/// Whether a rule's method (`*`, `nvmet.*` or a full name) covers a call's.
fn covers(rule: &str, method: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(prefix) => method.starts_with(prefix),
        None => rule == method,
    }
}

#[derive(Debug, Default)]
struct Inner {
    latency: Duration,
    method_latency: BTreeMap<String, Duration>,
    reload: Duration,
    drops: Vec<Counted<When>>,
    fails: Vec<Counted<(When, Failure)>>,
    holds: BTreeSet<(String, When)>,
    waiting: BTreeMap<(String, When), u64>,
    refuse_logins: Option<String>,
    pool_full: bool,
    busy: BTreeSet<String>,
}

/// The armed faults.
#[derive(Debug)]
pub struct Faults {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self { inner: Mutex::default(), changed: watch::channel(0).0 }
    }
}

impl Faults {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    /// Delay of every call, or of one method's.
    pub fn set_latency(&self, method: Option<String>, latency: Duration) {
        let mut inner = self.inner();
        match method {
            Some(method) => {
                inner.method_latency.insert(method, latency);
            }
            None => inner.latency = latency,
        }
    }

    /// How long the reload of a sharing service takes, under that service's lock.
    pub fn set_reload(&self, reload: Duration) {
        self.inner().reload = reload;
    }

    /// The reload time.
    pub fn reload(&self) -> Duration {
        self.inner().reload
    }

    /// Drops the connection at the `call`-th matching call from here (1: the next).
    pub fn add_drop(&self, method: String, call: u64, when: When) {
        self.inner().drops.push(Counted { method, skip: call.saturating_sub(1), times: Some(1), what: when });
    }

    /// Answers matching calls with an error. `times` 0: until cleared.
    pub fn add_fail(&self, method: String, call: u64, times: u64, when: When, failure: Failure) {
        let times = (times > 0).then_some(times);
        self.inner().fails.push(Counted {
            method,
            skip: call.saturating_sub(1),
            times,
            what: (when, failure),
        });
    }

    /// Makes calls of a method wait.
    pub fn hold(&self, method: String, when: When) {
        self.inner().holds.insert((method, when));
    }

    /// Lets the held calls of a method go; `*` lets all go.
    pub fn release(&self, method: &str) {
        self.inner().holds.retain(|(held, _)| method != "*" && held != method);
        self.notify();
    }

    /// Whether calls of a method wait at this point.
    pub(crate) fn is_held(&self, method: &str, when: When) -> bool {
        self.inner().holds.iter().any(|(held, w)| *w == when && covers(held, method))
    }

    /// How many calls wait at a hold.
    fn waiting(&self, method: &str, when: When) -> u64 {
        self.inner().waiting.get(&(method.to_owned(), when)).copied().unwrap_or(0)
    }

    /// Waits until `count` calls wait at a hold.
    pub async fn wait_held(&self, method: &str, when: When, count: u64) {
        let mut changed = self.changed.subscribe();
        while self.waiting(method, when) < count {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Refuses logins with this `response_type`, or (`None`) stops refusing.
    pub fn refuse_logins(&self, with: Option<String>) {
        self.inner().refuse_logins = with;
    }

    /// How logins are refused.
    pub fn login_refusal(&self) -> Option<String> {
        self.inner().refuse_logins.clone()
    }

    /// Makes the pool show no free space and refuse what needs some.
    pub fn set_pool_full(&self, full: bool) {
        self.inner().pool_full = full;
    }

    /// Whether the pool is full.
    pub fn pool_full(&self) -> bool {
        self.inner().pool_full
    }

    /// Marks a dataset as open, so that its destruction is refused.
    pub fn set_busy(&self, dataset: String, busy: bool) {
        let mut inner = self.inner();
        if busy {
            inner.busy.insert(dataset);
        } else {
            inner.busy.remove(&dataset);
        }
    }

    /// Whether a dataset is marked open.
    pub fn is_busy(&self, dataset: &str) -> bool {
        self.inner().busy.contains(dataset)
    }

    /// Disarms everything and lets every held call go.
    pub fn clear(&self) {
        let mut inner = self.inner();
        let waiting = std::mem::take(&mut inner.waiting);
        *inner = Inner { waiting, ..Inner::default() };
        drop(inner);
        self.notify();
    }

    /// What this call is to meet; counts it for every rule.
    pub(crate) fn plan(&self, method: &str) -> Plan {
        let mut inner = self.inner();
        let latency = inner
            .method_latency
            .iter()
            .filter(|(rule, _)| covers(rule, method))
            .map(|(_, latency)| *latency)
            .max()
            .unwrap_or(inner.latency);
        let drop = inner.drops.iter_mut().find_map(|rule| rule.fires(method).then_some(rule.what));
        let fail = inner.fails.iter_mut().find_map(|rule| rule.fires(method).then(|| rule.what.clone()));
        inner.drops.retain(|rule| rule.times != Some(0));
        inner.fails.retain(|rule| rule.times != Some(0));
        // The session's own calls are not slowed down with the rest: the latency models work on the appliance.
        let latency = if method == "core.ping" { Duration::ZERO } else { latency };
        Plan { latency, drop, fail }
    }

    /// Waits while calls of this method are held.
    pub(crate) async fn pass(&self, method: &str, when: When) {
        let rule = |inner: &Inner| {
            inner
                .holds
                .iter()
                .find(|(held, w)| *w == when && covers(held, method))
                .map(|(held, _)| held.clone())
        };
        let Some(held) = rule(&self.inner()) else { return };
        let key = (held, when);
        let mut changed = self.changed.subscribe();
        *self.inner().waiting.entry(key.clone()).or_default() += 1;
        self.notify();
        while rule(&self.inner()).is_some() {
            if changed.changed().await.is_err() {
                break;
            }
        }
        if let Some(count) = self.inner().waiting.get_mut(&key) {
            *count = count.saturating_sub(1);
        }
    }
}
