//! Why a target could not be attached, detached or rescanned.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::device::DeviceError;
use crate::failure::{Failure, Kind};
use crate::tool::ToolError;

/// Why one path could not be made: what the kernel answered, and what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The kernel has no NVMe over TCP.
    NoTransport,
    /// The helper may not use the fabrics device.
    NotPermitted,
    /// Nothing listens at the address.
    NotListening,
    /// No route, or no answer in time.
    Unreachable,
    /// The appliance answered and refused.
    Refused,
    /// The appliance wants another authentication.
    Authentication,
    /// Host NQN and host id are in use in another combination.
    HostMismatch,
    /// The kernel does not know an option.
    Unsupported,
    /// The kernel does not accept the options.
    BadOptions,
    /// The kernel says that the path exists, but none of ours is there.
    Phantom,
    /// The kernel has no iSCSI over TCP.
    NoIscsi,
    /// open-iscsi's daemon does not answer.
    NoDaemon,
    /// open-iscsi may not use its records or its daemon.
    NoAccess,
    /// The target refused the initiator's name or its CHAP credentials: it tells the two apart for nobody.
    Chap,
    /// The target answered and refused the login.
    LoginRefused,
    /// iscsiadm reports a session, but none of ours is there.
    NoSession,
    /// Anything else.
    Other,
}

impl Reason {
    /// What to do about it.
    const fn advice(self) -> &'static str {
        match self {
            Self::NoTransport => {
                "the kernel has no NVMe over TCP: run `modprobe nvme-tcp` and have it loaded at boot"
            }
            Self::NotPermitted => {
                "the helper may not use /dev/nvme-fabrics: it has to run as root on the host"
            }
            Self::NotListening => {
                "nothing listens there: is the protocol's service of the appliance running, and the port linked to the \
                 subsystem?"
            }
            Self::Unreachable => "no answer: check the network between this node and the appliance",
            Self::Refused => {
                "the appliance refused: the subsystem is not there, not on this port, or this host is not allowed \
                 (was the volume published to this node?)"
            }
            Self::Authentication => {
                "the appliance asks for DH-HMAC-CHAP keys that were not given or do not fit"
            }
            Self::HostMismatch => {
                "the kernel binds one host NQN to one host id, and another pair is in use: disconnect the controllers \
                 that other software made with this host's identity"
            }
            Self::Unsupported => "the kernel of this node lacks an option that is needed",
            Self::BadOptions => "the kernel does not accept the options; its log (dmesg) says which",
            Self::Phantom => {
                "the kernel says that this path exists, but no controller of this host is there: is it being deleted? \
                 Retry"
            }
            Self::NoIscsi => {
                "the kernel has no iSCSI over TCP: run `modprobe iscsi_tcp` and have it loaded at boot"
            }
            Self::NoDaemon => {
                "is iscsid running? It comes with package open-iscsi (`systemctl enable --now iscsid`)"
            }
            Self::NoAccess => "open-iscsi denies access: the helper has to run as root on the host",
            Self::Chap => {
                "the target refused to let this node in: either the CHAP credentials do not fit (user, secret, and those \
                 of the target for mutual CHAP), or this initiator is not allowed (was the volume published to this node?)"
            }
            Self::LoginRefused => {
                "the target refused the login: it is not there, not on this portal, or being removed (was the volume \
                 published to this node?)"
            }
            Self::NoSession => {
                "iscsiadm reports a session, but no session of this host's own is there. Retry"
            }
            Self::Other => "see the kernel's log (dmesg)",
        }
    }

    const fn kind(self) -> Kind {
        match self {
            Self::NoTransport
            | Self::NotPermitted
            | Self::HostMismatch
            | Self::Unsupported
            | Self::BadOptions
            | Self::NoIscsi
            | Self::NoDaemon
            | Self::NoAccess
            | Self::Authentication => Kind::FailedPrecondition,
            Self::Chap => Kind::PermissionDenied,
            // An appliance that boots refuses for a while what it grants a moment later.
            Self::NotListening
            | Self::Unreachable
            | Self::Refused
            | Self::Phantom
            | Self::LoginRefused
            | Self::NoSession => Kind::Unavailable,
            Self::Other => Kind::Internal,
        }
    }
}

/// How each portal of a target failed.
#[derive(Debug, Clone)]
pub struct Portals(pub Vec<(SocketAddr, Reason, String)>);

impl fmt::Display for Portals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (portal, reason, kernel)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{portal}: {kernel}: {}", reason.advice())?;
        }
        Ok(())
    }
}

/// A target that was not attached, detached or rescanned.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No portal led to a path.
    #[error("no path to {target} could be made: {portals}")]
    NoPath {
        /// The target, in words.
        target: String,
        /// How each portal failed.
        portals: Portals,
    },
    /// The target names no portal.
    #[error("{target} has no portal to connect to")]
    NoPortal {
        /// The target, in words.
        target: String,
    },
    /// Time ran out while the kernel was still at it. A retry joins what runs.
    #[error(
        "{what} of {target} did not end before the deadline; it goes on in the kernel and a retry joins it"
    )]
    Deadline {
        /// What was going on.
        what: &'static str,
        /// The target, in words.
        target: String,
    },
    /// A device of the target is in use: it is not detached.
    #[error("{target} stays connected because it is in use: {}", users.join(", "))]
    InUse {
        /// The target, in words.
        target: String,
        /// By what.
        users: Vec<String>,
    },
    /// The kernel refused a write to a controller's attribute.
    #[error("writing {} failed: {source}", path.display())]
    Attribute {
        /// The attribute.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program of the host gave no result.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// open-iscsi refused something else than a login.
    #[error("{what} of {target} failed: {said}")]
    Iscsiadm {
        /// What was asked of it.
        what: &'static str,
        /// The target, in words.
        target: String,
        /// Exit status and last words.
        said: String,
        /// What the status means.
        reason: Reason,
    },
    /// A record of open-iscsi could not be read or written.
    #[error("the record {} of open-iscsi: {source}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The device side failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Work on the blocking pool ended without an answer.
    #[error("work on the connection ended without an answer: {0}")]
    Lost(#[from] tokio::task::JoinError),
}

impl AttachError {
    /// The kind of failure, for the edge that turns it into a status code.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            // What a retry may mend wins: one portal that is away must not make the failure of another one final.
            Self::NoPath { portals, .. } => {
                let kinds: Vec<Kind> = portals.0.iter().map(|(_, reason, _)| reason.kind()).collect();
                [Kind::Unavailable, Kind::PermissionDenied, Kind::FailedPrecondition]
                    .into_iter()
                    .find(|kind| kinds.contains(kind))
                    .unwrap_or(Kind::Internal)
            }
            Self::NoPortal { .. } => Kind::InvalidArgument,
            Self::Deadline { .. } => Kind::DeadlineExceeded,
            Self::InUse { .. } => Kind::FailedPrecondition,
            Self::Attribute { .. } | Self::Record { .. } | Self::Lost(_) => Kind::Internal,
            Self::Tool(error) => error.kind(),
            Self::Iscsiadm { reason, .. } => reason.kind(),
            Self::Device(error) => error.kind(),
        }
    }
}

impl From<AttachError> for Failure {
    fn from(error: AttachError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}
