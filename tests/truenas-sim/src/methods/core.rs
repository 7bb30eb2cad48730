//! `core.*`: the session's own business, jobs and events.

use serde_json::{Value, json};

use super::{Call, unserved};
use crate::config::Version;
use crate::failure::{EFAULT, ENOENT, Failure};

/// `core.job_wait`, itself a job: ends as the other one does, with its result.
pub(super) async fn job_wait(call: &Call) -> Result<Value, Failure> {
    let id = call.number(0);
    let Some(job) = call.shared.jobs.wait(id).await else {
        return Err(Failure::call(ENOENT, format!("Job {id} does not exist")));
    };
    match job.get("error").and_then(Value::as_str) {
        Some(error) => Err(Failure::call(EFAULT, error)),
        None => Ok(job.get("result").cloned().unwrap_or(Value::Null)),
    }
}

pub(super) fn call(verb: &str, call: &Call) -> Result<Value, Failure> {
    match verb {
        "ping" => Ok(json!("pong")),
        // 25.04 knows no option that means anything here, and says nothing.
        "set_options" if call.shared.config.version == Version::V25_04 => Ok(Value::Null),
        "set_options" => Ok(call.session.set_options(call.params.first().unwrap_or(&Value::Null))),
        "get_jobs" => call.query().run(call.shared.jobs.list()),
        "subscribe" => match call.text(0) {
            event @ "core.get_jobs" => Ok(json!(call.session.subscribe(event))),
            other => Err(Failure::call(ENOENT, format!("the stand-in sends no events of {other:?}"))),
        },
        "unsubscribe" => {
            call.session.unsubscribe(call.text(0));
            Ok(Value::Null)
        }
        _ => Err(unserved(&format!("core.{verb}"))),
    }
}
