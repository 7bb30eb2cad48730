//! The handle of one appliance.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::calls::Calls;
use crate::counters::{Counters, Table};
use crate::jobs::JobTable;
use crate::lane::{Lane, Lanes};
use crate::options::{ConfigError, Endpoint, Options};
use crate::session::{self, Dial, Outgoing};
use crate::state::ConnectionState;
use crate::tls;

/// One appliance: a session that connects, logs in and stays connected by itself. Cheap to clone; dropping the last
/// clone (and the last [`Calls`] made from it) ends the session.
///
/// # Login
///
/// With [`Options::user`] the key is sent as that user's (`auth.login_ex`). Without it, the installation's default
/// administrator is tried, and when that is refused, the key alone (`auth.login_with_api_key`, which needs no user);
/// what worked is used from then on. A refusal ends it: the state becomes [`ConnectionState::LoginRefused`], and calls
/// fail at once. A key that was refused is sent again only when its file changed (looked at every 15 seconds while
/// refused); a refusal that is not about the key itself also ends after 10 minutes. TrueNAS allows 20 logins per minute
/// and address; this client stays under 10.
///
/// # HA pairs
///
/// [`Options::further_urls`] are tried in turn, all of them before the first pause. A standby controller's REDIRECT is
/// followed, over verified TLS only. After each login `failover.status` must be SINGLE or MASTER; any other controller is
/// left at once, because what is written there is lost.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Outgoing>,
    _end_session: DropGuard,
}

/// What the handle and the session task have in common.
pub(crate) struct Shared {
    pub(crate) state: watch::Sender<ConnectionState>,
    pub(crate) counters: Table,
    pub(crate) lanes: Lanes,
    pub(crate) next_id: AtomicU64,
    pub(crate) jobs: JobTable,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Client {
    /// Checks the options and starts the session; never waits for the network.
    ///
    /// # Errors
    /// [`ConfigError`], before anything was sent.
    pub fn new(options: Options) -> Result<Self, ConfigError> {
        let tls = Endpoint::all(&options)?.iter().any(|endpoint| endpoint.tls);
        let tls = if tls { Some(tls::config(&options)?) } else { None };
        let dial = session::Network { tls, max_message: options.max_message };
        Self::with_dial(options, Arc::new(dial))
    }

    pub(crate) fn with_dial(options: Options, dial: Arc<dyn Dial>) -> Result<Self, ConfigError> {
        let endpoints = Endpoint::all(&options)?;
        let route = session::Route::new(endpoints, !options.skip_tls_verify);
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| ConfigError::NoRuntime)?;
        let shared = Arc::new(Shared {
            state: watch::Sender::new(ConnectionState::Connecting { attempt: 1, last_failure: None }),
            counters: Table::default(),
            lanes: Lanes::new(),
            next_id: AtomicU64::new(1),
            jobs: JobTable::default(),
        });
        // Every entry holds a slot of a lane, so the queue never fills.
        let (queue, receiver) = mpsc::channel(64);
        let stop = CancellationToken::new();
        runtime.spawn(session::run(Arc::clone(&shared), options, route, dial, receiver, stop.clone()));
        Ok(Self { inner: Arc::new(Inner { shared, queue, _end_session: stop.drop_guard() }) })
    }

    /// The connection's present state.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        self.inner.shared.state.borrow().clone()
    }

    /// Every change of the connection's state.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<ConnectionState> {
        self.inner.shared.state.subscribe()
    }

    /// A snapshot of the counters.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.inner.shared.counters.snapshot()
    }

    /// A handle for the calls of one operation.
    #[must_use]
    pub fn calls(&self, lane: Lane, deadline: Instant) -> Calls {
        Calls { client: self.clone(), lane, deadline }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    pub(crate) fn queue(&self) -> &mpsc::Sender<Outgoing> {
        &self.inner.queue
    }
}
