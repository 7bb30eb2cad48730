//! Wake-ups: something about a device changed, look again.
//!
//! The rule: an event carries no information that anybody acts on. It only ends a wait, and the one who waited reads
//! sysfs. So an event that was lost in an overflow, came twice, or was sent by a stranger does no harm.

mod kernel;
#[cfg(feature = "udev")]
mod udev;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Wake-ups about devices of this host. Cheap to clone; listening ends with the last clone.
#[derive(Debug, Clone)]
pub struct Events {
    changes: watch::Receiver<u64>,
    _listeners: Arc<Listeners>,
}

/// The tasks that read the sockets.
#[derive(Debug)]
struct Listeners(Vec<AbortHandle>);

impl Drop for Listeners {
    fn drop(&mut self) {
        for listener in &self.0 {
            listener.abort();
        }
    }
}

impl Events {
    /// Listens to the kernel's own device events and, with feature `udev`, to those that udevd sends on when its
    /// rules have run (by then links and permissions are in place too).
    ///
    /// Must be called on the runtime. The kernel's events suffice alone; without udevd the second source is silent.
    ///
    /// # Errors
    /// When no socket could be opened at all.
    pub fn listen() -> io::Result<Self> {
        let (sender, changes) = watch::channel(0);
        let sender = Arc::new(sender);
        let mut listeners = vec![spawn(kernel::open()?, &sender)?];
        #[cfg(feature = "udev")]
        match udev::open() {
            Ok(socket) => listeners.push(spawn(socket, &sender)?),
            Err(error) => tracing::warn!(%error, "no events from udevd; the kernel's own events serve"),
        }
        Ok(Self { changes, _listeners: Arc::new(Listeners(listeners)) })
    }

    /// Events that a test raises by hand.
    #[must_use]
    pub fn manual() -> (Self, Trigger) {
        let (sender, changes) = watch::channel(0);
        (Self { changes, _listeners: Arc::new(Listeners(Vec::new())) }, Trigger(Arc::new(sender)))
    }

    /// Subscribes. Subscribe first and look afterwards: what changes in between then ends the wait.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        let mut changes = self.changes.clone();
        changes.mark_unchanged();
        Subscription(changes)
    }
}

/// One waiter's view of the events.
#[derive(Debug)]
pub struct Subscription(watch::Receiver<u64>);

impl Subscription {
    /// Waits until at least one event came since the subscription or the last call. Never returns once nobody
    /// listens any more: the waiter's timer is then what wakes it.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Raises events by hand, for tests.
#[derive(Debug, Clone)]
pub struct Trigger(Arc<watch::Sender<u64>>);

impl Trigger {
    /// Wakes every waiter.
    pub fn raise(&self) {
        raise(&self.0);
    }
}

fn raise(sender: &watch::Sender<u64>) {
    sender.send_modify(|count| *count = count.wrapping_add(1));
}

/// Turns whatever arrives on a socket into wake-ups.
fn spawn(socket: OwnedFd, sender: &Arc<watch::Sender<u64>>) -> io::Result<AbortHandle> {
    let socket = node_helper_sys::readiness::readable(socket)?;
    let sender = Arc::clone(sender);
    let task = tokio::spawn(async move {
        loop {
            let drained = socket.async_io(Interest::READABLE, drain).await;
            raise(&sender);
            if let Err(error) = drained {
                tracing::error!(%error, "device events end; waits look again by their timer");
                return;
            }
        }
    });
    Ok(task.abort_handle())
}

/// Reads until the socket is empty, so that a burst is one wake-up. `WouldBlock` before anything was read.
fn drain(socket: &OwnedFd) -> io::Result<()> {
    // The content is not wanted: a datagram is cut to this and the rest dropped by the kernel.
    let mut start_of_datagram = [0_u8; 8];
    let mut any = false;
    loop {
        match recv(socket.as_raw_fd(), &mut start_of_datagram, MsgFlags::MSG_DONTWAIT) {
            // ENOBUFS: the kernel dropped events because nobody read in time. They are made up for by the look that
            // the wake-up leads to, which is always at everything.
            Ok(_) | Err(Errno::ENOBUFS) => any = true,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if any => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn an_event_between_subscribing_and_waiting_is_not_lost() {
        let (events, trigger) = Events::manual();
        trigger.raise();
        let mut subscription = events.subscribe();
        assert!(
            timeout(Duration::from_millis(20), subscription.next()).await.is_err(),
            "what came before the subscription is seen by the first look"
        );
        trigger.raise();
        timeout(SOON, subscription.next()).await.expect("the event came before the wait");
    }

    #[tokio::test]
    async fn a_datagram_wakes_and_a_burst_is_read_whole() {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::Datagram,
            None,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        )
        .unwrap();
        let (sender, changes) = watch::channel(0);
        let listener = spawn(ours, &Arc::new(sender)).unwrap();
        let events = Events { changes, _listeners: Arc::new(Listeners(vec![listener])) };
        let mut subscription = events.subscribe();
        for _ in 0..5 {
            send(theirs.as_raw_fd(), &[b'x'; 500], MsgFlags::empty()).unwrap();
        }
        timeout(SOON, subscription.next()).await.expect("woken");
    }

    #[tokio::test]
    async fn this_host_lets_us_listen() {
        match Events::listen() {
            Ok(events) => drop(events.subscribe()),
            Err(error) => eprintln!("SKIPPED: no device event socket on this host: {error}"),
        }
    }
}
