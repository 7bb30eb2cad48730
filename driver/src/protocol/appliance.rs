//! One appliance as the controller holds it: its session, what it was seen to hold, and static facts.
//!
//! The rule it keeps: an appliance is a value and a volume knows which one is its own. Facts are read once and again
//! when an answer says that they changed.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;
use truenas::calls::{NvmetPort, NvmetTransport};
use truenas::{Calls, Client, ConnectionState, Lane};

use crate::protocol::call::Answer as _;
use crate::protocol::iscsi::portal::Facts;
use crate::protocol::iscsi::recent::Recent;
use crate::volume::failure::{Failure, Kind};
use crate::volume::index::Index;
use crate::volume::protocol::Protocol;

/// One appliance.
pub struct Appliance {
    /// Its name in the configuration; none is the default one.
    pub backend: Option<String>,
    client: Client,
    /// Its volumes as last seen.
    pub index: Index,
    nvmeof_ports: Mutex<Option<Arc<[NvmetPort]>>>,
    iscsi_facts: Mutex<Option<Arc<Facts>>>,
    /// What this process did to iSCSI targets a moment ago.
    pub(super) iscsi: Recent,
}

impl Appliance {
    /// An appliance reached through `client`.
    #[must_use]
    pub fn new(backend: Option<String>, client: Client) -> Self {
        Appliance {
            backend,
            client,
            index: Index::default(),
            nvmeof_ports: Mutex::default(),
            iscsi_facts: Mutex::default(),
            iscsi: Recent::default(),
        }
    }

    /// Calls for everything that can wait.
    #[must_use]
    pub fn calls(&self, deadline: Instant) -> Calls {
        self.client.calls(Lane::Ordinary, deadline)
    }

    /// Calls for publish and unpublish: a fence does not wait behind creates.
    #[must_use]
    pub fn fence_calls(&self, deadline: Instant) -> Calls {
        self.client.calls(Lane::Fence, deadline)
    }

    /// The words for why no call can be made, when the session knows that none can: new work is refused at once then.
    ///
    /// # Errors
    /// UNAVAILABLE with the session's words.
    pub fn check_reachable(&self) -> Result<(), Failure> {
        match self.client.state() {
            state @ (ConnectionState::LoginRefused { .. }
            | ConnectionState::Unreachable { .. }
            | ConnectionState::Closed) => Err(Failure::new(Kind::Unavailable, format!("appliance {state}"))),
            ConnectionState::Connecting { .. } | ConnectionState::Connected(_) => Ok(()),
        }
    }

    /// Why the deadline passed: UNAVAILABLE when there is no connection, else DEADLINE_EXCEEDED.
    #[must_use]
    pub fn deadline_failure(&self) -> Failure {
        let state = self.client.state();
        if state.is_connected() {
            let words = "the deadline passed while the operation goes on; repeat the request to join it";
            Failure::new(Kind::Deadline, words)
        } else {
            Failure::new(Kind::Unavailable, format!("appliance {state}"))
        }
    }

    /// The enabled NVMe-oF TCP port that is wanted. By address: a port that listens on every address serves any server,
    /// and one that is the only one with this number serves a server given by host name.
    ///
    /// # Errors
    /// FAILED_PRECONDITION when the appliance has no such port, saying which it has.
    pub async fn nvmeof_port(&self, calls: &Calls, wanted: &WantedPort<'_>) -> Result<ServingPort, Failure> {
        let known = self.nvmeof_ports.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(port) = known.as_deref().and_then(|ports| matching_port(ports, wanted)) {
            return Ok(port);
        }
        let ports: Arc<[NvmetPort]> =
            calls.nvmet_port_query(&[]).await.or_failed("reading NVMe-oF ports")?.into();
        *self.nvmeof_ports.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&ports));
        matching_port(&ports, wanted).ok_or_else(|| {
            let found: Vec<String> = ports
                .iter()
                .map(|p| format!("{} at {}:{}", p.id, p.addr_traddr, p.addr_trsvcid.unwrap_or_default()))
                .collect();
            let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            Failure::precondition(format!(
                "the appliance has no enabled NVMe-oF TCP port {wanted} (it has {found}); add it under Sharing, \
                 NVMe-oF, Ports, or correct the parameters server, port and portID"
            ))
        })
    }

    /// The iSCSI facts if they were read already.
    #[must_use]
    pub fn known_iscsi_facts(&self) -> Option<Arc<Facts>> {
        self.iscsi_facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Base name and portals of the iSCSI service.
    ///
    /// # Errors
    /// As for any call.
    pub async fn iscsi_facts(&self, calls: &Calls) -> Result<Arc<Facts>, Failure> {
        match self.known_iscsi_facts() {
            Some(facts) => Ok(facts),
            None => self.read_iscsi_facts(calls).await,
        }
    }

    /// The same, read anew.
    ///
    /// # Errors
    /// As for any call.
    pub async fn read_iscsi_facts(&self, calls: &Calls) -> Result<Arc<Facts>, Failure> {
        let (global, portals) = tokio::join!(calls.iscsi_global_config(), calls.iscsi_portal_query(&[]));
        let global = global.or_failed("reading the iSCSI configuration")?;
        let portals = portals.or_failed("reading iSCSI portals")?;
        let facts = Arc::new(Facts { basename: global.basename, portals });
        *self.iscsi_facts.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&facts));
        Ok(facts)
    }

    /// Forgets static facts, because an answer contradicted them.
    pub fn forget_facts(&self) {
        *self.iscsi_facts.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.nvmeof_ports.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Which NVMe-oF port a class or a publish asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedPort<'a> {
    /// The appliance's data address.
    pub server: &'a str,
    /// TCP port; none is the protocol's own, or that of the port with `id`.
    pub number: Option<u16>,
    /// The appliance's id of the port, when the class names it.
    pub id: Option<i64>,
}

impl fmt::Display for WantedPort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.id, self.number) {
            (Some(id), None) => write!(f, "with id {id}"),
            (Some(id), Some(number)) => write!(f, "with id {id} and TCP port {number}"),
            (None, number) => {
                write!(f, "{}:{}", self.server, number.unwrap_or(Protocol::Nvmeof.default_port()))
            }
        }
    }
}

/// A port that serves a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServingPort {
    /// The appliance's id.
    pub id: i64,
    /// Its TCP port.
    pub number: u16,
}

fn matching_port(ports: &[NvmetPort], wanted: &WantedPort<'_>) -> Option<ServingPort> {
    let serving = |p: &NvmetPort| Some(ServingPort { id: p.id, number: p.addr_trsvcid? });
    let tcp = || ports.iter().filter(|p| p.enabled && p.addr_trtype == NvmetTransport::Tcp);
    if let Some(id) = wanted.id {
        let named = tcp().find(|p| p.id == id).and_then(serving);
        return named.filter(|p| wanted.number.is_none_or(|number| number == p.number));
    }
    let server = wanted.server;
    let port = wanted.number.unwrap_or(Protocol::Nvmeof.default_port());
    let usable = || tcp().filter(|p| p.addr_trsvcid == Some(port));
    let address = |p: &NvmetPort| p.addr_traddr.parse::<IpAddr>().ok();
    let wanted = server.parse::<IpAddr>().ok();
    let exact = usable().find(|p| wanted.is_some() && address(p) == wanted);
    let wildcard = || usable().find(|p| address(p).is_some_and(|a| a.is_unspecified()));
    let only = || (wanted.is_none() && usable().count() == 1).then(|| usable().next()).flatten();
    exact.or_else(wildcard).or_else(only).and_then(serving)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(id: i64, address: &str, number: u16, enabled: bool) -> NvmetPort {
        NvmetPort {
            id,
            addr_trtype: NvmetTransport::Tcp,
            addr_traddr: address.to_owned(),
            addr_trsvcid: Some(number),
            enabled,
        }
    }

    fn matching_port(ports: &[NvmetPort], server: &str, number: u16) -> Option<i64> {
        super::matching_port(ports, &WantedPort { server, number: Some(number), id: None }).map(|p| p.id)
    }

    #[test]
    fn a_port_named_by_its_id_must_be_usable_and_agree() {
        let ports =
            [port(1, "192.0.2.10", 4420, true), port(2, "192.0.2.10", 4421, true), port(3, "::", 1, false)];
        let by_id =
            |id, number| super::matching_port(&ports, &WantedPort { server: "nas", number, id: Some(id) });
        assert_eq!(by_id(2, None), Some(ServingPort { id: 2, number: 4421 }));
        assert_eq!(by_id(2, Some(4421)), Some(ServingPort { id: 2, number: 4421 }));
        assert_eq!(by_id(2, Some(4420)), None, "the class contradicts itself");
        assert_eq!(by_id(3, None), None, "it is disabled");
        assert_eq!(by_id(9, None), None);
    }

    #[test]
    fn a_port_is_found_by_address_then_wildcard_then_as_the_only_one() {
        let both = [port(1, "0.0.0.0", 4420, true), port(2, "192.0.2.10", 4420, true)];
        assert_eq!(matching_port(&both, "192.0.2.10", 4420), Some(2));
        assert_eq!(matching_port(&both, "192.0.2.11", 4420), Some(1));
        assert_eq!(matching_port(&both, "192.0.2.10", 4421), None);
        let one = [port(3, "192.0.2.10", 4420, true), port(4, "192.0.2.10", 4421, true)];
        assert_eq!(matching_port(&one, "nas.example.org", 4420), Some(3));
        assert_eq!(matching_port(&one, "192.0.2.11", 4420), None, "another address is another port");
        assert_eq!(matching_port(&[port(5, "192.0.2.10", 4420, false)], "192.0.2.10", 4420), None);
        let two = [port(6, "192.0.2.10", 4420, true), port(7, "192.0.2.11", 4420, true)];
        assert_eq!(
            matching_port(&two, "nas.example.org", 4420),
            None,
            "a host name cannot choose between two"
        );
    }
}
