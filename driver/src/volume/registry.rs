//! The operations that run now, one set per volume.
//!
//! The rule it keeps: an operation belongs to its spawned task and not to the call that asked for it, so a client that
//! gives up tears nothing. The same request joins the running one; a conflicting one is refused as busy; changes of who
//! may attach a volume queue behind each other and are carried out together.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::volume::failure::{Failure, Kind};

type Outcome<T> = Result<T, Failure>;
/// Work on a batch: one outcome per item, in order.
pub type Batch<T> = Pin<Box<dyn Future<Output = Vec<Outcome<T>>> + Send>>;

/// Operations of one process. `T` is what they give, `C` what a queued change carries.
pub struct Registry<T, C> {
    shared: Arc<Shared<T, C>>,
}

struct Shared<T, C> {
    volumes: Mutex<HashMap<String, Slot<T, C>>>,
    tasks: TaskTracker,
}

enum Slot<T, C> {
    Alone { what: &'static str, arguments: String, outcome: watch::Receiver<Option<Outcome<T>>> },
    Attachments { running: Vec<Running<T>>, waiting: Vec<Waiting<T, C>> },
}

struct Running<T> {
    node: String,
    arguments: String,
    outcome: watch::Receiver<Option<Outcome<T>>>,
}

struct Waiting<T, C> {
    running: Running<T>,
    change: C,
    sender: watch::Sender<Option<Outcome<T>>>,
}

/// A place from which to wait for an operation's outcome.
pub struct Ticket<T> {
    outcome: watch::Receiver<Option<Outcome<T>>>,
}

impl<T: Clone> Ticket<T> {
    /// Waits until the operation has ended.
    ///
    /// # Errors
    /// The operation's own failure; UNAVAILABLE when its task was torn down with the process.
    pub async fn wait(mut self) -> Outcome<T> {
        match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(torn())),
            Err(_) => Err(torn()),
        }
    }
}

fn torn() -> Failure {
    Failure::new(Kind::Unavailable, "the operation was torn down before its end; repeat the request")
}

impl<T, C> Default for Registry<T, C> {
    fn default() -> Self {
        let shared = Shared { volumes: Mutex::default(), tasks: TaskTracker::new() };
        Registry { shared: Arc::new(shared) }
    }
}

impl<T, C> Registry<T, C>
where
    T: Clone + Send + Sync + 'static,
    C: Send + 'static,
{
    /// Runs an operation that needs the volume for itself. `what` and `arguments` identify the request: the same one
    /// joins.
    ///
    /// # Errors
    /// ABORTED when another operation on the volume is running.
    pub fn alone<F>(
        &self,
        volume: &str,
        what: &'static str,
        arguments: String,
        work: impl FnOnce() -> F,
    ) -> Result<Ticket<T>, Failure>
    where
        F: Future<Output = Outcome<T>> + Send + 'static,
    {
        let mut volumes = self.shared.lock();
        match volumes.get(volume) {
            Some(Slot::Alone { what: running, arguments: theirs, outcome }) => {
                if *running == what && *theirs == arguments {
                    return Ok(Ticket { outcome: outcome.clone() });
                }
                return Err(busy(volume, running));
            }
            Some(Slot::Attachments { .. }) => return Err(busy(volume, "publish or unpublish")),
            None => {}
        }
        let (sender, outcome) = watch::channel(None);
        volumes.insert(volume.to_owned(), Slot::Alone { what, arguments, outcome: outcome.clone() });
        drop(volumes);
        let clear = Clear { shared: Arc::clone(&self.shared), volume: volume.to_owned(), armed: true };
        let work = work();
        self.shared.tasks.spawn(async move {
            let outcome = work.await;
            // The volume is free before anybody learns the outcome, so the caller's next request finds it free.
            drop(clear);
            sender.send_replace(Some(outcome));
        });
        Ok(Ticket { outcome })
    }

    /// Queues a change of who may attach the volume. Changes that wait are handed to `work` together, each with its
    /// outcome; a second change for the same node joins when `arguments` agree.
    ///
    /// # Errors
    /// ABORTED when another kind of operation, or another change for the same node, is running.
    pub fn attachment<W>(
        &self,
        volume: &str,
        node: &str,
        arguments: String,
        change: C,
        work: W,
    ) -> Result<Ticket<T>, Failure>
    where
        W: Fn(Vec<C>) -> Batch<T> + Send + 'static,
    {
        let mut volumes = self.shared.lock();
        let (sender, outcome) = watch::channel(None);
        let running = Running { node: node.to_owned(), arguments, outcome: outcome.clone() };
        match volumes.get_mut(volume) {
            Some(Slot::Alone { what, .. }) => return Err(busy(volume, what)),
            Some(Slot::Attachments { running: now, waiting }) => {
                // The name "" stands for every node.
                let mut all = now.iter().chain(waiting.iter().map(|w| &w.running));
                match all.find(|o| o.node == node || o.node.is_empty() || node.is_empty()) {
                    Some(other) if other.node == running.node && other.arguments == running.arguments => {
                        return Ok(Ticket { outcome: other.outcome.clone() });
                    }
                    Some(_) => return Err(busy(volume, "publish or unpublish")),
                    None => {}
                }
                waiting.push(Waiting { running, change, sender });
                return Ok(Ticket { outcome });
            }
            None => {
                let slot = Slot::Attachments {
                    running: Vec::new(),
                    waiting: vec![Waiting { running, change, sender }],
                };
                volumes.insert(volume.to_owned(), slot);
            }
        }
        drop(volumes);
        let shared = Arc::clone(&self.shared);
        let clear = Clear { shared: Arc::clone(&shared), volume: volume.to_owned(), armed: true };
        let volume = volume.to_owned();
        self.shared.tasks.spawn(async move {
            // Named whole, so that the task holds the guard itself and not a copy of its flag.
            let mut clear = clear;
            while let Some((changes, senders)) = shared.next_batch(&volume) {
                let outcomes = work(changes).await;
                let last = shared.batch_done(&volume);
                if last {
                    clear.armed = false;
                }
                let outcomes = outcomes.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
                for (sender, outcome) in senders.into_iter().zip(outcomes) {
                    sender.send_replace(Some(outcome.unwrap_or_else(|| Err(torn()))));
                }
                if last {
                    break;
                }
            }
        });
        Ok(Ticket { outcome })
    }

    /// Whether an operation on the volume is running.
    #[must_use]
    pub fn is_running(&self, volume: &str) -> bool {
        self.shared.lock().contains_key(volume)
    }

    /// Waits until nothing runs any more; new operations may still begin.
    pub async fn idle(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        self.shared.tasks.reopen();
    }
}

impl<T, C> Shared<T, C> {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot<T, C>>> {
        // Nothing panics while it holds the lock; a poisoned map is still a map.
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what waits; none when there is nothing (or the slot is gone).
    #[allow(clippy::type_complexity, reason = "two parallel lists that are taken apart at once")]
    fn next_batch(&self, volume: &str) -> Option<(Vec<C>, Vec<watch::Sender<Option<Outcome<T>>>>)> {
        let mut volumes = self.lock();
        let Some(Slot::Attachments { running, waiting }) = volumes.get_mut(volume) else { return None };
        let mut changes = Vec::new();
        let mut senders = Vec::new();
        running.clear();
        for item in waiting.drain(..) {
            running.push(item.running);
            changes.push(item.change);
            senders.push(item.sender);
        }
        (!changes.is_empty()).then_some((changes, senders))
    }

    /// Frees the volume when nothing waits; true then.
    fn batch_done(&self, volume: &str) -> bool {
        let mut volumes = self.lock();
        match volumes.get_mut(volume) {
            Some(Slot::Attachments { running, waiting }) if !waiting.is_empty() => {
                running.clear();
                false
            }
            _ => {
                volumes.remove(volume);
                true
            }
        }
    }
}

/// Frees the volume when the task ends in whatever way.
struct Clear<T, C> {
    shared: Arc<Shared<T, C>>,
    volume: String,
    armed: bool,
}

impl<T, C> Drop for Clear<T, C> {
    fn drop(&mut self) {
        if self.armed {
            self.shared.lock().remove(&self.volume);
        }
    }
}

fn busy(volume: &str, running: &str) -> Failure {
    Failure::new(
        Kind::Busy,
        format!("another operation on volume {volume} is running: {running}; repeat the request"),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::{Notify, Semaphore};

    use super::*;

    type Plain = Registry<usize, &'static str>;

    #[tokio::test]
    async fn the_same_request_joins_and_runs_once() {
        let registry = Plain::default();
        let (runs, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let start = || {
            let (runs, gate) = (Arc::clone(&runs), Arc::clone(&gate));
            registry.alone("v", "create", "size=1".to_owned(), move || async move {
                gate.notified().await;
                Ok(runs.fetch_add(1, Ordering::SeqCst))
            })
        };
        let (a, b) = (start().unwrap(), start().unwrap());
        let other = registry.alone("v", "create", "size=2".to_owned(), || async { Ok(9) });
        assert_eq!(other.err().unwrap().kind, Kind::Busy);
        assert_eq!(
            registry.alone("v", "delete", String::new(), || async { Ok(9) }).err().unwrap().kind,
            Kind::Busy
        );
        assert!(
            registry.alone("w", "delete", String::new(), || async { Ok(9) }).is_ok(),
            "another volume is free"
        );
        gate.notify_one();
        assert_eq!((a.wait().await, b.wait().await), (Ok(0), Ok(0)));
        let again = start().unwrap();
        gate.notify_one();
        assert_eq!(again.wait().await, Ok(1), "a request after the end runs anew");
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_tears_nothing() {
        let registry = Plain::default();
        let done = Arc::new(Notify::new());
        let (tell, gate) = (Arc::clone(&done), Arc::new(Notify::new()));
        let hold = Arc::clone(&gate);
        drop(registry.alone("v", "create", String::new(), move || async move {
            hold.notified().await;
            tell.notify_one();
            Ok(1)
        }));
        gate.notify_one();
        done.notified().await;
        registry.idle().await;
    }

    #[tokio::test]
    async fn a_task_that_dies_frees_the_volume() {
        let registry = Plain::default();
        let ticket = registry.alone("v", "create", String::new(), || async { panic!("on purpose") }).unwrap();
        assert_eq!(ticket.wait().await.unwrap_err().kind, Kind::Unavailable);
        registry.idle().await;
        assert!(registry.alone("v", "delete", String::new(), || async { Ok(1) }).is_ok());
    }

    #[tokio::test]
    async fn changes_for_several_nodes_queue_and_run_together() {
        let registry = Plain::default();
        let gate = Arc::new(Semaphore::new(0));
        let batches = Arc::new(Mutex::new(Vec::new()));
        let start = |node: &str, arguments: &str, change| {
            let (gate, batches) = (Arc::clone(&gate), Arc::clone(&batches));
            registry.attachment("v", node, arguments.to_owned(), change, move |changes| {
                let (gate, batches) = (Arc::clone(&gate), Arc::clone(&batches));
                Box::pin(async move {
                    gate.acquire().await.unwrap().forget();
                    let sizes = changes.iter().map(|c: &&str| Ok(c.len())).collect();
                    batches.lock().unwrap().push(changes);
                    sizes
                })
            })
        };
        let a = start("a", "rw", "1").unwrap();
        // The first batch has been taken once the task has run up to the gate.
        tokio::task::yield_now().await;
        let b = start("b", "rw", "22").unwrap();
        let c = start("c", "rw", "333").unwrap();
        let b_again = start("b", "rw", "22").unwrap();
        assert_eq!(start("b", "ro", "22").err().unwrap().kind, Kind::Busy);
        assert_eq!(start("", "all", "x").err().unwrap().kind, Kind::Busy, "every node conflicts with one");
        assert_eq!(
            registry.alone("v", "delete", String::new(), || async { Ok(9) }).err().unwrap().kind,
            Kind::Busy
        );
        gate.add_permits(2);
        assert_eq!(a.wait().await, Ok(1));
        assert_eq!((b.wait().await, b_again.wait().await, c.wait().await), (Ok(2), Ok(2), Ok(3)));
        assert_eq!(*batches.lock().unwrap(), [vec!["1"], vec!["22", "333"]]);
        assert!(registry.alone("v", "delete", String::new(), || async { Ok(9) }).is_ok());
    }
}
