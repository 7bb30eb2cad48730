//! One call: slot, connection, request, answer, all before one deadline; and what is known when that fails.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::calls::Calls;
use crate::counters::Outcome;
use crate::error::{ApiError, CallError, NotSent, Unknown};
use crate::frame::{self, EncodeError, JsonPlace, MAX_REQUEST};
use crate::lane::Slot;
use crate::session::{Flight, Outgoing, Reply, jittered};
use crate::state::{ConnectionState, LoginRefusal, SessionInfo};

/// First pause after "too many concurrent calls"; doubles up to [`BUSY_MAX`], each shortened at random.
const BUSY_FIRST: Duration = Duration::from_millis(50);
const BUSY_MAX: Duration = Duration::from_secs(2);

pub(crate) async fn call<P, R>(calls: &Calls, method: &'static str, params: &P) -> Result<R, CallError>
where
    P: Serialize + Sync + ?Sized,
    R: DeserializeOwned,
{
    let started = Instant::now();
    let result = answered(calls, method, params).await.and_then(|raw| {
        serde_json::from_str(raw.as_str()).map_err(|e| CallError::OutcomeUnknown {
            method,
            why: Unknown::Unreadable(JsonPlace(&e).to_string()),
        })
    });
    let outcome = match &result {
        Ok(_) => Outcome::Answered,
        Err(CallError::NotSent { .. }) => Outcome::NotSent,
        Err(CallError::OutcomeUnknown { .. }) => Outcome::Unknown,
        Err(CallError::Refused(_)) => Outcome::Refused,
    };
    calls.client.shared().counters.call_ended(method, outcome, started.elapsed());
    if let Err(error) = &result {
        tracing::debug!(method, %error, "appliance call failed");
    }
    result
}

/// Repeats the call while the appliance says that it has too many: then it did nothing.
async fn answered<P>(calls: &Calls, method: &'static str, params: &P) -> Result<Utf8Bytes, CallError>
where
    P: Serialize + Sync + ?Sized,
{
    let mut pause = BUSY_FIRST;
    loop {
        let error = match once(calls, method, params).await? {
            Ok(raw) => return Ok(raw),
            Err(error) => error,
        };
        if error.code != frame::TOO_MANY_CALLS {
            return Err(if error.is_not_authenticated() {
                CallError::NotSent { method, why: NotSent::SessionExpired }
            } else {
                CallError::Refused(error)
            });
        }
        calls.client.shared().counters.throttled(method);
        let again = Instant::now() + jittered(pause);
        if again >= calls.deadline {
            return Err(CallError::NotSent { method, why: NotSent::TooManyCalls });
        }
        sleep_until(again).await;
        pause = (pause * 2).min(BUSY_MAX);
    }
}

/// One request and the appliance's answer to it.
async fn once<P>(
    calls: &Calls,
    method: &'static str,
    params: &P,
) -> Result<Result<Utf8Bytes, Box<ApiError>>, CallError>
where
    P: Serialize + Sync + ?Sized,
{
    let not_sent = |why| CallError::NotSent { method, why };
    let shared = calls.client.shared();
    let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
    let text = frame::encode(id, method, params, MAX_REQUEST).map_err(|e| {
        not_sent(match e {
            EncodeError::TooLarge { bytes } => NotSent::TooLarge { bytes, limit: MAX_REQUEST },
            EncodeError::Json => NotSent::Encoding,
        })
    })?;
    let mut state = shared.state.subscribe();
    let slot = slot(calls, &mut state).await.map_err(not_sent)?;
    let flight = Arc::new(Flight::default());
    let (reply, mut answer) = oneshot::channel();
    let outgoing =
        Outgoing { id, method, text, flight: Arc::clone(&flight), deadline: calls.deadline, reply, slot };
    calls.client.queue().try_send(outgoing).map_err(|_| not_sent(NotSent::Closed))?;
    // Dropping this future withdraws a request that is still queued.
    let withdraw = WithdrawOnDrop(&flight);
    let mut watch_refusal = true;
    loop {
        let why = tokio::select! {
            biased;
            reply = &mut answer => {
                return match reply {
                    Ok(Reply::Result(raw)) => Ok(Ok(raw)),
                    Ok(Reply::Error(error)) => Ok(Err(error)),
                    Ok(Reply::Lost(why)) => {
                        Err(CallError::OutcomeUnknown { method, why: Unknown::ConnectionLost(why) })
                    }
                    Err(_) if withdraw.0.withdraw() => Err(not_sent(NotSent::Closed)),
                    Err(_) => {
                        Err(CallError::OutcomeUnknown { method, why: Unknown::ConnectionLost("client closed".to_owned()) })
                    }
                };
            }
            why = refusal(&mut state), if watch_refusal => why,
            () = sleep_until(calls.deadline) => {
                return Err(if withdraw.0.withdraw() {
                    not_sent(NotSent::NotConnected(state.borrow().to_string()))
                } else {
                    CallError::OutcomeUnknown { method, why: Unknown::DeadlinePassed }
                });
            }
        };
        if withdraw.0.withdraw() {
            return Err(not_sent(why));
        }
        // Sent before the refusal: the answer channel tells what became of it.
        watch_refusal = false;
    }
}

/// The session's facts: at once while connected, else when a connection is there, until the deadline.
pub(crate) async fn session(calls: &Calls, method: &'static str) -> Result<SessionInfo, CallError> {
    let mut state = calls.client.shared().state.subscribe();
    let mut refused = state.clone();
    let not_sent = |why| CallError::NotSent { method, why };
    let connected = async {
        match state.wait_for(ConnectionState::is_connected).await.as_deref() {
            Ok(ConnectionState::Connected(info)) => Ok(info.clone()),
            _ => Err(NotSent::Closed),
        }
    };
    let found = tokio::select! {
        biased;
        info = connected => info,
        why = refusal(&mut refused) => Err(why),
        () = sleep_until(calls.deadline) => {
            Err(NotSent::NotConnected(calls.client.state().to_string()))
        }
    };
    found.map_err(not_sent)
}

/// Waits for a slot until the deadline, or until the login is refused.
async fn slot(calls: &Calls, state: &mut watch::Receiver<ConnectionState>) -> Result<Slot, NotSent> {
    let slot = calls.client.shared().lanes.slot(calls.lane);
    tokio::select! {
        biased;
        why = refusal(state) => Err(why),
        slot = timeout_at(calls.deadline, slot) => match slot {
            Ok(Some(slot)) => Ok(slot),
            Ok(None) => Err(NotSent::Closed),
            Err(_) => Err(match &*state.borrow() {
                ConnectionState::Connected(_) => NotSent::NoSlot,
                other => NotSent::NotConnected(other.to_string()),
            }),
        },
    }
}

/// Waits until the login is refused or the client is closed.
async fn refusal(state: &mut watch::Receiver<ConnectionState>) -> NotSent {
    let refused = |s: &ConnectionState| -> Option<Option<LoginRefusal>> {
        match s {
            ConnectionState::LoginRefused { why } => Some(Some(why.clone())),
            ConnectionState::Closed => Some(None),
            _ => None,
        }
    };
    match state.wait_for(|s| refused(s).is_some()).await {
        Ok(s) => refused(&s).flatten().map_or(NotSent::Closed, NotSent::LoginRefused),
        Err(_) => NotSent::Closed,
    }
}

struct WithdrawOnDrop<'a>(&'a Flight);

impl Drop for WithdrawOnDrop<'_> {
    fn drop(&mut self) {
        self.0.withdraw();
    }
}
