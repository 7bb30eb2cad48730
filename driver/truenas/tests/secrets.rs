//! The key appears in no log line at any level, no `Debug`, no error, whatever the appliance does with it.
//!
//! One test in a process of its own: the log is captured for the whole process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tracing_subscriber::fmt::MakeWriter;
use truenas::{ApiKey, Client, ConnectionState, Lane, Options};

const SECRET: &str = "hushhushhushhushhush";

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// An appliance that answers `auth.login_ex` with `login` and every unknown method with `other`.
async fn appliance(login: Value, other: &'static str) -> Options {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            while let Some(Ok(Message::Text(text))) = socket.next().await {
                let call: Value = serde_json::from_str(&text).unwrap();
                let mut answer = json!({"jsonrpc": "2.0", "id": call["id"]});
                match call["method"].as_str().unwrap() {
                    "core.set_options" => answer["result"] = Value::Null,
                    "auth.login_ex" => {
                        answer.as_object_mut().unwrap().extend(login.as_object().unwrap().clone())
                    }
                    "system.version" => answer["result"] = json!("25.10.5"),
                    "failover.status" => answer["result"] = json!("SINGLE"),
                    _ => answer = json!(other.replace("ID", &call["id"].to_string())),
                }
                let text = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
                if socket.send(Message::Text(text.into())).await.is_err() {
                    break;
                }
            }
        }
    });
    let key = ApiKey::new(&format!("1-{SECRET}")).unwrap();
    let mut options = Options::new(format!("ws://{address}/api/current").parse().unwrap(), key);
    options.allow_plaintext_loopback = true;
    options
}

/// Makes one call and gives everything that can be shown about it.
async fn shown(options: Options) -> String {
    let mut shown = format!("{options:?}");
    let client = Client::new(options).unwrap();
    let calls = client.calls(Lane::Ordinary, Instant::now() + Duration::from_secs(2));
    let result = calls.snapshot_count("tank/a").await;
    let Err(error) = &result else { panic!("{result:?}") };
    shown += &format!("{error} {error:?}");
    let mut states = client.watch();
    let state = timeout(
        Duration::from_secs(10),
        states.wait_for(|s| !matches!(s, ConnectionState::Connecting { .. })),
    );
    let state = state.await.unwrap().unwrap().clone();
    shown + &format!("{state} {state:?} {client:?} {calls:?} {:?}", client.counters())
}

#[tokio::test]
async fn the_key_is_in_no_output_whatever_happens() {
    let captured = Captured::default();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(captured.clone())
        .with_ansi(false)
        .init();
    let key = format!("1-{SECRET}");
    let accepted = json!({"result": {"response_type": "SUCCESS"}});
    let repeated = json!({"error": {"code": -32602, "message": key, "data": {"error": 22, "errname": "EINVAL",
        "reason": key, "trace": {"class": "V", "repr": key}, "extra": [["login_data.api_key", key, 22]]}}});
    let failed = json!({"error": {"code": -32001, "message": key, "data": {"error": 14, "errname": key, "reason": key}}});
    let unknown = json!({"result": {"response_type": key}});
    let mut shown_all = String::new();
    for (login, other) in [
        (repeated, ""),
        (unknown, ""),
        (failed, ""),
        (accepted.clone(), "1-hushhushhushhushhush"),
        (accepted.clone(), r#"{"id":ID,"result":"1-hushhushhushhushhush"}"#),
        (accepted, r#"{"id":"1-hushhushhushhushhush","result":1}"#),
    ] {
        shown_all += &shown(appliance(login, other).await).await;
    }
    let log = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    for words in [
        "refused the login",
        "connected to TrueNAS",
        "no connection to the appliance",
        "appliance call failed",
    ] {
        assert!(log.contains(words), "the log was captured: {log}");
    }
    assert!(!log.contains("hush"), "{log}");
    assert!(!shown_all.contains("hush"), "{shown_all}");
}
