//! Rules between fields that creation and change have in common.

use serde_json::{Map, Value};

use super::translate::block_size;
use crate::backend::Dataset;
use crate::failure::Item;

/// Largest `special_small_block_size`: 16 MiB.
const LARGEST_SMALL_BLOCK: i64 = 16 << 20;

/// The two ACL fields must fit together after inheritance. `present` is the dataset whose values stand where the request
/// says nothing (at creation: the parent), `parent` gives those that are inherited.
pub(super) fn check_acl(
    prefix: &str,
    data: &Map<String, Value>,
    present: &Dataset,
    parent: &Dataset,
    findings: &mut Vec<Item>,
) {
    let of = |field: &str| match data.get(field).and_then(Value::as_str) {
        Some("INHERIT") => parent.raw(field).unwrap_or_default().to_uppercase(),
        Some(given) => given.to_owned(),
        None => present.raw(field).unwrap_or_default().to_uppercase(),
    };
    let (acltype, aclmode) = (of("acltype"), of("aclmode"));
    let words = match (acltype.as_str(), aclmode.as_str()) {
        ("POSIX" | "POSIXACL" | "OFF", mode) if mode != "DISCARD" => {
            "Must be set to DISCARD when acltype is POSIX or OFF"
        }
        ("NFSV4", "DISCARD") => "DISCARD aclmode may not be set for NFSv4 acl type",
        _ => return,
    };
    findings.push(Item::new(format!("{prefix}.aclmode"), words));
}

/// `aclinherit` that goes with an `acltype`, both in ZFS's words.
pub(super) fn acl_inheritance(acltype: &str) -> &'static str {
    if acltype == "nfsv4" { "passthrough" } else { "discard" }
}

/// The size below which blocks go to the special class.
pub(super) fn check_special(prefix: &str, data: &Map<String, Value>, findings: &mut Vec<Item>) {
    let size = data.get("special_small_block_size").and_then(Value::as_i64);
    if size.is_some_and(|size| !(0..=LARGEST_SMALL_BLOCK).contains(&size)) {
        let at = format!("{prefix}.special_small_block_size");
        findings.push(Item::new(at, "This field must be from zero to 16M"));
    }
}

/// The largest block of a file.
pub(super) fn check_recordsize(prefix: &str, data: &Map<String, Value>, findings: &mut Vec<Item>) {
    let Some(size) = data.get("recordsize").and_then(Value::as_str).filter(|size| *size != "INHERIT") else {
        return;
    };
    let allowed = block_size(size).is_some_and(|b| b.is_power_of_two() && (512..=16 << 20).contains(&b));
    if !allowed {
        let at = format!("{prefix}.recordsize");
        findings.push(Item::new(at, format!("'{size}' is an invalid recordsize.")));
    }
}
