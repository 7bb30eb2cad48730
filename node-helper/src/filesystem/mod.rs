//! File systems on a volume's node: probe, make, check, grow.
//!
//! The rules it keeps: nothing is formatted without a [`FormatPermit`], which only a probe of that very device gives;
//! what cannot be read is an error and never blank; what a tool says is compared with what we read ourselves.

mod blkid;
mod btrfs;
mod content;
mod error;
mod ext4;
mod grow;
mod kind;
mod make;
mod options;
mod probe;
mod xfs;

pub use content::{Content, FormatPermit, Found, Probed};
pub use error::FilesystemError;
pub use grow::Grown;
pub use kind::FsType;
pub use make::Checked;
pub use options::{InvalidMkfsOption, MkfsOptions};

use crate::tool::Tools;

/// The file system work of this host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Filesystems {
    tools: Tools,
}

impl Filesystems {
    /// Works with the given programs.
    #[must_use]
    pub fn new(tools: Tools) -> Self {
        Self { tools }
    }

    /// The file systems that this host has the programs to make: for GetHostInfo.
    #[must_use]
    pub fn available(&self) -> Vec<FsType> {
        FsType::ALL.into_iter().filter(|fs| self.tools.has(fs.kind().mkfs())).collect()
    }
}

#[cfg(test)]
mod tests;
