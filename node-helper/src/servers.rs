//! Which appliances this host may talk to.
//!
//! The caller names a server; the helper resolves it and uses only addresses inside `--allow-server`. Without a list
//! no server is allowed.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::source::Endpoint;

/// The networks of `--allow-server`.
#[derive(Debug, Clone, Default)]
pub struct AllowedServers(Vec<IpNet>);

impl AllowedServers {
    /// Allows exactly these networks.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    fn allows(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Resolves `server` and keeps the addresses inside the list; at least one.
    ///
    /// An IPv4 address in IPv6 clothes is judged (and used) as the IPv4 address.
    ///
    /// # Errors
    /// `PermissionDenied` when no address is inside the list, `Unavailable` when the name does not resolve,
    /// `DeadlineExceeded` when the resolver does not answer.
    pub async fn resolve(&self, server: &Endpoint, deadline: Instant) -> Result<Vec<SocketAddr>, Failure> {
        let host = server.host.as_str();
        let found: Vec<IpAddr> = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => tokio::time::timeout_at(deadline, tokio::net::lookup_host((host, server.port)))
                .await
                .map_err(|_| {
                    Failure::deadline(format!("server {host}: the resolver did not answer in time"))
                })?
                .map_err(|error| {
                    Failure::unavailable(format!("server {host} does not resolve on this host: {error}"))
                })?
                .map(|address| address.ip())
                .collect(),
        };
        let found: Vec<IpAddr> = found.into_iter().map(|address| address.to_canonical()).collect();
        let mut inside: Vec<SocketAddr> = Vec::new();
        for address in &found {
            let socket = SocketAddr::new(*address, server.port);
            if self.allows(*address) && !inside.contains(&socket) {
                inside.push(socket);
            }
        }
        if inside.is_empty() {
            let found = found.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(Failure::denied(format!(
                "server {host} ({found}) is outside of this helper's --allow-server list; add its network there if \
                 this node may use it"
            )));
        }
        Ok(inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;

    fn list(networks: &[&str]) -> AllowedServers {
        AllowedServers::new(networks.iter().map(|text| text.parse().expect("a network")).collect())
    }

    fn server(host: &str) -> Endpoint {
        Endpoint { host: host.to_owned(), port: 2049 }
    }

    fn soon() -> Instant {
        Instant::now() + std::time::Duration::from_secs(5)
    }

    #[tokio::test]
    async fn only_addresses_of_the_list_are_used() {
        let servers = list(&["192.0.2.0/24", "2001:db8::/32"]);
        let found = servers.resolve(&server("192.0.2.7"), soon()).await.expect("inside");
        assert_eq!(found, ["192.0.2.7:2049".parse().expect("address")]);
        let failure = servers.resolve(&server("198.51.100.1"), soon()).await.expect_err("outside");
        assert_eq!(failure.kind, Kind::PermissionDenied);
        assert!(failure.message.contains("198.51.100.1"), "{failure}");
        assert!(servers.resolve(&server("2001:db8::1"), soon()).await.is_ok());
    }

    #[tokio::test]
    async fn without_a_list_there_is_no_service() {
        assert!(list(&[]).resolve(&server("127.0.0.1"), soon()).await.is_err());
    }

    #[tokio::test]
    async fn an_ipv4_address_in_ipv6_clothes_is_judged_as_ipv4() {
        let servers = list(&["::/0"]);
        assert!(servers.resolve(&server("::ffff:198.51.100.1"), soon()).await.is_err());
        let servers = list(&["198.51.100.0/24"]);
        let found = servers.resolve(&server("::ffff:198.51.100.1"), soon()).await.expect("inside");
        assert_eq!(found, ["198.51.100.1:2049".parse().expect("address")]);
    }
}
