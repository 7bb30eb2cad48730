//! Volume capabilities: how a volume is to be used, and which of that a protocol can give.
//!
//! The rule it keeps: what cannot be is refused when the volume is created and not when a pod waits for it: block on a
//! file share, and one file system on a zvol mounted by several nodes, which would destroy it.

use std::fmt;

use tns_csi_proto::csi::v1 as csi;

use crate::volume::failure::Failure;
use crate::volume::protocol::Protocol;

/// Longest file system name in bytes (CSI 1.12, "Size Limits").
const MAX_FS_TYPE: usize = 128;
/// Most bytes of mount flags together (CSI 1.12, `MountVolume.mount_flags`).
const MAX_MOUNT_FLAGS: usize = 4096;
/// File systems that the node-helper makes and mounts on block volumes (`FilesystemAccess.fs_type`).
pub const BLOCK_FILESYSTEMS: [&str; 3] = ["ext4", "xfs", "btrfs"];

/// From how many nodes a volume is used and for what (CSI 1.12, `AccessMode.Mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// Reading and writing on one node.
    SingleNodeWriter,
    /// Reading on one node.
    SingleNodeReaderOnly,
    /// Reading on several nodes.
    MultiNodeReaderOnly,
    /// Reading on several nodes, writing on one.
    MultiNodeSingleWriter,
    /// Reading and writing on several nodes.
    MultiNodeMultiWriter,
    /// Reading and writing by one workload.
    SingleNodeSingleWriter,
    /// Reading and writing by several workloads of one node.
    SingleNodeMultiWriter,
}

impl Mode {
    /// The name in the CSI proto.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mode::SingleNodeWriter => "SINGLE_NODE_WRITER",
            Mode::SingleNodeReaderOnly => "SINGLE_NODE_READER_ONLY",
            Mode::MultiNodeReaderOnly => "MULTI_NODE_READER_ONLY",
            Mode::MultiNodeSingleWriter => "MULTI_NODE_SINGLE_WRITER",
            Mode::MultiNodeMultiWriter => "MULTI_NODE_MULTI_WRITER",
            Mode::SingleNodeSingleWriter => "SINGLE_NODE_SINGLE_WRITER",
            Mode::SingleNodeMultiWriter => "SINGLE_NODE_MULTI_WRITER",
        }
    }

    /// Whether several nodes may have the volume at once.
    #[must_use]
    pub fn is_multi_node(self) -> bool {
        matches!(self, Mode::MultiNodeReaderOnly | Mode::MultiNodeSingleWriter | Mode::MultiNodeMultiWriter)
    }
}

/// As what a volume is used.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Access {
    /// A raw block device.
    Block,
    /// A mounted file system; the name is empty when the choice is the driver's.
    Mount {
        /// `ext4`, `xfs`, `btrfs`, `nfs` or empty.
        fs_type: String,
    },
}

/// One way in which a volume is used. Mount flags are left out: they may hold secrets and bind nobody here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Capability {
    /// As what.
    pub access: Access,
    /// From how many nodes.
    pub mode: Mode,
}

impl Capability {
    /// Reads a CSI `VolumeCapability`; `field` is its name in the request, for messages.
    ///
    /// # Errors
    /// INVALID_ARGUMENT naming the part that is missing or out of bounds.
    pub fn parse(field: &str, capability: &csi::VolumeCapability) -> Result<Self, Failure> {
        use csi::volume_capability::{AccessType, access_mode};
        let access = match &capability.access_type {
            None => return Err(Failure::missing(&format!("{field}.access_type"))),
            Some(AccessType::Block(_)) => Access::Block,
            Some(AccessType::Mount(mount)) => {
                let flags: usize = mount.mount_flags.iter().map(String::len).sum();
                if flags > MAX_MOUNT_FLAGS {
                    return Err(Failure::invalid(format!(
                        "{field}.mount.mount_flags have {flags} bytes, CSI allows {MAX_MOUNT_FLAGS}"
                    )));
                }
                if mount.fs_type.len() > MAX_FS_TYPE {
                    return Err(Failure::invalid(format!(
                        "{field}.mount.fs_type is over {MAX_FS_TYPE} bytes"
                    )));
                }
                Access::Mount { fs_type: mount.fs_type.clone() }
            }
        };
        let mode = capability.access_mode.as_ref().map(|mode| mode.mode()).unwrap_or_default();
        let mode = match mode {
            access_mode::Mode::Unknown => return Err(Failure::missing(&format!("{field}.access_mode"))),
            access_mode::Mode::SingleNodeWriter => Mode::SingleNodeWriter,
            access_mode::Mode::SingleNodeReaderOnly => Mode::SingleNodeReaderOnly,
            access_mode::Mode::MultiNodeReaderOnly => Mode::MultiNodeReaderOnly,
            access_mode::Mode::MultiNodeSingleWriter => Mode::MultiNodeSingleWriter,
            access_mode::Mode::MultiNodeMultiWriter => Mode::MultiNodeMultiWriter,
            access_mode::Mode::SingleNodeSingleWriter => Mode::SingleNodeSingleWriter,
            access_mode::Mode::SingleNodeMultiWriter => Mode::SingleNodeMultiWriter,
        };
        Ok(Capability { access, mode })
    }

    /// Reads all capabilities of a request.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when there is none, or one cannot be read.
    pub fn parse_all(capabilities: &[csi::VolumeCapability]) -> Result<Vec<Self>, Failure> {
        if capabilities.is_empty() {
            return Err(Failure::missing("volume_capabilities"));
        }
        let mut parsed = capabilities
            .iter()
            .enumerate()
            .map(|(n, c)| Capability::parse(&format!("volume_capabilities[{n}]"), c))
            .collect::<Result<Vec<_>, _>>()?;
        parsed.sort();
        parsed.dedup();
        Ok(parsed)
    }

    /// Whether a volume of `protocol` can be used so.
    ///
    /// # Errors
    /// INVALID_ARGUMENT saying what is impossible and what would work.
    pub fn check(&self, protocol: Protocol) -> Result<(), Failure> {
        let refuse = |why: String| Err(Failure::invalid(why));
        match &self.access {
            Access::Block if !protocol.is_block() => refuse(format!(
                "a {protocol} volume is a file share and no block device: use volumeMode Filesystem, or protocol \
                 nvmeof or iscsi"
            )),
            Access::Mount { .. } if protocol.is_block() && self.mode.is_multi_node() => refuse(format!(
                "{} with a file system is impossible on {protocol}: two nodes that mount one {protocol} device destroy \
                 its file system; use protocol nfs or smb, or volumeMode Block",
                self.mode.name()
            )),
            Access::Mount { fs_type } if protocol.is_block() => {
                if fs_type.is_empty() || BLOCK_FILESYSTEMS.contains(&fs_type.as_str()) {
                    Ok(())
                } else {
                    refuse(format!("fs_type {fs_type:?} is not one of {}", BLOCK_FILESYSTEMS.join(", ")))
                }
            }
            Access::Mount { fs_type } => {
                let own = if protocol == Protocol::Smb { "cifs" } else { "nfs" };
                if fs_type.is_empty() || fs_type == own || fs_type == protocol.name() {
                    Ok(())
                } else {
                    refuse(format!(
                        "fs_type {fs_type:?} is impossible on a {protocol} volume, leave it empty"
                    ))
                }
            }
            Access::Block => Ok(()),
        }
    }
}

impl fmt::Display for Capability {
    /// The form of the fingerprint: `block:MODE` or `mount(fs):MODE`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.access {
            Access::Block => write!(f, "block:{}", self.mode.name()),
            Access::Mount { fs_type } => write!(f, "mount({fs_type}):{}", self.mode.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use csi::volume_capability::access_mode::Mode as CsiMode;
    use csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};

    use super::*;
    use crate::volume::failure::Kind;

    fn mount(fs_type: &str, mode: CsiMode) -> csi::VolumeCapability {
        csi::VolumeCapability {
            access_type: Some(AccessType::Mount(MountVolume {
                fs_type: fs_type.to_owned(),
                ..Default::default()
            })),
            access_mode: Some(AccessMode { mode: mode.into() }),
        }
    }

    fn block(mode: CsiMode) -> csi::VolumeCapability {
        csi::VolumeCapability {
            access_type: Some(AccessType::Block(BlockVolume {})),
            access_mode: Some(AccessMode { mode: mode.into() }),
        }
    }

    #[test]
    fn missing_parts_are_named() {
        let none = Capability::parse_all(&[]).unwrap_err();
        assert_eq!(
            (none.kind, none.message.as_str()),
            (Kind::InvalidRequest, "volume_capabilities is missing")
        );
        let no_type = csi::VolumeCapability { access_type: None, ..block(CsiMode::SingleNodeWriter) };
        assert!(Capability::parse("c", &no_type).unwrap_err().message.contains("c.access_type"));
        let no_mode = csi::VolumeCapability { access_mode: None, ..block(CsiMode::SingleNodeWriter) };
        assert!(Capability::parse("c", &no_mode).unwrap_err().message.contains("c.access_mode"));
        assert!(Capability::parse("c", &block(CsiMode::Unknown)).is_err());
        let future = csi::VolumeCapability {
            access_mode: Some(AccessMode { mode: 99 }),
            ..block(CsiMode::SingleNodeWriter)
        };
        assert!(Capability::parse("c", &future).is_err());
    }

    #[test]
    fn impossible_uses_are_refused() {
        let check = |c: &csi::VolumeCapability, p| Capability::parse("c", c).unwrap().check(p);
        assert!(check(&block(CsiMode::SingleNodeWriter), Protocol::Nfs).is_err());
        assert!(check(&mount("", CsiMode::MultiNodeMultiWriter), Protocol::Nvmeof).is_err());
        assert!(check(&mount("", CsiMode::MultiNodeReaderOnly), Protocol::Iscsi).is_err());
        assert!(check(&mount("ntfs", CsiMode::SingleNodeWriter), Protocol::Nvmeof).is_err());
        assert!(check(&mount("ext4", CsiMode::SingleNodeWriter), Protocol::Nfs).is_err());
    }

    #[test]
    fn possible_uses_are_taken() {
        let check = |c: &csi::VolumeCapability, p| Capability::parse("c", c).unwrap().check(p);
        assert_eq!(check(&block(CsiMode::MultiNodeMultiWriter), Protocol::Nvmeof), Ok(()));
        assert_eq!(check(&mount("", CsiMode::MultiNodeMultiWriter), Protocol::Nfs), Ok(()));
        assert_eq!(check(&mount("xfs", CsiMode::SingleNodeMultiWriter), Protocol::Nvmeof), Ok(()));
        assert_eq!(check(&mount("nfs", CsiMode::SingleNodeWriter), Protocol::Nfs), Ok(()));
    }

    #[test]
    fn oversized_mount_flags_are_refused_without_being_shown() {
        let mut c = mount("", CsiMode::SingleNodeWriter);
        if let Some(AccessType::Mount(m)) = &mut c.access_type {
            m.mount_flags = vec!["password=hunter2".repeat(300)];
        }
        let refused = Capability::parse("c", &c).unwrap_err();
        assert!(refused.message.contains("4800 bytes") && !refused.message.contains("hunter2"), "{refused}");
    }
}
