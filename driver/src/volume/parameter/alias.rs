//! Other spellings of the parameters: those of the drivers that the seeds of this project describe.
//!
//! The rule it keeps: a spelling becomes the one name (and the one value) before anything else looks at it, so the same
//! class in two spellings is the same request; both spellings at once must agree.

use std::collections::BTreeMap;

use crate::volume::failure::Failure;
use crate::volume::parameter::zfs;

/// Spelling and name. The value is the same, but for case and for `true` and `false` in place of `on` and `off`.
const ALIASES: &[(&str, &str)] = &[
    ("root", "parentDataset"),
    ("parent", "parentDataset"),
    ("fstype", "fsType"),
    ("description", "commentTemplate"),
    ("compression", "zfs.compression"),
    ("sync", "zfs.sync"),
    ("deduplication", "zfs.dedup"),
    ("dedup", "zfs.dedup"),
    ("zfs.deduplication", "zfs.dedup"),
    ("recordsize", "zfs.recordsize"),
    ("volblocksize", "zfs.volblocksize"),
    ("sparse", "zfs.sparse"),
    ("encryption.enabled", "encryption"),
    ("encryption.algorithm", "encryptionAlgorithm"),
    ("encryption.generateKey", "encryptionGenerateKey"),
    // The opposite meaning: see `value`.
    ("zvolEnableReservation", "zfs.sparse"),
];

/// Every spelling, for messages and tests: spelling and name.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    ALIASES.iter().copied()
}

/// Gives each key its one name and each value its one spelling.
///
/// # Errors
/// INVALID_ARGUMENT: two spellings of one parameter with different values.
pub(super) fn normalise<'a>(
    parameters: impl Iterator<Item = (&'a String, &'a String)>,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut known: BTreeMap<&str, (&str, String)> = BTreeMap::new();
    for (key, given) in parameters {
        let name = all().find(|(alias, _)| alias == key).map_or(key.as_str(), |(_, name)| name);
        let value = value(key, name, given);
        if let Some((other, same)) = known.get(name)
            && *same != value
        {
            return Err(Failure::invalid(format!(
                "parameters {other:?} and {key:?} are two spellings of {name} and differ; keep one"
            )));
        }
        known.insert(name, (key, value));
    }
    Ok(known.into_iter().map(|(name, (_, value))| (name.to_owned(), value)).collect())
}

fn value(key: &str, name: &str, given: &str) -> String {
    match (key, given) {
        ("zvolEnableReservation", "true") => "false".to_owned(),
        ("zvolEnableReservation", "false") => "true".to_owned(),
        _ if name == "zfs.sparse" => match given.to_ascii_lowercase().as_str() {
            "on" => "true".to_owned(),
            "off" => "false".to_owned(),
            word => word.to_owned(),
        },
        _ if zfs::is_word(name) => match given.to_ascii_lowercase().as_str() {
            "true" => "on".to_owned(),
            "false" => "off".to_owned(),
            word => word.to_owned(),
        },
        ("volblocksize" | "recordsize", _) => given.to_ascii_uppercase(),
        _ => given.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::parameter::table;

    fn normal(pairs: &[(&str, &str)]) -> Result<BTreeMap<String, String>, Failure> {
        let all: BTreeMap<String, String> =
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        normalise(all.iter())
    }

    #[test]
    fn every_alias_leads_to_a_parameter_and_hides_none() {
        for (alias, name) in all() {
            assert!(table().any(|d| d.name == name), "{alias} leads to {name}");
            assert!(!table().any(|d| d.name == alias), "{alias} is a parameter itself");
        }
    }

    #[test]
    fn spellings_of_other_drivers_become_one() {
        let one =
            normal(&[("zfs.compression", "lz4"), ("zfs.dedup", "on"), ("zfs.sparse", "false")]).unwrap();
        let hpe = [("compression", "LZ4"), ("deduplication", "true"), ("sparse", "false")];
        assert_eq!(normal(&hpe).unwrap(), one);
        let d = [("compression", "lz4"), ("dedup", "ON"), ("zvolEnableReservation", "true")];
        assert_eq!(normal(&d).unwrap(), one);
    }

    #[test]
    fn two_spellings_must_agree() {
        assert!(normal(&[("sync", "ALWAYS"), ("zfs.sync", "always")]).is_ok());
        let refused = normal(&[("sync", "always"), ("zfs.sync", "disabled")]).unwrap_err();
        assert!(
            refused.message.contains("\"sync\"") && refused.message.contains("\"zfs.sync\""),
            "{refused}"
        );
    }
}
