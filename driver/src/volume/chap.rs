//! CHAP credentials of an iSCSI target, as they come in the secrets of a call.
//!
//! The rule it keeps: controller and node read the same keys of the same Secret, no value is ever shown, and what
//! TrueNAS would refuse is refused here with the key's name.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret as _, SecretString};

/// Shortest secret in characters (`iscsi.auth.create`).
const MIN_SECRET: usize = 12;
/// Longest secret in characters (`iscsi.auth.create`).
const MAX_SECRET: usize = 16;
/// Longest user name in characters (`services_iscsitargetauthcredential` of TrueNAS).
const MAX_USER: usize = 120;

/// A key and the other spellings that count as it.
type Key = (&'static str, [&'static str; 2]);

const USER: Key = ("chapUser", ["iscsi.chapUser", "node-db.node.session.auth.username"]);
const SECRET: Key = ("chapSecret", ["iscsi.chapSecret", "node-db.node.session.auth.password"]);
const PEER_USER: Key = ("chapPeerUser", ["iscsi.chapPeerUser", "node-db.node.session.auth.username_in"]);
const PEER_SECRET: Key =
    ("chapPeerSecret", ["iscsi.chapPeerSecret", "node-db.node.session.auth.password_in"]);

/// A user and its secret.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// 1 to 120 printable ASCII characters without blanks.
    pub user: String,
    /// 12 to 16 printable ASCII characters.
    pub secret: SecretString,
}

/// CHAP credentials.
#[derive(Clone, Debug)]
pub struct Chap {
    /// What the node presents.
    pub node: Credentials,
    /// What the target presents, for mutual CHAP.
    pub target: Option<Credentials>,
}

/// What is wrong with the keys. Names them, never shows a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChapError {
    /// A key that goes with another one is absent or empty.
    #[error("the secret has {present:?} but no {missing:?}")]
    Missing {
        /// The key that is there.
        present: &'static str,
        /// The key that is not.
        missing: &'static str,
    },
    /// Not a user name.
    #[error("the secret's {0:?} is no user name: 1 to {MAX_USER} printable ASCII characters without blanks")]
    User(&'static str),
    /// Not a CHAP secret.
    #[error(
        "the secret's {0:?} is no CHAP secret: TrueNAS takes {MIN_SECRET} to {MAX_SECRET} printable ASCII characters \
         without '#' and without blanks at the ends"
    )]
    Secret(&'static str),
    /// Both sides have the same secret.
    #[error("the secret's \"chapPeerSecret\" has to differ from its \"chapSecret\"")]
    Same,
}

impl Chap {
    /// Reads the credentials; none when the secrets hold none.
    ///
    /// # Errors
    /// Keys that do not go together or cannot be, by name.
    pub fn read(secrets: &BTreeMap<String, String>) -> Result<Option<Self>, ChapError> {
        let node = credentials(secrets, USER, SECRET)?;
        let target = credentials(secrets, PEER_USER, PEER_SECRET)?;
        let Some(node) = node else {
            return match target {
                None => Ok(None),
                Some(_) => Err(ChapError::Missing { present: PEER_USER.0, missing: USER.0 }),
            };
        };
        if target.as_ref().is_some_and(|t| t.secret.expose_secret() == node.secret.expose_secret()) {
            return Err(ChapError::Same);
        }
        Ok(Some(Chap { node, target }))
    }
}

fn credentials(
    secrets: &BTreeMap<String, String>,
    user_key: Key,
    secret_key: Key,
) -> Result<Option<Credentials>, ChapError> {
    let find = |(name, others): Key| {
        std::iter::once(name).chain(others).filter_map(|key| secrets.get(key)).find(|value| !value.is_empty())
    };
    let (user, secret) = match (find(user_key), find(secret_key)) {
        (None, None) => return Ok(None),
        (Some(_), None) => {
            return Err(ChapError::Missing { present: user_key.0, missing: secret_key.0 });
        }
        (None, Some(_)) => {
            return Err(ChapError::Missing { present: secret_key.0, missing: user_key.0 });
        }
        (Some(user), Some(secret)) => (user, secret),
    };
    if user.len() > MAX_USER || !user.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(ChapError::User(user_key.0));
    }
    // open-iscsi's records take no blank and begin a comment at `#`.
    let printable = secret.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if !(MIN_SECRET..=MAX_SECRET).contains(&secret.len()) || !printable {
        return Err(ChapError::Secret(secret_key.0));
    }
    Ok(Some(Credentials { user: user.clone(), secret: SecretString::from(secret.clone()) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<Chap>, ChapError> {
        Chap::read(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn o6_every_spelling_gives_the_same_credentials() {
        for [user, secret, peer_user, peer_secret] in [
            ["chapUser", "chapSecret", "chapPeerUser", "chapPeerSecret"],
            ["iscsi.chapUser", "iscsi.chapSecret", "iscsi.chapPeerUser", "iscsi.chapPeerSecret"],
            [
                "node-db.node.session.auth.username",
                "node-db.node.session.auth.password",
                "node-db.node.session.auth.username_in",
                "node-db.node.session.auth.password_in",
            ],
        ] {
            let one = read(&[(user, "k8s"), (secret, "geheim-geheim")]).unwrap().unwrap();
            assert_eq!((one.node.user.as_str(), one.target.is_none()), ("k8s", true));
            let both = [
                (user, "k8s"),
                (secret, "geheim-geheim"),
                (peer_user, "nas"),
                (peer_secret, "andres-geheim"),
            ];
            assert_eq!(read(&both).unwrap().unwrap().target.unwrap().user, "nas");
        }
        assert!(read(&[("username", "smb")]).unwrap().is_none());
    }

    #[test]
    fn what_is_wrong_is_named_and_never_shown() {
        let user = ("chapUser", "k8s");
        let secret = ("chapSecret", "geheim-geheim");
        for (pairs, key) in [
            (vec![user], "chapSecret"),
            (vec![secret], "chapUser"),
            (vec![user, ("chapSecret", "geheim")], "chapSecret"),
            (vec![user, ("chapSecret", "geheim-geheim-geheim")], "chapSecret"),
            (vec![user, ("chapSecret", "geheim#geheim")], "chapSecret"),
            (vec![user, ("chapSecret", " geheim-geheim")], "chapSecret"),
            (vec![user, ("chapSecret", "gehe\u{00ef}m-geheim")], "chapSecret"),
            (vec![("chapUser", "k 8s"), secret], "chapUser"),
            (vec![user, secret, ("chapPeerUser", "nas")], "chapPeerSecret"),
            (
                vec![user, secret, ("chapPeerUser", "nas"), ("chapPeerSecret", "geheim-geheim")],
                "chapPeerSecret",
            ),
            (vec![("chapPeerUser", "nas"), ("chapPeerSecret", "geheim-geheim")], "chapUser"),
        ] {
            let error = read(&pairs).unwrap_err().to_string();
            assert!(error.contains(key) && !error.contains("gehe"), "{error}");
        }
        let chap = read(&[user, secret]).unwrap().unwrap();
        assert!(!format!("{chap:?}").contains("geheim"));
    }
}
