//! What a probe found, and the permit to format that only a probe gives.

use std::fmt;

use super::{FilesystemError, FsType};
use crate::device::{DeviceNumber, VolumeNode};

/// A complete file system of a kind the helper mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its kind.
    pub fs: FsType,
    /// Its UUID as blkid prints it, if it has one. It tells nothing about whose it is: a clone has its source's.
    pub uuid: Option<String>,
    /// Bytes of the device it covers: less than the device after an expansion, never more.
    pub size: u64,
}

/// What is on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The low-level probe knows nothing on it, and its first and last MiB are zero.
    Blank,
    /// A file system.
    Filesystem(Found),
    /// A making of this file system that was begun and never finished.
    Unfinished(FsType),
    /// Bytes that no probe knows. They may be anybody's data, or the remains of an interrupted mkfs.
    Unknown(String),
    /// Something else that is known: another file system, a partition table, a member of a pool. In words.
    Other(String),
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("nothing"),
            Self::Filesystem(found) => {
                write!(f, "a file system {} of {} bytes", found.fs, found.size)?;
                found.uuid.as_ref().map_or(Ok(()), |uuid| write!(f, " (UUID {uuid})"))
            }
            Self::Unfinished(fs) => write!(f, "an unfinished file system {fs}"),
            Self::Unknown(words) | Self::Other(words) => f.write_str(words),
        }
    }
}

/// The result of a probe: content, and the device it is true of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// What was found.
    pub content: Content,
    pub(super) number: DeviceNumber,
    pub(super) size: u64,
}

/// Permission to format one device, from a probe of it. It cannot be made by hand.
///
/// A permit outlives nothing: the caller writes its durable "formatting" record between probe and making, and holds
/// the volume's lock from the probe to the end.
#[derive(Debug)]
pub struct FormatPermit {
    pub(super) number: DeviceNumber,
    pub(super) size: u64,
    /// Remains of an interrupted making of our own may be written over.
    pub(super) overwrite: bool,
}

impl Probed {
    /// Permission to format, when the device is proven blank.
    ///
    /// # Errors
    /// [`FilesystemError::NotBlank`] saying what was found.
    pub fn permit_blank(&self, node: &VolumeNode) -> Result<FormatPermit, FilesystemError> {
        match self.content {
            Content::Blank => Ok(self.permit(false)),
            _ => Err(self.refuse(node)),
        }
    }

    /// Permission to format for a caller who holds the durable record "proven blank, formatting" of this very
    /// identity on this node: then what is no complete file system is the remains of that making. A complete file
    /// system is refused even so, and so is any other known signature: mkfs leaves none of those.
    ///
    /// # Errors
    /// [`FilesystemError::NotBlank`] saying what was found.
    pub fn permit_interrupted(&self, node: &VolumeNode) -> Result<FormatPermit, FilesystemError> {
        match self.content {
            Content::Blank => Ok(self.permit(false)),
            Content::Unfinished(_) | Content::Unknown(_) => Ok(self.permit(true)),
            Content::Filesystem(_) | Content::Other(_) => Err(self.refuse(node)),
        }
    }

    fn permit(&self, overwrite: bool) -> FormatPermit {
        FormatPermit { number: self.number, size: self.size, overwrite }
    }

    fn refuse(&self, node: &VolumeNode) -> FilesystemError {
        FilesystemError::NotBlank { path: node.path.clone(), found: self.content.to_string() }
    }
}
