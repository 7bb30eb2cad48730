//! Between the API's fields and ZFS's properties, both ways.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::MANAGED;
use crate::backend::{Property, Source};

/// API fields whose upper-case value is ZFS's lower-case one, with the ZFS property.
const WORDS: &[(&str, &str)] = &[
    ("sync", "sync"),
    ("snapdev", "snapdev"),
    ("compression", "compression"),
    ("exec", "exec"),
    ("snapdir", "snapdir"),
    ("deduplication", "dedup"),
    ("checksum", "checksum"),
    ("readonly", "readonly"),
    ("aclmode", "aclmode"),
    ("acltype", "acltype"),
    ("atime", "atime"),
    ("casesensitivity", "casesensitivity"),
];
/// API fields that are numbers; `null` is ZFS's 0.
const NUMBERS: &[(&str, &str)] = &[
    ("copies", "copies"),
    ("special_small_block_size", "special_small_blocks"),
    ("quota", "quota"),
    ("refquota", "refquota"),
    ("reservation", "reservation"),
    ("refreservation", "refreservation"),
    ("volsize", "volsize"),
];

/// `16K`, `1M`, `512` or `512B` as bytes.
pub(super) fn block_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text.get(digits.len()..)? {
        "" | "B" => 1,
        "K" | "KB" => 1024,
        "M" | "MB" => 1024 * 1024,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// The properties that a request's fields stand for: `None` means inherit. Fields that are no properties are left out.
pub(super) fn to_zfs(data: &Map<String, Value>) -> BTreeMap<String, Option<String>> {
    let mut out = BTreeMap::new();
    let inherits = |value: &Value| value.as_str() == Some("INHERIT");
    for (field, property) in WORDS {
        if let Some(value) = data.get(*field).filter(|v| v.is_string()) {
            let word = (!inherits(value)).then(|| value.as_str().unwrap_or_default().to_lowercase());
            out.insert((*property).to_owned(), word);
        }
    }
    for (field, property) in NUMBERS {
        match data.get(*field) {
            Some(Value::Number(number)) => {
                out.insert((*property).to_owned(), Some(number.to_string()));
            }
            Some(Value::Null) => {
                out.insert((*property).to_owned(), Some("0".into()));
            }
            Some(value) if inherits(value) => {
                out.insert((*property).to_owned(), None);
            }
            _ => {}
        }
    }
    for field in ["recordsize", "volblocksize"] {
        match data.get(field).and_then(Value::as_str) {
            Some("INHERIT") => {
                out.insert(field.to_owned(), None);
            }
            Some(text) => {
                out.insert(field.to_owned(), block_size(text).map(|bytes| bytes.to_string()));
            }
            None => {}
        }
    }
    for (field, key) in MANAGED {
        match data.get(*field) {
            Some(value) if inherits(value) => {
                out.insert((*key).to_owned(), None);
            }
            Some(Value::String(text)) => {
                out.insert((*key).to_owned(), Some(text.clone()));
            }
            Some(Value::Number(number)) => {
                out.insert((*key).to_owned(), Some(number.to_string()));
            }
            _ => {}
        }
    }
    out
}

/// Bytes as the display text of `value`: `1.50G`, `16K`, `512B`.
fn humanise(bytes: u64) -> String {
    let mut unit = "B";
    let mut scale = 1_u64;
    for (next, factor) in [("K", 10), ("M", 20), ("G", 30), ("T", 40), ("P", 50)] {
        if bytes >= 1 << factor {
            unit = next;
            scale = 1 << factor;
        }
    }
    if bytes.is_multiple_of(scale) {
        return format!("{}{unit}", bytes / scale);
    }
    // Display text only: the loss of precision is wanted.
    #[allow(clippy::cast_precision_loss)]
    let value = bytes as f64 / scale as f64;
    format!("{value:.2}{unit}")
}

/// Properties that are sizes and whose 0 means none.
const LIMITS: &[&str] = &["quota", "refquota", "reservation", "refreservation"];
/// Other properties that are sizes.
const SIZES: &[&str] = &[
    "volsize",
    "volblocksize",
    "recordsize",
    "used",
    "available",
    "referenced",
    "usedbychildren",
    "usedbydataset",
    "usedbyrefreservation",
    "usedbysnapshots",
    "written",
    "logicalused",
    "logicalreferenced",
];

/// The API's name of a ZFS property.
pub(super) fn api_name(property: &str) -> &str {
    match property {
        "dedup" => "deduplication",
        "encryption" => "encryption_algorithm",
        "encryptionroot" => "encryption_root",
        "keyformat" => "key_format",
        "special_small_blocks" => "special_small_block_size",
        other => other,
    }
}

fn source(property: &Property) -> (&'static str, Value) {
    match &property.source {
        Source::Local => ("LOCAL", Value::Null),
        Source::Default => ("DEFAULT", Value::Null),
        Source::None => ("NONE", Value::Null),
        Source::Inherited(from) => ("INHERITED", json!(from)),
        Source::Received => ("RECEIVED", Value::Null),
    }
}

/// A native property as `pool.dataset.query` shows it.
pub(super) fn entry(name: &str, property: &Property) -> Value {
    let raw = property.raw.as_str();
    let number = raw.parse::<u64>().ok();
    let (parsed, value) = if LIMITS.contains(&name) {
        match number {
            Some(0) | None => (Value::Null, Value::Null),
            Some(bytes) => (json!(bytes), json!(humanise(bytes))),
        }
    } else if SIZES.contains(&name) {
        (json!(number), json!(number.map(humanise)))
    } else if name == "creation" {
        let seconds = raw.parse::<i64>().unwrap_or(0);
        (json!({"$date": seconds.saturating_mul(1000)}), json!(raw))
    } else if matches!(raw, "on" | "off") {
        (json!(raw == "on"), json!(raw.to_uppercase()))
    } else if name == "origin" || name == "mountpoint" {
        (json!(raw), json!(raw))
    } else if let Some(number) = number {
        (json!(number), json!(raw))
    } else {
        (json!(raw), json!(raw.to_uppercase()))
    };
    let (source, source_info) = source(property);
    json!({"parsed": parsed, "rawvalue": raw, "value": value, "source": source, "source_info": source_info})
}

/// A user property as `pool.dataset.query` shows it: its source is always LOCAL, inherited or not.
pub(super) fn user_entry(property: &Property) -> Value {
    let raw = property.raw.as_str();
    json!({"parsed": raw, "rawvalue": raw, "value": raw, "source": "LOCAL", "source_info": null})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_are_read_as_bytes() {
        for (text, bytes) in [("512", 512), ("512B", 512), ("16K", 16384), ("1M", 1 << 20)] {
            assert_eq!(block_size(text), Some(bytes), "{text}");
        }
        for bad in ["", "K", "16Q", "x16K", "INHERIT"] {
            assert_eq!(block_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_quota_of_zero_is_shown_as_none() {
        let shown = entry("refquota", &Property::new("0", Source::Default));
        assert_eq!((&shown["rawvalue"], &shown["parsed"]), (&json!("0"), &Value::Null));
        let shown = entry("refquota", &Property::new("1610612736", Source::Local));
        assert_eq!((&shown["value"], &shown["parsed"]), (&json!("1.50G"), &json!(1_610_612_736_u64)));
    }
}
