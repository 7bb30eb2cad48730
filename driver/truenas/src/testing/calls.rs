//! Slots, deadlines, limits and outcomes of single calls.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{Site, calls, settle, until};
use crate::session::ABANDONED_GRACE;
use crate::{CallError, ConnectionState, Lane, MAX_REQUEST, NotSent, Unknown};

/// Starts a call that the peer does not answer.
fn stuck(client: &crate::Client, lane: Lane, seconds: u64) -> tokio::task::JoinHandle<Result<(), CallError>> {
    let calls = calls(client, lane, seconds);
    tokio::spawn(async move { calls.ping().await })
}

#[tokio::test(start_paused = true)]
async fn a_fence_goes_ahead_of_eight_stuck_calls() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    let mut waiting: Vec<_> = (0..20).map(|_| stuck(&client, Lane::Ordinary, 600)).collect();
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(peer.expect("core.ping").await);
    }
    assert!(peer.is_quiet().await, "eight ordinary calls at most");
    let fences: Vec<_> = (0..3).map(|_| stuck(&client, Lane::Fence, 600)).collect();
    held.push(peer.expect("core.ping").await);
    held.push(peer.expect("core.ping").await);
    assert!(peer.is_quiet().await, "ten calls at most");
    for call in held {
        peer.answer(&call, json!("pong"));
    }
    for _ in 10..23 {
        let call = peer.expect("core.ping").await;
        peer.answer(&call, json!("pong"));
    }
    for call in waiting.drain(..).chain(fences) {
        assert_eq!(call.await.unwrap(), Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_slot_was_not_sent() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    let _stuck: Vec<_> = (0..8).map(|_| stuck(&client, Lane::Ordinary, 600)).collect();
    for _ in 0..8 {
        peer.expect("core.ping").await;
    }
    let error = calls(&client, Lane::Ordinary, 5).ping().await.unwrap_err();
    assert_eq!(error, CallError::NotSent { method: "core.ping", why: NotSent::NoSlot });
    assert!(peer.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn without_a_connection_nothing_is_sent_before_the_deadline_or_after() {
    let mut site = Site::new();
    site.appliance.unreachable.store(4, std::sync::atomic::Ordering::Relaxed);
    let client = site.client();
    let started = Instant::now();
    let error = calls(&client, Lane::Ordinary, 3).dataset_delete("tank/a").await.unwrap_err();
    assert_eq!(started.elapsed().as_secs(), 3);
    let CallError::NotSent { why: NotSent::NotConnected(why), .. } = error else { panic!("{error}") };
    assert!(why.contains("connection refused"), "{why}");
    let mut peer = site.session().await;
    assert!(peer.is_quiet().await, "a withdrawn request is not sent later");
}

#[tokio::test(start_paused = true)]
async fn a_passed_deadline_after_sending_leaves_the_outcome_unknown_and_the_slot_taken() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    let late: Vec<_> = (0..8).map(|_| stuck(&client, Lane::Ordinary, 5)).collect();
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(peer.expect("core.ping").await);
    }
    for call in late {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error, CallError::OutcomeUnknown { method: "core.ping", why: Unknown::DeadlinePassed });
    }
    let next = stuck(&client, Lane::Ordinary, 600);
    assert!(peer.is_quiet().await, "the appliance still works on eight");
    peer.answer(&held[0], json!("pong"));
    let call = peer.expect("core.ping").await;
    settle().await;
    assert!(!next.is_finished(), "the late answer is nobody else's");
    peer.answer(&call, json!("pong"));
    assert_eq!(next.await.unwrap(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn slots_of_calls_that_are_never_answered_come_back() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    for _ in 0..8 {
        drop(stuck(&client, Lane::Ordinary, 5));
        peer.expect("core.ping").await;
    }
    let waiting = stuck(&client, Lane::Ordinary, 600);
    let started = Instant::now();
    let call = peer.expect("core.ping").await;
    assert!(started.elapsed() >= ABANDONED_GRACE, "{:?}", started.elapsed());
    assert!(started.elapsed() <= ABANDONED_GRACE + Duration::from_secs(30), "{:?}", started.elapsed());
    peer.answer(&call, json!("pong"));
    assert_eq!(waiting.await.unwrap(), Ok(()));
    assert!(client.state().is_connected());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_is_withdrawn_when_queued() {
    let mut site = Site::new();
    let client = site.client();
    let call = stuck(&client, Lane::Ordinary, 600);
    settle().await;
    call.abort();
    let _ = call.await;
    let mut peer = site.session().await;
    until(&client, ConnectionState::is_connected).await;
    assert!(peer.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn too_many_calls_is_repeated_because_nothing_was_done() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    let call = stuck(&client, Lane::Ordinary, 60);
    for _ in 0..5 {
        let call = peer.expect("core.ping").await;
        peer.refuse(&call, -32000, 0, "");
    }
    let last = peer.expect("core.ping").await;
    peer.answer(&last, json!("pong"));
    assert_eq!(call.await.unwrap(), Ok(()));
    let counters = client.counters();
    let ping = counters.methods.iter().find(|m| m.method == "core.ping").unwrap();
    assert_eq!((ping.answered, ping.throttled, ping.durations.count), (1, 5, 1));

    let call = stuck(&client, Lane::Ordinary, 10);
    let busy = async {
        loop {
            let call = peer.expect("core.ping").await;
            peer.refuse(&call, -32000, 0, "");
        }
    };
    tokio::select! {
        result = call => assert_eq!(
            result.unwrap(),
            Err(CallError::NotSent { method: "core.ping", why: NotSent::TooManyCalls })
        ),
        () = busy => {}
    }
}

/// Peers repeat every failed call, creations included (tns-csi finding T12).
#[tokio::test(start_paused = true)]
async fn t12_no_call_is_repeated_after_any_other_failure() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    for (code, errno) in [(-32001, 14), (-32001, 16), (-32602, 22), (-32601, 0), (-32603, 0)] {
        let call = stuck(&client, Lane::Ordinary, 60);
        let request = peer.expect("core.ping").await;
        peer.refuse(&request, code, errno, "x");
        assert!(matches!(call.await.unwrap(), Err(CallError::Refused(e)) if e.code == code));
        assert!(peer.is_quiet().await);
    }
}

#[tokio::test(start_paused = true)]
async fn an_oversized_request_is_refused_before_anything_is_sent() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    let path = "x".repeat(MAX_REQUEST);
    let error = calls(&client, Lane::Ordinary, 60).snapshot_count(&path).await.unwrap_err();
    let CallError::NotSent { why: NotSent::TooLarge { bytes, limit }, .. } = error else { panic!("{error}") };
    assert!(bytes > limit && limit == MAX_REQUEST);
    assert!(peer.is_quiet().await);
    assert!(client.state().is_connected());
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_another_shape_leaves_the_outcome_unknown_and_is_not_repeated_in_the_error() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    let calls = calls(&client, Lane::Ordinary, 60);
    let (result, ()) = tokio::join!(calls.snapshot_count("tank/a"), async {
        let call = peer.call().await;
        peer.answer(&call, json!("hushhush"));
    });
    let error = result.unwrap_err();
    assert!(matches!(error, CallError::OutcomeUnknown { why: Unknown::Unreadable(_), .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
}

/// Peers take the first hit of a prefix filter for the volume (tns-csi finding T1).
#[tokio::test(start_paused = true)]
async fn t1_a_neighbour_is_never_taken_for_the_dataset() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    let calls = calls(&client, Lane::Ordinary, 60);
    let row = json!({"name": "tank/data-old", "pool": "tank", "type": "FILESYSTEM", "properties": {}, "children": null});
    let (result, ()) = tokio::join!(calls.dataset_read("tank/data"), async {
        let call = peer.expect("zfs.resource.query").await;
        assert_eq!(call.params[0]["paths"], json!(["tank/data"]));
        peer.answer(&call, json!([row]));
    });
    assert_eq!(result, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn a_deletion_never_asks_for_descendants() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    let calls = calls(&client, Lane::Ordinary, 60);
    let (result, ()) = tokio::join!(calls.dataset_delete("tank/a"), async {
        let call = peer.expect("pool.dataset.delete").await;
        assert_eq!(call.params, json!(["tank/a"]));
        peer.answer(&call, json!(true));
    });
    assert_eq!(result, Ok(()));
}
