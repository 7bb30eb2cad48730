//! DH-HMAC-CHAP: random keys for one node and one volume, made at publish.
//!
//! TrueNAS keeps keys with a host NQN, for all subsystems that admit it. A node therefore presents itself under an NQN of
//! its own for each volume with authentication (`tns_csi_proto::identity::authenticated_host_nqn`): keys of one volume
//! are never changed for another one's sake, and go with the unpublish. The keys leave this process twice: to the
//! appliance, and sealed for the node's helper. The sealed form is recorded on the dataset, so that a repeated publish
//! gives the same answer without anybody being able to read a key back.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use tns_csi_proto::identity::authenticated_host_nqn;
use tns_csi_proto::sealed::{self, Context};
use truenas::calls::DhChapKeys;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::protocol::call::Answer as _;
use crate::protocol::nvmeof::{Target, read_hosts};
use crate::protocol::{Granting, NodeIdentity, Volume};
use crate::volume::failure::Failure;
use crate::volume::metadata::Metadata;
use crate::volume::parameter::nvmeof::{DhChap, Hash, Proof};

/// Kind of the sealed secret (`tns_csi_proto::sealed::Context`).
pub const KIND: &str = "dhchap";

/// The value of a `tns-csi:dhchap.*` property. Properties are inherited and copied, so it says what it is about.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    volume: String,
    host: Uuid,
    /// The public key it is sealed to, base64url.
    key: String,
    /// The sealed keys, base64url.
    sealed: String,
}

/// The sealed keys recorded for this node under its present public key.
fn recorded(metadata: &Metadata, volume: &Volume, node: &NodeIdentity, key: &[u8; 32]) -> Option<Vec<u8>> {
    let record: Record = serde_json::from_str(metadata.get(&node.sealed_property)?).ok()?;
    let same = record.volume == volume.id.to_string()
        && record.host == node.host
        && record.key == URL_SAFE_NO_PAD.encode(key);
    if same { URL_SAFE_NO_PAD.decode(record.sealed).ok() } else { None }
}

/// Makes sure that the appliance knows the node for this volume with keys that its helper has or gets.
pub(super) async fn ensure(
    context: &Granting<'_>,
    metadata: &Metadata,
    settings: &DhChap,
    node: &NodeIdentity,
    found: &mut Target,
) -> Result<(), Failure> {
    let Granting { calls, volume, .. } = context;
    let id = volume.id.to_string();
    let Some(key) = node.public_key else {
        return Err(Failure::precondition(format!(
            "volume {id} asks for DH-HMAC-CHAP, and the node's id {} carries no public key: its node-helper is older \
             than this driver; upgrade it and restart the node's driver",
            node.host
        )));
    };
    let nqn = authenticated_host_nqn(&node.host, &id);
    let row = found.hosts.get(&nqn).copied();
    if let (Some(_), Some(sealed)) = (row, recorded(metadata, volume, node, &key)) {
        found.sealed.insert(node.host, sealed);
        return Ok(());
    }
    // No context with the keys that a row without a record has was ever given out.
    let keys = Keys::generate(settings);
    let about = Context { kind: KIND, volume: &id, host: node.host };
    let sealed = sealed::seal(&key, &about, &keys.plain())
        .map_err(|error| Failure::precondition(format!("volume {id}, node {}: {error}", node.host)))?;
    let doing = format!("giving host {nqn} its keys");
    let api = keys.for_appliance(settings);
    let row = match row {
        Some(row) => calls.nvmet_host_update(row, &api).await.or_failed(&doing)?,
        None => match calls.nvmet_host_create(&nqn, &api).await.definite(&doing)? {
            Ok(row) => row,
            Err(refused) => {
                let there = read_hosts(calls, std::iter::once(nqn.clone())).await?;
                let row = there.get(&nqn).copied().ok_or(refused)?;
                calls.nvmet_host_update(row, &api).await.or_failed(&doing)?
            }
        },
    };
    found.hosts.insert(nqn, row.id);
    let record = Record {
        volume: id,
        host: node.host,
        key: URL_SAFE_NO_PAD.encode(key),
        sealed: URL_SAFE_NO_PAD.encode(&sealed),
    };
    // Strings in a struct always serialise.
    let value = serde_json::to_string(&record).unwrap_or_default();
    found.records.insert(node.sealed_property.clone(), value);
    found.sealed.insert(node.host, sealed);
    Ok(())
}

/// Records to write beside the grant.
pub(super) type Records = BTreeMap<String, String>;

/// Fresh keys in their text form. No `Debug`.
struct Keys {
    host: SecretString,
    controller: Option<SecretString>,
}

impl Keys {
    fn generate(settings: &DhChap) -> Self {
        let controller = (settings.proof == Proof::Mutual).then(|| key(settings.hash));
        Keys { host: key(settings.hash), controller }
    }

    fn for_appliance(&self, settings: &DhChap) -> DhChapKeys {
        DhChapKeys {
            host: Some(self.host.clone()),
            controller: self.controller.clone(),
            hash: Some(settings.hash.name()),
            dh_group: settings.dh_group.clone(),
        }
    }

    /// What the helper reads: the host's key, and for mutual authentication the controller's on a second line.
    fn plain(&self) -> Zeroizing<Vec<u8>> {
        let mut text = Zeroizing::new(Vec::with_capacity(256));
        text.extend_from_slice(self.host.expose_secret().as_bytes());
        if let Some(controller) = &self.controller {
            text.push(b'\n');
            text.extend_from_slice(controller.expose_secret().as_bytes());
        }
        text
    }
}

/// A random key in the text form of NVMe Base 2.0, 8.13.5.9: `DHHC-1:<hash>:<base64 of key and CRC-32>:`.
fn key(hash: Hash) -> SecretString {
    let mut bytes = Zeroizing::new(Vec::with_capacity(hash.key_len() + 4));
    let random = Zeroizing::new(rand::random::<[u8; 64]>());
    bytes.extend(random.iter().take(hash.key_len()));
    let check = crc32(&bytes);
    bytes.extend_from_slice(&check.to_le_bytes());
    let mut text = Zeroizing::new(String::with_capacity(128));
    text.push_str(&format!("DHHC-1:{:02}:", hash.number()));
    STANDARD.encode_string(bytes.as_slice(), &mut text);
    text.push(':');
    SecretString::from(text.as_str())
}

/// CRC-32 (IEEE 802.3) as the kernel computes it over a key (`drivers/nvme/common/auth.c`, `nvme_auth_extract_key`).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(proof: Proof, hash: Hash) -> DhChap {
        DhChap { proof, hash, dh_group: None }
    }

    #[test]
    fn the_checksum_is_the_one_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn keys_have_the_kernels_text_form_and_are_never_the_same() {
        for (hash, prefix, len) in [
            (Hash::Sha256, "DHHC-1:01:", 32),
            (Hash::Sha384, "DHHC-1:02:", 48),
            (Hash::Sha512, "DHHC-1:03:", 64),
        ] {
            let (a, b) = (key(hash), key(hash));
            assert_ne!(a.expose_secret(), b.expose_secret());
            let body = a.expose_secret().strip_prefix(prefix).unwrap().strip_suffix(':').unwrap();
            let bytes = STANDARD.decode(body).unwrap();
            let (secret, check) = bytes.split_at(len);
            assert_eq!(check, crc32(secret).to_le_bytes());
        }
    }

    #[test]
    fn one_way_has_one_key_and_mutual_has_two() {
        let one = Keys::generate(&settings(Proof::OneWay, Hash::Sha256));
        assert!(one.for_appliance(&settings(Proof::OneWay, Hash::Sha256)).controller.is_none());
        assert!(!one.plain().contains(&b'\n'));
        let two = Keys::generate(&settings(Proof::Mutual, Hash::Sha512));
        assert_eq!(two.plain().iter().filter(|b| **b == b'\n').count(), 1);
        assert_ne!(two.host.expose_secret(), two.controller.unwrap().expose_secret());
    }
}
