//! What is known about the connection, for health, metrics and errors.

use std::fmt;

use tokio::time::Instant;

use crate::dialect::Features;
use crate::key::KeyError;

/// The connection's state; [`Client::watch`](crate::Client::watch) tells every change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionState {
    /// Connecting or logging in.
    Connecting {
        /// 1 for the first attempt since the last good connection.
        attempt: u32,
        /// Why the previous attempt or connection ended.
        last_failure: Option<String>,
    },
    /// Logged in; calls are sent.
    Connected(SessionInfo),
    /// The appliance refused the key. Calls fail at once. Tried again when the key file changes; after 10 minutes too,
    /// where the refusal is not about the key itself.
    LoginRefused {
        /// The reason.
        why: LoginRefusal,
    },
    /// No usable connection; tried again by itself.
    Unreachable {
        /// What went wrong, for the operator.
        why: String,
        /// Attempts since the last good connection.
        attempt: u32,
        /// When the next attempt starts.
        retry_at: Instant,
    },
    /// The last [`Client`](crate::Client) was dropped.
    Closed,
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting { attempt, last_failure: None } => write!(f, "connecting (attempt {attempt})"),
            Self::Connecting { attempt, last_failure: Some(why) } => {
                write!(f, "connecting (attempt {attempt}; before: {why})")
            }
            Self::Connected(s) => write!(f, "connected to TrueNAS {}", s.version),
            Self::LoginRefused { why } => write!(f, "login refused: {why}"),
            Self::Unreachable { why, attempt, .. } => {
                write!(f, "unreachable after {attempt} attempts: {why}")
            }
            Self::Closed => f.write_str("closed"),
        }
    }
}

impl ConnectionState {
    /// Whether calls are being sent.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected(_))
    }
}

/// Facts of one logged-in connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// Counts the connections of this client; another number means that subscriptions were lost.
    pub number: u64,
    /// The appliance's version (`system.version`).
    pub version: SystemVersion,
    /// What an appliance of that version can do.
    pub features: Features,
    /// How this connection answers job methods.
    pub jobs: JobReplies,
    /// When the login succeeded.
    pub since: Instant,
}

/// How a connection answers job methods (`core.set_options`, option `legacy_jobs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobReplies {
    /// The answer is the job's id, at once.
    Id,
    /// The answer comes when the job ends.
    AtEnd,
}

/// The appliance's version as it gives it, e.g. `25.10.5` or `TrueNAS-SCALE-25.04.2.6`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SystemVersion {
    /// The text unchanged.
    pub text: String,
    /// Year of the release train, 0 when the text has no number.
    pub major: u32,
    /// Month or minor number of the release train.
    pub minor: u32,
}

impl SystemVersion {
    /// Takes the first `<number>.<number>` of the text; text without one gives 0.0.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut version = Self { text: text.to_owned(), major: 0, minor: 0 };
        let numbers = |part: &str| {
            let mut it = part.split('.');
            let major = it.next()?.parse().ok()?;
            let digits: String = it.next()?.chars().take_while(char::is_ascii_digit).collect();
            Some((major, digits.parse().ok()?))
        };
        if let Some((major, minor)) = text.split(['-', ' ']).find_map(numbers) {
            version.major = major;
            version.minor = minor;
        }
        version
    }

    /// Whether the text had a number to be read.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        (self.major, self.minor) != (0, 0)
    }
}

impl fmt::Display for SystemVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a login was refused (`auth.login_ex`, field `response_type`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginRefusal {
    /// AUTH_ERR for the named user.
    #[error(
        "TrueNAS does not accept the API key for user {user}: it is wrong, revoked, or belongs to another user; check \
         the key file and the user name"
    )]
    WrongKey {
        /// The user name that was sent.
        user: String,
    },
    /// Neither the default administrator nor the key alone was accepted.
    #[error(
        "TrueNAS does not accept the API key: it is wrong, revoked or expired, or its owner must be named (the default \
         user and the key alone were tried)"
    )]
    WrongKeyOrUser,
    /// EXPIRED.
    #[error(
        "the API key has expired, or TrueNAS revoked it because it once travelled without TLS; make a new key and put \
         it in the key file"
    )]
    Expired,
    /// OTP_REQUIRED.
    #[error("TrueNAS asks for a one-time password: the key's owner must be a user without two-factor login")]
    OneTimePassword,
    /// DENIED (26 and later).
    #[error("the key's owner may not use the API: give the user a privilege that covers it")]
    Denied,
    /// The authenticator assurance level forbids API keys (EOPNOTSUPP).
    #[error("the appliance's security level (STIG) does not allow API keys")]
    NotAllowed,
    /// The appliance's version is older than anything this driver knows.
    #[error(
        "the appliance runs TrueNAS {0}, and 25.04 is the oldest version that this driver works with: upgrade the \
         appliance"
    )]
    TooOld(SystemVersion),
    /// The key file cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// An answer this client does not know.
    #[error("TrueNAS answered the login with {0}, which this driver does not know")]
    Unexpected(String),
}

impl LoginRefusal {
    /// Whether only another key can help. The others depend on the account or the appliance, which somebody may change.
    #[must_use]
    pub fn is_about_key(&self) -> bool {
        match self {
            Self::WrongKey { .. } | Self::WrongKeyOrUser | Self::Expired | Self::Key(_) => true,
            Self::OneTimePassword
            | Self::Denied
            | Self::NotAllowed
            | Self::TooOld(_)
            | Self::Unexpected(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_in_every_spelling() {
        for (text, major, minor) in [
            ("25.10.5", 25, 10),
            ("TrueNAS-SCALE-25.04.2.6", 25, 4),
            ("TrueNAS-25.10.0-BETA.1", 25, 10),
            ("TrueNAS-26.0.0-RC.1", 26, 0),
            ("25.10-MASTER-20250101", 25, 10),
            ("nonsense", 0, 0),
            ("", 0, 0),
            ("99999999999999.1", 0, 0),
        ] {
            let v = SystemVersion::parse(text);
            assert_eq!((v.major, v.minor), (major, minor), "{text}");
        }
    }
}
