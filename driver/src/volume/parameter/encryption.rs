//! Parameters of the volume's encryption.
//!
//! The rule it keeps: whoever asks for encryption gets exactly one key, from where it was said; whoever sends a key and
//! does not ask for encryption is refused rather than given a volume in clear. No message holds any part of a key.

use std::collections::BTreeMap;

use secrecy::SecretString;
use truenas::calls::{EncryptionCreate, EncryptionKey};

use crate::volume::failure::Failure;
use crate::volume::parameter::Definition;
use crate::volume::protocol::Protocol;

/// Key of the Secret with a passphrase.
pub const PASSPHRASE: &str = "encryptionPassphrase";
/// Key of the Secret with a hexadecimal key.
pub const HEX_KEY: &str = "encryptionKey";

/// `pool.dataset.create` up to 25.10; the first is the default, and 26 knows no other.
const ALGORITHMS: [&str; 6] =
    ["AES-256-GCM", "AES-192-GCM", "AES-128-GCM", "AES-256-CCM", "AES-192-CCM", "AES-128-CCM"];
/// Shortest passphrase in characters (`pool.dataset.create`).
const MIN_PASSPHRASE: usize = 8;
/// Hexadecimal digits of a key (256 bits).
const HEX_DIGITS: usize = 64;

fn is_bool(value: &str) -> bool {
    matches!(value, "true" | "false")
}

/// This group's part of the table.
pub(super) const TABLE: &[Definition] = &[
    Definition { name: "encryption", protocols: &Protocol::ALL, values: "true or false", check: is_bool },
    Definition {
        name: "encryptionAlgorithm",
        protocols: &Protocol::ALL,
        values: "AES-256-GCM, AES-192-GCM, AES-128-GCM, AES-256-CCM, AES-192-CCM or AES-128-CCM",
        check: |v| ALGORITHMS.contains(&v),
    },
    Definition {
        name: "encryptionGenerateKey",
        protocols: &Protocol::ALL,
        values: "true (TrueNAS makes and keeps the key) or false",
        check: is_bool,
    },
];

/// Whether and how a new volume is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encryption {
    enabled: bool,
    algorithm: Option<&'static str>,
    generate: bool,
}

impl Encryption {
    /// Reads the group from a class's own keys, whose values the table has checked one by one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: values that do not go together.
    pub fn read(given: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let is_true = |key: &str| given.get(key).is_some_and(|v| v == "true");
        let asked = given.get("encryptionAlgorithm");
        let read = Encryption {
            enabled: is_true("encryption"),
            // The default is not sent, so that it works where there is no choice.
            algorithm: ALGORITHMS.into_iter().skip(1).find(|a| asked.is_some_and(|asked| asked == a)),
            generate: is_true("encryptionGenerateKey"),
        };
        if !read.enabled && (asked.is_some() || read.generate) {
            return Err(Failure::invalid(
                "parameters encryptionAlgorithm and encryptionGenerateKey need encryption: \"true\"",
            ));
        }
        Ok(read)
    }

    /// The encryption of a new volume, with the key out of the request's secrets where the class does not leave it to
    /// TrueNAS. None: that of the parent dataset.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: no key or several, a malformed one, or a key for a class without encryption. Values are never
    /// shown.
    pub fn of_new(&self, secrets: &BTreeMap<String, String>) -> Result<Option<EncryptionCreate>, Failure> {
        let (passphrase, hex) = (secrets.get(PASSPHRASE), secrets.get(HEX_KEY));
        if !self.enabled {
            return match passphrase.map(|_| PASSPHRASE).or(hex.map(|_| HEX_KEY)) {
                None => Ok(None),
                Some(key) => Err(Failure::invalid(format!(
                    "the provisioner Secret holds {key}, but the class does not say encryption: \"true\""
                ))),
            };
        }
        let key = match (passphrase, hex, self.generate) {
            (Some(text), None, false) => {
                if text.chars().count() < MIN_PASSPHRASE {
                    return Err(Failure::invalid(format!(
                        "Secret key {PASSPHRASE} has less than {MIN_PASSPHRASE} characters"
                    )));
                }
                EncryptionKey::Passphrase(SecretString::from(text.as_str()))
            }
            (None, Some(text), false) => {
                if text.len() != HEX_DIGITS || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
                    return Err(Failure::invalid(format!(
                        "Secret key {HEX_KEY} is not {HEX_DIGITS} hexadecimal digits"
                    )));
                }
                EncryptionKey::Hex(SecretString::from(text.as_str()))
            }
            (None, None, true) => EncryptionKey::Generated,
            (None, None, false) => {
                return Err(Failure::invalid(format!(
                    "encryption needs a key: encryptionGenerateKey: \"true\", or {PASSPHRASE} or {HEX_KEY} in the \
                     Secret named by csi.storage.k8s.io/provisioner-secret-name"
                )));
            }
            _ => {
                let found = [
                    passphrase.map(|_| "Secret key encryptionPassphrase"),
                    hex.map(|_| "Secret key encryptionKey"),
                    self.generate.then_some("parameter encryptionGenerateKey"),
                ];
                let found: Vec<&str> = found.into_iter().flatten().collect();
                return Err(Failure::invalid(format!(
                    "encryption takes one key, found are {}; keep one",
                    found.join(" and ")
                )));
            }
        };
        Ok(Some(EncryptionCreate { algorithm: self.algorithm, key }))
    }
}

/// Where the key comes from, in a word for the fingerprint.
#[must_use]
pub fn source(encryption: &EncryptionCreate) -> &'static str {
    match encryption.key {
        EncryptionKey::Generated => "generated",
        EncryptionKey::Passphrase(_) => "passphrase",
        EncryptionKey::Hex(_) => "key",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn key(class: &[(&str, &str)], secrets: &[(&str, &str)]) -> Result<Option<EncryptionCreate>, Failure> {
        Encryption::read(&map(class))?.of_new(&map(secrets))
    }

    #[test]
    fn exactly_one_key_is_taken() {
        let (on, generate) = (("encryption", "true"), ("encryptionGenerateKey", "true"));
        let hex = "0123456789abcdefABCDEF0123456789".repeat(2);
        let (phrase, hex) = ((PASSPHRASE, "päß word"), (HEX_KEY, hex.as_str()));
        let of =
            |class: &[(&str, &str)], secrets: &[(&str, &str)]| source(&key(class, secrets).unwrap().unwrap());
        assert_eq!(of(&[on, generate], &[]), "generated");
        assert_eq!(of(&[on], &[phrase]), "passphrase");
        assert_eq!(of(&[on], &[hex]), "key");
        assert!(key(&[], &[]).unwrap().is_none());
        let refused = [
            (vec![on], vec![], "encryptionGenerateKey"),
            (vec![on, generate], vec![phrase], "encryptionPassphrase and parameter"),
            (vec![on], vec![phrase, hex], "encryptionPassphrase and Secret key encryptionKey"),
            (vec![on], vec![(PASSPHRASE, "7 chars")], "8 characters"),
            (vec![on], vec![(HEX_KEY, "abcd")], "64 hexadecimal"),
            (vec![], vec![phrase], "encryption: \"true\""),
            (vec![generate], vec![], "encryption: \"true\""),
        ];
        for (class, secrets, words) in refused {
            let refused = key(&class, &secrets).unwrap_err();
            assert!(refused.message.contains(words), "{words:?} is not in {refused}");
            for (_, secret) in secrets {
                assert!(!refused.message.contains(secret), "{refused}");
            }
        }
    }

    #[test]
    fn the_default_algorithm_is_left_to_the_appliance() {
        let on = [("encryption", "true"), ("encryptionGenerateKey", "true")];
        for algorithm in ALGORITHMS {
            let class: Vec<_> = on.into_iter().chain([("encryptionAlgorithm", algorithm)]).collect();
            let made = key(&class, &[]).unwrap().unwrap();
            assert_eq!(made.algorithm, (algorithm != "AES-256-GCM").then_some(algorithm));
        }
    }
}
