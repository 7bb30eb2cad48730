//! Connecting, heartbeat, broken connections, reconnecting.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{MAX_MESSAGE, Site, calls, settle, until};
use crate::session::HEARTBEAT;
use crate::{CallError, ConnectionState, JobReplies, Lane, Unknown};

#[tokio::test(start_paused = true)]
async fn the_state_tells_the_version_after_the_login() {
    let mut site = Site::new();
    let client = site.client();
    assert!(matches!(client.state(), ConnectionState::Connecting { attempt: 1, .. }));
    let _peer = site.session().await;
    let ConnectionState::Connected(info) = until(&client, ConnectionState::is_connected).await else {
        panic!()
    };
    assert_eq!((info.version.major, info.version.minor, info.number), (25, 10, 1));
    assert_eq!(info.jobs, JobReplies::Id);
}

#[tokio::test(start_paused = true)]
async fn calls_are_pipelined_and_answers_come_in_any_order() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    let calls = calls(&client, Lane::Ordinary, 60);
    let both = async { tokio::join!(calls.snapshot_count("tank/a"), calls.snapshot_count("tank/b")) };
    let serve = async {
        let first = peer.expect("pool.dataset.snapshot_count").await;
        let second = peer.expect("pool.dataset.snapshot_count").await;
        let count = |c: &super::Call| if c.params == json!(["tank/a"]) { 1 } else { 2 };
        peer.answer(&second, json!(count(&second)));
        peer.answer(&first, json!(count(&first)));
    };
    let ((a, b), ()) = tokio::join!(both, serve);
    assert_eq!((a, b), (Ok(1), Ok(2)));
}

#[tokio::test(start_paused = true)]
async fn garbage_ends_the_connection_and_nothing_else() {
    enum Bad {
        Text(String),
        Binary,
    }
    let mut site = Site::new();
    let client = site.client();
    let bad = [
        Bad::Text("no json".into()),
        Bad::Text("[{\"id\":1,\"result\":1}]".into()),
        Bad::Text("{}".into()),
        Bad::Text("{\"id\":null,\"error\":{\"code\":-32700,\"message\":\"x\"}}".into()),
        Bad::Text(format!("{{\"id\":1,\"result\":\"{}\"}}", "x".repeat(MAX_MESSAGE))),
        Bad::Binary,
    ];
    for (round, bad) in bad.into_iter().enumerate() {
        let mut peer = site.session().await;
        let calls = calls(&client, Lane::Ordinary, 600);
        let ping = tokio::spawn(async move { calls.ping().await });
        peer.expect("core.ping").await;
        match bad {
            Bad::Text(text) => peer.text(text),
            Bad::Binary => peer.binary(vec![1, 2, 3]),
        }
        let error = ping.await.unwrap().unwrap_err();
        assert!(
            matches!(error, CallError::OutcomeUnknown { why: Unknown::ConnectionLost(_), .. }),
            "round {round}: {error}"
        );
        let state = until(&client, |s| matches!(s, ConnectionState::Unreachable { .. })).await;
        assert!(state.to_string().contains("message"), "round {round}: {state}");
        assert_eq!(client.counters().bad_messages, round as u64 + 1);
    }
    let _peer = site.session().await;
    until(&client, ConnectionState::is_connected).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_several_hundred_kilobytes_is_accepted() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    let calls = calls(&client, Lane::Ordinary, 60);
    let big = "x".repeat(MAX_MESSAGE - 100);
    let (result, ()) = tokio::join!(calls.call::<_, String>("core.ping", &[0; 0]), async {
        let call = peer.call().await;
        peer.answer(&call, json!(big));
    });
    assert_eq!(result.unwrap().len(), big.len());
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_leaves_sent_calls_unknown_and_queued_ones_wait_for_the_next() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    let sent = tokio::spawn({
        let calls = calls(&client, Lane::Ordinary, 600);
        async move { calls.dataset_delete("tank/a").await }
    });
    peer.expect("pool.dataset.delete").await;
    peer.cut();
    let error = sent.await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::OutcomeUnknown { why: Unknown::ConnectionLost(_), .. }), "{error}");

    until(&client, |s| matches!(s, ConnectionState::Unreachable { .. })).await;
    let queued = tokio::spawn({
        let calls = calls(&client, Lane::Ordinary, 600);
        async move { calls.ping().await }
    });
    let mut peer = site.session().await;
    let call = peer.expect("core.ping").await;
    peer.answer(&call, json!("pong"));
    assert_eq!(queued.await.unwrap(), Ok(()));
    assert!(peer.is_quiet().await, "the delete was not sent again");
    let counters = client.counters();
    assert_eq!((counters.sessions, counters.reconnects, counters.connections_lost), (2, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_close_code_is_explained() {
    let mut site = Site::new();
    let client = site.client();
    for (code, words) in [(1008, "allowed clients"), (1009, "too large"), (1001, "1001")] {
        let peer = site.session().await;
        until(&client, ConnectionState::is_connected).await;
        peer.close(code);
        let state = until(&client, |s| matches!(s, ConnectionState::Unreachable { .. })).await;
        assert!(state.to_string().contains(words), "{state}");
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_are_one_to_thirty_seconds_apart() {
    let mut site = Site::new();
    site.appliance.unreachable.store(9, Ordering::Relaxed);
    let client = site.client();
    let _peer = site.session().await;
    until(&client, ConnectionState::is_connected).await;
    let times = site.dial_times();
    assert_eq!(times.len(), 10);
    for (pair, full) in times.windows(2).zip([1.0f64, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]) {
        let gap = (pair[1] - pair[0]).as_secs_f64();
        assert!(gap >= full / 2.0 - 0.01 && gap <= full + 0.01, "{gap} for {full}");
    }
    assert_eq!(client.counters().failed_attempts, 9);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_after_each_login_does_not_storm() {
    let mut site = Site::new();
    let client = site.client();
    let started = Instant::now();
    let mut logins = Vec::new();
    while started.elapsed() < Duration::from_secs(600) {
        let peer = site.session().await;
        until(&client, ConnectionState::is_connected).await;
        logins.push(Instant::now());
        peer.cut();
        until(&client, |s| !s.is_connected()).await;
    }
    for (i, login) in logins.iter().enumerate() {
        let recent =
            logins[i..].iter().take_while(|l| l.duration_since(*login) < Duration::from_secs(60)).count();
        assert!(recent <= 10, "{recent} logins within a minute");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_appliance_is_noticed_and_an_idle_one_is_kept() {
    let mut site = Site::new();
    let client = site.client();
    let peer = site.session().await;
    until(&client, ConnectionState::is_connected).await;
    tokio::time::sleep(Duration::from_secs(6 * 3600)).await;
    assert!(client.state().is_connected(), "an idle connection lives on its pings");
    let muted = Instant::now();
    peer.mute();
    let state = until(&client, |s| matches!(s, ConnectionState::Unreachable { .. })).await;
    assert!(state.to_string().contains("no sign of life"), "{state}");
    assert!(muted.elapsed() <= 2 * HEARTBEAT + Duration::from_secs(1), "{:?}", muted.elapsed());
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_the_session() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    until(&client, ConnectionState::is_connected).await;
    let handle = calls(&client, Lane::Ordinary, 60);
    let mut states = client.watch();
    drop(client);
    settle().await;
    assert!(states.borrow_and_update().is_connected(), "a handle for calls keeps it");
    drop(handle);
    assert!(peer.is_over().await);
    states.wait_for(|s| *s == ConnectionState::Closed).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_expired_session_is_logged_in_again_and_its_call_can_be_repeated() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.session().await;
    let calls = calls(&client, Lane::Ordinary, 60);
    let (result, ()) = tokio::join!(calls.ping(), async {
        let call = peer.expect("core.ping").await;
        peer.refuse(&call, -32001, 207, "[ENOTAUTHENTICATED] Not authenticated");
    });
    assert!(
        matches!(result, Err(CallError::NotSent { why: crate::NotSent::SessionExpired, .. })),
        "{result:?}"
    );
    let mut peer = site.session().await;
    let (result, ()) = tokio::join!(calls.ping(), async {
        let call = peer.expect("core.ping").await;
        peer.answer(&call, json!("pong"));
    });
    assert_eq!(result, Ok(()));
}
