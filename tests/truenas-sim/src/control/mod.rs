//! Commands that arm faults, look inside and put things in place, for tests and demonstrations.
//!
//! The rule it keeps: one command, one answer, the same over the socket and in the process.

mod command;
pub(crate) mod socket;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

pub use command::{Command, Error, HELP, NewObject, Seed};

use crate::appliance::Shared;
use crate::faults::When;
use crate::stats::Snapshot;

/// The control commands of an appliance in this process.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl Control {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Runs one command.
    pub async fn send(&self, command: Command) -> Result<Value, String> {
        command::run(&self.shared, command).await
    }

    /// Runs one command given as JSON, as on the socket.
    pub async fn json(&self, command: Value) -> Result<Value, String> {
        let command = serde_json::from_value(command).map_err(|e| format!("not a command: {e}"))?;
        self.send(command).await
    }

    /// The counters since the last reset.
    pub fn stats(&self) -> Snapshot {
        self.shared.stats.snapshot(self.shared.schemas.is_on())
    }

    /// Starts counting anew.
    pub fn reset_stats(&self) {
        self.shared.stats.reset();
    }

    /// Delay of every call.
    pub fn latency(&self, latency: Duration) {
        self.shared.faults.set_latency(None, latency);
    }

    /// Drops the connection at the `call`-th call of a method from here (1: the next).
    pub fn drop_at(&self, method: &str, call: u64, when: When) {
        self.shared.faults.add_drop(method.to_owned(), call, when);
    }

    /// Makes calls of a method wait.
    pub fn hold(&self, method: &str, when: When) {
        self.shared.faults.hold(method.to_owned(), when);
    }

    /// Waits until `count` calls of a method wait at a hold.
    pub async fn wait_held(&self, method: &str, when: When, count: u64) {
        self.shared.faults.wait_held(method, when, count).await;
    }

    /// Lets the held calls of a method go; `*` lets all go.
    pub fn release(&self, method: &str) {
        self.shared.faults.release(method);
    }

    /// Drops every connection of this moment.
    pub fn disconnect(&self) {
        self.shared.connections.drop_all();
    }

    /// Disarms every fault.
    pub fn clear(&self) {
        self.shared.faults.clear();
    }

    /// All rows of a configuration table by its API namespace, e.g. `sharing.nfs`, `nvmet.host_subsys`.
    pub fn rows(&self, table: &str) -> Vec<Value> {
        command::rows(&self.shared, table).unwrap_or_default()
    }

    /// Names of all datasets.
    pub fn datasets(&self) -> Vec<String> {
        let all = self.shared.backend.datasets(&crate::backend::Scope::All).unwrap_or_default();
        all.into_iter().map(|d| d.name).collect()
    }
}
