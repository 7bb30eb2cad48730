//! The four protocols by name.

use std::fmt;
use std::str::FromStr;

/// A protocol over which a volume is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// NFS 4: a dataset with an export.
    Nfs,
    /// SMB: a dataset with a share.
    Smb,
    /// iSCSI: a zvol behind a target.
    Iscsi,
    /// NVMe-oF over TCP: a zvol behind a subsystem.
    Nvmeof,
}

impl Protocol {
    /// Every protocol the product knows.
    pub const ALL: [Protocol; 4] = [Protocol::Nfs, Protocol::Smb, Protocol::Iscsi, Protocol::Nvmeof];

    /// The value of the StorageClass parameter `protocol` and of the property `tns-csi:protocol`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Nfs => "nfs",
            Protocol::Smb => "smb",
            Protocol::Iscsi => "iscsi",
            Protocol::Nvmeof => "nvmeof",
        }
    }

    /// Whether volumes are zvols (block devices) and not datasets with files.
    #[must_use]
    pub fn is_block(self) -> bool {
        matches!(self, Protocol::Iscsi | Protocol::Nvmeof)
    }

    /// The TCP port at which the protocol is served unless the class says otherwise (IANA).
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Protocol::Nfs => 2049,
            Protocol::Smb => 445,
            Protocol::Iscsi => 3260,
            Protocol::Nvmeof => 4420,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a protocol; valid are nfs, smb, iscsi and nvmeof")]
pub struct UnknownProtocol(pub String);

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        Protocol::ALL.into_iter().find(|p| p.name() == text).ok_or_else(|| UnknownProtocol(text.to_owned()))
    }
}
