//! A peer for tests of the session: a WebSocket server in the test's own process whose every answer the test gives.
//!
//! It speaks over in-memory pipes, so that tests run on paused time. It answers pings by itself unless muted.

mod calls;
mod ha;
mod jobs;
mod login;
mod session;
mod versions;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::options::Endpoint;
use crate::session::{Dial, DialFuture, Io, websocket_config};
use crate::state::ConnectionState;
use crate::{ApiKey, Calls, Client, Lane, Options};

/// Recognisable in any output.
pub(super) const SECRET: &str = "hushhushhushhushhush";
/// Largest message that the client under test accepts.
pub(super) const MAX_MESSAGE: usize = 256 << 10;

/// Where the client under test dials.
pub(super) struct Appliance {
    connections: mpsc::UnboundedSender<Peer>,
    dials: mpsc::UnboundedSender<(Instant, String)>,
    /// Dials that fail before one succeeds.
    pub(super) unreachable: AtomicU32,
}

/// The test's side: accepted connections and the times of all dials.
pub(super) struct Site {
    pub(super) appliance: Arc<Appliance>,
    peers: mpsc::UnboundedReceiver<Peer>,
    dials: mpsc::UnboundedReceiver<(Instant, String)>,
}

impl Site {
    pub(super) fn new() -> Self {
        let (connections, peers) = mpsc::unbounded_channel();
        let (dial_times, dials) = mpsc::unbounded_channel();
        let appliance = Appliance { connections, dials: dial_times, unreachable: AtomicU32::new(0) };
        Self { appliance: Arc::new(appliance), peers, dials }
    }

    /// A client with default options and a key `1-SECRET`.
    pub(super) fn client(&self) -> Client {
        self.client_with(options())
    }

    pub(super) fn client_with(&self, options: Options) -> Client {
        Client::with_dial(options, Arc::clone(&self.appliance) as Arc<dyn Dial>).unwrap()
    }

    /// The next connection.
    pub(super) async fn peer(&mut self) -> Peer {
        timeout(Duration::from_secs(3600), self.peers.recv()).await.expect("no connection came").unwrap()
    }

    /// The next connection, logged in.
    pub(super) async fn session(&mut self) -> Peer {
        let mut peer = self.peer().await;
        peer.log_in().await;
        peer
    }

    /// Times of the dials so far.
    pub(super) fn dial_times(&mut self) -> Vec<Instant> {
        self.dialled().into_iter().map(|(at, _)| at).collect()
    }

    /// Times and hosts of the dials so far.
    pub(super) fn dialled(&mut self) -> Vec<(Instant, String)> {
        std::iter::from_fn(|| self.dials.try_recv().ok()).collect()
    }
}

pub(super) fn options() -> Options {
    let mut options =
        Options::new("wss://nas.test".parse().unwrap(), ApiKey::new(&format!("1-{SECRET}")).unwrap());
    options.max_message = MAX_MESSAGE;
    options
}

/// Calls that end after `seconds`.
pub(super) fn calls(client: &Client, lane: Lane, seconds: u64) -> Calls {
    client.calls(lane, Instant::now() + Duration::from_secs(seconds))
}

/// Waits until the client's state fits.
pub(super) async fn until(client: &Client, fits: impl FnMut(&ConnectionState) -> bool) -> ConnectionState {
    let mut states = client.watch();
    let state =
        timeout(Duration::from_secs(3600), states.wait_for(fits)).await.expect("the state never came");
    state.unwrap().clone()
}

/// Waits for work of other tasks that is due at this instant.
pub(super) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

impl Dial for Appliance {
    fn dial<'a>(&'a self, to: &'a Endpoint) -> DialFuture<'a> {
        Box::pin(async {
            self.dials.send((Instant::now(), to.host.to_string())).unwrap();
            let fails =
                self.unreachable.try_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            if fails.is_ok() {
                return Err("nas.test: connection refused".to_owned());
            }
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let (accepted, stream) = tokio::join!(
                tokio_tungstenite::accept_async(theirs),
                tokio_tungstenite::client_async_with_config(
                    "ws://nas.test/api/current",
                    Box::new(ours) as Box<dyn Io>,
                    Some(websocket_config(MAX_MESSAGE))
                )
            );
            self.connections.send(Peer::start(accepted.unwrap())).unwrap();
            Ok(stream.unwrap().0)
        })
    }
}

/// One request as received.
#[derive(Debug, Deserialize)]
pub(super) struct Call {
    pub(super) id: u64,
    pub(super) method: String,
    pub(super) params: Value,
}

enum Action {
    Send(Message),
    Mute,
    Cut,
}

/// One connection, seen from the appliance.
pub(super) struct Peer {
    calls: mpsc::UnboundedReceiver<Call>,
    actions: mpsc::UnboundedSender<Action>,
}

impl Peer {
    fn start(socket: WebSocketStream<DuplexStream>) -> Self {
        let (calls_in, calls) = mpsc::unbounded_channel();
        let (actions, todo) = mpsc::unbounded_channel();
        tokio::spawn(serve(socket, calls_in, todo));
        Self { calls, actions }
    }

    /// The next request.
    pub(super) async fn call(&mut self) -> Call {
        timeout(Duration::from_secs(3600), self.calls.recv())
            .await
            .expect("no request came")
            .expect("connection over")
    }

    /// The next request, which must be of `method`.
    pub(super) async fn expect(&mut self, method: &str) -> Call {
        let call = self.call().await;
        assert_eq!(call.method, method);
        call
    }

    /// Whether a request is there.
    pub(super) async fn is_quiet(&mut self) -> bool {
        settle().await;
        self.calls.is_empty()
    }

    /// Whether the client has gone.
    pub(super) async fn is_over(&mut self) -> bool {
        timeout(Duration::from_secs(3600), async { while self.calls.recv().await.is_some() {} }).await.is_ok()
    }

    pub(super) fn text(&self, text: impl Into<String>) {
        let _ = self.actions.send(Action::Send(Message::Text(text.into().into())));
    }

    pub(super) fn binary(&self, bytes: Vec<u8>) {
        let _ = self.actions.send(Action::Send(Message::Binary(bytes.into())));
    }

    pub(super) fn close(&self, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: "".into() };
        let _ = self.actions.send(Action::Send(Message::Close(Some(frame))));
    }

    pub(super) fn answer(&self, call: &Call, result: Value) {
        self.text(json!({"jsonrpc": "2.0", "id": call.id, "result": result}).to_string());
    }

    pub(super) fn refuse(&self, call: &Call, code: i64, errno: i32, reason: &str) {
        let data = json!({"error": errno, "errname": "E", "reason": reason, "trace": null, "extra": null});
        self.text(
            json!({"jsonrpc": "2.0", "id": call.id, "error": {"code": code, "message": "m", "data": data}})
                .to_string(),
        );
    }

    pub(super) fn event(&self, collection: &str, fields: Value) {
        let params = json!({"msg": "changed", "collection": collection, "id": 1, "fields": fields});
        self.text(json!({"jsonrpc": "2.0", "method": "collection_update", "params": params}).to_string());
    }

    /// Reads and writes nothing from here on, pings included.
    pub(super) fn mute(&self) {
        let _ = self.actions.send(Action::Mute);
    }

    /// Ends the connection without a word.
    pub(super) fn cut(&self) {
        let _ = self.actions.send(Action::Cut);
    }

    /// Answers the login as 25.10 does.
    pub(super) async fn log_in(&mut self) {
        self.options().await;
        let login = self.expect("auth.login_ex").await;
        self.answer(
            &login,
            json!({"response_type": "SUCCESS", "user_info": null, "authenticator": "LEVEL_1"}),
        );
        self.version().await;
    }

    pub(super) async fn options(&mut self) {
        let options = self.expect("core.set_options").await;
        let effective = json!({"legacy_jobs": true, "private_methods": false, "py_exceptions": false});
        self.answer(&options, effective);
    }

    pub(super) async fn version(&mut self) {
        let version = self.expect("system.version").await;
        self.answer(&version, json!("25.10.5"));
        self.failover("SINGLE").await;
    }

    /// The last question of a login.
    pub(super) async fn failover(&mut self, status: &str) {
        let call = self.expect("failover.status").await;
        self.answer(&call, json!(status));
    }
}

async fn serve(
    mut socket: WebSocketStream<DuplexStream>,
    calls: mpsc::UnboundedSender<Call>,
    mut todo: mpsc::UnboundedReceiver<Action>,
) {
    loop {
        tokio::select! {
            biased;
            action = todo.recv() => match action {
                Some(Action::Send(message)) => {
                    if socket.send(message).await.is_err() { return }
                }
                Some(Action::Mute) => {
                    // Holds the connection open until the test ends or cuts it.
                    while !matches!(todo.recv().await, None | Some(Action::Cut)) {}
                    return;
                }
                Some(Action::Cut) | None => return,
            },
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    let _ = calls.send(serde_json::from_str(&text).unwrap());
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
        }
    }
}
