//! From failures to gRPC codes: the only such table.
//!
//! The rule it keeps: orchestrators tell "over" from "maybe still running" by the code alone, so a code is chosen by
//! what the caller may do next and not by what sounds right (CSI 1.12, "Error Scheme").

use tonic::{Code, Status};

use crate::volume::failure::{Failure, Kind};

/// The code of a kind of failure.
#[must_use]
pub fn code(kind: Kind) -> Code {
    match kind {
        Kind::InvalidRequest => Code::InvalidArgument,
        Kind::VolumeNotFound | Kind::NodeNotFound => Code::NotFound,
        Kind::Conflict => Code::AlreadyExists,
        Kind::Precondition => Code::FailedPrecondition,
        Kind::OutOfRange => Code::OutOfRange,
        Kind::NoSpace => Code::ResourceExhausted,
        // A bad page token is ABORTED by the letter of ListVolumes.
        Kind::Busy | Kind::BadToken => Code::Aborted,
        Kind::Unavailable | Kind::OutcomeUnknown => Code::Unavailable,
        Kind::Deadline => Code::DeadlineExceeded,
        Kind::Forbidden => Code::PermissionDenied,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::Internal => Code::Internal,
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        Status::new(code(failure.kind), failure.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes after which external-provisioner and external-attacher know that work may still be going on.
    const MAYBE_RUNNING: [Code; 4] =
        [Code::Aborted, Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled];

    #[test]
    fn final_means_the_same_here_and_at_the_orchestrator() {
        for kind in [
            Kind::InvalidRequest,
            Kind::VolumeNotFound,
            Kind::NodeNotFound,
            Kind::Conflict,
            Kind::Precondition,
            Kind::OutOfRange,
            Kind::NoSpace,
            Kind::Busy,
            Kind::Unavailable,
            Kind::OutcomeUnknown,
            Kind::Deadline,
            Kind::Forbidden,
            Kind::BadToken,
            Kind::Unimplemented,
            Kind::Internal,
        ] {
            assert_eq!(Failure::new(kind, "").is_final(), !MAYBE_RUNNING.contains(&code(kind)), "{kind:?}");
        }
    }
}
