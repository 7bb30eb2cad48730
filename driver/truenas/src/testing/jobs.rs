//! Jobs: by event, across connections, aborted, forgotten.

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Peer, Site, calls, until};
use crate::{CallError, Client, ConnectionState, Lane, NotSent, Unknown};

const METHOD: &str = "filesystem.setperm";

fn start(client: &Client) -> JoinHandle<Result<Value, CallError>> {
    let calls = calls(client, Lane::Ordinary, 3000);
    tokio::spawn(async move { calls.job::<_, Value>(METHOD, &(json!({"path": "/mnt/tank/a"}),)).await })
}

fn job(state: &str, started: u64, result: &Value) -> Value {
    json!({"id": 42, "method": METHOD, "state": state, "result": result, "error": null, "exc_info": null,
           "message_ids": [], "time_started": {"$date": started}, "progress": {"percent": 1}})
}

/// Subscribes and starts job 42, which runs.
async fn running(peer: &mut Peer) {
    let subscribe = peer.expect("core.subscribe").await;
    assert_eq!(subscribe.params, json!(["core.get_jobs"]));
    peer.answer(&subscribe, json!("sub-1"));
    let call = peer.expect(METHOD).await;
    peer.answer(&call, json!(42));
    look(peer, Some(job("RUNNING", 1, &Value::Null))).await;
}

async fn look(peer: &mut Peer, found: Option<Value>) {
    let look = peer.expect("core.get_jobs").await;
    assert_eq!(look.params[0], json!([["id", "=", 42]]));
    peer.answer(&look, json!(found.into_iter().collect::<Vec<_>>()));
}

#[tokio::test(start_paused = true)]
async fn a_job_ends_by_event() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    let done = start(&client);
    running(&mut peer).await;
    peer.event("alert.list", json!({"id": 42, "state": "SUCCESS"}));
    peer.event("core.get_jobs", json!({"id": 41, "method": METHOD, "state": "SUCCESS"}));
    peer.event("core.get_jobs", job("RUNNING", 1, &Value::Null));
    peer.event("core.get_jobs", job("SUCCESS", 1, &json!({"ok": 1})));
    peer.event("core.get_jobs", job("SUCCESS", 1, &json!({"ok": 1})));
    assert_eq!(done.await.unwrap(), Ok(json!({"ok": 1})));
    // Subscribed once per connection.
    let again = start(&client);
    let call = peer.expect(METHOD).await;
    peer.answer(&call, json!(42));
    look(&mut peer, Some(job("SUCCESS", 2, &json!(7)))).await;
    assert_eq!(again.await.unwrap(), Ok(json!(7)));
}

#[tokio::test(start_paused = true)]
async fn an_aborted_job_is_an_error() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    let done = start(&client);
    running(&mut peer).await;
    peer.event("core.get_jobs", job("ABORTED", 1, &Value::Null));
    let error = done.await.unwrap().unwrap_err();
    assert_eq!(error, CallError::OutcomeUnknown { method: METHOD, why: Unknown::JobAborted { id: 42 } });
}

#[tokio::test(start_paused = true)]
async fn a_failed_job_is_a_refusal() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    let done = start(&client);
    running(&mut peer).await;
    let mut failed = job("FAILED", 1, &Value::Null);
    failed["error"] = json!("[EINVAL] options.stripacl: needed");
    failed["exc_info"] = json!({"repr": "", "type": "VALIDATION", "errno": null, "extra": [["options.stripacl", "needed", 22]]});
    peer.event("core.get_jobs", failed);
    let Err(CallError::Refused(error)) = done.await.unwrap() else { panic!("not refused") };
    assert!(error.mentions("stripacl"));
}

#[tokio::test(start_paused = true)]
async fn a_job_is_found_again_on_the_next_connection() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    let done = start(&client);
    running(&mut peer).await;
    peer.cut();
    let mut peer = site.session().await;
    let subscribe = peer.expect("core.subscribe").await;
    peer.answer(&subscribe, json!("sub-2"));
    look(&mut peer, Some(job("RUNNING", 1, &Value::Null))).await;
    peer.event("core.get_jobs", job("SUCCESS", 1, &json!(1)));
    assert_eq!(done.await.unwrap(), Ok(json!(1)));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_ended_while_the_connection_was_down_is_found() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    let done = start(&client);
    running(&mut peer).await;
    peer.cut();
    let mut peer = site.session().await;
    let subscribe = peer.expect("core.subscribe").await;
    peer.answer(&subscribe, json!("sub-2"));
    look(&mut peer, Some(job("SUCCESS", 1, &json!(1)))).await;
    assert_eq!(done.await.unwrap(), Ok(json!(1)));
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_another_job_with_the_same_id_proves_nothing() {
    for found in [None, Some(job("SUCCESS", 2, &json!(1)))] {
        let mut site = Site::new();
        let client = site.client();
        let mut peer = site.session().await;
        let done = start(&client);
        running(&mut peer).await;
        peer.cut();
        let mut peer = site.session().await;
        let subscribe = peer.expect("core.subscribe").await;
        peer.answer(&subscribe, json!("sub-2"));
        look(&mut peer, found).await;
        let error = done.await.unwrap().unwrap_err();
        assert_eq!(
            error,
            CallError::OutcomeUnknown { method: METHOD, why: Unknown::JobForgotten { id: 42 } }
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_names_another_job_and_starts_none() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    let done = start(&client);
    let subscribe = peer.expect("core.subscribe").await;
    peer.answer(&subscribe, json!("sub-1"));
    let call = peer.expect(METHOD).await;
    peer.answer(&call, json!(42));
    let mut other = job("SUCCESS", 1, &Value::Null);
    other["arguments"] = json!([{"path": "/mnt/tank/b"}]);
    look(&mut peer, Some(other)).await;
    let error = done.await.unwrap().unwrap_err();
    assert_eq!(error, CallError::NotSent { method: METHOD, why: NotSent::JobQueueFull });
}

#[tokio::test(start_paused = true)]
async fn a_job_past_its_deadline_may_still_run() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    let done = start(&client);
    running(&mut peer).await;
    let error = done.await.unwrap().unwrap_err();
    assert_eq!(error, CallError::OutcomeUnknown { method: METHOD, why: Unknown::DeadlinePassed });
}

#[tokio::test(start_paused = true)]
async fn without_job_ids_no_job_is_started() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.peer().await;
    let options = peer.expect("core.set_options").await;
    peer.answer(&options, json!({"legacy_jobs": false}));
    let login = peer.expect("auth.login_ex").await;
    peer.answer(&login, json!({"response_type": "SUCCESS"}));
    peer.version().await;
    until(&client, ConnectionState::is_connected).await;
    let error = start(&client).await.unwrap().unwrap_err();
    assert_eq!(error, CallError::NotSent { method: METHOD, why: NotSent::NoJobIds });
    assert!(peer.is_quiet().await);
}
