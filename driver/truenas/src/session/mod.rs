//! The session task: connect, log in, exchange messages, and start again when that ends.

mod backoff;
mod dial;
mod login;
mod pump;
mod route;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;

use crate::client::Shared;
use crate::counters::count;
use crate::dialect;
use crate::error::ApiError;
use crate::lane::Slot;
use crate::options::{Endpoint, Options};
use crate::state::{ConnectionState, LoginRefusal, SessionInfo};
use route::Next;

pub(crate) use backoff::jittered;
pub(crate) use dial::{Dial, Network};
#[cfg(test)]
pub(crate) use dial::{DialFuture, Io, websocket_config};
#[cfg(test)]
pub(crate) use pump::{ABANDONED_GRACE, HEARTBEAT};
pub(crate) use route::Route;

/// While a login stays refused, how often the key file is read for a new key. A Secret volume replaces links in two
/// directories when it changes; reading the file is the one way to know that works on every mount.
const KEY_CHECK: Duration = Duration::from_secs(15);
/// When a login is tried again with an unchanged key, if it was not the key that was refused.
const REFUSED_RETRY: Duration = Duration::from_secs(600);
/// Pause after the appliance said that it saw too many logins.
const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(60);

/// A request on its way to the session task. No `Debug`: the text may hold secrets.
pub(crate) struct Outgoing {
    pub(crate) id: u64,
    pub(crate) method: &'static str,
    pub(crate) text: Utf8Bytes,
    pub(crate) flight: Arc<Flight>,
    pub(crate) deadline: Instant,
    pub(crate) reply: oneshot::Sender<Reply>,
    pub(crate) slot: Slot,
}

/// What came of a sent request. No `Debug`: the result may hold secrets.
pub(crate) enum Reply {
    Result(Utf8Bytes),
    Error(Box<ApiError>),
    /// The connection ended first.
    Lost(String),
}

/// Whether a request was sent: decided once, by the session (sent) or by the caller (withdrawn).
#[derive(Debug, Default)]
pub(crate) struct Flight(AtomicU8);

const QUEUED: u8 = 0;
const SENT: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Flight {
    /// The session is about to write it. False when the caller has withdrawn it.
    fn send(&self) -> bool {
        self.0.compare_exchange(QUEUED, SENT, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The caller gives up. False when it was sent, so that its effect is unknown.
    pub(crate) fn withdraw(&self) -> bool {
        match self.0.compare_exchange(QUEUED, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(now) => now == WITHDRAWN,
        }
    }
}

/// How one connection ended.
enum End {
    /// The client was dropped.
    Stopped,
    /// No connection, or it was lost.
    Failed { why: String, pause: Option<Duration> },
    /// The standby controller of an HA pair, and where it says that the active one is.
    Redirected(Vec<String>),
    /// The appliance refused the key.
    Refused(LoginRefusal),
}

/// Runs until the client is dropped.
pub(crate) async fn run(
    shared: Arc<Shared>,
    options: Options,
    route: Route,
    dial: Arc<dyn Dial>,
    mut queue: mpsc::Receiver<Outgoing>,
    stop: CancellationToken,
) {
    let work = keep_connected(&shared, options, route, &*dial, &mut queue);
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
    shared.state.send_replace(ConnectionState::Closed);
}

async fn keep_connected(
    shared: &Shared,
    options: Options,
    mut route: Route,
    dial: &dyn Dial,
    queue: &mut mpsc::Receiver<Outgoing>,
) {
    let mut key = options.api_key.clone();
    let mut backoff = backoff::Backoff::new(options.reconnect);
    let mut logins = backoff::LoginBudget::default();
    let mut login = login::Login::new(options.user.clone());
    let mut sessions = 0;
    let mut last_failure = None;
    loop {
        let attempt = backoff.attempt();
        shared
            .state
            .send_replace(ConnectionState::Connecting { attempt, last_failure: last_failure.clone() });
        match key.reload() {
            Ok(true) => login.forget(),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the key file cannot be used; the key read before is tried"),
        }
        let before = sessions;
        // A client always has an address: its options were checked.
        let Some(to) = route.target() else { return };
        let end = one_connection(shared, dial, to, &mut login, &key, &mut sessions, queue).await;
        let was_connected = sessions > before;
        if was_connected {
            backoff.reset();
            route.lost();
        }
        logins.used(login.take_attempts());
        let (why, pause) = match end {
            End::Stopped => return,
            End::Refused(why) => {
                count(&shared.counters.logins_refused);
                login.forget();
                tracing::error!(%why, "TrueNAS refused the login");
                last_failure = Some(why.to_string());
                let retry = (!why.is_about_key()).then(|| Instant::now() + REFUSED_RETRY);
                shared.state.send_replace(ConnectionState::LoginRefused { why });
                until_worth_retrying(&mut key, retry).await;
                logins.wait().await;
                continue;
            }
            End::Redirected(urls) if route.redirect(&urls) => {
                tracing::info!("this is the standby controller of an HA pair; dialling the active one");
                logins.wait().await;
                continue;
            }
            End::Redirected(urls) => (standby_words(&urls), None),
            End::Failed { why, pause } => (why, pause),
        };
        let next = if was_connected { Next::AfterPause } else { route.failed() };
        let pause = match (pause, next) {
            (Some(pause), _) => pause.max(backoff.next()),
            (None, Next::AfterPause) => backoff.next(),
            (None, Next::AtOnce) => Duration::ZERO,
        };
        let retry_at = Instant::now() + pause.max(logins.pause());
        tracing::warn!(why, attempt, "no connection to the appliance");
        last_failure = Some(why.clone());
        shared.state.send_replace(ConnectionState::Unreachable { why, attempt, retry_at });
        tokio::time::sleep_until(retry_at).await;
    }
}

/// Waits until the key file changed, or until `retry` where another attempt with the same key makes sense.
async fn until_worth_retrying(key: &mut crate::key::ApiKey, retry: Option<Instant>) {
    let changed = async {
        // A key without a file never changes.
        while key.is_file() {
            if matches!(key.file_changed(), Ok(true)) {
                tracing::info!("the key file changed; logging in again");
                return;
            }
            tokio::time::sleep(KEY_CHECK).await;
        }
        std::future::pending().await
    };
    let passed = async {
        match retry {
            Some(retry) => tokio::time::sleep_until(retry).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = changed => {}
        () = passed => {}
    }
}

fn standby_words(urls: &[String]) -> String {
    // Only what looks like an address is repeated.
    let plain = |u: &&String| u.len() <= 300 && u.bytes().all(|b| b.is_ascii_graphic());
    let urls: Vec<&str> = urls.iter().filter(plain).map(String::as_str).collect();
    let active = if urls.is_empty() { "not told".to_owned() } else { urls.join(", ") };
    format!(
        "this is the standby controller of an HA pair; use the virtual address (the active one: {active}; it is \
         followed over verified TLS only)"
    )
}

async fn one_connection(
    shared: &Shared,
    dial: &dyn Dial,
    to: &Endpoint,
    login: &mut login::Login,
    key: &crate::key::ApiKey,
    sessions: &mut u64,
    queue: &mut mpsc::Receiver<Outgoing>,
) -> End {
    let failed = |why: String| {
        count(&shared.counters.failed_attempts);
        End::Failed { why, pause: None }
    };
    let mut socket = match tokio::time::timeout(dial::CONNECT_TIMEOUT, dial.dial(to)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(why)) => return failed(why),
        Err(_) => return failed(format!("no connection within {} s", dial::CONNECT_TIMEOUT.as_secs())),
    };
    let welcome = match login.log_in(shared, &mut socket, key).await {
        Ok(welcome) => welcome,
        Err(login::LoginError::Refused(why)) => return End::Refused(why),
        Err(login::LoginError::RateLimited) => {
            count(&shared.counters.failed_attempts);
            let why = "the appliance saw too many logins from this address (20 in 60 s)".to_owned();
            return End::Failed { why, pause: Some(RATE_LIMIT_PAUSE) };
        }
        Err(login::LoginError::Redirected(urls)) => {
            count(&shared.counters.failed_attempts);
            return End::Redirected(urls);
        }
        Err(login::LoginError::Failed(why)) => return failed(why),
    };
    *sessions += 1;
    count(&shared.counters.sessions);
    if let Some(warning) = dialect::warning(&welcome.version) {
        tracing::warn!("{warning}");
    }
    tracing::info!(version = %welcome.version, session = *sessions, "connected to TrueNAS");
    let info = SessionInfo {
        number: *sessions,
        features: dialect::Features::of(&welcome.version),
        version: welcome.version,
        jobs: welcome.jobs,
        since: Instant::now(),
    };
    shared.state.send_replace(ConnectionState::Connected(info));
    let end = pump::pump(shared, socket, queue).await;
    count(&shared.counters.connections_lost);
    match end {
        pump::PumpEnd::Stopped => End::Stopped,
        pump::PumpEnd::Lost(why) => End::Failed { why, pause: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_either_sent_or_withdrawn() {
        let flight = Flight::default();
        assert!(flight.send());
        assert!(!flight.withdraw());
        let flight = Flight::default();
        assert!(flight.withdraw());
        assert!(flight.withdraw(), "withdrawing twice is the same");
        assert!(!flight.send());
    }
}
