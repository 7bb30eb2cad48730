//! What went wrong with a call, and what that says about its effect.
//!
//! TrueNAS spreads the meaning of an error over five places: the JSON-RPC code, an errno, a Python class, a list of
//! `[attribute, message, errno]` and plain text. The questions a caller asks ([`ApiError::is_not_found`] and so on) are
//! answered here and nowhere else. "Unclassified" is errno 14, so a few of them have to look at text.

use std::fmt;

use crate::dialect::Unsupported;
use crate::state::LoginRefusal;

/// Why a call gave no result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CallError {
    /// Nothing was sent, or the appliance said that it did nothing: the call can be repeated.
    #[error("{method} was not sent: {why}")]
    NotSent {
        /// The TrueNAS method.
        method: &'static str,
        /// The reason.
        why: NotSent,
    },
    /// It was sent and no usable answer came: it may have had its effect, now or later. Read back, then decide.
    #[error("the outcome of {method} is unknown: {why}")]
    OutcomeUnknown {
        /// The TrueNAS method.
        method: &'static str,
        /// The reason.
        why: Unknown,
    },
    /// The appliance's definite answer. It does not prove that nothing happened: share and target methods store the
    /// object before they reload the service.
    #[error(transparent)]
    Refused(Box<ApiError>),
}

impl CallError {
    /// The appliance's error, when it gave one.
    #[must_use]
    pub fn refused(&self) -> Option<&ApiError> {
        match self {
            Self::Refused(error) => Some(error),
            Self::NotSent { .. } | Self::OutcomeUnknown { .. } => None,
        }
    }

    /// Whether the appliance answered that the object addressed by the call does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.refused().is_some_and(ApiError::is_not_found)
    }

    /// The TrueNAS method.
    #[must_use]
    pub fn method(&self) -> &'static str {
        match self {
            Self::NotSent { method, .. } | Self::OutcomeUnknown { method, .. } => method,
            Self::Refused(error) => error.method,
        }
    }
}

/// Why nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// No connection before the deadline; the text is the connection's state.
    #[error("no connection to the appliance before the deadline ({0})")]
    NotConnected(String),
    /// The appliance refuses the key.
    #[error("login refused: {0}")]
    LoginRefused(LoginRefusal),
    /// All slots of the lane were taken until the deadline.
    #[error("too many calls were in flight until the deadline")]
    NoSlot,
    /// The appliance answered "too many concurrent calls" until the deadline.
    #[error("the appliance was too busy to accept the call before the deadline")]
    TooManyCalls,
    /// The request is larger than the appliance accepts.
    #[error("the request has {bytes} bytes, the appliance accepts {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The session was no longer logged in, so the appliance did nothing.
    #[error("the login had expired; a new one is under way")]
    SessionExpired,
    /// The request could not be written as JSON.
    #[error("the request cannot be encoded")]
    Encoding,
    /// The appliance does not give job ids on this connection.
    #[error("the appliance does not give job ids, so the job could not be followed")]
    NoJobIds,
    /// The appliance's queue for jobs of this kind is full: it named another job instead of starting one.
    #[error("the appliance already has too many jobs of this kind waiting")]
    JobQueueFull,
    /// The appliance's version has no such thing.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The client is being dropped.
    #[error("the client is closed")]
    Closed,
}

/// Why the outcome is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// The connection ended before the answer.
    #[error("the connection ended before the answer ({0})")]
    ConnectionLost(String),
    /// The deadline passed before the answer.
    #[error("no answer before the deadline")]
    DeadlinePassed,
    /// The answer does not have the documented shape.
    #[error("the answer could not be read ({0})")]
    Unreadable(String),
    /// The job was stopped. TrueNAS reports that as a null result without an error; part of it may have been done.
    #[error("job {id} was aborted")]
    JobAborted {
        /// The job's id.
        id: i64,
    },
    /// The appliance no longer knows the job (it keeps 1,000, in memory only).
    #[error("job {id} is no longer known to the appliance")]
    JobForgotten {
        /// The job's id.
        id: i64,
    },
}

/// One `[attribute, message, errno]` of a refused call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Dotted path such as `pool_dataset_create.volsize`; `None` when the object itself is meant.
    pub attribute: Option<String>,
    /// The appliance's words.
    pub message: String,
    /// Its errno.
    pub errno: i32,
}

/// The appliance's answer to a call that it refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ApiError {
    /// The TrueNAS method.
    pub method: &'static str,
    /// JSON-RPC code: -32602 validation, -32001 call error, -32601 unknown method.
    pub code: i64,
    /// JSON-RPC message.
    pub message: String,
    /// errno of the whole answer; always 22 with -32602. TrueNAS's own are 201 to 210, libzfs' 2000 and up.
    pub errno: i32,
    /// Its name, e.g. `ENOTEMPTY`.
    pub errname: String,
    /// The appliance's words, e.g. `[ENOTEMPTY] ...`.
    pub reason: String,
    /// Python class of the exception.
    pub class: Option<String>,
    /// One entry per refused field.
    pub fields: Vec<FieldError>,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrueNAS refused {}: ", self.method)?;
        for (i, field) in self.fields.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            match &field.attribute {
                Some(attribute) => write!(f, "{separator}{attribute}: {}", field.message)?,
                None => write!(f, "{separator}{}", field.message)?,
            }
        }
        match (self.fields.is_empty(), self.reason.trim()) {
            (true, "") => write!(f, "{} (JSON-RPC {})", self.message, self.code),
            (true, reason) => f.write_str(reason),
            (false, _) => Ok(()),
        }
    }
}

/// errno values the appliance uses.
mod errno {
    pub(super) const ENOENT: i32 = 2;
    pub(super) const EBUSY: i32 = 16;
    pub(super) const EEXIST: i32 = 17;
    pub(super) const EACCES: i32 = 13;
    pub(super) const ENOSPC: i32 = 28;
    pub(super) const ENOTEMPTY: i32 = 39;
    pub(super) const EDQUOT: i32 = 122;
    pub(super) const ENOMETHOD: i32 = 201;
    pub(super) const ESERVICESTARTFAILURE: i32 = 202;
    pub(super) const ENOTAUTHENTICATED: i32 = 207;
    /// libzfs: busy, exists, no such dataset, out of space.
    pub(super) const EZFS_BUSY: i32 = 2007;
    pub(super) const EZFS_EXISTS: i32 = 2008;
    pub(super) const EZFS_NOENT: i32 = 2009;
    pub(super) const EZFS_NOSPC: i32 = 2028;
}

impl ApiError {
    /// The object that the call addresses does not exist. A missing *device* of an extent or namespace, or a missing
    /// parent of a new dataset, is something else.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        let whole = matches!(self.errno, errno::ENOENT | errno::EZFS_NOENT)
            || matches!(
                self.class.as_deref(),
                Some("MatchNotFound" | "InstanceNotFound" | "ZFSPathNotFoundException")
            );
        let item = |f: &FieldError| {
            matches!(f.errno, errno::ENOENT | errno::EZFS_NOENT)
                && f.attribute.as_deref().is_none_or(|a| last(a) == "id")
        };
        whole || self.fields.iter().any(item)
    }

    /// Something of that name, path or pair exists already. No answer says so reliably: also read by exact name.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.has_errno(&[errno::EEXIST, errno::EZFS_EXISTS])
            || self.class.as_deref() == Some("ZFSPathAlreadyExistsException")
            || self.says(&["already exists", "is already in use", "already used"])
    }

    /// Not enough space, by ZFS or by the appliance's 80 % rule for zvols.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        self.has_errno(&[errno::ENOSPC, errno::EDQUOT, errno::EZFS_NOSPC])
            || self.says(&[
                "out of space",
                "no space left",
                "not enough space",
                "insufficient space",
                "greater than available space",
                "80% of",
            ])
    }

    /// The dataset has children or snapshots.
    #[must_use]
    pub fn is_not_empty(&self) -> bool {
        self.has_errno(&[errno::ENOTEMPTY])
            || self.says(&["has children", "has snapshots", "has dependent clones"])
    }

    /// The object is in use.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.is_rate_limited()
            && (self.has_errno(&[errno::EBUSY, errno::EZFS_BUSY]) || self.says(&["is busy", "is in use"]))
    }

    /// The parent of a new dataset, or its pool, does not exist.
    #[must_use]
    pub fn is_parent_missing(&self) -> bool {
        self.says(&["parent dataset", "zpool"]) && self.says(&["does not exist"])
    }

    /// The block device of a zvol is not there (yet): it appears a moment after the zvol's creation or clone.
    #[must_use]
    pub fn is_device_missing(&self) -> bool {
        let device = |f: &FieldError| {
            f.attribute.as_deref().is_some_and(|a| matches!(last(a), "device_path" | "disk"))
                && f.message.contains("does not exist")
        };
        self.fields.iter().any(device)
    }

    /// The appliance has no such method (in this version).
    #[must_use]
    pub fn is_method_missing(&self) -> bool {
        self.code == -32601 || self.errno == errno::ENOMETHOD
    }

    /// Too many logins of this address (20 in 60 seconds).
    #[must_use]
    pub fn is_rate_limited(&self) -> bool {
        self.errno == errno::EBUSY && self.says(&["rate limit"])
    }

    /// The session is no longer logged in; nothing was done.
    #[must_use]
    pub fn is_not_authenticated(&self) -> bool {
        self.errno == errno::ENOTAUTHENTICATED
            || (self.errno == errno::EACCES && self.says(&["session is expired"]))
    }

    /// The key's owner lacks the role for this method.
    #[must_use]
    pub fn is_not_authorized(&self) -> bool {
        self.errno == errno::EACCES && !self.is_not_authenticated()
    }

    /// The object was stored but the service could not be reloaded or started.
    #[must_use]
    pub fn is_service_failure(&self) -> bool {
        self.has_errno(&[errno::ESERVICESTARTFAILURE])
    }

    /// A refused field whose last path component is `field` (prefixes differ between versions).
    #[must_use]
    pub fn mentions(&self, field: &str) -> bool {
        self.fields.iter().any(|f| f.attribute.as_deref().is_some_and(|a| last(a) == field))
    }

    fn has_errno(&self, wanted: &[i32]) -> bool {
        wanted.contains(&self.errno) || self.fields.iter().any(|f| wanted.contains(&f.errno))
    }

    /// Whether any text of the answer contains one of the phrases (lower case), without regard to case.
    fn says(&self, phrases: &[&str]) -> bool {
        let texts = self
            .fields
            .iter()
            .map(|f| f.message.as_str())
            .chain([self.reason.as_str(), self.message.as_str()]);
        texts.map(str::to_lowercase).any(|text| phrases.iter().any(|p| text.contains(p)))
    }
}

/// Last component of a dotted attribute.
fn last(attribute: &str) -> &str {
    attribute.rsplit('.').next().unwrap_or(attribute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call_error(errno: i32, reason: &str, class: Option<&str>) -> ApiError {
        ApiError {
            method: "pool.dataset.delete",
            code: -32001,
            message: "Method call error".into(),
            errno,
            errname: String::new(),
            reason: reason.into(),
            class: class.map(Into::into),
            fields: Vec::new(),
        }
    }

    fn validation(items: &[(Option<&str>, &str, i32)]) -> ApiError {
        let fields = items
            .iter()
            .map(|(a, m, e)| FieldError { attribute: a.map(Into::into), message: (*m).into(), errno: *e })
            .collect();
        ApiError { code: -32602, errno: 22, fields, ..call_error(22, "", None) }
    }

    #[test]
    fn not_found_is_told_apart_from_a_missing_device_and_a_missing_parent() {
        assert!(validation(&[(None, "Dataset tank/a does not exist", 2)]).is_not_found());
        assert!(call_error(22, "", Some("MatchNotFound")).is_not_found());
        assert!(call_error(2009, "", None).is_not_found());
        let device = validation(&[(
            Some("nvmet_namespace_create.device_path"),
            "Device /dev/zvol/a does not exist",
            22,
        )]);
        assert!(device.is_device_missing() && !device.is_not_found());
        let parent =
            validation(&[(Some("pool_dataset_create.name"), "Parent dataset (tank/x) does not exist.", 2)]);
        assert!(parent.is_parent_missing() && !parent.is_not_found());
        let pool = validation(&[(Some("pool_dataset_create.name"), "zpool (x) does not exist.", 2)]);
        assert!(pool.is_parent_missing() && !pool.is_not_found());
    }

    #[test]
    fn exists_comes_in_many_shapes() {
        assert!(
            validation(&[(Some("pool_dataset_create.name"), "Path /mnt/tank/a already exists", 22)])
                .is_exists()
        );
        assert!(validation(&[(Some("x"), "This record already exists (host_id/subsys_id)", 22)]).is_exists());
        assert!(call_error(17, "", None).is_exists());
        assert!(call_error(22, "", Some("ZFSPathAlreadyExistsException")).is_exists());
    }

    #[test]
    fn space_occupancy_and_children() {
        assert!(
            validation(&[(
                Some("pool_dataset_create.volsize"),
                "It is not recommended to use more than 80% of ...",
                22
            )])
            .is_no_space()
        );
        assert!(call_error(14, "[EFAULT] cannot create 'tank/a': out of space", None).is_no_space());
        assert!(call_error(39, "", None).is_not_empty());
        assert!(call_error(14, "cannot destroy 'tank/a': filesystem has children", None).is_not_empty());
        assert!(call_error(16, "[EBUSY] dataset is busy", None).is_busy());
        let limited = call_error(16, "[EBUSY] Rate Limit Exceeded", None);
        assert!(limited.is_rate_limited() && !limited.is_busy());
    }

    #[test]
    fn fields_match_by_their_last_component() {
        let e = validation(&[(Some("data.PoolDatasetCreateFilesystem.refquota"), "too small", 22)]);
        assert!(e.mentions("refquota") && !e.mentions("PoolDatasetCreateFilesystem"));
        assert_eq!(
            e.to_string(),
            "TrueNAS refused pool.dataset.delete: data.PoolDatasetCreateFilesystem.refquota: too small"
        );
    }

    #[test]
    fn expired_sessions_are_not_missing_roles() {
        assert!(call_error(207, "[ENOTAUTHENTICATED] Not authenticated", None).is_not_authenticated());
        assert!(call_error(13, "[EACCES] Session is expired", None).is_not_authenticated());
        assert!(call_error(13, "[EACCES] Not authorized", None).is_not_authorized());
    }
}
