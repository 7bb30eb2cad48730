//! Why a device was not found, or not accepted.

use std::io;
use std::path::PathBuf;

use super::{DeviceIdentity, DeviceNumber};
use crate::failure::{Failure, Kind};

/// A device that is absent, unusable, in use, or not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The kernel's view could not be read: nothing is known about the device.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// What was read.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The size of requests could not be limited: large writes might fail.
    #[error("cannot limit the size of requests in {}: {source}", path.display())]
    Unlimited {
        /// The attribute.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The node in the device directory does not lead to the device that sysfs describes.
    #[error("the device node {} {found}, but {identity} has number {expected}: refused until they agree", path.display())]
    NodeMismatch {
        /// The node.
        path: PathBuf,
        /// Whose node it should be.
        identity: Box<DeviceIdentity>,
        /// Number in sysfs.
        expected: DeviceNumber,
        /// What was found, as the end of a sentence.
        found: String,
    },
    /// Several devices have the identity: without multipathing each path is a device of its own.
    #[error(
        "{identity} appears as several devices ({}): refused, since writing through two of them loses data. {}",
        names.join(", "), one_device(identity)
    )]
    Ambiguous {
        /// The identity.
        identity: Box<DeviceIdentity>,
        /// Kernel names found.
        names: Vec<String>,
    },
    /// The deadline passed before the device was as wanted.
    #[error("{identity}: {wanted} was not reached before the deadline; found: {found}")]
    Deadline {
        /// The identity.
        identity: Box<DeviceIdentity>,
        /// What was waited for.
        wanted: String,
        /// What was there instead.
        found: String,
    },
    /// The device opened is not the device found.
    #[error("{} is another device than the one that was found: {found}. Nothing was done; retry", path.display())]
    Changed {
        /// What was opened.
        path: PathBuf,
        /// The difference.
        found: String,
    },
    /// Somebody else uses the device.
    #[error("{} is in use{}", path.display(), by(users))]
    InUse {
        /// The device.
        path: PathBuf,
        /// By what, as far as the kernel tells.
        users: Vec<String>,
    },
    /// Work on the blocking pool ended without an answer.
    #[error("looking for the device ended without an answer: {0}")]
    Lost(#[from] tokio::task::JoinError),
}

impl DeviceError {
    /// The kind of failure, for the edge that turns it into a status code.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Unreadable { .. } | Self::Unlimited { .. } | Self::Lost(_) => Kind::Internal,
            Self::NodeMismatch { .. } | Self::Changed { .. } => Kind::Unavailable,
            Self::Ambiguous { .. } | Self::InUse { .. } => Kind::FailedPrecondition,
            Self::Deadline { .. } => Kind::DeadlineExceeded,
        }
    }

    /// Whether a look a little later may well find the device in order: the kernel makes sysfs entry and node one
    /// after the other.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::NodeMismatch { .. } | Self::Changed { .. })
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

fn one_device(identity: &DeviceIdentity) -> &'static str {
    match identity {
        DeviceIdentity::Nvme(_) => "Switch nvme_core.multipath on, or leave one path",
        DeviceIdentity::Iscsi(_) => {
            "Let multipathd claim them (see find_multipaths and blacklist in multipath.conf), or leave one session"
        }
    }
}

fn by(users: &[String]) -> String {
    if users.is_empty() {
        ": the kernel answers EBUSY to an exclusive open (a file system in another mount namespace, or a program \
         such as a mkfs or multipathd that holds it)"
            .to_owned()
    } else {
        format!(": {}", users.join(", "))
    }
}
