//! Jobs and the events that tell of them.
//!
//! The rule it keeps: a job is announced (`added`), then changed until its state is SUCCESS or FAILED; ids restart at 1
//! when the appliance does, and nothing of a job survives that.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};

use crate::failure::Failure;

/// Jobs kept; older ones are forgotten.
const KEPT: usize = 1000;

#[derive(Debug)]
struct Inner {
    next: i64,
    jobs: BTreeMap<i64, Value>,
}

/// The job table.
#[derive(Debug)]
pub struct Jobs {
    inner: Mutex<Inner>,
    events: broadcast::Sender<Value>,
    changed: watch::Sender<u64>,
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner { next: 1, jobs: BTreeMap::new() }),
            events: broadcast::channel(256).0,
            changed: watch::channel(0).0,
        }
    }
}

/// Milliseconds since the epoch, as the wire spells a moment.
fn now() -> Value {
    json!({"$date": jiff::Timestamp::now().as_millisecond()})
}

impl Jobs {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream of `collection_update` parameters.
    pub fn subscribe(&self) -> broadcast::Receiver<Value> {
        self.events.subscribe()
    }

    fn tell(&self, what: &str, id: i64, fields: &Value) {
        let event = json!({"msg": what, "collection": "core.get_jobs", "id": id, "fields": fields});
        // Nobody listening is fine.
        let _ = self.events.send(event);
        self.changed.send_modify(|version| *version += 1);
    }

    /// Starts a job and returns its id.
    pub fn start(&self, method: &str, arguments: &[Value], message_id: &Value, user: &str) -> i64 {
        let mut inner = self.inner();
        let id = inner.next;
        inner.next += 1;
        let fields = json!({
            "id": id,
            "message_ids": if message_id.is_null() { json!([]) } else { json!([message_id]) },
            "method": method,
            "arguments": arguments,
            "transient": false,
            "description": null,
            "abortable": false,
            "logs_path": null,
            "logs_excerpt": null,
            "progress": {"percent": 0, "description": "", "extra": null},
            "result": null,
            "result_encoding_error": null,
            "error": null,
            "exception": null,
            "exc_info": null,
            "state": "RUNNING",
            "time_started": now(),
            "time_finished": null,
            "credentials": {"type": "API_KEY", "data": {"username": user}},
        });
        inner.jobs.insert(id, fields.clone());
        while inner.jobs.len() > KEPT {
            inner.jobs.pop_first();
        }
        drop(inner);
        self.tell("added", id, &fields);
        id
    }

    /// Ends a job.
    pub fn finish(&self, id: i64, outcome: &Result<Value, Failure>) {
        let mut inner = self.inner();
        let Some(Value::Object(job)) = inner.jobs.get_mut(&id) else { return };
        let mut set = |field: &str, value: Value| job.insert(field.to_owned(), value);
        set("time_finished", now());
        match outcome {
            Ok(result) => {
                set("progress", json!({"percent": 100, "description": "", "extra": null}));
                set("state", json!("SUCCESS"));
                set("result", result.clone());
            }
            Err(failure) => {
                let json = failure.to_json();
                let part = |pointer: &str| json.pointer(pointer).cloned().unwrap_or(Value::Null);
                let kind = match failure {
                    Failure::Invalid(_) => json!("VALIDATION"),
                    _ => part("/data/trace/class"),
                };
                set("state", json!("FAILED"));
                set("error", failure.summary().into());
                set("exception", failure.summary().into());
                set(
                    "exc_info",
                    json!({
                        "repr": failure.summary(),
                        "type": kind,
                        "errno": part("/data/error"),
                        "extra": part("/data/extra"),
                    }),
                );
            }
        }
        let fields = Value::Object(job.clone());
        drop(inner);
        self.tell("changed", id, &fields);
    }

    /// All jobs.
    pub fn list(&self) -> Vec<Value> {
        self.inner().jobs.values().cloned().collect()
    }

    /// Waits until a job has ended and gives its fields; `None` when there is no such job.
    pub async fn wait(&self, id: i64) -> Option<Value> {
        let mut changed = self.changed.subscribe();
        loop {
            let job = self.inner().jobs.get(&id).cloned()?;
            if !matches!(job.get("state").and_then(Value::as_str), Some("WAITING" | "RUNNING")) {
                return Some(job);
            }
            changed.changed().await.ok()?;
        }
    }

    /// Forgets everything, as a restart does.
    pub fn reset(&self) {
        *self.inner() = Inner { next: 1, jobs: BTreeMap::new() };
        self.changed.send_modify(|version| *version += 1);
    }
}
