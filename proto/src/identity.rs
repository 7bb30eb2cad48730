//! Names that both sides derive from a host's UUID, so that the controller never has to ask a node.
//!
//! The helper keeps the UUID (`GetHostInfoResponse.host_uuid`), the CSI node id carries it, and every identity under
//! which the host appears to the appliance follows from it: the controller can revoke a node that no longer answers.

use uuid::Uuid;

/// The host's NVMe Qualified Name, in the UUID form of NVMe Base 2.0, 4.7: `nqn.2014-08.org.nvmexpress:uuid:<uuid>`.
#[must_use]
pub fn host_nqn(host: &Uuid) -> String {
    format!("nqn.2014-08.org.nvmexpress:uuid:{host}")
}

/// The NVMe host identifier. The kernel insists that one host NQN always comes with one host id and the reverse
/// (`drivers/nvme/host/fabrics.c`), so both derive from the same UUID.
#[must_use]
pub fn nvme_host_id(host: &Uuid) -> String {
    host.to_string()
}

/// The host NQN under which a host presents itself for one volume that asks for authentication: TrueNAS keeps the keys
/// with the host NQN, and a key that all volumes of a host shared could not be changed without losing some of them.
/// `volume` is the CSI volume id. The form is NVMe Base 2.0, 4.7, with a domain of our own.
#[must_use]
pub fn authenticated_host_nqn(host: &Uuid, volume: &str) -> String {
    format!("{}{}", authenticated_prefix(host), authenticated_host_id(host, volume).simple())
}

/// The NVMe host identifier that goes with [`authenticated_host_nqn`].
#[must_use]
pub fn authenticated_host_id(host: &Uuid, volume: &str) -> Uuid {
    Uuid::new_v5(host, volume.as_bytes())
}

/// What every [`authenticated_host_nqn`] of a host begins with.
#[must_use]
pub fn authenticated_prefix(host: &Uuid) -> String {
    format!("nqn.2026-01.io.tns-csi:dhchap:{}:", host.simple())
}

/// Whether an NQN is some host's [`authenticated_host_nqn`] for this volume.
#[must_use]
pub fn is_authenticated_host_of(nqn: &str, volume: &str) -> bool {
    let host = nqn.strip_prefix("nqn.2026-01.io.tns-csi:dhchap:").and_then(|rest| rest.get(..32));
    let host = host.and_then(|text| Uuid::try_parse(text).ok());
    host.is_some_and(|host| nqn == authenticated_host_nqn(&host, volume))
}

/// The host's iSCSI initiator name (RFC 3721 `iqn.` form), used through an iface record of our own so that the
/// host's `initiatorname.iscsi` stays untouched.
#[must_use]
pub fn initiator_name(host: &Uuid) -> String {
    format!("iqn.2026-01.io.tns-csi:{}", host.simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_derive_from_the_uuid_alone() {
        let host = Uuid::from_u128(0x0123_4567_89ab_4cde_8f01_2345_6789_abcd);
        assert_eq!(host_nqn(&host), "nqn.2014-08.org.nvmexpress:uuid:01234567-89ab-4cde-8f01-23456789abcd");
        assert_eq!(nvme_host_id(&host), "01234567-89ab-4cde-8f01-23456789abcd");
        assert_eq!(initiator_name(&host), "iqn.2026-01.io.tns-csi:0123456789ab4cde8f0123456789abcd");
    }

    #[test]
    fn an_authenticated_identity_is_of_one_host_and_one_volume() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let nqn = authenticated_host_nqn(&a, "tank/v");
        assert!(nqn.starts_with(&authenticated_prefix(&a)) && !nqn.starts_with(&authenticated_prefix(&b)));
        assert!(nqn.len() <= 223);
        assert!(is_authenticated_host_of(&nqn, "tank/v") && !is_authenticated_host_of(&nqn, "tank/w"));
        assert!(!is_authenticated_host_of(&host_nqn(&a), "tank/v"));
        assert_ne!(nqn, authenticated_host_nqn(&a, "tank/w"));
        assert_ne!(authenticated_host_id(&a, "tank/v"), authenticated_host_id(&b, "tank/v"));
        assert!(nqn.ends_with(&authenticated_host_id(&a, "tank/v").simple().to_string()));
    }
}
