//! Parameters that a claim may override by annotations: `allowOverrides`.
//!
//! The rule it keeps: the class's author decides which, out of those that only shape the volume itself. Where volumes live,
//! who may reach them, what happens to their data and what a tool is told are never a claim's to say.

use std::collections::BTreeMap;

use crate::volume::failure::Failure;
use crate::volume::parameter::{Definition, alias};
use crate::volume::protocol::Protocol;

/// The parameter.
pub const ALLOW: &str = "allowOverrides";

/// What a class may leave to its claims.
const OVERRIDABLE: [&str; 12] = [
    "zfs.compression",
    "zfs.dedup",
    "zfs.sync",
    "zfs.copies",
    "zfs.atime",
    "zfs.exec",
    "zfs.recordsize",
    "zfs.snapdir",
    "zfs.sparse",
    "zfs.volblocksize",
    "commentTemplate",
    "fsType",
];

/// This group's part of the table.
pub(super) const TABLE: &[Definition] = &[Definition {
    name: ALLOW,
    protocols: &Protocol::ALL,
    values: "names of parameters that a claim may override, separated by commas, out of zfs.compression, zfs.dedup, \
             zfs.sync, zfs.copies, zfs.atime, zfs.exec, zfs.recordsize, zfs.snapdir, zfs.sparse, zfs.volblocksize, \
             commentTemplate, fsType and other spellings of these such as description",
    check: |v| names(v).is_some(),
}];

/// The names of a list, each in its one spelling.
fn names(text: &str) -> Option<Vec<&'static str>> {
    text.split(',').map(|word| name(word.trim())).collect()
}

fn name(word: &str) -> Option<&'static str> {
    // None of these spellings differs between protocols.
    let one = alias::name_of(word, None);
    OVERRIDABLE.into_iter().find(|known| *known == one)
}

/// What the class lets its claims override; none when it says nothing of it.
///
/// # Errors
/// INVALID_ARGUMENT: a name that no claim may override.
pub fn allowed(parameters: &BTreeMap<String, String>) -> Result<Option<Vec<&'static str>>, Failure> {
    let Some(text) = parameters.get(ALLOW) else { return Ok(None) };
    let valid = || {
        format!(
            "parameter {ALLOW} is {text:?}, valid is {}",
            TABLE.iter().map(|d| d.values).collect::<String>()
        )
    };
    names(text).map(Some).ok_or_else(|| Failure::invalid(valid().chars().take(1024).collect::<String>()))
}

/// The class's parameters with what the claim says in place of them. `driver` is the driver's name, before the slash in
/// the annotations that are ours.
///
/// # Errors
/// INVALID_ARGUMENT: an annotation of ours that the class does not allow.
pub fn merge(
    mut parameters: BTreeMap<String, String>,
    allowed: &[&'static str],
    driver: &str,
    annotations: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Failure> {
    let ours = annotations.iter().filter_map(|(key, value)| {
        let (prefix, key) = key.split_once('/')?;
        (prefix == driver).then_some((key, value))
    });
    let ours: Vec<_> = ours.collect();
    for (key, _) in &ours {
        let one = name(key).filter(|name| allowed.contains(name)).ok_or_else(|| {
            Failure::invalid(format!(
                "the claim's annotation {driver}/{key} overrides what its class does not allow; {ALLOW} of the class is {}",
                allowed.join(", ")
            ))
        })?;
        parameters.retain(|given, _| alias::name_of(given, None) != one);
    }
    parameters.extend(ours.into_iter().map(|(key, value)| (key.to_owned(), value.clone())));
    Ok(parameters)
}

/// The class's parameters with what was `recorded` of those that a claim may override, for a volume that is there already.
pub fn repeat(
    mut parameters: BTreeMap<String, String>,
    allowed: &[&'static str],
    recorded: impl Fn(&str) -> Option<String>,
) -> BTreeMap<String, String> {
    for one in allowed {
        parameters.retain(|given, _| alias::name_of(given, None) != *one);
        parameters.extend(recorded(one).map(|value| ((*one).to_owned(), value)));
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::parameter::{Parameters, table};

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn class(more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut all = map(&[("protocol", "nfs"), ("pool", "tank"), ("server", "nas")]);
        all.extend(map(more));
        all
    }

    #[test]
    fn what_claims_may_say_is_in_the_table_and_reaches_no_further_than_the_volume() {
        for name in OVERRIDABLE {
            assert!(table().any(|d| d.name == name), "{name}");
            assert!(TABLE[0].values.contains(name), "{name} is not told");
        }
        for never in [
            "protocol",
            "pool",
            "server",
            "root",
            "deleteStrategy",
            "nfs.networks",
            "mkfsOptions",
            "encryption",
        ] {
            assert!(allowed(&class(&[(ALLOW, never)])).is_err(), "{never}");
            assert!(Parameters::parse(&class(&[(ALLOW, never)])).is_err(), "{never}");
        }
        let hpe = class(&[(ALLOW, "sparse, compression,deduplication,volblocksize,sync,description")]);
        assert_eq!(allowed(&hpe).unwrap().unwrap().len(), 6);
        assert_eq!(allowed(&class(&[])), Ok(None));
    }

    #[test]
    fn a_claims_word_takes_the_place_of_the_classs_in_whatever_spelling() {
        let class = class(&[("zfs.compression", "lz4"), ("sync", "always"), (ALLOW, "compression")]);
        let list = allowed(&class).unwrap().unwrap();
        let claim = map(&[("tns.csi.io/compression", "ZSTD"), ("other.io/sync", "x"), ("note", "y")]);
        let merged = merge(class.clone(), &list, "tns.csi.io", &claim).unwrap();
        let given = Parameters::parse(&merged).unwrap().given;
        assert_eq!((given["zfs.compression"].as_str(), given["zfs.sync"].as_str()), ("zstd", "always"));
        let refused =
            merge(class, &list, "tns.csi.io", &map(&[("tns.csi.io/sync", "disabled")])).unwrap_err();
        assert!(refused.message.contains("tns.csi.io/sync") && refused.message.contains("zfs.compression"));
    }
}
