//! Addresses at which programs listen.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::Context;

/// The `unix://` form of a socket's path, as CSI endpoints are written.
#[must_use]
pub fn unix(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

/// A loopback address whose port was free a moment ago.
///
/// # Errors
/// There is none.
pub fn free_loopback() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    listener.local_addr().context("looking for a free port")
}
