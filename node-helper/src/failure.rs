//! Why an operation ended without its effect: the one error type of the flows.
//!
//! It can be cloned, because every caller that joined an operation gets the same answer. The kinds are the codes that
//! CSI gives a meaning to; `service/status.rs` alone turns them into gRPC codes.

/// What the orchestrator has to make of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request itself is wrong: a missing or malformed field, a path of another shape.
    InvalidArgument,
    /// The volume is not known here, or is not at the given path.
    NotFound,
    /// The volume is there in another form than asked for.
    AlreadyExists,
    /// The state of host, volume or appliance forbids it; nothing was changed.
    FailedPrecondition,
    /// Another operation on the volume is running.
    Aborted,
    /// This helper does not do that.
    Unimplemented,
    /// Time is over; the work may still be running and a repeated call joins it.
    DeadlineExceeded,
    /// Something needed does not answer; try again.
    Unavailable,
    /// The server lies outside of what this helper may talk to.
    PermissionDenied,
    /// Neither the request nor a known state explains it.
    Internal,
}

/// A failure with the words for the operator: the object, what was found, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the orchestrator has to make of it.
    pub kind: Kind,
    /// For people; never holds a secret.
    pub message: String,
}

impl Failure {
    /// A failure of the given kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// See [`Kind::InvalidArgument`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument, message)
    }

    /// See [`Kind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// See [`Kind::AlreadyExists`].
    pub fn already_exists(message: impl Into<String>) -> Self {
        Self::new(Kind::AlreadyExists, message)
    }

    /// See [`Kind::FailedPrecondition`].
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(Kind::FailedPrecondition, message)
    }

    /// See [`Kind::Aborted`].
    pub fn aborted(message: impl Into<String>) -> Self {
        Self::new(Kind::Aborted, message)
    }

    /// See [`Kind::Unimplemented`].
    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(Kind::Unimplemented, message)
    }

    /// See [`Kind::DeadlineExceeded`].
    pub fn deadline(message: impl Into<String>) -> Self {
        Self::new(Kind::DeadlineExceeded, message)
    }

    /// See [`Kind::Unavailable`].
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    /// See [`Kind::PermissionDenied`].
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(Kind::PermissionDenied, message)
    }

    /// See [`Kind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// The same failure with its words preceded by what was being done.
    #[must_use]
    pub fn while_doing(self, what: &str) -> Self {
        Self { kind: self.kind, message: format!("{what}: {}", self.message) }
    }

    /// Whether the orchestrator may never come back after this answer (CSI, "Error Scheme"): then partial work has to
    /// be undone before it is given.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self.kind, Kind::Aborted | Kind::DeadlineExceeded | Kind::Unavailable)
    }
}
