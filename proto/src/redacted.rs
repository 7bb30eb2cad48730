//! `Debug` of every message that holds secrets: `build.rs` finds those by the option `csi_secret` and writes the
//! implementations; here is how a secret looks.
//!
//! Rule: the Debug form of any message of the two APIs may be logged. A message that merely contains another one
//! derives its Debug and so shows the inner one redacted.

use std::collections::BTreeMap;
use std::fmt::{Debug, Formatter, Result};

/// What stands where a secret is.
struct Redacted;

impl Debug for Redacted {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str("[redacted]")
    }
}

/// Key of a volume context under which the orchestrator passes service account tokens (Kubernetes, `CSIDriver`
/// field `tokenRequests`).
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// Shows that something is there and, for maps, under which keys; never the value.
struct Secret<'a, T>(&'a T);

impl Debug for Secret<'_, String> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if self.0.is_empty() { f.write_str("\"\"") } else { Redacted.fmt(f) }
    }
}

impl Debug for Secret<'_, Vec<String>> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_list().entries(self.0.iter().map(|_| Redacted)).finish()
    }
}

impl Debug for Secret<'_, BTreeMap<String, String>> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_map().entries(self.0.keys().map(|key| (key, Redacted))).finish()
    }
}

/// A volume context: readable except for tokens.
struct Context<'a>(&'a BTreeMap<String, String>);

impl Debug for Context<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let mut map = f.debug_map();
        for (key, value) in self.0 {
            if key == TOKENS {
                map.entry(key, &Redacted);
            } else {
                map.entry(key, value);
            }
        }
        map.finish()
    }
}

include!(concat!(env!("OUT_DIR"), "/redacted.rs"));

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use prost_reflect::DescriptorPool;

    use super::TOKENS;
    use crate::csi::v1::{NodeStageVolumeRequest, VolumeCapability, volume_capability};

    fn map(value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("password".to_owned(), value.to_owned())])
    }

    fn list(value: &str) -> Vec<String> {
        vec![value.to_owned()]
    }

    fn tokens(value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(TOKENS.to_owned(), value.to_owned()), ("share".to_owned(), "readable".to_owned())])
    }

    /// Message, its secret fields, its Debug forms.
    fn samples(value: &str) -> Vec<(&'static str, Vec<&'static str>, String)> {
        include!(concat!(env!("OUT_DIR"), "/redacted_samples.rs"))
    }

    #[test]
    fn no_secret_field_of_any_message_is_shown() {
        let samples = samples("hunter2");
        assert!(!samples.is_empty());
        for (message, fields, debug) in samples {
            assert!(!debug.contains("hunter2"), "{message} shows a secret: {debug}");
            assert!(debug.contains("[redacted]"), "{message} does not say that something is hidden: {debug}");
            for field in fields {
                assert!(debug.contains(field), "{message} hides that it has {field}: {debug}");
            }
        }
    }

    #[test]
    fn every_field_marked_secret_is_covered() {
        let pool = DescriptorPool::decode(crate::FILE_DESCRIPTOR_SET).unwrap();
        let option = pool.get_extension_by_name("csi.v1.csi_secret").unwrap();
        assert_eq!(option.number(), 1059);
        let marked: BTreeSet<String> = pool
            .all_messages()
            .flat_map(|m| m.fields().collect::<Vec<_>>())
            .filter(|f| f.options().get_extension(&option).as_bool() == Some(true))
            .map(|f| f.full_name().to_owned())
            .collect();
        let covered: BTreeSet<String> = samples("")
            .into_iter()
            .flat_map(|(message, fields, _)| fields.into_iter().map(move |f| format!("{message}.{f}")))
            .collect();
        assert_eq!(marked.difference(&covered).collect::<Vec<_>>(), Vec::<&String>::new());
        assert_eq!(marked.iter().filter(|f| f.starts_with("csi.v1.")).count(), 19);
        assert!(marked.contains("tns_csi.helper.v1.IscsiChap.peer_secret"));
    }

    #[test]
    fn a_message_around_a_secret_one_shows_it_redacted_too() {
        let request = NodeStageVolumeRequest {
            volume_id: "tank/pvc-1".to_owned(),
            volume_capability: Some(VolumeCapability {
                access_type: Some(volume_capability::AccessType::Mount(volume_capability::MountVolume {
                    mount_flags: list("password=hunter2"),
                    ..Default::default()
                })),
                ..Default::default()
            }),
            secrets: map("hunter2"),
            volume_context: tokens("hunter2"),
            ..Default::default()
        };
        let debug = format!("{request:?}");
        assert!(!debug.contains("hunter2"), "{debug}");
        for readable in ["tank/pvc-1", "password", "share", "readable", TOKENS] {
            assert!(debug.contains(readable), "{readable} is missing from {debug}");
        }
    }
}
