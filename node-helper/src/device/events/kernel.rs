//! The kernel's own device events (`lib/kobject_uevent.c`): a netlink socket, no daemon needed.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket};

/// Multicast group on which the kernel itself sends.
const KERNEL_GROUP: u32 = 1;

/// Opens the socket. It needs no privilege; in a network namespace other than the host's it stays silent unless that
/// belongs to the initial user namespace.
pub(super) fn open() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket =
        socket(AddressFamily::Netlink, SockType::Datagram, flags, SockProtocol::NetlinkKObjectUEvent)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
    Ok(socket)
}
