//! Mounting an NFS 4 export.
//!
//! What mount.nfs(8) does in user space is done here: the server's address is resolved and checked by us, our own
//! address is found by asking the routing table, and a server that does not answer is noticed before the kernel waits
//! for it. NFS 3 is not offered: it needs statd.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustix::io::Errno;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::attach::{Detached, MountError};
use super::options::{MountOptions, Parameter};
use crate::failure::Failure;
use crate::source::NfsSource;

/// The kernel's name of the file system.
pub const FS_TYPE: &str = "nfs4";

/// The source as the mount table will show it: `host:/export`, an IPv6 literal in brackets.
#[must_use]
pub fn device_string(source: &NfsSource) -> String {
    let host = source.server.host.as_str();
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => format!("[{host}]:{}", source.export),
        _ => format!("{host}:{}", source.export),
    }
}

/// Finds an address that accepts a TCP connection: all are tried side by side, so that a dead one does not use up the
/// time of the others. `protocol` is its name in words.
///
/// # Errors
/// `Unavailable` naming each address with its fault.
pub async fn reachable(
    protocol: &str,
    addresses: &[SocketAddr],
    deadline: Instant,
) -> Result<SocketAddr, Failure> {
    let mut attempts: FuturesUnordered<_> = addresses
        .iter()
        .map(|address| async move {
            match tokio::time::timeout_at(deadline, TcpStream::connect(address)).await {
                Ok(Ok(_connection)) => Ok(*address),
                Ok(Err(error)) => Err(format!("{address}: {error}")),
                Err(_elapsed) => Err(format!("{address}: no answer in time")),
            }
        })
        .collect();
    let mut faults = Vec::new();
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(address) => return Ok(address),
            Err(fault) => faults.push(fault),
        }
    }
    Err(Failure::unavailable(format!(
        "the {protocol} server does not accept connections ({}); check that its {protocol} service runs and that the network lets this \
         node reach it",
        faults.join("; ")
    )))
}

/// Mounts the export, detached. Blocks until the server has answered.
///
/// # Errors
/// With the kernel's words.
pub fn mount(source: &NfsSource, server: SocketAddr, options: &MountOptions) -> Result<Detached, MountError> {
    let mut parameters = vec![Parameter::with("addr", server.ip().to_string())];
    if let Some(client) = own_address(server) {
        parameters.push(Parameter::with("clientaddr", client.to_string()));
    }
    parameters.push(Parameter::with("proto", if server.is_ipv6() { "tcp6" } else { "tcp" }));
    parameters.push(Parameter::with("port", server.port().to_string()));
    parameters.extend(options.parameters().iter().cloned());
    Detached::file_system(FS_TYPE, &device_string(source), &parameters, None, options.attributes())
}

/// The failure that a mount error means for the orchestrator.
#[must_use]
pub fn judge(source: &NfsSource, error: &MountError) -> Failure {
    let shown = device_string(source);
    let code = error.errno.raw_os_error().unwrap_or(0);
    let is = |errno: Errno| errno.raw_os_error() == code;
    if is(Errno::NOENT) {
        Failure::not_found(format!("NFS export {shown} does not exist on the server: {error}"))
    } else if is(Errno::ACCESS) || is(Errno::PERM) {
        Failure::precondition(format!(
            "the NFS server refuses {shown} to this node: {error}; its address must be among the share's hosts"
        ))
    } else if [
        Errno::TIMEDOUT,
        Errno::CONNREFUSED,
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::IO,
        Errno::NOTCONN,
    ]
    .into_iter()
    .any(is)
    {
        Failure::unavailable(format!("NFS export {shown}: {error}"))
    } else if is(Errno::PROTONOSUPPORT) {
        Failure::precondition(format!(
            "NFS export {shown}: the server does not speak that NFS version: {error}"
        ))
    } else {
        Failure::internal(format!("NFS export {shown}: {error}"))
    }
}

/// The address from which this host reaches `server`: connecting a datagram socket sends nothing and asks the routing
/// table.
fn own_address(server: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(server).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Endpoint;

    #[test]
    fn an_ipv6_server_is_put_in_brackets() {
        let source = |host: &str| NfsSource {
            server: Endpoint { host: host.to_owned(), port: 2049 },
            export: "/mnt/tank/a".to_owned(),
        };
        assert_eq!(device_string(&source("2001:db8::1")), "[2001:db8::1]:/mnt/tank/a");
        assert_eq!(device_string(&source("192.0.2.1")), "192.0.2.1:/mnt/tank/a");
        assert_eq!(device_string(&source("nas")), "nas:/mnt/tank/a");
    }

    #[tokio::test]
    async fn a_server_that_refuses_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let soon = Instant::now() + std::time::Duration::from_secs(5);
        assert_eq!(reachable("NFS", &[address], soon).await.expect("listening"), address);
        drop(listener);
        let failure = reachable("NFS", &[address], soon).await.expect_err("nobody listens");
        assert!(failure.message.contains(&address.to_string()), "{failure}");
        assert!(!failure.is_final());
    }

    #[test]
    fn the_own_address_follows_the_route() {
        assert_eq!(own_address(SocketAddr::from(([127, 0, 0, 1], 2049))), Some([127, 0, 0, 1].into()));
    }

    #[tokio::test]
    async fn a_dead_address_does_not_hold_up_the_others() {
        use std::os::fd::AsRawFd;

        use nix::sys::socket::{
            AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket,
        };

        // A listener that takes nobody: with its queue full the kernel drops what else knocks.
        let full =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        bind(full.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).expect("bound");
        listen(&full, Backlog::new(0).expect("no queue")).expect("listening");
        let dead: SockaddrIn = getsockname(full.as_raw_fd()).expect("its address");
        let dead: SocketAddr = std::net::SocketAddrV4::from(dead).into();
        let _queued = std::net::TcpStream::connect(dead).expect("the one that fits");
        let alive = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let alive = alive.local_addr().expect("its address");
        let begun = Instant::now();
        let deadline = begun + std::time::Duration::from_secs(30);
        assert_eq!(reachable("NFS", &[dead, alive], deadline).await, Ok(alive));
        assert!(begun.elapsed() < std::time::Duration::from_secs(15), "{:?}", begun.elapsed());
    }
}
