//! From a publish context and the call's secrets to the helper's typed source.

use std::collections::BTreeMap;

use tns_csi_proto::helper::v1;
use tns_csi_proto::helper::v1::source::Protocol;

use secrecy::ExposeSecret as _;

use crate::volume::chap::{Chap, ChapError};
use crate::volume::context::{Connection, Portal};

/// Key of the node-stage secret that names the SMB user.
pub const SMB_USERNAME: &str = "username";
/// Key of the node-stage secret with the SMB password.
pub const SMB_PASSWORD: &str = "password";
/// Key of the node-stage secret with the SMB domain or workgroup.
pub const SMB_DOMAIN: &str = "domain";

/// What is wrong with the secrets of a call. Names the key, never shows a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// A key that goes with another one is absent or empty.
    #[error(
        "the node-stage secret has {present:?} but no {missing:?}; set both, or neither for guest access"
    )]
    Missing {
        /// The key that is there.
        present: &'static str,
        /// The key that is not.
        missing: &'static str,
    },
    /// A value that cannot be passed to the kernel.
    #[error("the node-stage secret's {0:?} holds a NUL byte")]
    Nul(&'static str),
    /// CHAP credentials that cannot be.
    #[error("node-stage secret: {0}")]
    Chap(#[from] ChapError),
}

/// The source of `connection`, with the credentials its protocol takes from `secrets`.
///
/// # Errors
/// Secrets that do not fit together, by key.
pub fn source(
    connection: &Connection,
    secrets: &BTreeMap<String, String>,
) -> Result<v1::Source, SecretError> {
    let protocol = match connection {
        Connection::Nfs { portal: at, export } => {
            Protocol::Nfs(v1::NfsSource { portal: Some(portal(at)), export: export.clone() })
        }
        Connection::Smb { portal: at, share } => {
            let (username, password) = (secret(secrets, SMB_USERNAME)?, secret(secrets, SMB_PASSWORD)?);
            match (username.is_empty(), password.is_empty()) {
                (true, false) => {
                    return Err(SecretError::Missing { present: SMB_PASSWORD, missing: SMB_USERNAME });
                }
                (false, true) => {
                    return Err(SecretError::Missing { present: SMB_USERNAME, missing: SMB_PASSWORD });
                }
                _ => {}
            }
            Protocol::Smb(v1::SmbSource {
                portal: Some(portal(at)),
                share: share.clone(),
                username,
                password,
                domain: secret(secrets, SMB_DOMAIN)?,
            })
        }
        Connection::Iscsi { portals, iqn, lun, serial, naa, .. } => Protocol::Iscsi(v1::IscsiSource {
            portals: portals.iter().map(portal).collect(),
            iqn: iqn.clone(),
            lun: u32::from(*lun),
            serial: serial.clone().unwrap_or_default(),
            naa: naa.clone().unwrap_or_default(),
            chap: Chap::read(secrets)?.map(chap),
        }),
        Connection::Nvmeof {
            portals,
            subsystem_nqn,
            namespace_uuid,
            io_queues,
            queue_size,
            sealed_dhchap,
            ..
        } => Protocol::Nvmeof(v1::NvmeofSource {
            portals: portals.iter().map(portal).collect(),
            subsystem_nqn: subsystem_nqn.clone(),
            namespace_uuid: namespace_uuid.to_string(),
            namespace_nguid: String::new(),
            io_queues: io_queues.map_or(0, u32::from),
            queue_size: queue_size.map_or(0, u32::from),
            sealed_dhchap: sealed_dhchap.clone().unwrap_or_default(),
        }),
    };
    Ok(v1::Source { protocol: Some(protocol) })
}

fn chap(chap: Chap) -> v1::IscsiChap {
    let Chap { node, target } = chap;
    let (peer_username, peer_secret) =
        target.map(|t| (t.user, t.secret.expose_secret().to_owned())).unwrap_or_default();
    v1::IscsiChap {
        username: node.user,
        secret: node.secret.expose_secret().to_owned(),
        peer_username,
        peer_secret,
    }
}

fn portal(portal: &Portal) -> v1::Portal {
    v1::Portal { address: portal.address.clone(), port: u32::from(portal.port) }
}

fn secret(secrets: &BTreeMap<String, String>, key: &'static str) -> Result<String, SecretError> {
    let value = secrets.get(key).cloned().unwrap_or_default();
    if value.contains('\0') { Err(SecretError::Nul(key)) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn smb(secrets: &[(&str, &str)]) -> Result<v1::SmbSource, SecretError> {
        let connection =
            Connection::Smb { portal: Portal::new("nas.example", 445), share: "pvc-1".to_owned() };
        let secrets = secrets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        source(&connection, &secrets).map(|source| match source.protocol {
            Some(Protocol::Smb(smb)) => smb,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn smb_takes_user_and_password_from_the_secret_whatever_their_characters() {
        let smb = smb(&[("username", "k8s"), ("password", "a,b\"c'd e\u{fc}"), ("domain", "LAB")]).unwrap();
        assert_eq!((smb.username.as_str(), smb.domain.as_str()), ("k8s", "LAB"));
        assert_eq!(smb.password, "a,b\"c'd e\u{fc}");
    }

    #[test]
    fn o4_chap_comes_from_the_secret_and_shows_nowhere() {
        let connection = Connection::Iscsi {
            portals: vec![Portal::new("192.0.2.10", 3260)],
            iqn: "iqn.2005-10.org.freenas.ctl:pvc-1".to_owned(),
            lun: 0,
            serial: Some("1234".to_owned()),
            naa: None,
            capacity_bytes: 1 << 30,
            never_format: false,
        };
        let context = connection.to_publish_context().unwrap();
        assert!(!context.keys().any(|k| k.to_lowercase().contains("chap")), "{context:?}");
        let pairs = [("chapUser", "k8s"), ("chapSecret", "geheim-geheim")];
        let secrets = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let made = source(&connection, &secrets).unwrap();
        assert!(!format!("{made:?}").contains("geheim"), "{made:?}");
        let Some(Protocol::Iscsi(made)) = made.protocol else { panic!("{made:?}") };
        let chap = made.chap.unwrap();
        assert_eq!((chap.username.as_str(), chap.secret.as_str()), ("k8s", "geheim-geheim"));
        let half = [("chapUser".to_owned(), "k8s".to_owned())].into();
        assert!(source(&connection, &half).unwrap_err().to_string().contains("chapSecret"));
    }

    #[test]
    fn smb_without_secrets_is_guest() {
        assert_eq!(smb(&[]).unwrap().username, "");
    }

    #[test]
    fn a_half_secret_is_named_without_its_value() {
        for half in [[("username", "geheim")], [("password", "geheim")]] {
            let error = smb(&half).unwrap_err().to_string();
            assert!(error.contains(half[0].0) && !error.contains("geheim"), "{error}");
        }
        assert_eq!(
            smb(&[("username", "u"), ("password", "a\0b")]).unwrap_err(),
            SecretError::Nul("password")
        );
    }
}
