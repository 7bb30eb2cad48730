//! Waiting on the runtime until a descriptor of any kind has something to read.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a non-blocking descriptor with the runtime's reactor, for reading. Must be called on the runtime.
///
/// # Errors
/// What epoll answers; `EPERM` for a plain file, which is always readable.
pub fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the reactor needs the descriptor to stay open, and to stay the same one, until it is deregistered. An
    // OwnedFd owns its descriptor, cannot be made to return another one, and AsyncFd deregisters before it drops it.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    registered.map_err(io::Error::from)
}
