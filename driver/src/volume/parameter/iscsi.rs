//! Parameters of iSCSI targets and extents.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::volume::context::Portal;
use crate::volume::failure::Failure;
use crate::volume::parameter::{Definition, is_server};
use crate::volume::protocol::Protocol;

const ISCSI: &[Protocol] = &[Protocol::Iscsi];
/// Longest comment in characters (`services_iscsitargetextent` of TrueNAS).
pub(super) const MAX_COMMENT: usize = 120;
/// Rotation rates as `iscsi.extent.create` names them.
const RPM: [&str; 6] = ["UNKNOWN", "SSD", "5400", "7200", "10000", "15000"];

const PORTAL_ID: &str = "portalId";
const PORTALS: &str = "iscsi.portals";
const INITIATOR_ID: &str = "initiatorId";
const INITIATORS: &str = "iscsi.initiators";
const NETWORKS: &str = "iscsi.networks";
const BLOCK_SIZE: &str = "iscsi.blocksize";
const INSECURE_TPC: &str = "iscsi.insecureTpc";
const XEN: &str = "iscsi.xen";
const NO_PHYSICAL: &str = "iscsi.disablePhysicalBlocksize";
const ROTATION: &str = "iscsi.rpm";
const THRESHOLD: &str = "iscsi.availThreshold";
pub(super) const COMMENT: &str = "iscsi.comment";
const IQN_BASE: &str = "iscsi.iqnBase";
const AUTH_METHOD: &str = "iscsi.authMethod";

/// This group's part of the table.
pub(super) const TABLE: &[Definition] = &[
    Definition {
        name: PORTAL_ID,
        protocols: ISCSI,
        values: "ids of portals of the appliance, separated by commas, in order of preference",
        check: |v| items(v).is_some_and(|l| l.iter().all(|id| is_id(id))),
    },
    Definition {
        name: PORTALS,
        protocols: ISCSI,
        values: "1 to 15 further addresses of the appliance, host or host:port, separated by commas",
        check: |v| items(v).is_some_and(|l| l.len() <= 15 && l.iter().all(|a| portal(a, 3260).is_some())),
    },
    Definition {
        name: INITIATOR_ID,
        protocols: ISCSI,
        values: "the id of an initiator group of the appliance",
        check: is_id,
    },
    Definition {
        name: INITIATORS,
        protocols: ISCSI,
        values: "initiator names (iqn., eui. or naa.), separated by commas",
        check: |v| items(v).is_some_and(|l| l.iter().all(|n| is_initiator(n))),
    },
    Definition {
        name: NETWORKS,
        protocols: ISCSI,
        values: "addresses or networks (CIDR), separated by commas",
        check: |v| items(v).is_some_and(|l| l.iter().all(|n| is_network(n))),
    },
    Definition {
        name: BLOCK_SIZE,
        protocols: ISCSI,
        values: "512, 1024, 2048 or 4096",
        check: |v| ["512", "1024", "2048", "4096"].contains(&v),
    },
    Definition { name: INSECURE_TPC, protocols: ISCSI, values: "true or false", check: is_bool },
    Definition { name: XEN, protocols: ISCSI, values: "true or false", check: is_bool },
    Definition { name: NO_PHYSICAL, protocols: ISCSI, values: "true or false", check: is_bool },
    Definition {
        name: ROTATION,
        protocols: ISCSI,
        values: "UNKNOWN, SSD, 5400, 7200, 10000 or 15000",
        check: |v| RPM.contains(&v),
    },
    Definition {
        name: THRESHOLD,
        protocols: ISCSI,
        values: "a percentage, 1 to 99",
        check: |v| v.parse::<u8>().is_ok_and(|n| (1..=99).contains(&n)),
    },
    Definition {
        name: COMMENT,
        protocols: ISCSI,
        values: "at most 120 characters; a template such as {{ .PVCNamespace }}/{{ .PVCName }} is filled in",
        check: |v| v.chars().count() <= MAX_COMMENT && !v.contains(char::is_control),
    },
    Definition {
        name: IQN_BASE,
        protocols: ISCSI,
        values: "the base name of the appliance's targets, as under Sharing, iSCSI, Global Target Configuration",
        check: |v| v.starts_with("iqn.") && is_initiator(v),
    },
    Definition {
        name: "forceDelete",
        protocols: ISCSI,
        values: "true: sessions of a deleted volume always end; one that is published is never deleted",
        check: |v| v == "true",
    },
    Definition {
        name: "deleteExtentsWithTarget",
        protocols: ISCSI,
        values: "true: target and extent always go with their volume",
        check: |v| v == "true",
    },
    Definition {
        name: AUTH_METHOD,
        protocols: ISCSI,
        values: "none, chap or mutual",
        check: |v| AuthMethod::parse(v).is_some(),
    },
];

/// How nodes prove themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// Not at all.
    None,
    /// CHAP, one-way.
    Chap,
    /// CHAP, both sides.
    Mutual,
}

impl AuthMethod {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "none" => Some(AuthMethod::None),
            "chap" => Some(AuthMethod::Chap),
            "mutual" => Some(AuthMethod::Mutual),
            _ => None,
        }
    }
}

/// Our word for a kind of authentication as TrueNAS (`authmethod` of a target's group) and democratic-csi write it.
pub(super) fn auth_type(text: &str) -> Option<&'static str> {
    ["none", "chap", "mutual"].into_iter().zip(["none", "chap", "chap mutual"]).find_map(|(ours, theirs)| {
        (text.eq_ignore_ascii_case(theirs) || text.eq_ignore_ascii_case(&theirs.replace(' ', "_")))
            .then_some(ours)
    })
}

/// How an iSCSI target and its extent are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iscsi {
    /// Rows of the portals, in order; none: found by the address of the server.
    pub portal_ids: Vec<i64>,
    /// Further addresses of the appliance beside the server; port none is the server's.
    pub portals: Vec<Portal>,
    /// Row of an initiator group of the administrator that opens the target for good.
    pub initiator_id: Option<i64>,
    /// Names that the target is open to for good.
    pub initiators: Vec<String>,
    /// Networks from which alone the target can be reached; none is everywhere.
    pub networks: Vec<String>,
    /// Logical block size in bytes.
    pub block_size: u16,
    /// Third-party copy past the access lists.
    pub insecure_tpc: bool,
    /// For Xen initiators.
    pub xen: bool,
    /// Do not tell the physical block size.
    pub no_physical_block_size: bool,
    /// Rotation rate.
    pub rpm: String,
    /// Percentage of space used from which initiators are warned.
    pub avail_threshold: Option<u8>,
    /// Comment of the extent, beside our own.
    pub comment: Option<String>,
    /// What the appliance's base name has to be.
    pub iqn_base: Option<String>,
    /// How nodes prove themselves; none: as the secret has it.
    pub auth_method: Option<AuthMethod>,
}

impl Default for Iscsi {
    fn default() -> Self {
        Iscsi {
            portal_ids: Vec::new(),
            portals: Vec::new(),
            initiator_id: None,
            initiators: Vec::new(),
            networks: Vec::new(),
            block_size: 512,
            // TrueNAS's own default lets a node copy from volumes that it may not read.
            insecure_tpc: false,
            xen: false,
            no_physical_block_size: false,
            rpm: "SSD".to_owned(),
            avail_threshold: None,
            comment: None,
            iqn_base: None,
            auth_method: None,
        }
    }
}

impl Iscsi {
    /// Reads the group from a class's own keys, whose values the table has checked one by one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: values that do not go together.
    pub fn read(given: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let default = Iscsi::default();
        let value = |key: &str| given.get(key).map(String::as_str);
        let list = |key: &str| value(key).and_then(items).unwrap_or_default();
        let flag = |key: &str, otherwise: bool| value(key).map_or(otherwise, |v| v == "true");
        let port = value("port").and_then(|p| p.parse().ok()).unwrap_or(Protocol::Iscsi.default_port());
        let read = Iscsi {
            portal_ids: list(PORTAL_ID).iter().filter_map(|id| id.parse().ok()).collect(),
            portals: list(PORTALS).iter().filter_map(|a| portal(a, port)).collect(),
            initiator_id: value(INITIATOR_ID).and_then(|id| id.parse().ok()),
            initiators: list(INITIATORS).iter().map(|n| (*n).to_owned()).collect(),
            networks: list(NETWORKS).iter().map(|n| (*n).to_owned()).collect(),
            block_size: value(BLOCK_SIZE).and_then(|v| v.parse().ok()).unwrap_or(default.block_size),
            insecure_tpc: flag(INSECURE_TPC, default.insecure_tpc),
            xen: flag(XEN, default.xen),
            no_physical_block_size: flag(NO_PHYSICAL, default.no_physical_block_size),
            rpm: value(ROTATION).map_or(default.rpm, str::to_owned),
            avail_threshold: value(THRESHOLD).and_then(|v| v.parse().ok()),
            comment: value(COMMENT).map(str::to_owned),
            iqn_base: value(IQN_BASE).map(str::to_owned),
            auth_method: value(AUTH_METHOD).and_then(AuthMethod::parse),
        };
        if read.initiator_id.is_some() && !read.initiators.is_empty() {
            return Err(Failure::invalid(format!(
                "parameters {INITIATOR_ID} and {INITIATORS} both say who may log in; give one of them"
            )));
        }
        Ok(read)
    }

    /// Whether the class opens its targets for good, so that publish neither grants nor revokes.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.initiator_id.is_some() || !self.initiators.is_empty()
    }
}

/// The items of a list; none when one of them is empty.
fn items(value: &str) -> Option<Vec<&str>> {
    let items: Vec<&str> = value.split(',').map(str::trim).collect();
    items.iter().all(|i| !i.is_empty()).then_some(items)
}

fn is_id(value: &str) -> bool {
    value.parse::<i64>().is_ok_and(|id| id > 0 && id.to_string() == value)
}

fn is_bool(value: &str) -> bool {
    matches!(value, "true" | "false")
}

/// An iSCSI name (RFC 3722): at most 223 bytes, lower case.
fn is_initiator(value: &str) -> bool {
    value.len() <= 223
        && ["iqn.", "eui.", "naa."].iter().any(|p| value.len() > p.len() && value.starts_with(p))
        && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:".contains(&b))
}

fn is_network(value: &str) -> bool {
    let (address, prefix) = value.split_once('/').map_or((value, None), |(a, p)| (a, Some(p)));
    address.parse::<IpAddr>().is_ok_and(|a| {
        let most = if a.is_ipv4() { 32 } else { 128 };
        prefix.is_none_or(|p| p.parse::<u8>().is_ok_and(|n| n <= most && n.to_string() == p))
    })
}

/// An address with or without a port.
fn portal(text: &str, port: u16) -> Option<Portal> {
    if is_server(text) {
        return Some(Portal::new(text, port));
    }
    text.parse::<Portal>().ok().filter(|p| is_server(&p.address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Iscsi, Failure> {
        for (key, value) in pairs {
            let definition = TABLE.iter().find(|d| d.name == *key).unwrap();
            assert!((definition.check)(value), "{key}={value}");
        }
        Iscsi::read(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn nothing_said_is_a_safe_target() {
        let read = read(&[]).unwrap();
        assert_eq!(read, Iscsi::default());
        assert!(!read.insecure_tpc && !read.is_open());
    }

    #[test]
    fn every_value_arrives() {
        let read = read(&[
            ("portalId", "2, 1"),
            ("iscsi.portals", "10.0.1.5,nas-b:3261,[fd00::5]:3260"),
            ("iscsi.initiators", "iqn.1993-08.org.debian:a,iqn.1993-08.org.debian:b"),
            ("iscsi.networks", "10.0.0.0/8,fd00::/64"),
            ("iscsi.blocksize", "4096"),
            ("iscsi.insecureTpc", "true"),
            ("iscsi.xen", "true"),
            ("iscsi.disablePhysicalBlocksize", "true"),
            ("iscsi.rpm", "7200"),
            ("iscsi.availThreshold", "80"),
            ("iscsi.comment", "team a"),
            ("iscsi.iqnBase", "iqn.2005-10.org.freenas.ctl"),
            ("iscsi.authMethod", "mutual"),
        ])
        .unwrap();
        assert_eq!(read.portal_ids, [2, 1]);
        let portals =
            [Portal::new("10.0.1.5", 3260), Portal::new("nas-b", 3261), Portal::new("fd00::5", 3260)];
        assert_eq!(read.portals, portals);
        assert_eq!((read.block_size, read.rpm.as_str(), read.avail_threshold), (4096, "7200", Some(80)));
        assert!(read.insecure_tpc && read.xen && read.no_physical_block_size && read.is_open());
        assert_eq!(read.auth_method, Some(AuthMethod::Mutual));
        assert_eq!((read.initiators.len(), read.networks.len()), (2, 2));
    }

    #[test]
    fn bad_values_are_refused() {
        for (key, value) in [
            ("portalId", "0"),
            ("portalId", "1,,2"),
            ("portalId", "one"),
            ("iscsi.portals", "10.0.1"),
            ("initiatorId", "-1"),
            ("iscsi.initiators", "ALL"),
            ("iscsi.initiators", ""),
            ("iscsi.networks", "10.0.0.0/33"),
            ("iscsi.blocksize", "8192"),
            ("iscsi.xen", "yes"),
            ("iscsi.rpm", "4200"),
            ("iscsi.availThreshold", "100"),
            ("iscsi.iqnBase", "org.freenas"),
            ("iscsi.authMethod", "CHAP"),
        ] {
            let definition = TABLE.iter().find(|d| d.name == key).unwrap();
            assert!(!(definition.check)(value), "{key}={value}");
        }
        let both = read(&[("initiatorId", "1"), ("iscsi.initiators", "iqn.1993-08.org.debian:a")]);
        assert!(both.unwrap_err().message.contains("initiatorId"));
    }
}
