//! DH-HMAC-CHAP keys: sealed by the controller, opened here, handed to the kernel.

use std::fmt;

use tns_csi_proto::sealed::{Context, PrivateKey};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::NvmeHost;
use crate::device::Nqn;
use crate::failure::Failure;

/// Kind of the sealed secret (`tns_csi_proto::sealed::Context`).
const KIND: &str = "dhchap";
/// Longest accepted key text; one of 64 bytes has 103 characters.
const MAX_KEY: usize = 256;

/// How this host presents itself to a subsystem that asks for authentication. `Debug` is redacted; wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Authentication {
    /// The identity that exists for this volume alone.
    pub host: NvmeHost,
    /// By which the host proves itself (`dhchap_secret`).
    pub(super) secret: Zeroizing<String>,
    /// By which the controller proves itself (`dhchap_ctrl_secret`).
    pub(super) controller_secret: Option<Zeroizing<String>>,
}

impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authentication")
            .field("host", &self.host)
            .field("mutual", &self.controller_secret.is_some())
            .finish_non_exhaustive()
    }
}

impl Authentication {
    /// Opens the keys of `volume`, sealed for `host`.
    ///
    /// # Errors
    /// `FailedPrecondition` when they do not open or are no keys; nothing of them is shown.
    pub fn open(key: &PrivateKey, host: Uuid, volume: &str, sealed: &[u8]) -> Result<Self, Failure> {
        let refuse = |why: &dyn fmt::Display| {
            Failure::precondition(format!("volume {volume}: DH-HMAC-CHAP keys of source.nvmeof: {why}"))
        };
        let plain =
            key.open(&Context { kind: KIND, volume, host }, sealed).map_err(|error| refuse(&error))?;
        let malformed = || refuse(&"what was sealed are no keys; publish the volume to this node again");
        let text = std::str::from_utf8(&plain).map_err(|_| malformed())?;
        let (secret, controller) = match text.split_once('\n') {
            None => (text, None),
            Some((secret, controller)) => (secret, Some(controller)),
        };
        if !is_key(secret) || !controller.is_none_or(is_key) {
            return Err(malformed());
        }
        let nqn = tns_csi_proto::identity::authenticated_host_nqn(&host, volume);
        let nqn = Nqn::parse(&nqn).map_err(|error| refuse(&error))?;
        let id = tns_csi_proto::identity::authenticated_host_id(&host, volume);
        Ok(Self {
            host: NvmeHost { nqn, id },
            secret: Zeroizing::new(secret.to_owned()),
            controller_secret: controller.map(|text| Zeroizing::new(text.to_owned())),
        })
    }
}

/// `DHHC-1:<hash>:<base64>:` (NVMe Base 2.0, 8.13.5.9). No character of it separates the kernel's options.
fn is_key(text: &str) -> bool {
    let body = text.strip_prefix("DHHC-1:0").and_then(|rest| rest.strip_suffix(':'));
    let Some((hash, key)) = body.and_then(|rest| rest.split_once(':')) else { return false };
    text.len() <= MAX_KEY
        && matches!(hash, "0" | "1" | "2" | "3")
        && !key.is_empty()
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
}

#[cfg(test)]
pub(crate) mod tests {
    use tns_csi_proto::sealed::seal;

    use super::*;

    const HOST: Uuid = Uuid::from_u128(7);
    pub(crate) const SECRET: &str = "DHHC-1:01:aHVzaGh1c2hodXNoaHVzaGh1c2hodXNoaHVzaGh1c2g=:";
    pub(crate) const CONTROLLER: &str = "DHHC-1:03:c2VjcmV0c2VjcmV0:";

    pub(crate) fn sealed(key: &PrivateKey, host: Uuid, volume: &str, text: &str) -> Vec<u8> {
        seal(&key.public_key(), &Context { kind: KIND, volume, host }, text.as_bytes()).unwrap()
    }

    #[test]
    fn keys_open_for_their_volume_and_are_never_shown() {
        let key = PrivateKey::generate();
        let both = sealed(&key, HOST, "tank/v", &format!("{SECRET}\n{CONTROLLER}"));
        let opened = Authentication::open(&key, HOST, "tank/v", &both).unwrap();
        assert_eq!(opened.secret.as_str(), SECRET);
        assert_eq!(opened.controller_secret.as_ref().unwrap().as_str(), CONTROLLER);
        assert!(opened.host.nqn.as_str().starts_with("nqn.2026-01.io.tns-csi:dhchap:"));
        let shown = format!("{opened:?}");
        assert!(!shown.contains("aHVz") && !shown.contains("c2Vj"), "{shown}");
        let one = sealed(&key, HOST, "tank/v", SECRET);
        assert_eq!(Authentication::open(&key, HOST, "tank/v", &one).unwrap().controller_secret, None);
        let failure = Authentication::open(&key, HOST, "tank/w", &one).unwrap_err();
        assert!(failure.message.contains("another host, volume or key"), "{}", failure.message);
        assert!(Authentication::open(&PrivateKey::generate(), HOST, "tank/v", &one).is_err());
        assert!(Authentication::open(&key, HOST, "tank/v", b"garbage").is_err());
    }

    #[test]
    fn what_could_add_an_option_is_no_key() {
        let key = PrivateKey::generate();
        for text in [
            "",
            "hush",
            "DHHC-1:01:aHVz:,ctrl_loss_tmo=0",
            "DHHC-1:01:aH,Vz:",
            "DHHC-1:04:aHVz:",
            "DHHC-1:01::",
            "DHHC-1:01:aHVz:\n",
            "DHHC-1:01:aHVz:\nDHHC-1:01:aHVz:\nDHHC-1:01:aHVz:",
        ] {
            let failure =
                Authentication::open(&key, HOST, "v", &sealed(&key, HOST, "v", text)).expect_err(text);
            assert!(!failure.message.contains("aHVz"), "{}", failure.message);
        }
    }
}
