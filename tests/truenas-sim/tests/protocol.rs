//! Transport, sessions, limits and faults as a client meets them.
// Helpers of tests may stop at the first surprise as the tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::time::{Duration, Instant};

use common::{Client, config, finding, get, start};
use futures_util::SinkExt as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use truenas_sim::{Appliance, Config, When};

#[tokio::test]
async fn versions_and_boot_id_are_plain_http() {
    let appliance = start().await;
    let (status, body) = get(&appliance, "/api/versions").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    let versions: Vec<String> = serde_json::from_str(&body).unwrap();
    assert!(versions.contains(&"v25.10.5".to_owned()));
    let (_, boot) = get(&appliance, "/api/boot_id").await;
    let boot: String = serde_json::from_str(&boot).unwrap();
    let mut client = Client::login(&appliance).await;
    assert_eq!(client.ok("system.boot_id", json!([])).await, boot.as_str());
    assert_eq!(get(&appliance, "/api/v99.0").await.0, "HTTP/1.1 404 Not Found");
    assert_eq!(get(&appliance, "/api/current").await.0, "HTTP/1.1 400 Bad Request");
}

#[tokio::test]
async fn nothing_but_login_is_answered_before_it() {
    let appliance = start().await;
    let mut client = Client::open(&appliance).await;
    assert_eq!(client.ok("core.ping", json!([])).await, "pong");
    assert_eq!(client.err("pool.query", json!([])).await["data"]["error"], 207);
    let wrong = json!([{"mechanism": "API_KEY_PLAIN", "username": "truenas_admin", "api_key": "1-wrong"}]);
    assert_eq!(client.ok("auth.login_ex", wrong).await, json!({"response_type": "AUTH_ERR"}));
    let other =
        json!([{"mechanism": "API_KEY_PLAIN", "username": "somebody", "api_key": appliance.api_key()}]);
    assert_eq!(client.ok("auth.login_ex", other).await["response_type"], "AUTH_ERR");
    assert_eq!(client.ok("auth.login_with_api_key", json!(["1-wrong"])).await, false);
    assert_eq!(client.ok("auth.login_with_api_key", json!([appliance.api_key()])).await, true);
    client.ok("pool.query", json!([])).await;
    client.ok("auth.logout", json!([])).await;
    assert_eq!(client.err("pool.query", json!([])).await["data"]["error"], 207);
}

#[tokio::test]
async fn logins_are_limited_per_minute() {
    let appliance = start().await;
    let mut client = Client::open(&appliance).await;
    for _ in 0..20 {
        assert_eq!(client.ok("auth.login_with_api_key", json!(["1-wrong"])).await, false);
    }
    let error = client.err("auth.login_with_api_key", json!([appliance.api_key()])).await;
    assert_eq!((&error["code"], &error["data"]["error"]), (&json!(-32001), &json!(16)));
    assert_eq!(error["data"]["reason"], "[EBUSY] Rate Limit Exceeded");
}

#[tokio::test]
async fn a_key_that_travels_in_clear_is_revoked_for_good() {
    let plain = Some("127.0.0.1:0".parse().unwrap());
    let appliance =
        Appliance::start(Config { plain_listen: plain, plain_is_remote: true, ..config() }).await.unwrap();
    let (mut socket, _) = {
        let url = appliance.plain_url().unwrap();
        let address = url.strip_prefix("ws://").unwrap().split('/').next().unwrap().to_owned();
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        tokio_tungstenite::client_async(url, stream).await.unwrap()
    };
    let login = json!({"jsonrpc": "2.0", "id": 1, "method": "auth.login_ex", "params": [{
        "mechanism": "API_KEY_PLAIN", "username": appliance.api_key_user(), "api_key": appliance.api_key()}]});
    socket.send(Message::text(login.to_string())).await.unwrap();
    let answer = futures_util::StreamExt::next(&mut socket).await.unwrap().unwrap();
    let answer: Value = serde_json::from_str(answer.to_text().unwrap()).unwrap();
    assert_eq!(answer["result"]["response_type"], "EXPIRED");
    let mut client = Client::open(&appliance).await;
    assert_eq!(client.ok("auth.login_with_api_key", json!([appliance.api_key()])).await, false);
}

#[tokio::test]
async fn long_messages_and_other_frames_end_the_connection() {
    async fn code(client: &mut Client) -> u16 {
        loop {
            match client.frame().await {
                Some(Message::Close(Some(frame))) => return frame.code.into(),
                Some(_) => {}
                None => panic!("no close frame"),
            }
        }
    }
    let appliance = start().await;
    let mut client = Client::open(&appliance).await;
    client.raw("x".repeat(8193)).await;
    assert_eq!(code(&mut client).await, 1007);
    let mut client = Client::login(&appliance).await;
    client.raw("x".repeat(65536)).await;
    assert_eq!(client.next().await.unwrap()["error"]["code"], -32700, "64 KiB are still read");
    client.raw("x".repeat(65537)).await;
    assert_eq!(code(&mut client).await, 1009);
    let mut client = Client::login(&appliance).await;
    client.socket.send(Message::binary(vec![1])).await.unwrap();
    assert_eq!(code(&mut client).await, 1003);
}

#[tokio::test]
async fn malformed_requests_get_their_codes_and_the_connection_stays() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    for (text, id, code) in [
        ("{", Value::Null, -32700),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"core.ping"}]"#, Value::Null, -32700),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"core.ping"}"#, Value::Null, -32600),
        (r#"{"jsonrpc":"2.0","id":7}"#, json!(7), -32600),
        (r#"{"id":7,"method":"core.ping"}"#, json!(7), -32600),
        (r#"{"jsonrpc":"2.0","id":8,"method":"core.ping","params":{}}"#, json!(8), -32600),
        (r#"{"jsonrpc":"2.0","id":"a","method":"no.such"}"#, json!("a"), -32601),
    ] {
        client.raw(text.to_owned()).await;
        let answer = client.next().await.unwrap();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&id, &json!(code)), "{text}");
    }
    client.raw(r#"{"jsonrpc":"2.0","method":"core.ping"}"#.to_owned()).await;
    let answer = client.call("core.ping", json!([])).await.unwrap();
    assert_eq!(answer["result"], "pong", "a notification is not answered");
}

#[tokio::test]
async fn ten_calls_run_ten_wait_and_the_next_is_refused() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    let control = appliance.control();
    control.hold("pool.query", When::Before);
    for _ in 0..20 {
        client.send("pool.query", json!([])).await;
    }
    control.wait_held("pool.query", When::Before, 10).await;
    let refused = client.err("core.ping", json!([])).await;
    assert_eq!(refused["code"], -32000);
    assert_eq!(refused["message"], "Maximum number of concurrent calls (20) has exceeded");
    control.release("pool.query");
    for _ in 0..20 {
        assert!(client.next().await.unwrap().get("error").is_none());
    }
    assert_eq!(client.ok("core.ping", json!([])).await, "pong");
}

#[tokio::test]
async fn a_job_answers_with_its_id_or_with_its_result() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    client.ok("core.subscribe", json!(["core.get_jobs"])).await;
    let id = client.ok("service.control", json!(["STOP", "nfs"])).await;
    let job = client.ok("core.job_wait", json!([id])).await;
    assert!(job.is_i64(), "waiting is itself a job");
    let mut states = Vec::new();
    while states.last() != Some(&json!("SUCCESS")) {
        let event = client.next().await.unwrap();
        if event["params"]["id"] == id {
            states.push(event["params"]["fields"]["state"].clone());
        }
    }
    assert!(!appliance.memory().unwrap().exports().0, "the server is stopped");
    let options = client.ok("core.set_options", json!([{"legacy_jobs": false, "unknown": 1}])).await;
    assert_eq!(options, json!({"legacy_jobs": false, "private_methods": false, "py_exceptions": false}));
    assert_eq!(client.ok("service.control", json!(["START", "nfs"])).await, true);
    let service = client.ok("service.query", json!([[["service", "=", "nfs"]], {"get": true}])).await;
    assert_eq!((&service["state"], &service["enable"]), (&json!("RUNNING"), &json!(true)));
    let error = client.err("service.control", json!(["START", "nothing"])).await;
    assert_eq!(finding(&error).0, Some("service"));
    let failed = client.ok("core.get_jobs", json!([[["state", "=", "FAILED"]], {"get": true}])).await;
    assert_eq!(failed["exc_info"]["type"], "VALIDATION");
}

#[tokio::test]
async fn a_dropped_connection_leaves_the_effect_it_was_told_to_leave() {
    for (when, there) in [(When::Before, false), (When::After, true)] {
        let appliance = start().await;
        let control = appliance.control();
        let mut client = Client::login(&appliance).await;
        control.drop_at("pool.dataset.create", 2, when);
        client.ok("pool.dataset.create", json!([{"name": "tank/first"}])).await;
        assert!(client.call("pool.dataset.create", json!([{"name": "tank/second"}])).await.is_none());
        assert_eq!(control.datasets().contains(&"tank/second".to_owned()), there, "{when:?}");
        Client::login(&appliance).await.ok("pool.dataset.create", json!([{"name": "tank/third"}])).await;
    }
}

#[tokio::test]
async fn armed_errors_fire_as_often_as_told() {
    let appliance = start().await;
    let control = appliance.control();
    let mut client = Client::login(&appliance).await;
    let fail = |extra: Value| {
        let mut command = json!({"command": "fail", "method": "pool.*"});
        command.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        command
    };
    control.json(fail(json!({"error": {"errno": 16, "reason": "dataset is busy"}}))).await.unwrap();
    assert_eq!(client.err("pool.query", json!([])).await["data"]["reason"], "[EBUSY] dataset is busy");
    client.ok("pool.query", json!([])).await;
    control
        .json(fail(json!({"times": 0, "when": "after", "error": {"fields": [["a.b", "bad", 22]]}})))
        .await
        .unwrap();
    for name in ["tank/a", "tank/b"] {
        client.err("pool.dataset.create", json!([{"name": name}])).await;
    }
    assert_eq!(control.datasets(), ["tank", "tank/a", "tank/b"], "after the effect");
    control.clear();
    client.ok("pool.query", json!([])).await;
    control.json(json!({"command": "refuse_logins", "with": "EXPIRED"})).await.unwrap();
    let login =
        json!([{"mechanism": "API_KEY_PLAIN", "username": "truenas_admin", "api_key": appliance.api_key()}]);
    assert_eq!(client.ok("auth.login_ex", login).await["response_type"], "EXPIRED");
}

#[tokio::test]
async fn latency_is_added_to_every_call_or_to_one_method() {
    let appliance = start().await;
    let control = appliance.control();
    let mut client = Client::login(&appliance).await;
    control.latency(Duration::from_millis(60));
    let begun = Instant::now();
    client.ok("pool.query", json!([])).await;
    assert!(begun.elapsed() >= Duration::from_millis(60));
    control.clear();
    control.json(json!({"command": "latency", "method": "nvmet.*", "ms": 60})).await.unwrap();
    let begun = Instant::now();
    client.ok("nvmet.host.query", json!([])).await;
    assert!(begun.elapsed() >= Duration::from_millis(60));
}

#[tokio::test]
async fn calls_side_by_side_are_one_hop() {
    let appliance = start().await;
    let control = appliance.control();
    let mut client = Client::login(&appliance).await;
    control.reset_stats();
    for _ in 0..2 {
        control.hold("*", When::Before);
        client.send("pool.query", json!([])).await;
        client.send("nvmet.host.query", json!([])).await;
        control.wait_held("*", When::Before, 2).await;
        control.release("*");
        client.next().await.unwrap();
        client.next().await.unwrap();
    }
    let stats = control.stats();
    assert_eq!((stats.calls, stats.hops), (4, 2), "{stats:?}");
}

#[tokio::test]
async fn a_restart_comes_back_in_stages_with_another_boot_id() {
    let port = Some("127.0.0.1:4420".parse().unwrap());
    let appliance = Appliance::start(Config { nvmet_port: port, ..config() }).await.unwrap();
    let control = appliance.control();
    let mut client = Client::login(&appliance).await;
    let boot = client.ok("system.boot_id", json!([])).await;
    let seed = json!({"command": "seed", "datasets": [{"name": "tank/v", "kind": "VOLUME", "properties": {"volsize": "1073741824"}}]});
    control.json(seed).await.unwrap();
    client.ok("nvmet.subsys.create", json!([{"name": "v"}])).await;
    client.ok("nvmet.port_subsys.create", json!([{"port_id": 1, "subsys_id": 1}])).await;
    client.ok("nvmet.host.create", json!([{"hostnqn": "nqn.2024-01.io.example:host"}])).await;
    client.ok("nvmet.host_subsys.create", json!([{"host_id": 1, "subsys_id": 1}])).await;
    control.json(json!({"command": "device_delay", "ms": 0})).await.unwrap();
    let namespace = json!([{"subsys_id": 1, "device_type": "ZVOL", "device_path": "zvol/tank/v"}]);
    while client.call("nvmet.namespace.create", namespace.clone()).await.unwrap().get("error").is_some() {}

    let stages = json!(["port", "subsystem", "host"]);
    control.json(json!({"command": "restart", "stages": stages, "manual": true})).await.unwrap();
    assert!(client.call("core.ping", json!([])).await.is_none(), "connections drop");
    let seen = || {
        let target = appliance.memory().unwrap().target();
        let port = target.ports.first().map_or((false, 0), |p| (p.answers_alone, p.subsystems.len()));
        let subsystem =
            target.subsystems.first().map_or((0, 0), |s| (s.allowed_hosts.len(), s.namespaces.len()));
        (target.running, port, subsystem)
    };
    let reach = async |wanted| {
        let wait = async {
            while seen() != wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(common::DEADLINE, wait)
            .await
            .unwrap_or_else(|_| panic!("{:?} is not {wanted:?}", seen()));
    };
    reach((true, (true, 0), (0, 0))).await;
    let mut client = Client::login(&appliance).await;
    assert_ne!(client.ok("system.boot_id", json!([])).await, boot);
    assert_eq!(client.ok("system.ready", json!([])).await, false);
    for wanted in [(true, (false, 1), (0, 0)), (true, (false, 1), (1, 0)), (true, (false, 1), (1, 1))] {
        control.json(json!({"command": "next_stage"})).await.unwrap();
        reach(wanted).await;
    }
    assert_eq!(client.ok("system.ready", json!([])).await, true);
}

#[tokio::test]
async fn while_it_is_down_the_web_server_answers_502() {
    let appliance = start().await;
    let control = appliance.control();
    let restart = control.clone();
    let restarting = tokio::spawn(async move {
        restart.json(json!({"command": "restart", "down_ms": 500})).await.unwrap();
    });
    let wait = async { while get(&appliance, "/api/versions").await.0 != "HTTP/1.1 502 Bad Gateway" {} };
    tokio::time::timeout(common::DEADLINE, wait).await.unwrap();
    restarting.await.unwrap();
    assert_eq!(get(&appliance, "/api/versions").await.0, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn the_control_socket_takes_a_command_per_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let appliance = Appliance::start(Config { control: Some(path.clone()), ..config() }).await.unwrap();
    let answer = truenas_sim::send_control(&path, r#"{"command":"datasets"}"#).await.unwrap();
    assert_eq!(answer, json!({"ok": true, "result": ["tank"]}));
    let answer = truenas_sim::send_control(&path, r#"{"command":"nothing"}"#).await.unwrap();
    assert_eq!(answer["ok"], false);
    let answer = truenas_sim::send_control(&path, r#"{"command":"stats"}"#).await.unwrap();
    assert_eq!(answer["result"]["calls"], 0);
    drop(appliance);
    assert!(!path.exists());
}

#[tokio::test]
async fn mutations_of_one_service_wait_for_each_other() {
    let appliance = start().await;
    let control = appliance.control();
    let mut client = Client::login(&appliance).await;
    control.json(json!({"command": "reload_time", "ms": 50})).await.unwrap();
    let begun = Instant::now();
    for n in 0..4 {
        client.send("nvmet.host.create", json!([{"hostnqn": format!("nqn.2024-01.io.example:{n}")}])).await;
    }
    for _ in 0..4 {
        assert!(client.next().await.unwrap().get("error").is_none());
    }
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
}
