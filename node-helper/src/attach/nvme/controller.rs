//! Controllers as sysfs shows them, and which of them are ours.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use super::NvmeHost;
use crate::device::sysfs::{attribute, names};
use crate::device::{DeviceError, HostRoot, Nqn};

/// State of a controller (`drivers/nvme/host/sysfs.c`, `nvme_sysfs_show_state`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControllerState {
    /// Being made.
    New,
    /// I/O passes.
    Live,
    /// Being reset; it becomes live or starts to connect.
    Resetting,
    /// The path is broken; the kernel tries to connect again.
    Connecting,
    /// Going away.
    Deleting,
    /// Gone for good.
    Dead,
    /// A word this helper does not know.
    Unknown,
}

impl ControllerState {
    fn parse(text: &str) -> Self {
        match text {
            "new" => Self::New,
            "live" => Self::Live,
            "resetting" => Self::Resetting,
            "connecting" => Self::Connecting,
            "deleting" | "deleting (no IO)" => Self::Deleting,
            "dead" => Self::Dead,
            _ => Self::Unknown,
        }
    }

    /// Whether the kernel keeps the path and will use it again by itself; only then a second one to the same portal
    /// is a duplicate.
    #[must_use]
    pub const fn stays(self) -> bool {
        !matches!(self, Self::Deleting | Self::Dead)
    }
}

/// A controller: one path from this host to a subsystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    /// Kernel name at this moment (`nvme0`).
    pub name: String,
    /// Its state.
    pub state: ControllerState,
    /// Where it leads, when that could be parsed.
    pub portal: Option<SocketAddr>,
}

/// The controllers of exactly this subsystem that were made over TCP with exactly our host identity, or with one that we
/// use for volumes with authentication. Those of other software on this host are none of our business.
pub(super) fn ours(host: &HostRoot, nqn: &Nqn, own: &NvmeHost) -> Result<Vec<Controller>, DeviceError> {
    let class = host.sys("class/nvme");
    let mut found = Vec::new();
    let authenticated = tns_csi_proto::identity::authenticated_prefix(&own.id);
    for name in names(&class)? {
        let host_nqn = attribute(&class.join(&name).join("hostnqn"))?;
        let is_own = host_nqn.is_some_and(|nqn| nqn == own.nqn.as_str() || nqn.starts_with(&authenticated));
        let is = |file: &str, wanted: &str| -> Result<bool, DeviceError> {
            Ok(attribute(&class.join(&name).join(file))?.as_deref() == Some(wanted))
        };
        if is("subsysnqn", nqn.as_str())? && is("transport", "tcp")? && is_own {
            let text = |file: &str| attribute(&class.join(&name).join(file));
            let Some(state) = text("state")? else { continue };
            let portal = text("address")?.as_deref().and_then(parse_address);
            found.push(Controller { state: ControllerState::parse(&state), portal, name });
        }
    }
    Ok(found)
}

/// Whether some controller of this host binds our host NQN to another id, or our id to another NQN.
pub(super) fn identity_clash(host: &HostRoot, own: &NvmeHost) -> Result<bool, DeviceError> {
    let class = host.sys("class/nvme");
    for name in names(&class)? {
        let text = |file: &str| attribute(&class.join(&name).join(file));
        if let (Some(nqn), Some(id)) = (text("hostnqn")?, text("hostid")?)
            && (nqn == own.nqn.as_str()) != (id == own.id.to_string())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Parses `traddr=…,trsvcid=…[,src_addr=…]`.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let value = |key: &str| text.split(',').find_map(|pair| pair.trim().strip_prefix(key));
    let port = value("trsvcid=")?.parse().ok()?;
    let host = value("traddr=")?;
    match host.split_once('%') {
        None => Some(SocketAddr::new(host.parse::<IpAddr>().ok()?, port)),
        Some((address, scope)) => {
            Some(SocketAddrV6::new(address.parse().ok()?, port, 0, scope.parse().ok()?).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::device::testing::{PretendHost, nqn};

    const ADDRESS: &str = "traddr=192.0.2.7,trsvcid=4420,src_addr=192.0.2.9";

    fn own() -> NvmeHost {
        NvmeHost { nqn: Nqn::parse("nqn.2014-08.org.nvmexpress:uuid:h").unwrap(), id: Uuid::from_u128(1) }
    }

    #[test]
    fn addresses_of_both_families_are_read() {
        assert_eq!(parse_address(ADDRESS), Some("192.0.2.7:4420".parse().unwrap()));
        assert_eq!(
            parse_address("traddr=2001:db8::7,trsvcid=4420"),
            Some("[2001:db8::7]:4420".parse().unwrap())
        );
        assert_eq!(parse_address("traddr=fe80::1%3,trsvcid=4420"), Some("[fe80::1%3]:4420".parse().unwrap()));
        for bad in [
            "",
            "traddr=,trsvcid=4420",
            "traddr=192.0.2.7",
            "traddr=nas,trsvcid=4420",
            "traddr=::1,trsvcid=99999",
        ] {
            assert_eq!(parse_address(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_address_text_is_survived(text: String) {
            let _ = parse_address(&text);
        }
    }

    #[test]
    fn only_exactly_our_subsystem_with_exactly_our_host_is_ours() {
        let host = PretendHost::new();
        let (own_nqn, id) = (own().nqn.to_string(), own().id.to_string());
        host.controller(0, &nqn(1), ADDRESS, "live", &own_nqn, &id);
        // A name of which ours is a prefix, another host's identity, and another transport.
        host.controller(1, &nqn(10), ADDRESS, "live", &own_nqn, &id);
        host.controller(2, &nqn(1), ADDRESS, "live", "nqn.2014-08.org.nvmexpress:uuid:other", "other");
        host.controller(3, &nqn(1), ADDRESS, "live", &own_nqn, &id);
        host.write("sys/class/nvme/nvme3/transport", "rdma\n");
        host.controller(4, &nqn(1), "", "deleting (no IO)", &own_nqn, &id);
        let authenticated =
            |id: u128| tns_csi_proto::identity::authenticated_host_nqn(&Uuid::from_u128(id), "tank/v");
        host.controller(5, &nqn(1), ADDRESS, "live", &authenticated(1), "ours for one volume");
        host.controller(6, &nqn(1), ADDRESS, "live", &authenticated(2), "another host's");
        let found = ours(&host.root(), &nqn(1), &own()).unwrap();
        let names: Vec<_> =
            found.iter().map(|controller| (controller.name.as_str(), controller.state)).collect();
        assert_eq!(
            names,
            [
                ("nvme0", ControllerState::Live),
                ("nvme4", ControllerState::Deleting),
                ("nvme5", ControllerState::Live),
            ]
        );
    }

    #[test]
    fn a_host_identity_in_another_combination_is_noticed() {
        let host = PretendHost::new();
        let (own_nqn, id) = (own().nqn.to_string(), own().id.to_string());
        host.controller(0, &nqn(1), ADDRESS, "live", &own_nqn, &id);
        host.controller(1, &nqn(2), ADDRESS, "live", "nqn.2014-08.org.nvmexpress:uuid:other", "other");
        assert!(!identity_clash(&host.root(), &own()).unwrap());
        host.controller(2, &nqn(2), ADDRESS, "live", &own_nqn, "other");
        assert!(identity_clash(&host.root(), &own()).unwrap());
    }
}
