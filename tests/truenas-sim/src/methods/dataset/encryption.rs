//! Encryption of a new dataset: which requests are allowed and what they come to.
//!
//! The rule it keeps: the key goes from the request to the backend and nowhere else; no message holds any part of it.

use serde_json::{Map, Value};

use super::{Call, lookup};
use crate::backend::{Dataset, Encryption, Key};
use crate::failure::{Failure, Item};

const PREFIX: &str = "pool_dataset_create";

fn is_encrypted(dataset: &Dataset) -> bool {
    dataset.raw("encryption").is_some_and(|algorithm| algorithm != "off")
}

/// What the ancestors forbid.
fn check_ancestors(call: &Call, name: &str, asked: bool, inherits: bool) -> Result<Option<Item>, Failure> {
    let mut unencrypted: Option<String> = None;
    for ancestor in std::iter::successors(name.rsplit_once('/').map(|(up, _)| up), |at| {
        at.rsplit_once('/').map(|(up, _)| up)
    }) {
        let Some(found) = lookup(call, ancestor)? else { continue };
        if !is_encrypted(&found) {
            unencrypted = Some(found.name);
        } else if let Some(between) = &unencrypted {
            let words = format!(
                "Creating an encrypted dataset within an unencrypted dataset is not allowed. In this case, \
                 '{between}' must be moved to an unencrypted dataset."
            );
            return Ok(Some(Item::new(format!("{PREFIX}.name"), words)));
        } else if !asked && !inherits {
            let words =
                format!("Cannot create an unencrypted dataset within an encrypted dataset ({ancestor}).");
            return Ok(Some(Item::new(format!("{PREFIX}.encryption"), words)));
        } else {
            return Ok(None);
        }
    }
    Ok(None)
}

/// The one way of giving a key that was chosen.
fn key(options: &Map<String, Value>, findings: &mut Vec<Item>) -> Option<Key> {
    let at = |field: &str| format!("{PREFIX}.encryption_options.{field}");
    let text = |field: &str| options.get(field).and_then(Value::as_str);
    let generate = options.get("generate_key") == Some(&Value::Bool(true));
    let before = findings.len();
    if let Some(secret) = text("passphrase") {
        for (field, given) in [("key", text("key").is_some()), ("generate_key", generate)] {
            if given {
                let words = "Must be disabled when dataset is to be encrypted with passphrase.";
                findings.push(Item::new(at(field), words));
            }
        }
        let iterations = options.get("pbkdf2iters").and_then(Value::as_u64).unwrap_or_default();
        return (findings.len() == before).then(|| Key::Passphrase { secret: secret.to_owned(), iterations });
    }
    match (text("key"), generate) {
        (None, false) => {
            let words = "Please provide a key or select generate_key to automatically generate a key when passphrase \
                         is not provided.";
            findings.push(Item::new(at("key"), words));
            None
        }
        (Some(_), true) => {
            for field in ["key", "generate_key"] {
                findings.push(Item::new(at(field), "Only one of key, generate_key must be provided."));
            }
            None
        }
        (Some(given), false) => {
            if !given.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                findings.push(Item::new(at("key"), "Please provide a valid key of 64 hexadecimal digits."));
                return None;
            }
            Some(Key::Hex(given.to_owned()))
        }
        (None, true) => {
            Some(Key::Hex(format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())))
        }
    }
}

/// The encryption that a request asks for; `None`: that of the parent, or none.
pub(super) fn of(
    call: &Call,
    data: &Map<String, Value>,
    parent: &Dataset,
    findings: &mut Vec<Item>,
) -> Result<Option<Encryption>, Failure> {
    let flag = |field: &str| data.get(field) == Some(&Value::Bool(true));
    let (asked, inherits) = (flag("encryption"), flag("inherit_encryption"));
    let name = data.get("name").and_then(Value::as_str).unwrap_or_default();
    if is_encrypted(parent) && parent.raw("keystatus") != Some("available") {
        let words = format!("{} must be unlocked to create {name}.", parent.name);
        findings.push(Item::new(format!("{PREFIX}.name"), words));
    }
    findings.extend(check_ancestors(call, name, asked, inherits)?);
    if !asked {
        return Ok(None);
    }
    if inherits {
        let at = format!("{PREFIX}.inherit_encryption");
        findings.push(Item::new(at, "Must be disabled when encryption is enabled."));
    }
    let empty = Map::new();
    let options = data.get("encryption_options").and_then(Value::as_object).unwrap_or(&empty);
    let by_passphrase = options.get("passphrase").is_some_and(Value::is_string);
    if !by_passphrase && parent.raw("keyformat") == Some("passphrase") {
        let words = "Passphrase encrypted datasets cannot have children encrypted with a key.";
        findings.push(Item::new(format!("{PREFIX}.encryption"), words));
    }
    // 26 has no choice.
    let algorithm = options.get("algorithm").and_then(Value::as_str).unwrap_or("AES-256-GCM");
    let key = key(options, findings);
    Ok(key.map(|key| Encryption { algorithm: algorithm.to_lowercase(), key }))
}
