//! Parameters `datasetProperties.<name>`: ZFS user properties that the class writes on its volumes.
//!
//! The rule it keeps: they are the operator's and never ours; a name that the driver or TrueNAS writes itself is refused, so
//! that no class can forge a marker or overwrite a record.

use std::collections::BTreeMap;

use truenas::calls::UserProperty;

use crate::volume::failure::Failure;
use crate::volume::template::{Template, Values};

/// What stands before the property's name.
pub const PREFIX: &str = "datasetProperties.";
/// Longest value in characters (API models of TrueNAS).
const MAX_VALUE: usize = 1024;
/// Longest name of a parameter whose record still has a name that ZFS takes: `tns-csi:request.v1.p.` and this prefix are
/// before it, 255 bytes are the limit (TrueNAS 26; ZFS itself has 256).
const MAX_NAME: usize = 200;
/// Modules of property names that are not the operator's: ours, TrueNAS's own, ZFS's.
const RESERVED: [(&str, &str); 4] = [
    ("tns-csi", "this driver keeps its own records there"),
    ("org.freenas", "TrueNAS keeps its own settings there"),
    ("org.truenas", "TrueNAS keeps its own settings there"),
    ("com.sun", "ZFS's makers keep theirs there"),
];

/// Templates of values by property.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserProperties {
    templates: BTreeMap<String, Template>,
}

/// Checks a parameter that begins with [`PREFIX`].
///
/// # Errors
/// INVALID_ARGUMENT with what is valid; a native ZFS property with where it belongs.
pub(super) fn check(key: &str, value: &str) -> Result<(), Failure> {
    let name = key.strip_prefix(PREFIX).unwrap_or(key);
    let refused = |why: String| Err(Failure::invalid(format!("parameter {key}: {why}")));
    let Some((module, rest)) = name.split_once(':') else {
        return refused(format!(
            "{name:?} is no user property (those have a colon, as in com.example:owner); native ZFS properties are set with \
             zfs.{name} where the driver knows it"
        ));
    };
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ":._-".contains(c);
    if module.is_empty()
        || rest.is_empty()
        || name.starts_with('-')
        || !name.chars().all(fits)
        || name.len() > MAX_NAME
    {
        return refused(format!(
            "{name:?} is no user property of ZFS: module:name of lower-case letters, digits, and :._- , at most {MAX_NAME} \
             characters"
        ));
    }
    if let Some((_, why)) = RESERVED.into_iter().find(|(reserved, _)| *reserved == module) {
        return refused(format!("{module}: is reserved, {why}"));
    }
    if value.is_empty() || value.contains(char::is_control) {
        return refused(
            "the value is 1 to 1024 characters without control characters, or a template of such".to_owned(),
        );
    }
    Ok(())
}

impl UserProperties {
    /// Reads the group from a class's own keys, which `check` has looked at one by one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a value that is no template, with the position.
    pub fn read(given: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let mut templates = BTreeMap::new();
        for (key, value) in given {
            let Some(name) = key.strip_prefix(PREFIX) else { continue };
            let template = Template::parse(value);
            let template = template.map_err(|why| Failure::invalid(format!("parameter {key}: {why}")))?;
            templates.insert(name.to_owned(), template);
        }
        Ok(UserProperties { templates })
    }

    /// The properties of one new volume.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a value that needs what was not sent, or is too long.
    pub fn of_new(&self, values: Values<'_>) -> Result<Vec<UserProperty>, Failure> {
        let rendered = self.templates.iter().map(|(name, template)| {
            let refused = |why: &str| Failure::invalid(format!("parameter {PREFIX}{name}: {why}"));
            let value = template.render(values).map_err(|why| refused(&why.message))?;
            if value.chars().count() > MAX_VALUE || value.contains(char::is_control) {
                return Err(refused(
                    "it gives no value of at most 1024 characters without control characters",
                ));
            }
            Ok(UserProperty::new(name, value))
        });
        rendered.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_zfs_and_nobody_elses() {
        for good in ["com.example:owner", "a:b", "backup:tier-1", "x:y:z"] {
            assert_eq!(check(&format!("{PREFIX}{good}"), "v"), Ok(()), "{good}");
        }
        for (bad, words) in [
            ("compression", "zfs.compression"),
            ("", "zfs."),
            ("tns-csi:managed_by", "reserved"),
            ("org.freenas:description", "reserved"),
            ("com.Example:owner", "lower-case"),
            ("a b:c", "lower-case"),
            (":b", "module:name"),
            ("a:", "module:name"),
            ("-a:b", "module:name"),
        ] {
            let refused = check(&format!("{PREFIX}{bad}"), "v").unwrap_err();
            assert!(refused.message.contains(words), "{refused}");
        }
        assert!(check(&format!("{PREFIX}a:{}", "b".repeat(200)), "v").is_err());
        assert!(check(&format!("{PREFIX}a:b"), "").is_err());
        assert!(check(&format!("{PREFIX}a:b"), "two\nlines").is_err());
    }

    #[test]
    fn values_are_templates() {
        let given = BTreeMap::from([
            (format!("{PREFIX}a:claim"), "{{ .PVCNamespace }}/{{ .PVCName }}".to_owned()),
            (format!("{PREFIX}a:tier"), "gold".to_owned()),
            ("pool".to_owned(), "tank".to_owned()),
        ]);
        let values = Values { pvc_name: Some("data"), pvc_namespace: Some("team"), pv_name: "pvc-1" };
        let read = UserProperties::read(&given).unwrap();
        assert_eq!(
            read.of_new(values).unwrap(),
            [UserProperty::new("a:claim", "team/data"), UserProperty::new("a:tier", "gold")]
        );
        let bare = Values { pv_name: "pvc-1", ..Values::default() };
        assert!(read.of_new(bare).unwrap_err().message.contains("a:claim"));
    }
}
