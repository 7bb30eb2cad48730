//! The file systems a block volume can have, and what differs between them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::btrfs::Btrfs;
use super::ext4::Ext4;
use super::options::OptionRule;
use super::xfs::Xfs;
use crate::tool::{Privilege, Tool};

/// A file system the helper makes and mounts on block volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsType {
    /// ext4, the default.
    Ext4,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
}

impl FsType {
    /// Every file system, the default first.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// Name as in `fsType`, mount(2) and blkid.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Smallest device in bytes on which it is made.
    #[must_use]
    pub fn min_size(self) -> u64 {
        self.kind().min_size()
    }

    /// Mount options that the helper adds unless the request has another word on the subject.
    #[must_use]
    pub fn mount_defaults(self) -> &'static [&'static str] {
        self.kind().mount_defaults()
    }

    pub(super) fn kind(self) -> &'static dyn Kind {
        match self {
            Self::Ext4 => &Ext4,
            Self::Xfs => &Xfs,
            Self::Btrfs => &Btrfs,
        }
    }
}

impl fmt::Display for FsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Text that names no file system of the helper.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("file system {0:?} is not one of ext4, xfs, btrfs")]
pub struct UnknownFsType(String);

impl FromStr for FsType {
    type Err = UnknownFsType;

    fn from_str(text: &str) -> Result<Self, UnknownFsType> {
        Self::ALL
            .into_iter()
            .find(|fs| fs.name() == text)
            .ok_or_else(|| UnknownFsType(text.chars().take(32).collect()))
    }
}

/// How a file system is grown while mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GrowBy {
    /// The program is given the device.
    Device,
    /// The program is given the root of the mount.
    Mount,
}

/// What a superblock says, read from the first MiB of the device by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Superblock {
    /// Bytes of the device that the file system covers.
    pub(super) size: u64,
    /// False when the superblock itself says that its making was never finished.
    pub(super) complete: bool,
    /// Devices the file system is spread over: 1, but for btrfs.
    pub(super) devices: u64,
}

/// What differs between file systems.
pub(super) trait Kind: Sync {
    /// The program that makes it.
    fn mkfs(&self) -> Tool;
    /// See [`FsType::min_size`].
    fn min_size(&self) -> u64;
    /// See [`FsType::mount_defaults`].
    fn mount_defaults(&self) -> &'static [&'static str];
    /// Arguments that every making gets, before those of the request.
    fn mkfs_arguments(&self) -> &'static [&'static str];
    /// Arguments that let the program write over the remains of an interrupted making.
    fn mkfs_overwrite(&self) -> &'static [&'static str];
    /// What the making needs.
    fn mkfs_privilege(&self) -> Privilege;
    /// mkfs options that a request may set.
    fn mkfs_allowed(&self) -> &'static [OptionRule];
    /// Whether a check before mounting is right; its program and arguments then.
    fn check(&self) -> Option<(Tool, &'static [&'static str])>;
    /// The program that grows it online, its arguments before and after the device or mount, and which it wants.
    fn grow(&self) -> (Tool, &'static [&'static str], GrowBy);
    /// Reads its superblock out of the first MiB (or less on a smaller device); `None` when none is there.
    fn superblock(&self, head: &[u8]) -> Option<Superblock>;
}

/// Bytes `at..at + N` of a superblock.
pub(super) fn bytes<const N: usize>(head: &[u8], at: usize) -> Option<[u8; N]> {
    head.get(at..)?.first_chunk::<N>().copied()
}
