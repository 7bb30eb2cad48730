//! From what the client says about a call to what an operation does next.

use truenas::{CallError, NotSent};

use crate::volume::failure::{Failure, Kind};

/// The failure for a call; `doing` says what was being done to which object ("creating zvol tank/a").
#[must_use]
pub fn failed(doing: &str, error: &CallError) -> Failure {
    let kind = match error {
        CallError::NotSent { why: NotSent::TooLarge { .. } | NotSent::Encoding, .. } => Kind::Internal,
        CallError::NotSent { why: NotSent::Unsupported(_), .. } => Kind::Precondition,
        CallError::NotSent { .. } => Kind::Unavailable,
        CallError::OutcomeUnknown { .. } => Kind::OutcomeUnknown,
        CallError::Refused(refused) if refused.is_no_space() => Kind::NoSpace,
        CallError::Refused(refused) if refused.is_not_authorized() => Kind::Forbidden,
        CallError::Refused(refused) if refused.is_busy() => Kind::Busy,
        // The object is stored; only its service could not take it in. Repeating does.
        CallError::Refused(refused) if refused.is_service_failure() => Kind::Unavailable,
        CallError::Refused(refused) if refused.is_method_missing() => Kind::Precondition,
        CallError::Refused(_) => Kind::Internal,
    };
    Failure::new(kind, format!("{doing}: {error}"))
}

/// A deletion: what is gone already is as good. A definite refusal is repeated by the caller after reading again.
pub(super) fn gone(result: Result<(), CallError>, doing: &str) -> Result<(), Failure> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => {
            let failure = failed(doing, &error);
            // An unclassified refusal of a deletion leaves work behind: not final.
            let kind = if failure.kind == Kind::Internal { Kind::Unavailable } else { failure.kind };
            Err(Failure { kind, ..failure })
        }
        Ok(()) => Ok(()),
    }
}

/// The two ways in which operations look at the result of a call.
pub trait Answer<T> {
    /// The result, or the failure of `doing`.
    ///
    /// # Errors
    /// As [`failed`].
    fn or_failed(self, doing: &str) -> Result<T, Failure>;

    /// The definite answer: what was asked for, or the appliance's refusal (in words) that has to be looked into.
    ///
    /// # Errors
    /// As [`failed`], when there is no definite answer.
    fn definite(self, doing: &str) -> Result<Result<T, Failure>, Failure>;
}

impl<T> Answer<T> for Result<T, CallError> {
    fn or_failed(self, doing: &str) -> Result<T, Failure> {
        self.map_err(|error| failed(doing, &error))
    }

    fn definite(self, doing: &str) -> Result<Result<T, Failure>, Failure> {
        match self {
            Ok(value) => Ok(Ok(value)),
            Err(error @ CallError::Refused(_)) => Ok(Err(failed(doing, &error))),
            Err(error) => Err(failed(doing, &error)),
        }
    }
}
