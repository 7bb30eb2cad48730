//! StorageClass parameters: one table of what exists, and the typed result of reading it.
//!
//! The rule it keeps: a key that the driver does not know is refused with the valid ones listed, so a misspelt
//! parameter never silently does nothing. Keys under `csi.storage.k8s.io/` belong to the sidecars and are tolerated.
//!
//! Each group of keys has a file of its own, with its part of the table and the type it is read into.

pub mod alias;
pub mod encryption;
pub mod export;
pub mod iscsi;
pub mod naming;
pub mod nfs;
pub mod nvmeof;
pub mod overrides;
pub mod permissions;
pub mod smb;
pub mod user_properties;
pub mod zfs;

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::volume::capability::BLOCK_FILESYSTEMS;
use crate::volume::failure::Failure;
use crate::volume::id;
use crate::volume::name;
use crate::volume::parameter::encryption::Encryption;
use crate::volume::parameter::export::ExportSettings;
use crate::volume::parameter::naming::Naming;
use crate::volume::parameter::user_properties::UserProperties;
use crate::volume::parameter::zfs::Zfs;
use crate::volume::protocol::Protocol;

/// Prefix of the keys that external-provisioner adds.
const SIDECAR_PREFIX: &str = "csi.storage.k8s.io/";
/// Longest value in bytes: TrueNAS takes no longer property value (API models, 1,024 characters).
const MAX_VALUE: usize = 1024;

/// One parameter of the table.
pub struct Definition {
    /// The key, as in the StorageClass.
    pub name: &'static str,
    /// Protocols that know it.
    pub protocols: &'static [Protocol],
    /// What values it takes, for messages.
    pub values: &'static str,
    /// Whether a value is one of them.
    pub(crate) check: fn(&str) -> bool,
}

const BLOCK: &[Protocol] = &[Protocol::Iscsi, Protocol::Nvmeof];

/// The table's parts, a group of keys each.
const TABLES: &[&[Definition]] = &[
    COMMON,
    nfs::TABLE,
    smb::TABLE,
    iscsi::TABLE,
    nvmeof::TABLE,
    zfs::TABLE,
    encryption::TABLE,
    naming::TABLE,
    permissions::TABLE,
    overrides::TABLE,
];

/// Every parameter the driver knows.
pub fn table() -> impl Iterator<Item = &'static Definition> {
    TABLES.iter().flat_map(|part| part.iter())
}

/// What every class needs, and what is not about one protocol or about ZFS.
const COMMON: &[Definition] = &[
    Definition {
        name: "protocol",
        protocols: &Protocol::ALL,
        values: "nfs, smb, iscsi or nvmeof",
        check: |v| v.parse::<Protocol>().is_ok(),
    },
    Definition { name: "pool", protocols: &Protocol::ALL, values: "the name of a ZFS pool", check: is_pool },
    Definition {
        name: "server",
        protocols: &Protocol::ALL,
        values: "the appliance's data address: an IP literal or a host name, without scheme and port",
        check: is_server,
    },
    Definition {
        name: "port",
        protocols: &Protocol::ALL,
        values: "a TCP port, 1 to 65535",
        check: |v| v.parse::<u16>().is_ok_and(|port| port > 0 && port.to_string() == v),
    },
    Definition {
        name: "parentDataset",
        protocols: &Protocol::ALL,
        values: "a dataset path, with or without the pool in front",
        check: is_dataset_path,
    },
    Definition {
        name: "fsType",
        protocols: BLOCK,
        values: "ext4, xfs or btrfs",
        check: |v| BLOCK_FILESYSTEMS.contains(&v),
    },
    Definition {
        name: "mkfsOptions",
        protocols: BLOCK,
        values: "arguments for making the file system, 1 to 32 separated by single spaces, of letters, digits and \
                 -_=,.:^/ (which of them are allowed the node's helper decides)",
        check: is_argument_list,
    },
    Definition {
        name: "deleteStrategy",
        protocols: &Protocol::ALL,
        values: "delete or retain",
        check: |v| DeleteStrategy::parse(v).is_some(),
    },
];

/// What DeleteVolume does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeleteStrategy {
    /// Removes the volume.
    #[default]
    Delete,
    /// Leaves the volume with all its data on the appliance and answers success.
    Retain,
}

impl DeleteStrategy {
    /// The value of the parameter and of the property `tns-csi:delete_strategy`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DeleteStrategy::Delete => "delete",
            DeleteStrategy::Retain => "retain",
        }
    }

    /// Reads the value; none for any other word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [DeleteStrategy::Delete, DeleteStrategy::Retain].into_iter().find(|s| s.name() == text)
    }
}

/// The place where volumes of a class live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The pool.
    pub pool: String,
    /// The dataset under which volumes are made, beginning with the pool.
    pub parent: String,
}

/// The parameters of a class, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// How volumes are served.
    pub protocol: Protocol,
    /// Where they live.
    pub placement: Placement,
    /// The appliance's data address.
    pub server: String,
    /// The TCP port, when the class names one.
    pub port: Option<u16>,
    /// The file system that block volumes get when the capability names none.
    pub fs_type: Option<String>,
    /// Options for making it.
    pub mkfs_options: Option<String>,
    /// What DeleteVolume does.
    pub delete_strategy: DeleteStrategy,
    /// Name of the claim, when the provisioner sends it (`--extra-create-metadata`).
    pub pvc_name: Option<String>,
    /// Its namespace.
    pub pvc_namespace: Option<String>,
    /// How the volume is exported.
    pub export: ExportSettings,
    /// ZFS properties of its dataset or zvol.
    pub zfs: Zfs,
    /// Its encryption.
    pub encryption: Encryption,
    /// How dataset and comment are named.
    pub naming: Naming,
    /// User properties of the operator.
    pub user_properties: UserProperties,
    /// Our own keys as they were given, for the fingerprint.
    pub given: BTreeMap<String, String>,
}

impl Parameters {
    /// Reads the parameters of CreateVolume.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: an unknown key (with the valid ones), a bad value (with the valid ones), a missing key, or one
    /// that the class's protocol does not know.
    pub fn parse(parameters: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let given = check_all(parameters)?;
        let required = |key: &str| {
            given
                .get(key)
                .cloned()
                .ok_or_else(|| Failure::missing(&format!("StorageClass parameter {key:?}")))
        };
        let protocol: Protocol = required("protocol")?
            .parse()
            .map_err(|e| Failure::invalid(format!("parameter protocol: {e}")))?;
        for key in given.keys() {
            if table().any(|d| d.name == key && !d.protocols.contains(&protocol)) {
                return Err(Failure::invalid(format!(
                    "parameter {key:?} does not exist for protocol {protocol}; valid are {}",
                    valid(Some(protocol))
                )));
            }
        }
        required("pool")?;
        let placement =
            placement(&given).ok_or_else(|| Failure::missing("StorageClass parameter \"pool\""))?;
        let sidecar = |key: &str| {
            let value = parameters.get(&format!("{SIDECAR_PREFIX}{key}"))?;
            (value.len() <= MAX_VALUE && !value.is_empty()).then(|| value.clone())
        };
        Ok(Parameters {
            protocol,
            placement,
            server: required("server")?,
            port: given.get("port").and_then(|port| port.parse().ok()),
            fs_type: given.get("fsType").cloned(),
            mkfs_options: given.get("mkfsOptions").cloned(),
            delete_strategy: given
                .get("deleteStrategy")
                .and_then(|text| DeleteStrategy::parse(text))
                .unwrap_or_default(),
            pvc_name: sidecar("pvc/name"),
            pvc_namespace: sidecar("pvc/namespace"),
            export: ExportSettings {
                permissions: permissions::read(&given),
                ..ExportSettings::read(&given)?
            },
            zfs: Zfs::read(&given, protocol)?,
            encryption: Encryption::read(&given)?,
            naming: Naming::read(&given)?,
            user_properties: UserProperties::read(&given)?,
            given,
        })
    }

    /// Reads the parameters of GetCapacity, of which all may be absent. None: no place is named.
    ///
    /// # Errors
    /// INVALID_ARGUMENT as in [`Parameters::parse`] for keys and values.
    pub fn parse_placement(parameters: &BTreeMap<String, String>) -> Result<Option<Placement>, Failure> {
        Ok(placement(&check_all(parameters)?))
    }

    /// Reads of GetCapacity's parameters how volumes would be made. None: no protocol is named.
    ///
    /// # Errors
    /// INVALID_ARGUMENT as in [`Parameters::parse`] for keys and values.
    pub fn parse_zfs(parameters: &BTreeMap<String, String>) -> Result<Option<(Protocol, Zfs)>, Failure> {
        let given = check_all(parameters)?;
        let Some(protocol) = given.get("protocol").and_then(|p| p.parse().ok()) else { return Ok(None) };
        Ok(Some((protocol, Zfs::read(&given, protocol)?)))
    }
}

/// Checks keys and values; gives our own.
fn check_all(parameters: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Failure> {
    let ours = || parameters.iter().filter(|(key, _)| !key.starts_with(SIDECAR_PREFIX));
    for (key, _) in ours() {
        if let Some(words) = alias::refused(key) {
            return Err(Failure::invalid(format!("parameter {key} cannot stand in a class: {words}")));
        }
    }
    let mut given = BTreeMap::new();
    for (key, value) in alias::normalise(ours(), parameters.get("protocol").map(String::as_str))? {
        if key.starts_with(user_properties::PREFIX) {
            user_properties::check(&key, &value)?;
            given.insert(key, value);
            continue;
        }
        let Some(definition) = table().find(|d| d.name == key) else {
            return Err(Failure::invalid(format!("unknown parameter {key:?}; valid are {}", valid(None))));
        };
        if value.len() > MAX_VALUE || !(definition.check)(&value) {
            let shown: String = value.chars().take(64).collect();
            return Err(Failure::invalid(format!(
                "parameter {key} is {shown:?}, valid is {}",
                definition.values
            )));
        }
        given.insert(key, value);
    }
    Ok(given)
}

fn placement(given: &BTreeMap<String, String>) -> Option<Placement> {
    let pool = given.get("pool")?;
    let parent = match given.get("parentDataset").map(|p| p.trim_end_matches('/')) {
        None => pool.clone(),
        Some(parent) if parent == pool || parent.starts_with(&format!("{pool}/")) => parent.to_owned(),
        Some(parent) => format!("{pool}/{parent}"),
    };
    Some(Placement { pool: pool.clone(), parent })
}

/// The keys of the table, for messages.
fn valid(protocol: Option<Protocol>) -> String {
    let known = table().filter(|d| protocol.is_none_or(|p| d.protocols.contains(&p)));
    let free = format!("{}<module:name>", user_properties::PREFIX);
    known.map(|d| d.name).chain([free.as_str()]).collect::<Vec<_>>().join(", ")
}

fn is_argument_list(value: &str) -> bool {
    let word =
        |w: &str| !w.is_empty() && w.chars().all(|c| c.is_ascii_alphanumeric() || "-_=,.:^/".contains(c));
    value.split(' ').count() <= 32 && value.split(' ').all(word)
}

fn is_pool(value: &str) -> bool {
    id::is_component(value) && !value.contains(' ')
}

fn is_dataset_path(value: &str) -> bool {
    let path = value.strip_suffix('/').unwrap_or(value);
    path.len() <= id::MAX_DATASET && path.split('/').all(|c| id::is_component(c) && !name::hidden(c))
}

pub(super) fn is_server(value: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
    };
    // Digits and dots alone are a mistyped address and no host name.
    let digits = value.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    value.parse::<IpAddr>().is_ok() || (value.len() <= 253 && !digits && value.split('.').all(label))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::failure::Kind;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn nfs(more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut all = map(&[("protocol", "nfs"), ("pool", "tank"), ("server", "192.0.2.10")]);
        all.extend(map(more));
        all
    }

    #[test]
    fn a_class_is_read() {
        let read = Parameters::parse(&nfs(&[
            ("port", "2050"),
            ("parentDataset", "k8s/east"),
            ("deleteStrategy", "retain"),
            ("csi.storage.k8s.io/pvc/name", "data"),
            ("csi.storage.k8s.io/anything", "else"),
        ]))
        .unwrap();
        assert_eq!(read.protocol, Protocol::Nfs);
        assert_eq!(read.placement.parent, "tank/k8s/east");
        assert_eq!((read.port, read.delete_strategy), (Some(2050), DeleteStrategy::Retain));
        assert_eq!(read.pvc_name.as_deref(), Some("data"));
        assert!(
            !read.given.keys().any(|k| k.starts_with("csi.")),
            "sidecars' keys are no part of the fingerprint"
        );
    }

    #[test]
    fn a_parent_gets_its_pool_once() {
        let parent = |p: &str| Parameters::parse(&nfs(&[("parentDataset", p)])).unwrap().placement.parent;
        assert_eq!(parent("tank"), "tank");
        assert_eq!(parent("tank/a"), "tank/a");
        assert_eq!(parent("a/b/"), "tank/a/b");
        assert_eq!(parent("tanker/a"), "tank/tanker/a", "the pool is a component and no prefix");
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_valid_ones() {
        let refused = Parameters::parse(&nfs(&[("parentdataset", "a")])).unwrap_err();
        assert_eq!(refused.kind, Kind::InvalidRequest);
        for definition in table() {
            assert!(refused.message.contains(definition.name), "{refused}");
        }
    }

    #[test]
    fn a_missing_key_is_named() {
        for key in ["protocol", "pool", "server"] {
            let mut all = nfs(&[]);
            all.remove(key);
            let refused = Parameters::parse(&all).unwrap_err();
            assert_eq!(refused.kind, Kind::InvalidRequest);
            assert!(refused.message.contains(key), "{refused}");
        }
    }

    #[test]
    fn bad_values_are_refused_with_what_is_valid() {
        for (key, value) in [
            ("protocol", "NFS"),
            ("protocol", ""),
            ("pool", "ta/nk"),
            ("pool", ""),
            ("server", "https://nas"),
            ("server", "nas:2049"),
            ("server", "10.0.0"),
            ("server", "10.0.0.300"),
            ("server", "-nas"),
            ("server", ""),
            ("port", "0"),
            ("port", "65536"),
            ("port", "+80"),
            ("port", "080"),
            ("parentDataset", "a//b"),
            ("parentDataset", "/a"),
            ("parentDataset", "../a"),
            ("parentDataset", "a@b"),
            ("parentDataset", ".system"),
            ("parentDataset", "ix-apps/a"),
            ("deleteStrategy", "Retain"),
            ("fsType", "ntfs"),
        ] {
            let refused = Parameters::parse(&nfs(&[(key, value)])).unwrap_err();
            assert_eq!(refused.kind, Kind::InvalidRequest, "{key}={value}");
            assert!(refused.message.contains(key), "{refused}");
        }
    }

    #[test]
    fn a_key_of_another_protocol_is_refused() {
        let refused = Parameters::parse(&nfs(&[("fsType", "ext4")])).unwrap_err();
        assert!(refused.message.contains("fsType") && refused.message.contains("nfs"), "{refused}");
    }

    #[test]
    fn servers_are_addresses_or_host_names() {
        for server in ["192.0.2.1", "2001:db8::1", "nas", "nas.example.org", "nas-1", "1nas"] {
            assert!(is_server(server), "{server}");
        }
    }

    #[test]
    fn capacity_needs_no_parameter() {
        assert_eq!(Parameters::parse_placement(&BTreeMap::new()), Ok(None));
        let placed = Parameters::parse_placement(&nfs(&[("parentDataset", "a")])).unwrap().unwrap();
        assert_eq!((placed.pool.as_str(), placed.parent.as_str()), ("tank", "tank/a"));
        assert!(Parameters::parse_placement(&map(&[("nonsense", "1")])).is_err());
    }
}
