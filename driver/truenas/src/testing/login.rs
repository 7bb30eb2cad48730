//! Logins: order of mechanisms, refusals, no storm.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{Peer, SECRET, Site, calls, options, until};
use crate::{ApiKey, CallError, Client, ConnectionState, Lane, LoginRefusal, NotSent};

async fn refusal(client: &Client) -> LoginRefusal {
    match until(client, |s| matches!(s, ConnectionState::LoginRefused { .. })).await {
        ConnectionState::LoginRefused { why } => why,
        other => panic!("{other}"),
    }
}

/// Answers the next `auth.login_ex` with `response_type`.
async fn verdict(peer: &mut Peer, response_type: &str) {
    peer.options().await;
    let login = peer.expect("auth.login_ex").await;
    peer.answer(&login, json!({"response_type": response_type}));
}

#[tokio::test(start_paused = true)]
async fn a_named_user_is_sent_with_the_key_and_never_without() {
    let mut site = Site::new();
    let mut options = options();
    options.user = Some("csi".into());
    let client = site.client_with(options);
    let mut peer = site.peer().await;
    peer.options().await;
    let login = peer.expect("auth.login_ex").await;
    assert_eq!(
        login.params,
        json!([{"mechanism": "API_KEY_PLAIN", "username": "csi", "api_key": format!("1-{SECRET}"),
                "login_options": {"user_info": false}}])
    );
    peer.answer(&login, json!({"response_type": "AUTH_ERR"}));
    assert_eq!(refusal(&client).await, LoginRefusal::WrongKey { user: "csi".into() });
    assert!(peer.is_over().await, "no second login");
}

#[tokio::test(start_paused = true)]
async fn a_named_user_falls_back_only_when_the_method_does_not_exist() {
    let mut site = Site::new();
    let mut options = options();
    options.user = Some("csi".into());
    let client = site.client_with(options);
    let mut peer = site.peer().await;
    peer.options().await;
    let login = peer.expect("auth.login_ex").await;
    peer.refuse(&login, -32601, 0, "");
    let login = peer.expect("auth.login_with_api_key").await;
    peer.answer(&login, json!(true));
    peer.version().await;
    until(&client, ConnectionState::is_connected).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_user_the_key_alone_is_tried_once_and_remembered_when_it_works() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.peer().await;
    peer.options().await;
    let login = peer.expect("auth.login_ex").await;
    assert_eq!(login.params[0]["username"], "truenas_admin");
    peer.answer(&login, json!({"response_type": "AUTH_ERR"}));
    let login = peer.expect("auth.login_with_api_key").await;
    assert_eq!(login.params, json!([format!("1-{SECRET}")]));
    peer.answer(&login, json!(true));
    peer.version().await;
    until(&client, ConnectionState::is_connected).await;
    peer.cut();
    let mut peer = site.peer().await;
    peer.options().await;
    let login = peer.expect("auth.login_with_api_key").await;
    peer.answer(&login, json!(true));
    peer.version().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_account_is_not_tried_for_ten_minutes() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.peer().await;
    verdict(&mut peer, "DENIED").await;
    assert_eq!(refusal(&client).await, LoginRefusal::Denied);
    let refused_at = Instant::now();
    let started = Instant::now();
    let error = calls(&client, Lane::Fence, 60).ping().await.unwrap_err();
    assert!(matches!(error, CallError::NotSent { why: NotSent::LoginRefused(_), .. }), "{error}");
    assert_eq!(started.elapsed(), Duration::ZERO, "calls fail at once");
    site.dial_times();
    let mut peer = site.peer().await;
    assert!(refused_at.elapsed() >= Duration::from_secs(600), "{:?}", refused_at.elapsed());
    assert_eq!(site.dial_times().len(), 1);
    peer.log_in().await;
    until(&client, ConnectionState::is_connected).await;
    assert_eq!(client.counters().logins_refused, 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_key_is_not_sent_again_while_its_file_stays_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "1-old").unwrap();
    for key in [ApiKey::from_file(&file).unwrap(), ApiKey::new("1-old").unwrap()] {
        let mut site = Site::new();
        let mut options = options();
        let from_file = format!("{key:?}").contains("file: Some");
        (options.api_key, options.user) = (key, Some("csi".into()));
        let client = site.client_with(options);
        let mut peer = site.peer().await;
        verdict(&mut peer, "AUTH_ERR").await;
        assert_eq!(refusal(&client).await, LoginRefusal::WrongKey { user: "csi".into() });
        site.dial_times();
        tokio::time::sleep(Duration::from_secs(86_400)).await;
        assert!(site.dial_times().is_empty());
        if from_file {
            // Written again on purpose, with the same key: the appliance was set right.
            std::fs::write(dir.path().join("again"), "1-old").unwrap();
            std::fs::rename(dir.path().join("again"), &file).unwrap();
            let _peer = site.session().await;
            until(&client, ConnectionState::is_connected).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_changed_while_it_was_being_refused_is_tried_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "1-old").unwrap();
    let mut site = Site::new();
    let mut options = options();
    options.api_key = ApiKey::from_file(&file).unwrap();
    let _client = site.client_with(options);
    let mut peer = site.peer().await;
    peer.options().await;
    let login = peer.expect("auth.login_ex").await;
    std::fs::write(&file, "2-new").unwrap();
    let refused_at = Instant::now();
    peer.answer(&login, json!({"response_type": "EXPIRED"}));
    let mut peer = site.peer().await;
    assert!(refused_at.elapsed() < Duration::from_secs(1), "{:?}", refused_at.elapsed());
    peer.options().await;
    assert_eq!(peer.expect("auth.login_ex").await.params[0]["api_key"], "2-new");
}

/// A Secret that flaps must not lock the address out.
#[tokio::test(start_paused = true)]
async fn a_key_file_that_changes_all_the_time_is_no_login_storm() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "1-a").unwrap();
    let mut site = Site::new();
    let mut options = options();
    (options.api_key, options.user) = (ApiKey::from_file(&file).unwrap(), Some("csi".into()));
    let _client = site.client_with(options);
    let mut logins = Vec::new();
    for round in 0..40 {
        let mut peer = site.peer().await;
        peer.options().await;
        let login = peer.expect("auth.login_ex").await;
        logins.push(Instant::now());
        std::fs::write(&file, format!("1-b{round}")).unwrap();
        peer.answer(&login, json!({"response_type": "AUTH_ERR"}));
    }
    for (n, at) in logins.iter().enumerate() {
        let minute = logins.iter().skip(n).filter(|t| t.duration_since(*at) < Duration::from_secs(60));
        assert!(minute.count() <= 10);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_the_connection_end_when_the_login_is_refused() {
    let mut site = Site::new();
    let mut options = options();
    options.user = Some("csi".into());
    let client = site.client_with(options);
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let calls = calls(&client, Lane::Ordinary, 600);
            tokio::spawn(async move { calls.ping().await })
        })
        .collect();
    let mut peer = site.peer().await;
    verdict(&mut peer, "DENIED").await;
    for call in waiting {
        let error = call.await.unwrap().unwrap_err();
        assert!(
            matches!(error, CallError::NotSent { why: NotSent::LoginRefused(LoginRefusal::Denied), .. }),
            "{error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_key_in_the_file_ends_the_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "1-old").unwrap();
    let mut site = Site::new();
    let mut options = options();
    options.api_key = ApiKey::from_file(&file).unwrap();
    let client = site.client_with(options);
    let mut peer = site.peer().await;
    verdict(&mut peer, "EXPIRED").await;
    assert_eq!(refusal(&client).await, LoginRefusal::Expired);
    let refused_at = Instant::now();
    std::fs::write(&file, "2-new").unwrap();
    let mut peer = site.peer().await;
    assert!(refused_at.elapsed() <= Duration::from_secs(16), "{:?}", refused_at.elapsed());
    peer.options().await;
    let login = peer.expect("auth.login_ex").await;
    assert_eq!(login.params[0]["api_key"], "2-new");
}

#[tokio::test(start_paused = true)]
async fn a_new_key_of_another_owner_is_tried_alone_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "1-old").unwrap();
    let mut site = Site::new();
    let mut options = options();
    options.api_key = ApiKey::from_file(&file).unwrap();
    let client = site.client_with(options);
    let peer = site.session().await;
    until(&client, ConnectionState::is_connected).await;
    std::fs::write(&file, "2-new").unwrap();
    peer.cut();
    let mut peer = site.peer().await;
    verdict(&mut peer, "AUTH_ERR").await;
    let login = peer.expect("auth.login_with_api_key").await;
    assert_eq!(login.params, json!(["2-new"]));
    peer.answer(&login, json!(false));
    assert_eq!(refusal(&client).await, LoginRefusal::WrongKeyOrUser);
}

#[tokio::test(start_paused = true)]
async fn after_a_refusal_what_worked_before_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "1-old").unwrap();
    let mut site = Site::new();
    let mut options = options();
    options.api_key = ApiKey::from_file(&file).unwrap();
    let client = site.client_with(options);
    let peer = site.session().await;
    until(&client, ConnectionState::is_connected).await;
    peer.cut();
    let mut peer = site.peer().await;
    verdict(&mut peer, "AUTH_ERR").await;
    assert_eq!(refusal(&client).await, LoginRefusal::WrongKey { user: "truenas_admin".into() });
    std::fs::write(&file, "2-new").unwrap();
    let mut peer = site.peer().await;
    verdict(&mut peer, "AUTH_ERR").await;
    peer.expect("auth.login_with_api_key").await;
}

#[tokio::test(start_paused = true)]
async fn each_verdict_has_its_words_and_no_second_login() {
    for (response, expected) in [
        ("EXPIRED", LoginRefusal::Expired),
        ("OTP_REQUIRED", LoginRefusal::OneTimePassword),
        ("DENIED", LoginRefusal::Denied),
        ("SCRAM_RESPONSE", LoginRefusal::Unexpected("SCRAM_RESPONSE".into())),
    ] {
        let mut site = Site::new();
        let client = site.client();
        let mut peer = site.peer().await;
        verdict(&mut peer, response).await;
        assert_eq!(refusal(&client).await, expected);
        assert!(peer.is_over().await, "no second login after {response}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_security_level_without_keys_is_a_refusal() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.peer().await;
    peer.options().await;
    let login = peer.expect("auth.login_ex").await;
    peer.refuse(&login, -32001, 95, "[EOPNOTSUPP] not supported at the current authenticator level");
    assert_eq!(refusal(&client).await, LoginRefusal::NotAllowed);
}

#[tokio::test(start_paused = true)]
async fn a_rate_limited_login_pauses_for_a_minute() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.peer().await;
    peer.options().await;
    let login = peer.expect("auth.login_ex").await;
    peer.refuse(&login, -32001, 16, "[EBUSY] Rate Limit Exceeded");
    until(&client, |s| matches!(s, ConnectionState::Unreachable { .. })).await;
    let limited_at = Instant::now();
    let _peer = site.session().await;
    assert!(limited_at.elapsed() >= Duration::from_secs(59));
}

#[tokio::test(start_paused = true)]
async fn an_appliance_without_options_gives_job_ids() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.peer().await;
    let options = peer.expect("core.set_options").await;
    peer.answer(&options, json!(null));
    let login = peer.expect("auth.login_ex").await;
    peer.answer(&login, json!({"response_type": "SUCCESS"}));
    let version = peer.expect("system.version").await;
    peer.answer(&version, json!("TrueNAS-SCALE-25.04.2.6"));
    peer.failover("SINGLE").await;
    let ConnectionState::Connected(info) = until(&client, ConnectionState::is_connected).await else {
        panic!()
    };
    assert_eq!((info.jobs, info.version.minor), (crate::JobReplies::Id, 4));
}

#[tokio::test(start_paused = true)]
async fn garbage_during_the_login_is_a_failed_attempt() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.peer().await;
    peer.expect("core.set_options").await;
    peer.text("<html>502</html>");
    let state = until(&client, |s| matches!(s, ConnectionState::Unreachable { .. })).await;
    assert!(state.to_string().contains("unreadable"), "{state}");
    assert_eq!(client.counters().bad_messages, 1);
    let _peer = site.session().await;
}

#[tokio::test(start_paused = true)]
async fn an_appliance_that_never_answers_the_login_is_a_failed_attempt() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.peer().await;
    peer.expect("core.set_options").await;
    let state = until(&client, |s| matches!(s, ConnectionState::Unreachable { .. })).await;
    assert!(state.to_string().contains("no answer"), "{state}");
}
