//! The connects and logins that are on their way, by target and portal.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::{Connected, Reason};

/// How one attempt ended.
pub(super) type Outcome = Result<Connected, (Reason, String)>;

/// The attempts of this process, by the target's name and the portal. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Running {
    attempts: Arc<Mutex<HashMap<(String, SocketAddr), Attempt>>>,
}

/// One attempt, for whoever waits for it.
#[derive(Clone)]
pub(super) struct Attempt {
    outcome: watch::Receiver<Option<Outcome>>,
    wanted: Wanted,
}

/// Whether an attempt that has not begun yet, or has failed, shall still begin.
#[derive(Clone)]
pub(super) struct Wanted(watch::Sender<Wish>);

/// What callers last said.
#[derive(Clone, Copy)]
struct Wish {
    wanted: bool,
    /// How many asked for the path.
    askers: u64,
}

impl Wanted {
    fn new() -> Self {
        Self(watch::channel(Wish { wanted: true, askers: 1 }).0)
    }

    fn ask(&self) {
        self.0.send_modify(|wish| {
            wish.wanted = true;
            wish.askers += 1;
        });
    }

    fn call_off(&self) {
        self.0.send_modify(|wish| wish.wanted = false);
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.0.borrow().wanted
    }

    /// What `work` gives; `None` as soon as it is not wanted any more.
    pub(super) async fn as_long_as_wanted<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut wish = self.0.subscribe();
        tokio::select! {
            biased;
            // The sender is `self`, so waiting cannot fail.
            _ = wish.wait_for(|wish| !wish.wanted) => None,
            done = work => Some(done),
        }
    }

    /// Waits until somebody asks for the path who has not asked before this call.
    pub(super) async fn asked_again(&self) {
        let mut wish = self.0.subscribe();
        let before = wish.borrow_and_update().askers;
        // As above.
        let _ = wish.wait_for(|wish| wish.askers > before).await;
    }
}

impl Attempt {
    /// Waits for the end of the attempt, also after it.
    pub(super) async fn wait(&mut self) -> Outcome {
        match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(ended())),
            Err(_) => Err(ended()),
        }
    }
}

fn ended() -> (Reason, String) {
    (Reason::Other, "the attempt ended without an answer".to_owned())
}

impl Running {
    /// Joins the attempt for this path, or starts one: `work` runs as a task of its own, whoever waits for it or not.
    pub(super) fn join_or_start<F>(
        &self,
        target: &str,
        portal: SocketAddr,
        work: impl FnOnce(Wanted) -> F + Send + 'static,
    ) -> Attempt
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let key = (target.to_owned(), portal);
        let mut attempts = self.lock();
        if let Some(attempt) = attempts.get(&key) {
            // Somebody wants it again, also if a detach had called it off before it began.
            attempt.wanted.ask();
            return attempt.clone();
        }
        let (sender, outcome) = watch::channel(None);
        let attempt = Attempt { outcome, wanted: Wanted::new() };
        attempts.insert(key.clone(), attempt.clone());
        drop(attempts);
        let entry = Entry { running: self.clone(), key };
        let wanted = attempt.wanted.clone();
        tokio::spawn(async move {
            let outcome = work(wanted).await;
            // Out of the table first: who sees the outcome and tries again starts anew.
            drop(entry);
            sender.send_replace(Some(outcome));
        });
        attempt
    }

    /// Keeps attempts that have not begun yet, or have failed, from beginning.
    pub(super) fn call_off(&self, target: &str) {
        for ((of, _), attempt) in self.lock().iter() {
            if of == target {
                attempt.wanted.call_off();
            }
        }
    }

    /// Some attempt for the target that is on its way, with its portal.
    pub(super) fn any(&self, target: &str) -> Option<(SocketAddr, Attempt)> {
        let attempts = self.lock();
        let found = attempts.iter().find(|((of, _), _)| of == target);
        found.map(|((_, portal), attempt)| (*portal, attempt.clone()))
    }

    /// Waits until no attempt for the target is on its way.
    pub(super) async fn idle(&self, target: &str) {
        while let Some((_, mut attempt)) = self.any(target) {
            drop(attempt.wait().await);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, SocketAddr), Attempt>> {
        // Nothing is half done when a holder panics: each change of the table is one call.
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes an attempt out of the table, also when its task is aborted at the process's end.
struct Entry {
    running: Running,
    key: (String, SocketAddr),
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.running.lock().remove(&self.key);
    }
}
