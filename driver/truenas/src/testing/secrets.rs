//! The key appears in no log line at any level, no `Debug`, no error.

use std::io;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use super::{SECRET, Site, calls, options, until};
use crate::{ConnectionState, Lane};

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

/// The WebSocket library prints every message, logins included, at the `trace` level of the `log` crate.
#[test]
fn the_level_at_which_messages_would_be_printed_is_not_compiled_in() {
    assert!(log::STATIC_MAX_LEVEL <= log::LevelFilter::Debug);
}

#[tokio::test(start_paused = true)]
async fn the_key_is_in_no_output_whatever_happens() {
    let captured = Captured::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(captured.clone())
        .with_ansi(false)
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut shown = String::new();

    let mut site = Site::new();
    let options = options();
    shown += &format!("{options:?}");
    let client = site.client_with(options);
    // A login that the appliance answers by repeating what was sent, as a validation error does.
    let mut peer = site.peer().await;
    peer.options().await;
    let login = peer.expect("auth.login_ex").await;
    peer.refuse(&login, -32602, 22, &format!("bad value 1-{SECRET}"));
    let state = until(&client, |s| matches!(s, ConnectionState::LoginRefused { .. })).await;
    shown += &format!("{state} {state:?}");
    let error = calls(&client, Lane::Ordinary, 5).ping().await.unwrap_err();
    shown += &format!("{error} {error:?}");
    // One that succeeds, then garbage that repeats it, then an unreadable answer that does.
    let mut peer = site.session().await;
    until(&client, ConnectionState::is_connected).await;
    peer.text(format!("1-{SECRET}"));
    let state = until(&client, |s| matches!(s, ConnectionState::Unreachable { .. })).await;
    shown += &format!("{state} {state:?}");
    peer = site.session().await;
    let calls = calls(&client, Lane::Ordinary, 60);
    let (result, ()) = tokio::join!(calls.snapshot_count("tank/a"), async {
        let call = peer.call().await;
        peer.answer(&call, json!(format!("1-{SECRET}")));
    });
    shown += &format!("{result:?} {client:?} {calls:?} {:?}", client.counters());

    let log = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("refused the login"), "the log was captured: {log}");
    assert!(!log.contains(SECRET), "{log}");
    assert!(!shown.contains(SECRET), "{shown}");
}
