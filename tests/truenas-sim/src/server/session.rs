//! One client's session: who is logged in, its options, its subscriptions, its slots.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Calls that run at once on one connection.
const RUNNING: usize = 10;
/// Calls accepted, running or queued; the next one is refused.
pub(super) const ACCEPTED: usize = 20;

/// What the writer sends.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// A text frame.
    Text(String),
    /// A close frame with this code and reason, then the end.
    Close(u16, String),
}

/// The state of one connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub peer: IpAddr,
    pub tls: bool,
    user: Mutex<Option<String>>,
    legacy_jobs: AtomicBool,
    private_methods: AtomicBool,
    subscriptions: Mutex<BTreeMap<String, String>>,
    next_subscription: AtomicU64,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    /// Ends the connection without a word.
    pub abort: CancellationToken,
    pub(super) slots: Arc<Semaphore>,
    pub(super) accepted: AtomicUsize,
}

impl Session {
    pub fn new(
        peer: IpAddr,
        tls: bool,
        outgoing: mpsc::UnboundedSender<Outgoing>,
        abort: CancellationToken,
    ) -> Self {
        Self {
            peer,
            tls,
            user: Mutex::new(None),
            legacy_jobs: AtomicBool::new(true),
            private_methods: AtomicBool::new(false),
            subscriptions: Mutex::default(),
            next_subscription: AtomicU64::new(1),
            outgoing,
            abort,
            slots: Arc::new(Semaphore::new(RUNNING)),
            accepted: AtomicUsize::new(0),
        }
    }

    /// The user that is logged in.
    pub fn user(&self) -> Option<String> {
        self.user.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logs in, or out with `None` (which also ends the subscriptions).
    pub fn set_user(&self, user: Option<String>) {
        if user.is_none() {
            self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        *self.user.lock().unwrap_or_else(PoisonError::into_inner) = user;
    }

    /// Whether job methods answer with the job's id at once.
    pub fn legacy_jobs(&self) -> bool {
        self.legacy_jobs.load(Ordering::Relaxed)
    }

    /// `core.set_options`: takes the given ones over, ignores unknown keys, gives the effective ones.
    pub fn set_options(&self, options: &Value) -> Value {
        if let Some(on) = options.get("legacy_jobs").and_then(Value::as_bool) {
            self.legacy_jobs.store(on, Ordering::Relaxed);
        }
        if let Some(on) = options.get("private_methods").and_then(Value::as_bool) {
            self.private_methods.store(on, Ordering::Relaxed);
        }
        json!({
            "legacy_jobs": self.legacy_jobs(),
            "private_methods": self.private_methods.load(Ordering::Relaxed),
            "py_exceptions": false,
        })
    }

    /// Adds a subscription and gives its id.
    pub fn subscribe(&self, event: &str) -> String {
        let number = self.next_subscription.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:08x}-0000-4000-8000-{number:012x}", rand::random::<u32>());
        self.subscriptions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.clone(), event.to_owned());
        id
    }

    /// Ends a subscription.
    pub fn unsubscribe(&self, id: &str) {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Whether this collection is subscribed to.
    pub fn listens_to(&self, collection: &str) -> bool {
        let subscriptions = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        subscriptions.values().any(|event| event == collection)
    }

    /// Queues a text frame; a connection that is gone takes none.
    pub fn send(&self, message: &Value) {
        let _ = self.outgoing.send(Outgoing::Text(message.to_string()));
    }

    /// Closes with a code.
    pub fn close(&self, code: u16, reason: &str) {
        let _ = self.outgoing.send(Outgoing::Close(code, reason.to_owned()));
    }
}
