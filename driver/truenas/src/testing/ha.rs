//! HA pairs: several addresses, redirections, and the controller that is not the active one.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{Peer, Site, calls, options, until};
use crate::{CallError, Client, ConnectionState, Lane, Unknown};

fn pair(site: &Site) -> Client {
    let mut options = options();
    options.url = "wss://nas-a.test".parse().unwrap();
    options.further_urls = vec!["wss://nas-b.test".parse().unwrap()];
    options.user = Some("csi".into());
    site.client_with(options)
}

fn hosts(site: &mut Site) -> Vec<String> {
    site.dialled().into_iter().map(|(_, host)| host).collect()
}

/// Logs in to a controller whose failover state is `status`.
async fn log_in(peer: &mut Peer, status: &str) {
    peer.options().await;
    let login = peer.expect("auth.login_ex").await;
    peer.answer(&login, json!({"response_type": "SUCCESS"}));
    let version = peer.expect("system.version").await;
    peer.answer(&version, json!("25.10.5"));
    peer.failover(status).await;
}

async fn redirected(peer: &mut Peer, urls: serde_json::Value) {
    peer.options().await;
    let login = peer.expect("auth.login_ex").await;
    peer.answer(&login, json!({"response_type": "REDIRECT", "urls": urls}));
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_is_not_active_is_left_for_the_other_at_once() {
    for status in ["BACKUP", "ELECTING", "IMPORTING", "ERROR", "hushhush"] {
        let mut site = Site::new();
        let client = pair(&site);
        let begun = Instant::now();
        let mut peer = site.peer().await;
        log_in(&mut peer, status).await;
        let mut other = site.peer().await;
        assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
        log_in(&mut other, "MASTER").await;
        until(&client, ConnectionState::is_connected).await;
        assert_eq!(hosts(&mut site), ["nas-a.test", "nas-b.test"], "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_passive_controller_says_is_shown_only_when_it_is_a_word() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.peer().await;
    log_in(&mut peer, "BACKUP").await;
    let state = until(&client, |s| matches!(s, ConnectionState::Unreachable { .. })).await;
    assert!(state.to_string().contains("failover status BACKUP"), "{state}");
    let mut peer = site.peer().await;
    log_in(&mut peer, "hush hush").await;
    let state =
        until(&client, |s| matches!(s, ConnectionState::Unreachable { attempt: 2, .. })).await.to_string();
    assert!(state.contains("failover status unknown") && !state.contains("hush"), "{state}");
}

#[tokio::test(start_paused = true)]
async fn a_pair_that_is_electing_is_asked_again_with_pauses_and_no_login_storm() {
    let mut site = Site::new();
    let client = pair(&site);
    let mut logins = Vec::new();
    while logins.len() < 60 {
        let mut peer = site.peer().await;
        log_in(&mut peer, "ELECTING").await;
        logins.push(Instant::now());
    }
    for (n, at) in logins.iter().enumerate() {
        let minute =
            logins.iter().skip(n).filter(|t| t.duration_since(*at) < Duration::from_secs(60)).count();
        assert!(minute <= 10, "{minute} logins within a minute");
    }
    let mut peer = site.peer().await;
    log_in(&mut peer, "MASTER").await;
    until(&client, ConnectionState::is_connected).await;
}

#[tokio::test(start_paused = true)]
async fn a_redirection_is_followed_to_the_active_controller() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.peer().await;
    redirected(&mut peer, json!(["https://nas-c.test"])).await;
    let mut active = site.peer().await;
    log_in(&mut active, "MASTER").await;
    until(&client, ConnectionState::is_connected).await;
    assert_eq!(hosts(&mut site), ["nas.test", "nas-c.test"]);
    active.cut();
    let _peer = site.session().await;
    assert_eq!(hosts(&mut site), ["nas.test"], "the configured address is asked first again");
}

#[tokio::test(start_paused = true)]
async fn a_redirection_into_clear_text_is_not_followed_and_said() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.peer().await;
    redirected(&mut peer, json!(["http://nas-b.test", "ws://nas-b.test/api/current"])).await;
    let state = until(&client, |s| matches!(s, ConnectionState::Unreachable { .. })).await;
    assert!(state.to_string().contains("standby") && state.to_string().contains("nas-b.test"), "{state}");
    assert_eq!(hosts(&mut site), ["nas.test"]);
    // It may take over.
    let _peer = site.session().await;
    until(&client, ConnectionState::is_connected).await;
}

#[tokio::test(start_paused = true)]
async fn controllers_that_point_at_each_other_are_no_loop() {
    let mut site = Site::new();
    let _client = site.client();
    let begun = Instant::now();
    let mut logins = 0;
    while begun.elapsed() < Duration::from_secs(60) {
        let mut peer = site.peer().await;
        let other = if logins % 2 == 0 { "https://nas-b.test" } else { "https://nas.test" };
        redirected(&mut peer, json!([other])).await;
        logins += 1;
    }
    assert!(logins <= 12, "{logins}");
}

#[tokio::test(start_paused = true)]
async fn a_failover_in_the_middle_of_a_call_leaves_its_outcome_unknown_and_finds_the_new_master() {
    let mut site = Site::new();
    let client = pair(&site);
    let mut peer = site.peer().await;
    log_in(&mut peer, "MASTER").await;
    until(&client, ConnectionState::is_connected).await;
    let calls = calls(&client, Lane::Ordinary, 600);
    let call = tokio::spawn({
        let calls = calls.clone();
        async move { calls.dataset_delete("tank/a").await }
    });
    peer.expect("pool.dataset.delete").await;
    peer.cut();
    let error = call.await.unwrap().unwrap_err();
    assert!(
        matches!(error, CallError::OutcomeUnknown { why: Unknown::ConnectionLost(_), .. }),
        "a deletion that was sent is never sent again: {error}"
    );
    // The old master is down now, the other one takes over.
    site.appliance.unreachable.store(1, std::sync::atomic::Ordering::Relaxed);
    let mut peer = site.peer().await;
    log_in(&mut peer, "MASTER").await;
    until(&client, ConnectionState::is_connected).await;
    assert_eq!(hosts(&mut site), ["nas-a.test", "nas-a.test", "nas-b.test"]);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_may_not_see_the_failover_state_serves_single_appliances_only() {
    for (licensed, connects) in [(false, true), (true, false)] {
        let mut site = Site::new();
        let client = site.client();
        let mut peer = site.peer().await;
        peer.options().await;
        let login = peer.expect("auth.login_ex").await;
        peer.answer(&login, json!({"response_type": "SUCCESS"}));
        let version = peer.expect("system.version").await;
        peer.answer(&version, json!("25.10.5"));
        let status = peer.expect("failover.status").await;
        peer.refuse(&status, -32001, 13, "[EACCES] Not authorized");
        let license = peer.expect("failover.licensed").await;
        peer.answer(&license, json!(licensed));
        let state =
            until(&client, |s| s.is_connected() || matches!(s, ConnectionState::Unreachable { .. })).await;
        assert_eq!(state.is_connected(), connects, "{state}");
        assert!(connects || state.to_string().contains("FAILOVER_READ"), "{state}");
    }
}
