//! JSON-RPC 2.0 as TrueNAS speaks it: positional parameters, no batches, answers in any order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Map, Value, json};

use super::session::{ACCEPTED, Session};
use crate::appliance::Shared;
use crate::config::Version;
use crate::failure::Failure;
use crate::faults::When;
use crate::methods::{self, Call};
use crate::validate::{self, Access};

/// Sends an event to a session that asked for it.
pub(super) fn notify(session: &Session, event: &Value) {
    let collection = event.get("collection").and_then(Value::as_str).unwrap_or_default();
    if session.listens_to(collection) {
        session.send(&json!({"jsonrpc": "2.0", "method": "collection_update", "params": event}));
    }
}

struct Request {
    /// `None`: a notification, which is never answered.
    id: Option<Value>,
    method: String,
    params: Vec<Value>,
}

fn parse(text: &str) -> Result<Request, (Value, i32, &'static str)> {
    let Ok(Value::Object(message)) = serde_json::from_str::<Value>(text) else {
        return Err((Value::Null, -32700, "Parse error"));
    };
    let id = message.get("id").cloned();
    let bad = |words| (id.clone().unwrap_or(Value::Null), -32600, words);
    match &id {
        None | Some(Value::Null | Value::String(_)) => {}
        Some(Value::Number(n)) if n.is_i64() || n.is_u64() => {}
        Some(_) => return Err((Value::Null, -32600, "Invalid 'id' type")),
    }
    if message.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(bad("Invalid JSON-RPC version"));
    }
    let Some(method) = message.get("method").and_then(Value::as_str).map(str::to_owned) else {
        return Err(bad("Missing 'method' member"));
    };
    let params = match message.get("params") {
        None => Vec::new(),
        Some(Value::Array(params)) => params.clone(),
        Some(_) => return Err(bad("Invalid 'params' type")),
    };
    Ok(Request { id, method, params })
}

fn answer(session: &Session, id: Option<&Value>, outcome: Result<Value, Failure>) {
    let Some(id) = id else { return };
    let mut message = Map::from_iter([("jsonrpc".to_owned(), json!("2.0")), ("id".to_owned(), id.clone())]);
    match outcome {
        Ok(result) => message.insert("result".into(), result),
        Err(failure) => message.insert("error".into(), failure.to_json()),
    };
    session.send(&Value::Object(message));
}

/// Takes one message: refuses it, or starts its call as a task of its own.
pub(super) fn receive(shared: &Arc<Shared>, session: &Arc<Session>, text: &str) {
    let request = match parse(text) {
        Ok(request) => request,
        Err((id, code, words)) => {
            let failure = Failure::Protocol { code, message: words.into() };
            answer(session, Some(&id), Err(failure));
            return;
        }
    };
    if session.accepted.fetch_add(1, Ordering::AcqRel) >= ACCEPTED {
        session.accepted.fetch_sub(1, Ordering::AcqRel);
        let message = format!("Maximum number of concurrent calls ({ACCEPTED}) has exceeded");
        answer(session, request.id.as_ref(), Err(Failure::Protocol { code: -32000, message }));
        return;
    }
    let (shared, session) = (Arc::clone(shared), Arc::clone(session));
    let begun = shared.stats.begin(&request.method);
    tokio::spawn(async move {
        let slots = Arc::clone(&session.slots);
        // The semaphore is never closed; without a permit there is nothing to run.
        if let Ok(_slot) = slots.acquire_owned().await {
            let outcome = if shared.config.version >= Version::V26 {
                // What runs in a thread ends by itself; whatever still waits is given up with the connection.
                tokio::select! {
                    biased;
                    () = session.abort.cancelled() => None,
                    outcome = execute(&shared, &session, &request) => outcome,
                }
            } else {
                execute(&shared, &session, &request).await
            };
            let failed = matches!(&outcome, Some(Err(_)));
            shared.stats.end(&begun, &request.method, failed);
            if let Some(outcome) = outcome {
                answer(&session, request.id.as_ref(), outcome);
            }
        }
        session.accepted.fetch_sub(1, Ordering::AcqRel);
    });
}

/// Runs a call with its faults. `None`: the connection was dropped instead of an answer.
async fn execute(
    shared: &Arc<Shared>,
    session: &Arc<Session>,
    request: &Request,
) -> Option<Result<Value, Failure>> {
    let method = request.method.as_str();
    tracing::debug!(method, "call");
    let plan = shared.faults.plan(method);
    shared.faults.pass(method, When::Before).await;
    if !plan.latency.is_zero() {
        tokio::time::sleep(plan.latency).await;
    }
    if plan.drop == Some(When::Before) {
        session.abort.cancel();
        return None;
    }
    if let Some((When::Before, failure)) = plan.fail {
        return Some(Err(failure));
    }
    let outcome = perform(shared, session, request).await;
    if let Err(failure) = &outcome {
        tracing::debug!(method, error = %failure.summary(), "call failed");
    }
    shared.faults.pass(method, When::After).await;
    if plan.drop == Some(When::After) {
        session.abort.cancel();
        return None;
    }
    match plan.fail {
        Some((When::After, failure)) => Some(Err(failure)),
        _ => Some(outcome),
    }
}

async fn perform(shared: &Arc<Shared>, session: &Arc<Session>, request: &Request) -> Result<Value, Failure> {
    let method = request.method.as_str();
    let Some(spec) = validate::method(shared.config.version, method) else {
        return Err(Failure::Protocol { code: -32601, message: "Method does not exist".into() });
    };
    let user = session.user();
    if spec.access() == Access::None {
        if user.is_none() {
            shared.login.admit(method, session.peer).await?;
        }
    } else if user.is_none() {
        return Err(Failure::not_authenticated());
    }
    shared.schemas.request(&shared.stats, method, &request.params);
    let params = validate::params(shared.config.version, method, &request.params)?;
    let message_id = request.id.clone().unwrap_or(Value::Null);
    if !spec.is_job() {
        let call = Call { shared: Arc::clone(shared), session: Arc::clone(session), params };
        let result = methods::run(method, call).await?;
        shared.schemas.answer(&shared.stats, method, &result);
        return Ok(result);
    }
    let id = shared.jobs.start(method, &request.params, &message_id, user.as_deref().unwrap_or_default());
    let call = Call { shared: Arc::clone(shared), session: Arc::clone(session), params };
    let name = method.to_owned();
    let worker = {
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let outcome = methods::run(&name, call).await;
            if let Ok(result) = &outcome {
                shared.schemas.answer(&shared.stats, &name, result);
            }
            shared.jobs.finish(id, &outcome);
            outcome
        })
    };
    if session.legacy_jobs() {
        return Ok(id.into());
    }
    worker
        .await
        .unwrap_or_else(|_| Err(Failure::exception("RuntimeError", "the job ended without an outcome")))
}
