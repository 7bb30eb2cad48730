//! An SMB source, parsed.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use tns_csi_proto::helper::v1 as api;

use super::Endpoint;
use crate::failure::Failure;

/// TCP port of SMB without NetBIOS.
const SMB_PORT: u16 = 445;
/// Longest share name, in characters (MS-FSCC 2.1.6).
const MAX_SHARE: usize = 80;
/// Longest text that fsconfig(2) takes as one value, in bytes.
const MAX_VALUE: usize = 255;

/// A password: zeroed when dropped, never shown.
#[derive(Clone)]
pub struct Password(SecretString);

impl Password {
    /// The password, for the kernel.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl PartialEq for Password {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Password {}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

/// Who logs in to a share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmbUser {
    /// Name, 1 to 255 bytes.
    pub name: String,
    /// Its password, up to 255 bytes; empty where Kerberos tickets stand for it.
    pub password: Password,
}

/// An SMB share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmbSource {
    /// The server.
    pub server: Endpoint,
    /// Name of the share.
    pub share: String,
    /// Who logs in; `None` for a guest.
    pub user: Option<SmbUser>,
    /// Domain or workgroup.
    pub domain: Option<String>,
}

pub(super) fn parse(source: &api::SmbSource) -> Result<SmbSource, Failure> {
    let server = Endpoint::parse(source.portal.as_ref(), "source.smb.portal", SMB_PORT)?;
    let share = source.share.as_str();
    if share.is_empty() {
        return Err(Failure::invalid("source.smb.share is missing"));
    }
    let possible = share.chars().count() <= MAX_SHARE
        && !matches!(share, "." | "..")
        && !share.chars().any(|c| c.is_control() || r#"\/[]:|<>+=;,*?""#.contains(c));
    if !possible {
        return Err(Failure::invalid(format!(
            "source.smb.share {share:?} is no share name: 1 to {MAX_SHARE} characters, none of \\/[]:|<>+=;,*?\" and no \
             control character"
        )));
    }
    value("username", &source.username, true)?;
    value("domain", &source.domain, true)?;
    value("password", &source.password, false)?;
    let user = match (source.username.as_str(), source.password.as_str()) {
        ("", "") => None,
        ("", _) => {
            return Err(Failure::invalid(
                "source.smb.username is missing although there is a password; set both, or neither for a guest",
            ));
        }
        (name, password) => Some(SmbUser {
            name: name.to_owned(),
            password: Password(SecretString::from(password.to_owned())),
        }),
    };
    let domain = (!source.domain.is_empty()).then(|| source.domain.clone());
    Ok(SmbSource { server, share: share.to_owned(), user, domain })
}

/// Whether the kernel takes the text as a value. The text itself is never shown.
fn value(field: &str, text: &str, plain: bool) -> Result<(), Failure> {
    if text.len() > MAX_VALUE {
        let length = text.len();
        return Err(Failure::invalid(format!(
            "source.smb.{field} has {length} bytes; the kernel takes at most {MAX_VALUE}"
        )));
    }
    if text.contains('\0') {
        return Err(Failure::invalid(format!("source.smb.{field} holds a NUL")));
    }
    if plain && text.chars().any(char::is_control) {
        return Err(Failure::invalid(format!("source.smb.{field} holds a control character")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> api::SmbSource {
        api::SmbSource {
            portal: Some(api::Portal { address: "192.0.2.7".to_owned(), port: 0 }),
            share: "pvc-1".to_owned(),
            username: "k8s".to_owned(),
            password: "a,b\"c'd\u{fc} \\".to_owned(),
            domain: "LAB".to_owned(),
        }
    }

    #[test]
    fn a_password_may_hold_anything_but_nul_and_is_never_shown() {
        let parsed = parse(&source()).expect("valid");
        assert_eq!(parsed.server.port, 445);
        let user = parsed.user.clone().expect("a user");
        assert_eq!((user.name.as_str(), user.password.expose()), ("k8s", "a,b\"c'd\u{fc} \\"));
        assert!(!format!("{parsed:?}").contains("a,b"), "{parsed:?}");
        for spoil in ["geheim\0", &"geheim".repeat(50)] {
            let failure =
                parse(&api::SmbSource { password: spoil.to_owned(), ..source() }).expect_err("impossible");
            assert!(failure.message.contains("password") && !failure.message.contains("geheim"), "{failure}");
        }
    }

    #[test]
    fn nobody_is_a_guest_and_a_password_needs_its_user() {
        let guest = api::SmbSource { username: String::new(), password: String::new(), ..source() };
        assert_eq!(parse(&guest).expect("a guest").user, None);
        let half = api::SmbSource { username: String::new(), ..source() };
        assert!(parse(&half).expect_err("half").message.contains("username"));
        let kerberos = api::SmbSource { password: String::new(), ..source() };
        assert!(parse(&kerberos).expect("a ticket stands for it").user.is_some());
    }

    #[test]
    fn share_names_that_lead_elsewhere_are_refused() {
        for share in ["", ".", "..", "a/b", "a\\b", "a,ip=198.51.100.1", "a\n", &"x".repeat(81)] {
            let failure = parse(&api::SmbSource { share: share.to_owned(), ..source() }).expect_err(share);
            assert!(failure.message.contains("share"), "{failure}");
        }
        assert!(parse(&api::SmbSource { share: "Volume 1 \u{e4}".to_owned(), ..source() }).is_ok());
    }
}
