//! The one table from failures to gRPC codes.

use tonic::{Code, Status};

use crate::failure::{Failure, Kind};

/// The status that carries a failure and its words.
pub fn of(failure: &Failure) -> Status {
    let code = match failure.kind {
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::Aborted => Code::Aborted,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
        Kind::Unavailable => Code::Unavailable,
        Kind::PermissionDenied => Code::PermissionDenied,
        Kind::Internal => Code::Internal,
    };
    Status::new(code, failure.message.clone())
}
