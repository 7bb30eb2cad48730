//! The operations that run at this moment, one per volume.
//!
//! The spawned work holds its volume, not the caller: a caller that gives up tears nothing, and the same request sent
//! again joins what runs. A different request on the volume is ABORTED.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::failure::Failure;

/// What an operation ended with; `None` while it runs.
type Outcome<T> = Option<Result<T, Failure>>;

/// Running operations, keyed by what they hold.
#[derive(Debug)]
pub struct Registry<K, T> {
    running: Arc<Mutex<HashMap<K, Running<T>>>>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Running<T> {
    verb: &'static str,
    request: Vec<u8>,
    since: Instant,
    outcome: watch::Receiver<Outcome<T>>,
}

impl<K, T> Default for Registry<K, T> {
    fn default() -> Self {
        Self { running: Arc::default(), tasks: TaskTracker::new() }
    }
}

impl<K, T> Registry<K, T>
where
    K: Clone + Eq + Hash + Send + std::fmt::Display + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Runs `work` for `key`, or joins it when the same verb and request run already. `request` is whatever makes two
    /// requests the same.
    ///
    /// # Errors
    /// The work's own failure; `Aborted` while something else runs on `key`; `DeadlineExceeded` when `deadline` comes
    /// first, while the work goes on.
    pub async fn run<F>(
        &self,
        key: &K,
        verb: &'static str,
        request: Vec<u8>,
        deadline: Instant,
        work: F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let mut outcome = self.join_or_start(key, verb, request, work)?;
        let ended = tokio::time::timeout_at(deadline, outcome.wait_for(Option::is_some)).await;
        match ended {
            Ok(Ok(value)) => value.clone().unwrap_or_else(|| Err(lost(verb, key))),
            Ok(Err(_closed)) => Err(lost(verb, key)),
            Err(_elapsed) => Err(Failure::deadline(format!(
                "{verb} of {key} is still running on this host; the same call joins it"
            ))),
        }
    }

    fn join_or_start<F>(
        &self,
        key: &K,
        verb: &'static str,
        request: Vec<u8>,
        work: F,
    ) -> Result<watch::Receiver<Outcome<T>>, Failure>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let mut running = lock(&self.running);
        if let Some(present) = running.get(key) {
            if present.verb == verb && present.request == request {
                return Ok(present.outcome.clone());
            }
            return Err(Failure::aborted(format!(
                "{} of {key} has been running on this host for {} s; {verb} can follow when it has ended",
                present.verb,
                present.since.elapsed().as_secs()
            )));
        }
        let (sender, receiver) = watch::channel(None);
        running
            .insert(key.clone(), Running { verb, request, since: Instant::now(), outcome: receiver.clone() });
        drop(running);
        let hold = Hold { running: Arc::clone(&self.running), key: key.clone() };
        self.tasks.spawn(async move {
            let result = work.await;
            // Free first, told second: who has the answer finds the volume free.
            drop(hold);
            sender.send_replace(Some(result));
        });
        Ok(receiver)
    }

    /// Waits until nothing runs. What is started meanwhile is waited for too.
    pub async fn idle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// How many operations run.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.running).len()
    }

    /// Whether none runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Frees the key when the work ends, also by panic.
struct Hold<K: Eq + Hash, T> {
    running: Arc<Mutex<HashMap<K, Running<T>>>>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for Hold<K, T> {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.key);
    }
}

/// The map stays whole when a holder panicked: every change to it is one call.
fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lost(verb: &str, key: &impl std::fmt::Display) -> Failure {
    Failure::internal(format!("{verb} of {key} ended without an answer; see the helper's log"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use tokio::sync::Notify;

    use super::*;
    use crate::failure::Kind;

    type Volumes = Registry<String, u32>;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[tokio::test]
    async fn the_same_request_joins_and_a_conflicting_one_is_aborted() {
        let registry = Arc::new(Volumes::default());
        let key = "tank/a".to_owned();
        let (runs, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let start = |registry: Arc<Volumes>, key: String| {
            let (runs, gate) = (Arc::clone(&runs), Arc::clone(&gate));
            async move {
                let work = async move {
                    runs.fetch_add(1, Ordering::SeqCst);
                    gate.notified().await;
                    Ok(7)
                };
                registry.run(&key, "stage", vec![1], soon(), work).await
            }
        };
        let first = tokio::spawn(start(Arc::clone(&registry), key.clone()));
        let second = tokio::spawn(start(Arc::clone(&registry), key.clone()));
        while runs.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let other = registry.run(&key, "unstage", vec![1], soon(), async { Ok(0) }).await;
        assert_eq!(other.expect_err("conflict").kind, Kind::Aborted);
        let changed = registry.run(&key, "stage", vec![2], soon(), async { Ok(0) }).await;
        assert_eq!(changed.expect_err("conflict").kind, Kind::Aborted);
        let elsewhere = registry.run(&"tank/b".to_owned(), "stage", vec![1], soon(), async { Ok(1) }).await;
        assert_eq!(elsewhere, Ok(1));
        gate.notify_one();
        assert_eq!(first.await.expect("ended"), Ok(7));
        assert_eq!(second.await.expect("ended"), Ok(7));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert!(registry.is_empty());
    }

    #[tokio::test]
    async fn work_goes_on_after_its_caller_is_gone() {
        let registry = Volumes::default();
        let key = "tank/a".to_owned();
        let gate = Arc::new(Notify::new());
        let inside = Arc::clone(&gate);
        let work = async move {
            inside.notified().await;
            Ok(7)
        };
        let early = registry.run(&key, "stage", vec![], Instant::now(), work).await;
        assert_eq!(early.expect_err("no time").kind, Kind::DeadlineExceeded);
        gate.notify_one();
        let joined = registry.run(&key, "stage", vec![], soon(), async { Ok(8) }).await;
        assert!(matches!(joined, Ok(7 | 8)), "joined or, when it had ended, run again: {joined:?}");
    }

    #[tokio::test]
    async fn work_that_panics_frees_its_volume() {
        let registry = Volumes::default();
        let key = "tank/a".to_owned();
        let failure = registry.run(&key, "stage", vec![], soon(), async { panic!("a bug") }).await;
        assert_eq!(failure.expect_err("no answer").kind, Kind::Internal);
        assert_eq!(registry.run(&key, "stage", vec![], soon(), async { Ok(1) }).await, Ok(1));
    }
}
