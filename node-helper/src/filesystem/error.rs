//! Why work on a file system was refused or failed.

use std::io;
use std::path::PathBuf;

use super::FsType;
use crate::device::DeviceError;
use crate::failure::{Failure, Kind};
use crate::tool::{Tool, ToolError};

/// A probe, making, check or growth that did not come about.
#[derive(Debug, thiserror::Error)]
pub enum FilesystemError {
    /// The device is not what it should be, or somebody holds it.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A program is missing or did not end.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// Part of the device could not be read: nothing is known about its content, so nothing is done.
    #[error("{} cannot be read at byte {offset}: {source}. Unreadable is not blank: nothing was written", path.display())]
    Unreadable {
        /// The device.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program ended in a way that gives no trustworthy answer.
    #[error("{tool} on {} ended with status {code}{}", path.display(), said(stderr))]
    Program {
        /// The program.
        tool: Tool,
        /// The device or mount.
        path: PathBuf,
        /// Its exit status.
        code: i32,
        /// Last words on its error stream.
        stderr: String,
    },
    /// Two ways of looking at a device disagree.
    #[error("{}: {found}. Refused until a person has looked", path.display())]
    Contradiction {
        /// The device.
        path: PathBuf,
        /// The disagreement.
        found: String,
    },
    /// The device holds something, so it is not formatted.
    #[error("{} is not formatted because it holds {found}", path.display())]
    NotBlank {
        /// The device.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// The device changed between probe and making.
    #[error("{} is not the device that was probed: nothing was written, retry", path.display())]
    Stale {
        /// The device.
        path: PathBuf,
    },
    /// The device is too small for the file system.
    #[error("{} has {size} bytes, {fs} needs at least {}: ask for a larger volume", path.display(), fs.min_size())]
    TooSmall {
        /// The device.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// The file system.
        fs: FsType,
    },
    /// The file system reaches beyond the device's end.
    #[error(
        "{} has {size} bytes but its file system {fs} covers {covers}: the device was cut short. It is neither mounted \
         nor formatted", path.display()
    )]
    Truncated {
        /// The device.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// The file system.
        fs: FsType,
        /// What the file system covers.
        covers: u64,
    },
    /// The check found what it may not mend by itself.
    #[error(
        "{} needs a person: {tool} ended with status {code}{}. It is not mounted. Take a snapshot, run \"{tool} -f\" on the \
         volume (a PersistentVolume with its volumeHandle and volumeMode Block shows a pod its device), then go on with it",
        path.display(), said(stderr)
    )]
    Damaged {
        /// The device.
        path: PathBuf,
        /// The program.
        tool: Tool,
        /// Its exit status.
        code: i32,
        /// What it reported.
        stderr: String,
    },
    /// The probe after the making did not find what was made.
    #[error("{} holds {found} after {fs} was made on it", path.display())]
    NotMade {
        /// The device.
        path: PathBuf,
        /// What was to be made.
        fs: FsType,
        /// What is there.
        found: String,
    },
    /// The file system's usage could not be read.
    #[error("the size of the file system at {} cannot be read: {source}", path.display())]
    Size {
        /// The mount.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Time ran out.
    #[error("{} did not answer before the deadline", path.display())]
    Deadline {
        /// The device or mount.
        path: PathBuf,
    },
    /// Work on the blocking pool ended without an answer.
    #[error("work on the device ended without an answer: {0}")]
    Lost(#[from] tokio::task::JoinError),
}

impl FilesystemError {
    /// The kind of failure, for the edge that turns it into a status code.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Device(error) => error.kind(),
            Self::Tool(error) => error.kind(),
            Self::Unreadable { .. }
            | Self::Contradiction { .. }
            | Self::NotBlank { .. }
            | Self::TooSmall { .. }
            | Self::Truncated { .. }
            | Self::Damaged { .. } => Kind::FailedPrecondition,
            Self::Stale { .. } => Kind::Unavailable,
            Self::Deadline { .. } => Kind::DeadlineExceeded,
            Self::Program { .. } | Self::NotMade { .. } | Self::Size { .. } | Self::Lost(_) => Kind::Internal,
        }
    }
}

impl From<FilesystemError> for Failure {
    fn from(error: FilesystemError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(": {stderr}") }
}
