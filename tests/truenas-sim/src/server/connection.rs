//! One WebSocket connection: frames in, frames out, and the limits that end it.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{broadcast, mpsc};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::Error as WsError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::rpc;
use super::session::{Outgoing, Session};
use crate::appliance::Shared;

/// Longest message before login, in characters; beyond it: close 1007.
const BEFORE_LOGIN: usize = 8192;
/// Longest message after login; beyond it: close 1009.
const AFTER_LOGIN: usize = 65536;

/// Speaks with one client until it, or a fault, ends the connection. Calls that run then go on without it.
pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    shared: &Arc<Shared>,
    stream: S,
    rest: Vec<u8>,
    peer: SocketAddr,
    tls: bool,
) -> anyhow::Result<()> {
    let config = WebSocketConfig::default().max_message_size(Some(4 << 20)).max_frame_size(Some(4 << 20));
    let socket = WebSocketStream::from_partially_read(stream, rest, Role::Server, Some(config)).await;
    let (mut sink, mut source) = socket.split();
    let (outgoing, mut queue) = mpsc::unbounded_channel();
    let abort = shared.connections.child_token();
    let session = Arc::new(Session::new(peer.ip(), tls, outgoing, abort.clone()));
    let mut events = shared.jobs.subscribe();

    let writer_abort = abort.clone();
    let writer = tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                () = writer_abort.cancelled() => return,
                next = queue.recv() => next,
            };
            let result = match next {
                Some(Outgoing::Text(text)) => sink.send(Message::text(text)).await,
                Some(Outgoing::Close(code, reason)) => {
                    let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
                    let _ = sink.send(Message::Close(Some(frame))).await;
                    let _ = sink.close().await;
                    writer_abort.cancel();
                    return;
                }
                None => return,
            };
            if result.is_err() {
                writer_abort.cancel();
                return;
            }
        }
    });

    loop {
        let message = tokio::select! {
            () = abort.cancelled() => break,
            event = events.recv() => {
                match event {
                    Ok(event) => rpc::notify(&session, &event),
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "a client was too slow for the events");
                    }
                    Err(broadcast::error::RecvError::Closed) => break,
                }
                continue;
            }
            message = source.next() => message,
        };
        match message {
            Some(Ok(Message::Text(text))) => {
                let length = text.chars().count();
                if session.user().is_none() && length > BEFORE_LOGIN {
                    session.close(1007, "Anonymous connection max message length exceeded");
                } else if length > AFTER_LOGIN {
                    session.close(1009, "Max message length exceeded");
                } else {
                    rpc::receive(shared, &session, text.as_str());
                }
            }
            Some(Ok(Message::Binary(_))) => session.close(1003, "Only text messages are understood"),
            Some(Ok(Message::Close(_))) | None => break,
            // Pings are answered by the protocol layer when it is next polled.
            Some(Ok(_)) => {}
            Some(Err(WsError::Capacity(_))) => session.close(1009, "Max message length exceeded"),
            Some(Err(error)) => {
                tracing::debug!(%peer, %error, "the client's connection broke");
                break;
            }
        }
    }
    abort.cancel();
    drop(session);
    writer.await?;
    Ok(())
}
