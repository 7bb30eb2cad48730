//! Jobs: methods whose work goes on after the answer.
//!
//! Every version can answer a job method with the job's id at once; the session asks for that, because a job that is
//! waited for in the answer occupies one of the ten places of the connection. The end is learnt from `core.get_jobs`
//! events. The order is: subscribe, register, look once, wait for events. A new connection has no subscription, so the
//! same is done again. A job that was stopped ends without an error and with a null result: only its state tells.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout_at;
use zeroize::Zeroize as _;

use crate::calls::{Calls, Filter};
use crate::error::{ApiError, CallError, NotSent, Unknown};
use crate::frame::{self, Event, JsonPlace};
use crate::state::{ConnectionState, JobReplies};

/// Collection and method of jobs.
const JOBS: &str = "core.get_jobs";

/// A job's fields as events and queries give them.
#[derive(Clone, Deserialize)]
pub(crate) struct Job {
    id: i64,
    #[serde(default)]
    method: String,
    /// Parameters, with defaults filled in and secrets as asterisks.
    #[serde(default)]
    arguments: Option<Value>,
    #[serde(default)]
    state: String,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    exc_info: Option<ExcInfo>,
    #[serde(default)]
    result: Option<Box<RawValue>>,
    /// Tells a job from another one with the same id after the appliance restarted.
    #[serde(default)]
    time_started: Option<Box<RawValue>>,
}

#[derive(Clone, Deserialize)]
struct ExcInfo {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    errno: Option<i32>,
    #[serde(default)]
    extra: Option<Box<RawValue>>,
}

/// Jobs that somebody waits for.
#[derive(Default)]
pub(crate) struct JobTable {
    waited: Mutex<HashMap<i64, watch::Sender<Option<Job>>>>,
    /// Number of the session that is subscribed to job events.
    subscribed: tokio::sync::Mutex<u64>,
}

impl JobTable {
    /// Takes an event; jobs that nobody waits for are dropped at once.
    pub(crate) fn event(&self, event: &Event) {
        if event.collection != JOBS {
            return;
        }
        let Some(fields) = &event.fields else { return };
        let waited = self.lock();
        if waited.is_empty() {
            return;
        }
        match serde_json::from_str::<Job>(fields.get()) {
            Ok(job) => {
                if let Some(waiter) = waited.get(&job.id) {
                    waiter.send_replace(Some(job));
                }
            }
            Err(error) => tracing::debug!(problem = %JsonPlace(&error), "a job event could not be read"),
        }
    }

    fn wait_for(&self, id: i64) -> watch::Receiver<Option<Job>> {
        self.lock().entry(id).or_insert_with(|| watch::Sender::new(None)).subscribe()
    }

    fn done(&self, id: i64) {
        let mut waited = self.lock();
        if waited.get(&id).is_some_and(|w| w.receiver_count() == 0) {
            waited.remove(&id);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<i64, watch::Sender<Option<Job>>>> {
        self.waited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a job registered while it is waited for.
struct Waiter<'a> {
    table: &'a JobTable,
    id: i64,
    updates: Option<watch::Receiver<Option<Job>>>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.updates = None;
        self.table.done(self.id);
    }
}

pub(crate) async fn run<P, R>(calls: &Calls, method: &'static str, params: &P) -> Result<R, CallError>
where
    P: Serialize + Sync + ?Sized,
    R: DeserializeOwned,
{
    subscribe(calls, method).await?;
    let id: i64 = calls.call(method, params).await?;
    let asked = Parameters(serde_json::to_value(params).unwrap_or_default());
    let job = wait(calls, method, id, &asked).await?;
    outcome(method, &job)
}

/// Waits for a job that exists until it ends.
async fn wait(calls: &Calls, method: &'static str, id: i64, asked: &Parameters) -> Result<Job, CallError> {
    let unknown = |why| CallError::OutcomeUnknown { method, why };
    let table = &calls.client.shared().jobs;
    let mut waiter = Waiter { table, id, updates: Some(table.wait_for(id)) };
    let mut state = calls.client.watch();
    let mut identity: Option<Job> = None;
    loop {
        let session = session_number(&state.borrow_and_update());
        match look(calls, method, id).await {
            Ok(Some(job)) if is_same(identity.as_ref(), &job, method) => {
                if identity.is_none() && job.arguments.as_ref().is_some_and(|a| !covers(&asked.0, a)) {
                    return Err(CallError::NotSent { method, why: NotSent::JobQueueFull });
                }
                if is_over(&job) {
                    return Ok(job);
                }
                identity = Some(job);
            }
            Ok(_) => return Err(unknown(Unknown::JobForgotten { id })),
            // Only reads: the next connection can answer them.
            Err(CallError::OutcomeUnknown { why: Unknown::ConnectionLost(_), .. }) => continue,
            Err(CallError::NotSent { why: NotSent::SessionExpired, .. }) => {}
            Err(CallError::OutcomeUnknown { why, .. }) => return Err(unknown(why)),
            Err(CallError::NotSent { why: NotSent::LoginRefused(why), .. }) => {
                return Err(unknown(Unknown::ConnectionLost(format!("login refused: {why}"))));
            }
            Err(CallError::NotSent { .. }) => return Err(unknown(Unknown::DeadlinePassed)),
            Err(refused) => return Err(unknown(Unknown::Unreadable(refused.to_string()))),
        }
        let Some(updates) = waiter.updates.as_mut() else { return Err(unknown(Unknown::DeadlinePassed)) };
        let ended = async {
            tokio::select! {
                job = updates.wait_for(|job| job.as_ref().is_some_and(is_over)) => job.ok().and_then(|j| j.clone()),
                // Another connection has no subscription: look again.
                _ = state.wait_for(|s| session_number(s).is_some_and(|n| Some(n) != session)) => None,
            }
        };
        match timeout_at(calls.deadline, ended).await {
            Err(_) => return Err(unknown(Unknown::DeadlinePassed)),
            Ok(Some(job)) if is_same(identity.as_ref(), &job, method) => return Ok(job),
            // Of another job with this id, from before a restart or after one: look again without the stale event.
            Ok(Some(_)) => return Err(unknown(Unknown::JobForgotten { id })),
            Ok(None) => {}
        }
    }
}

/// Subscribes (once per connection) and reads the job's present state.
async fn look(calls: &Calls, method: &'static str, id: i64) -> Result<Option<Job>, CallError> {
    subscribe(calls, method).await?;
    // `raw_result`: the query redacts results otherwise, events do not.
    let options = json!({"extra": {"raw_result": true}});
    let mut jobs: Vec<Job> = calls.call(JOBS, &([Filter::eq("id", id)], options)).await?;
    Ok(jobs.pop().filter(|job| job.id == id))
}

async fn subscribe(calls: &Calls, method: &'static str) -> Result<(), CallError> {
    let shared = calls.client.shared();
    let not_sent = |why| CallError::NotSent { method, why };
    let mut state = calls.client.watch();
    let usable = |s: &ConnectionState| {
        matches!(
            s,
            ConnectionState::Connected(_) | ConnectionState::LoginRefused { .. } | ConnectionState::Closed
        )
    };
    let present = match timeout_at(calls.deadline, state.wait_for(usable)).await {
        Ok(Ok(state)) => state.clone(),
        Ok(Err(_)) => return Err(not_sent(NotSent::Closed)),
        Err(_) => return Err(not_sent(NotSent::NotConnected(calls.client.state().to_string()))),
    };
    let session = match present {
        ConnectionState::Connected(session) => session,
        ConnectionState::LoginRefused { why } => return Err(not_sent(NotSent::LoginRefused(why))),
        _ => return Err(not_sent(NotSent::Closed)),
    };
    if session.jobs != JobReplies::Id {
        return Err(not_sent(NotSent::NoJobIds));
    }
    let Ok(mut subscribed) = timeout_at(calls.deadline, shared.jobs.subscribed.lock()).await else {
        return Err(not_sent(NotSent::NoSlot));
    };
    if *subscribed != session.number {
        calls.call::<_, serde::de::IgnoredAny>("core.subscribe", &(JOBS,)).await?;
        *subscribed = session.number;
    }
    Ok(())
}

/// The parameters of a job, zeroed when dropped: a passphrase may be among them.
struct Parameters(Value);

impl Drop for Parameters {
    fn drop(&mut self) {
        fn clear(value: &mut Value) {
            match value {
                Value::String(text) => text.zeroize(),
                Value::Array(items) => items.iter_mut().for_each(clear),
                Value::Object(fields) => fields.values_mut().for_each(clear),
                Value::Null | Value::Bool(_) | Value::Number(_) => {}
            }
        }
        clear(&mut self.0);
    }
}

/// Whether a job with the arguments `actual` is the one that was asked for. A full queue answers with the id of the
/// last job in it, whatever that one's arguments are.
fn covers(asked: &Value, actual: &Value) -> bool {
    match (asked, actual) {
        (_, Value::String(secret)) if secret == "********" => true,
        (Value::Object(asked), Value::Object(actual)) => {
            asked.iter().all(|(key, value)| actual.get(key).is_some_and(|a| covers(value, a)))
        }
        (Value::Array(asked), Value::Array(actual)) => {
            asked.len() <= actual.len() && asked.iter().zip(actual).all(|(a, b)| covers(a, b))
        }
        _ => asked == actual,
    }
}

fn session_number(state: &ConnectionState) -> Option<u64> {
    match state {
        ConnectionState::Connected(session) => Some(session.number),
        _ => None,
    }
}

/// Ids restart at 1 with the appliance: the same id means the same job only with the same method and start.
fn is_same(known: Option<&Job>, job: &Job, method: &str) -> bool {
    let start = |j: &Job| j.time_started.as_ref().map(|t| t.get().to_owned());
    job.method == method
        && known.is_none_or(|k| match (start(k), start(job)) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        })
}

fn is_over(job: &Job) -> bool {
    matches!(job.state.as_str(), "SUCCESS" | "FAILED" | "ABORTED")
}

/// What an ended job means.
fn outcome<R: DeserializeOwned>(method: &'static str, job: &Job) -> Result<R, CallError> {
    match job.state.as_str() {
        "SUCCESS" => {
            let text = job.result.as_ref().map_or("null", |r| r.get());
            serde_json::from_str(text).map_err(|e| CallError::OutcomeUnknown {
                method,
                why: Unknown::Unreadable(JsonPlace(&e).to_string()),
            })
        }
        "FAILED" => Err(CallError::Refused(Box::new(failure(method, job)))),
        _ => Err(CallError::OutcomeUnknown { method, why: Unknown::JobAborted { id: job.id } }),
    }
}

/// A failed job in the words of a refused call.
fn failure(method: &'static str, job: &Job) -> ApiError {
    let info = job.exc_info.as_ref();
    let validation = info.is_some_and(|i| i.kind.as_deref() == Some("VALIDATION"));
    let fields = info.and_then(|i| i.extra.as_deref()).filter(|_| validation).map(frame::field_errors);
    ApiError {
        method,
        code: if validation { -32602 } else { -32001 },
        message: format!("job {} failed", job.id),
        errno: info.and_then(|i| i.errno).unwrap_or(if validation { 22 } else { 14 }),
        errname: String::new(),
        reason: job.error.clone().unwrap_or_else(|| format!("job {} failed without a reason", job.id)),
        class: info.and_then(|i| i.kind.clone()),
        fields: fields.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(text: &str) -> Job {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn an_aborted_job_is_an_error_although_it_has_none() {
        let aborted = job(r#"{"id":7,"method":"m","state":"ABORTED","result":null,"error":null}"#);
        let error = outcome::<()>("m", &aborted).unwrap_err();
        assert_eq!(error, CallError::OutcomeUnknown { method: "m", why: Unknown::JobAborted { id: 7 } });
        assert!(outcome::<()>("m", &job(r#"{"id":7,"state":"SUCCESS","result":null}"#)).is_ok());
    }

    #[test]
    fn a_failed_validation_keeps_its_fields() {
        let failed = job(
            r#"{"id":7,"state":"FAILED","error":"[EINVAL] a.b: c","exc_info":{"repr":"x","type":"VALIDATION","errno":null,
                "extra":[["a.b","c",22]]}}"#,
        );
        let Err(CallError::Refused(error)) = outcome::<()>("m", &failed) else { panic!("not refused") };
        assert!(error.mentions("b"));
        let failed = job(
            r#"{"id":7,"state":"FAILED","error":"[ENOENT] x","exc_info":{"type":"CallError","errno":2,"extra":null}}"#,
        );
        assert!(outcome::<()>("m", &failed).unwrap_err().is_not_found());
    }

    #[test]
    fn a_job_with_other_arguments_is_not_ours() {
        let asked = json!(["tank/a", {"key": "hush", "names": [1]}]);
        assert!(covers(
            &asked,
            &json!(["tank/a", {"key": "********", "names": [1], "recursive": false}, {}])
        ));
        assert!(!covers(&asked, &json!(["tank/b", {"key": "********", "names": [1]}])));
        assert!(!covers(&asked, &json!(["tank/a", {"key": "********"}])));
        assert!(!covers(&asked, &json!(["tank/a"])));
    }

    #[test]
    fn a_job_of_the_same_id_after_a_restart_is_another_one() {
        let before = job(r#"{"id":1,"method":"m","state":"RUNNING","time_started":{"$date":1}}"#);
        let after = job(r#"{"id":1,"method":"m","state":"SUCCESS","time_started":{"$date":2}}"#);
        assert!(!is_same(Some(&before), &after, "m"));
        assert!(!is_same(None, &after, "other"));
        assert!(is_same(Some(&before), &before, "m"));
    }
}
