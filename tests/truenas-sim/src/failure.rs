//! The two ways in which a call fails, and their JSON-RPC shapes.
//!
//! A validation failure is -32602 with errno 22 and a list of `[attribute, message, errno]`; anything else is -32001
//! with its own errno. The names follow Linux's errno table and TrueNAS's own codes from 201 on.

use serde_json::{Value, json};

use crate::backend::BackendError;

/// `ENOENT`
pub const ENOENT: i32 = 2;
/// `EFAULT`: the errno of a call error that nobody classified.
pub const EFAULT: i32 = 14;
/// `EBUSY`
pub const EBUSY: i32 = 16;
/// `EEXIST`
pub const EEXIST: i32 = 17;
/// `EINVAL`
pub const EINVAL: i32 = 22;
/// `ENOTEMPTY`
pub const ENOTEMPTY: i32 = 39;
/// `EBADMSG`
pub const EBADMSG: i32 = 74;
/// TrueNAS's `ESERVICESTARTFAILURE`
pub const ESERVICESTARTFAILURE: i32 = 202;
/// TrueNAS's `ENOTAUTHENTICATED`
pub const ENOTAUTHENTICATED: i32 = 207;

/// The name that goes with an errno.
pub fn errno_name(errno: i32) -> &'static str {
    match errno {
        201 => "ENOMETHOD",
        ESERVICESTARTFAILURE => "ESERVICESTARTFAILURE",
        205 => "EDATASETISLOCKED",
        ENOTAUTHENTICATED => "ENOTAUTHENTICATED",
        210 => "EHAUNAVAILABLE",
        2007 => "EZFS_BUSY",
        2008 => "EZFS_EXISTS",
        2009 => "EZFS_NOENT",
        _ => match nix::errno::Errno::from_raw(errno) {
            nix::errno::Errno::UnknownErrno => "EUNKNOWN",
            nix::errno::Errno::ENOENT => "ENOENT",
            nix::errno::Errno::EPERM => "EPERM",
            nix::errno::Errno::EACCES => "EACCES",
            nix::errno::Errno::EFAULT => "EFAULT",
            nix::errno::Errno::EBUSY => "EBUSY",
            nix::errno::Errno::EEXIST => "EEXIST",
            nix::errno::Errno::EINVAL => "EINVAL",
            nix::errno::Errno::ENOSPC => "ENOSPC",
            nix::errno::Errno::ENOTEMPTY => "ENOTEMPTY",
            nix::errno::Errno::EBADMSG => "EBADMSG",
            nix::errno::Errno::EOPNOTSUPP => "EOPNOTSUPP",
            nix::errno::Errno::ETIMEDOUT => "ETIMEDOUT",
            nix::errno::Errno::ECONNREFUSED => "ECONNREFUSED",
            nix::errno::Errno::EIO => "EIO",
            nix::errno::Errno::EAGAIN => "EAGAIN",
            nix::errno::Errno::EDQUOT => "EDQUOT",
            _ => "EUNKNOWN",
        },
    }
}

/// One finding of a validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Dotted path; `None` for an object that was not found.
    pub attribute: Option<String>,
    /// What is wrong.
    pub message: String,
    /// Errno of this finding.
    pub errno: i32,
}

impl Item {
    /// A finding with errno 22.
    pub fn new(attribute: impl Into<String>, message: impl Into<String>) -> Self {
        Self { attribute: Some(attribute.into()), message: message.into(), errno: EINVAL }
    }
}

/// Why a call fails.
#[derive(Debug, Clone)]
pub enum Failure {
    /// -32602
    Invalid(Vec<Item>),
    /// -32001
    Call {
        /// Errno in `data.error`.
        errno: i32,
        /// Reason, without the `[ERRNAME]` prefix.
        reason: String,
        /// Python class in `trace.class`.
        class: String,
        /// Whether `reason` gets its `[ERRNAME]` prefix (unexpected exceptions have none).
        prefixed: bool,
        /// `data.extra`.
        extra: Value,
    },
    /// Any other JSON-RPC code without data, e.g. -32601 or -32000.
    Protocol {
        /// JSON-RPC error code.
        code: i32,
        /// `message`.
        message: String,
    },
}

impl Failure {
    /// A call error of TrueNAS's own (`CallError`).
    pub fn call(errno: i32, reason: impl Into<String>) -> Self {
        Self::Call {
            errno,
            reason: reason.into(),
            class: "CallError".into(),
            prefixed: true,
            extra: Value::Null,
        }
    }

    /// An exception nobody expected: errno 22, reason without prefix, only the class tells what it was.
    pub fn exception(class: &str, reason: impl Into<String>) -> Self {
        Self::Call {
            errno: EINVAL,
            reason: reason.into(),
            class: class.into(),
            prefixed: false,
            extra: Value::Null,
        }
    }

    /// A single finding of a validation.
    pub fn invalid(attribute: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid(vec![Item::new(attribute, message)])
    }

    /// `<Type> <id> does not exist`: the answer of every `get_instance`, `update` and `delete`.
    pub fn not_found(kind: &str, id: impl std::fmt::Display) -> Self {
        let message = format!("{kind} {id} does not exist");
        Self::Invalid(vec![Item { attribute: None, message, errno: ENOENT }])
    }

    /// The call's rights do not suffice, or nobody is logged in.
    pub fn not_authenticated() -> Self {
        Self::call(ENOTAUTHENTICATED, "Not authenticated")
    }

    /// The `error` object of the answer.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Invalid(items) => {
                let reason = items
                    .iter()
                    .map(|i| {
                        let attribute = i.attribute.as_deref().unwrap_or("None");
                        format!("[{}] {attribute}: {}\n", errno_name(i.errno), i.message)
                    })
                    .collect::<String>();
                let extra: Vec<Value> =
                    items.iter().map(|i| json!([i.attribute, i.message, i.errno])).collect();
                json!({"code": -32602, "message": "Invalid params", "data": {
                    "error": EINVAL, "errname": "EINVAL", "reason": reason,
                    "trace": {"class": "ValidationErrors", "formatted": "", "repr": "ValidationErrors()", "frames": []},
                    "extra": extra,
                }})
            }
            Self::Call { errno, reason, class, prefixed, extra } => {
                let name = errno_name(*errno);
                let reason = if *prefixed { format!("[{name}] {reason}") } else { reason.clone() };
                json!({"code": -32001, "message": "Method call error", "data": {
                    "error": errno, "errname": name, "reason": reason,
                    "trace": {"class": class, "formatted": "", "repr": format!("{class}()"), "frames": []},
                    "extra": extra,
                }})
            }
            Self::Protocol { code, message } => json!({"code": code, "message": message}),
        }
    }

    /// One line for the log and for a job's `error`.
    pub fn summary(&self) -> String {
        match self {
            Self::Invalid(items) => items
                .iter()
                .map(|i| format!("{}: {}", i.attribute.as_deref().unwrap_or("-"), i.message))
                .collect::<Vec<_>>()
                .join("; "),
            Self::Call { errno, reason, .. } => format!("[{}] {reason}", errno_name(*errno)),
            Self::Protocol { code, message } => format!("{code} {message}"),
        }
    }
}

/// What a backend refuses without a more special rule is an unclassified call error.
impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        Self::call(EFAULT, error.text)
    }
}

/// The state cannot be written: nothing a client could mend.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::exception("OSError", format!("the stand-in cannot write its state: {error}"))
    }
}
