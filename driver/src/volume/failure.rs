//! Why an operation on a volume did not succeed, in the driver's own terms.
//!
//! The rule it keeps: a failure says what kind it is and, in words, which object, what was found and what to do. The
//! gRPC code follows from the kind alone, in one table (`csi/status.rs`), and so does whether the orchestrator takes
//! it as final.

use std::fmt;

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A field of the request is missing, malformed, or asks for what cannot be.
    InvalidRequest,
    /// The volume does not exist, or is not one of this driver's.
    VolumeNotFound,
    /// The node id is not one that this driver's node agents give.
    NodeNotFound,
    /// The name is taken by something that does not fit the request.
    Conflict,
    /// The object is there, but its state forbids the operation until somebody changes it.
    Precondition,
    /// No size satisfies the request.
    OutOfRange,
    /// The appliance has no room, or is not reached from where the volume is wanted.
    NoSpace,
    /// Another operation on the volume is running, or the appliance is busy with the object.
    Busy,
    /// The appliance cannot be reached, or something half done has to be repeated.
    Unavailable,
    /// A call was sent and no usable answer came: read back, then decide.
    OutcomeUnknown,
    /// The caller's deadline passed while the work goes on.
    Deadline,
    /// The appliance refused the driver's login or its rights do not suffice.
    Forbidden,
    /// A page token that this driver did not make.
    BadToken,
    /// Not built.
    Unimplemented,
    /// The appliance refused, or answered, in a way nobody foresaw.
    Internal,
}

/// A failure: its kind and words for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub kind: Kind,
    /// Names the object, what was found, and what to do. Never holds a secret.
    pub message: String,
}

impl Failure {
    /// A failure of `kind` with words.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Failure { kind, message: message.into() }
    }

    /// A request that cannot be served as it is.
    pub fn invalid(message: impl Into<String>) -> Self {
        Failure::new(Kind::InvalidRequest, message)
    }

    /// A required field that is empty; `field` is its name in the CSI proto.
    #[must_use]
    pub fn missing(field: &str) -> Self {
        Failure::invalid(format!("{field} is missing"))
    }

    /// A volume that does not exist (or is not ours, which is the same to the caller).
    #[must_use]
    pub fn volume_not_found(id: &str) -> Self {
        Failure::new(Kind::VolumeNotFound, format!("volume {id:?} does not exist"))
    }

    /// A state that forbids the operation.
    pub fn precondition(message: impl Into<String>) -> Self {
        Failure::new(Kind::Precondition, message)
    }

    /// The same failure with words put before its own.
    #[must_use]
    pub fn context(self, words: &str) -> Self {
        Failure { kind: self.kind, message: format!("{words}: {}", self.message) }
    }

    /// Whether the orchestrator may take this as the end of the matter and never come back (CSI 1.12, "Error Scheme";
    /// external-provisioner's and external-attacher's `isFinalError`). What is not final promises that the operation
    /// may still be running or is worth repeating, so partial work may stay.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(
            self.kind,
            Kind::Busy | Kind::Unavailable | Kind::OutcomeUnknown | Kind::Deadline | Kind::BadToken
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
