//! CHAP credentials, held so that they neither print nor stay in memory.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

/// Longest user name or secret in bytes (open-iscsi, `AUTH_STR_MAX_LEN` less its terminator).
const MAX: usize = 255;

/// A CHAP secret: 1 to 255 printable ASCII characters without blanks, since a blank at an end of a line would get lost
/// in open-iscsi's record. TrueNAS gives 12 to 16.
#[derive(Clone)]
pub struct ChapSecret(SecretString);

impl ChapSecret {
    /// Checks length and characters.
    ///
    /// # Errors
    /// The rule, never the value.
    pub fn parse(text: &str) -> Result<Self, String> {
        if is_word(text) {
            Ok(Self(SecretString::from(text)))
        } else {
            Err(format!("has to have 1 to {MAX} printable ASCII characters without blanks"))
        }
    }

    /// For the record alone.
    pub(super) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for ChapSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl PartialEq for ChapSecret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for ChapSecret {}

/// A user with its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    secret: ChapSecret,
}

impl Credentials {
    /// A user of 1 to 255 printable ASCII characters without blanks, and its secret.
    ///
    /// # Errors
    /// Which of the two breaks which rule.
    pub fn parse(user: &str, secret: &str) -> Result<Self, String> {
        if !is_word(user) {
            return Err(format!(
                "user name: has to have 1 to {MAX} printable ASCII characters without blanks"
            ));
        }
        let secret = ChapSecret::parse(secret).map_err(|fault| format!("secret: {fault}"))?;
        Ok(Self { user: user.to_owned(), secret })
    }

    /// The user.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The secret.
    #[must_use]
    pub fn secret(&self) -> &ChapSecret {
        &self.secret
    }
}

/// How initiator and target prove who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chap {
    /// What this host presents.
    pub initiator: Credentials,
    /// What the target has to present; `None` for one-way CHAP.
    pub target: Option<Credentials>,
}

fn is_word(text: &str) -> bool {
    (1..=MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_neither_prints_nor_breaks_out_of_its_line() {
        let credentials = Credentials::parse("csi", "s3cretS3cret#=").unwrap();
        assert!(!format!("{credentials:?}").contains("s3cret"), "{credentials:?}");
        for (user, secret) in [
            ("csi", "with blank here"),
            ("csi", "line\nnode.startup=automatic"),
            ("csi", ""),
            ("csi", "täglich"),
            ("a b", "s3cretS3cret"),
            ("", "s3cretS3cret"),
        ] {
            let fault = Credentials::parse(user, secret).unwrap_err();
            assert!(secret.is_empty() || !fault.contains(secret), "{fault}");
        }
    }
}
