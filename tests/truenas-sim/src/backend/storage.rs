//! The values that describe pools, datasets and snapshots between the API layer and a backend.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// One imported pool. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Pool name, e.g. `tank`.
    pub name: String,
    /// ZFS's GUID of the pool.
    pub guid: u64,
    /// Raw size of the pool.
    pub size: u64,
    /// Allocated bytes.
    pub allocated: u64,
    /// Free bytes.
    pub free: u64,
    /// `ONLINE`, `DEGRADED`, ...
    pub status: String,
}

/// File system or volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DatasetKind {
    /// A file system, mounted below `/mnt`.
    Filesystem,
    /// A zvol.
    Volume,
}

/// Where a property's value comes from (ZFS's `source` column).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Set on the dataset itself.
    Local,
    /// ZFS's own default.
    Default,
    /// A statistic or fixed value (`-`).
    None,
    /// Taken over from this dataset.
    Inherited(String),
    /// Received by `zfs receive`.
    Received,
}

/// A property value as `zfs get -p` prints it, with its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// The raw value: sizes in bytes, `on`/`off`, `none` or `0` as ZFS gives it.
    pub raw: String,
    /// Where it comes from.
    pub source: Source,
}

impl Property {
    /// A value of this source.
    pub fn new(raw: impl Into<String>, source: Source) -> Self {
        Self { raw: raw.into(), source }
    }
}

/// A dataset with its properties as ZFS shows them (inherited ones included).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Full name, e.g. `tank/k8s/pvc-1`.
    pub name: String,
    /// File system or volume.
    pub kind: DatasetKind,
    /// Native properties by ZFS name (`used`, `available`, `refquota`, `volsize`, `origin`, `guid`, `createtxg`, ...).
    pub properties: BTreeMap<String, Property>,
    /// User properties by full key (with the colon), inherited ones included.
    pub user_properties: BTreeMap<String, Property>,
}

impl Dataset {
    /// The pool: what stands before the first slash.
    pub fn pool(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }

    /// Raw value of a native property; `None` when ZFS does not give it for this kind.
    pub fn raw(&self, property: &str) -> Option<&str> {
        self.properties.get(property).map(|p| p.raw.as_str())
    }

    /// A native property as bytes; absent, `none`, `-` and unreadable values count as 0.
    pub fn bytes(&self, property: &str) -> u64 {
        self.raw(property).and_then(|raw| raw.parse().ok()).unwrap_or(0)
    }
}

/// Owner and mode of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Permission bits, without the type.
    pub mode: u32,
    /// Whether an access list says more than the mode does.
    pub acl: bool,
}

/// Changes of a directory; what is `None` stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PermissionChange {
    /// Owner's number.
    pub uid: Option<u32>,
    /// Group's number.
    pub gid: Option<u32>,
    /// Permission bits; an access list goes with them.
    pub mode: Option<u32>,
}

/// Which datasets are asked for.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// Every dataset of every pool.
    All,
    /// Exactly these names.
    Paths(&'a [String]),
    /// These names and everything below them.
    Below(&'a [String]),
}

/// A dataset to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDataset {
    /// Full name; the parent exists.
    pub name: String,
    /// File system or volume.
    pub kind: DatasetKind,
    /// Native properties in ZFS's spelling, among them `volsize` (bytes) and `volblocksize` of a volume. A thick
    /// volume carries `refreservation` as `auto`.
    pub properties: BTreeMap<String, String>,
    /// User properties by full key.
    pub user_properties: BTreeMap<String, String>,
}

/// How a new dataset is encrypted, as the root of what lies below it. The key is a secret: `Debug` leaves it out.
#[derive(Clone, PartialEq, Eq)]
pub struct Encryption {
    /// ZFS's name, e.g. `aes-256-gcm`.
    pub algorithm: String,
    /// What unlocks it.
    pub key: Key,
}

impl std::fmt::Debug for Encryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encryption")
            .field("algorithm", &self.algorithm)
            .field("keyformat", &self.key.format())
            .finish_non_exhaustive()
    }
}

/// A key of an encrypted dataset.
#[derive(Clone, PartialEq, Eq)]
pub enum Key {
    /// 32 bytes in 64 hexadecimal digits.
    Hex(String),
    /// A passphrase of at least 8 characters, stretched by this many rounds of PBKDF2.
    Passphrase {
        /// The secret.
        secret: String,
        /// Rounds.
        iterations: u64,
    },
}

impl Key {
    /// ZFS's `keyformat`.
    pub fn format(&self) -> &'static str {
        match self {
            Self::Hex(_) => "hex",
            Self::Passphrase { .. } => "passphrase",
        }
    }

    /// What ZFS reads where it asks for the key.
    pub fn secret(&self) -> &str {
        match self {
            Self::Hex(secret) | Self::Passphrase { secret, .. } => secret,
        }
    }

    /// ZFS's `pbkdf2iters`; none for a key that is not stretched.
    pub fn iterations(&self) -> Option<u64> {
        match self {
            Self::Hex(_) => None,
            Self::Passphrase { iterations, .. } => Some(*iterations),
        }
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}(redacted)", self.format())
    }
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Dataset it belongs to.
    pub dataset: String,
    /// What stands after the `@`.
    pub name: String,
    /// Transaction group of its creation.
    pub createtxg: u64,
    /// Native properties (`used`, `referenced`, `creation` in epoch seconds, `clones`, `volsize`, `guid`, ...).
    pub properties: BTreeMap<String, Property>,
    /// User properties, those inherited from the dataset included.
    pub user_properties: BTreeMap<String, Property>,
    /// Names of its clones.
    pub clones: Vec<String>,
    /// Whether it is held.
    pub held: bool,
}

impl Snapshot {
    /// `dataset@name`.
    pub fn id(&self) -> String {
        format!("{}@{}", self.dataset, self.name)
    }
}

/// Addresses of this machine's interfaces, loopback included (the stand-in is often reached there), link-local left out.
pub fn interface_addresses() -> Vec<IpAddr> {
    let mut found = Vec::new();
    if let Ok(list) = nix::ifaddrs::getifaddrs() {
        for interface in list {
            let Some(address) = interface.address else { continue };
            let ip = if let Some(v4) = address.as_sockaddr_in() {
                IpAddr::V4(v4.ip())
            } else if let Some(v6) = address.as_sockaddr_in6() {
                if v6.ip().is_unicast_link_local() {
                    continue;
                }
                IpAddr::V6(v6.ip())
            } else {
                continue;
            };
            if !found.contains(&ip) {
                found.push(ip);
            }
        }
    }
    found
}
