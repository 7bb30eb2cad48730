//! A logged-in connection: requests out, answers and events in, heartbeat.
//!
//! Writing and reading run side by side, so that an appliance that does not read cannot keep its answers from us.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Error as WsError, Message};

use super::dial::Socket;
use super::{Outgoing, Reply};
use crate::client::Shared;
use crate::counters::count;
use crate::frame::{self, Incoming};
use crate::lane::Slot;

/// Period of the pings; a connection that gave no sign of life for one whole period after a ping is dead. The
/// appliance's nginx may drop a connection that is idle for 60 s.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(20);
/// How long a call that passed its deadline keeps its slot, because the appliance still works on it.
pub(crate) const ABANDONED_GRACE: Duration = Duration::from_secs(120);

/// How a logged-in connection ended.
pub(super) enum PumpEnd {
    Stopped,
    Lost(String),
}

/// A request that was sent.
struct Pending {
    method: &'static str,
    deadline: Instant,
    reply: oneshot::Sender<Reply>,
    /// Held until the answer: the appliance counts the call for that long.
    _slot: Slot,
}

#[derive(Default)]
struct InFlight(Mutex<HashMap<u64, Pending>>);

impl InFlight {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Pending>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs until the connection ends; then every call in flight has an unknown outcome.
pub(super) async fn pump(shared: &Shared, socket: Socket, queue: &mut mpsc::Receiver<Outgoing>) -> PumpEnd {
    let (sink, stream) = socket.split();
    let in_flight = InFlight::default();
    let received = AtomicU64::new(0);
    let end = tokio::select! {
        end = write(shared, sink, queue, &in_flight, &received) => end,
        why = read(shared, stream, &in_flight, &received) => PumpEnd::Lost(why),
    };
    let why = match &end {
        PumpEnd::Stopped => "the client was closed",
        PumpEnd::Lost(why) => why,
    };
    for (_, pending) in in_flight.lock().drain() {
        let _ = pending.reply.send(Reply::Lost(why.to_owned()));
    }
    end
}

async fn write(
    shared: &Shared,
    mut sink: SplitSink<Socket, Message>,
    queue: &mut mpsc::Receiver<Outgoing>,
    in_flight: &InFlight,
    received: &AtomicU64,
) -> PumpEnd {
    let mut beat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What had been received when the last ping was sent.
    let mut at_ping = None;
    loop {
        let message = tokio::select! {
            outgoing = queue.recv() => {
                let Some(outgoing) = outgoing else { return PumpEnd::Stopped };
                // Registered before it is marked and written: its answer may come at once.
                let Outgoing { id, method, text, flight, deadline, reply, slot } = outgoing;
                if !flight.send() {
                    continue;
                }
                in_flight.lock().insert(id, Pending { method, deadline, reply, _slot: slot });
                shared.counters.sent(text.len());
                Message::Text(text)
            }
            _ = beat.tick() => {
                let now = received.load(Ordering::Relaxed);
                if at_ping == Some(now) {
                    return PumpEnd::Lost(format!("no sign of life for {} s", HEARTBEAT.as_secs()));
                }
                at_ping = Some(now);
                sweep(in_flight);
                Message::Ping(Bytes::new())
            }
        };
        match timeout(HEARTBEAT, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return PumpEnd::Lost(socket_words(&error)),
            Err(_) => {
                return PumpEnd::Lost(format!("the appliance read nothing for {} s", HEARTBEAT.as_secs()));
            }
        }
    }
}

/// Gives back the slots of calls that nobody waits for and that the appliance does not answer.
fn sweep(in_flight: &InFlight) {
    let now = Instant::now();
    in_flight.lock().retain(|_, pending| {
        let keep = now < pending.deadline + ABANDONED_GRACE;
        if !keep {
            tracing::warn!(
                method = pending.method,
                "the appliance did not answer a call; its slot is used again"
            );
        }
        keep
    });
}

async fn read(
    shared: &Shared,
    mut stream: SplitStream<Socket>,
    in_flight: &InFlight,
    received: &AtomicU64,
) -> String {
    while let Some(message) = stream.next().await {
        received.fetch_add(1, Ordering::Relaxed);
        let text = match message {
            Ok(Message::Text(text)) => text,
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => continue,
            Ok(Message::Close(frame)) => return close_words(frame.as_ref()),
            Ok(Message::Binary(_)) => {
                count(&shared.counters.bad_messages);
                return "a binary message, which no TrueNAS sends".to_owned();
            }
            Err(error) => {
                if matches!(error, WsError::Capacity(_) | WsError::Protocol(_) | WsError::Utf8(_)) {
                    count(&shared.counters.bad_messages);
                }
                return socket_words(&error);
            }
        };
        shared.counters.received(text.len());
        match frame::parse(&text) {
            Ok(Incoming::Answer { id, outcome }) => {
                let Some(pending) = in_flight.lock().remove(&id) else {
                    tracing::debug!(id, "an answer came after its call was given up");
                    continue;
                };
                let (reply, expired) = match outcome {
                    Ok(raw) => (Reply::Result(raw), false),
                    Err(error) => {
                        let error = error.into_api_error(pending.method);
                        let expired = error.is_not_authenticated();
                        (Reply::Error(Box::new(error)), expired)
                    }
                };
                if pending.reply.send(reply).is_err() {
                    tracing::debug!(method = pending.method, "an answer came after its deadline");
                }
                if expired {
                    return "the login had expired".to_owned();
                }
            }
            Ok(Incoming::Event(event)) => shared.jobs.event(&event),
            Ok(Incoming::Other) => {}
            Err(garbage) => {
                count(&shared.counters.bad_messages);
                return format!("an unreadable message ({})", garbage.0);
            }
        }
    }
    "the appliance closed the connection".to_owned()
}

/// Words for the end of a connection; codes as TrueNAS uses them.
pub(super) fn close_words(frame: Option<&CloseFrame>) -> String {
    let Some(frame) = frame else { return "the appliance closed the connection".to_owned() };
    let code = u16::from(frame.code);
    match code {
        1007 | 1009 => format!("the appliance closed the connection ({code}): a request was too large"),
        1008 => {
            "the appliance closed the connection (1008): this address is not on its list of allowed clients"
                .to_owned()
        }
        _ => format!("the appliance closed the connection ({code})"),
    }
}

/// Words for a broken connection, without message contents.
pub(super) fn socket_words(error: &WsError) -> String {
    match error {
        WsError::ConnectionClosed | WsError::AlreadyClosed => "the connection is closed".to_owned(),
        WsError::Capacity(_) => format!("a message larger than this client accepts ({error})"),
        WsError::Utf8(_) => "a message that is not UTF-8".to_owned(),
        WsError::WriteBufferFull(_) => "the write buffer is full".to_owned(),
        other => other.to_string(),
    }
}
