//! The fingerprint of a create request: what was asked, kept on the volume, so that a repeated request can be told
//! from another one that merely has the same name.
//!
//! The rule it keeps: the request is compared with the request and not with the volume's present state, which may have
//! been expanded since; one property per field, so that the answer can name the difference.

use crate::volume::capability::Capability;
use crate::volume::capacity::Range;
use crate::volume::metadata::{
    CAPACITY_BYTES, CONTENT_SOURCE_TYPE, Metadata, REQUEST_PREFIX, parameter_property,
};
use crate::volume::parameter::Parameters;

/// Longest value of one field in bytes; a longer one is kept as its hash (property values hold 1,024 characters).
const MAX_VALUE: usize = 1000;

/// What a create request asks for, field by field. Field names are full property names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    fields: Vec<(String, String)>,
}

impl Fingerprint {
    /// Of a request. `source` is empty for a new volume.
    #[must_use]
    pub fn of(range: Range, capabilities: &[Capability], source: &str, parameters: &Parameters) -> Self {
        let bytes = |b: Option<u64>| b.map(|b| b.to_string()).unwrap_or_default();
        let mut capabilities: Vec<String> = capabilities.iter().map(Capability::to_string).collect();
        capabilities.sort();
        let mut fields = vec![
            (field("range"), format!("{}-{}", bytes(range.required), bytes(range.limit))),
            (field("capabilities"), capabilities.join(",")),
            // A property cannot be empty.
            (field("source"), if source.is_empty() { "none".to_owned() } else { source.to_owned() }),
        ];
        fields.extend(parameters.given.iter().map(|(key, value)| (parameter_property(key), value.clone())));
        for (_, value) in &mut fields {
            if value.len() > MAX_VALUE {
                *value = format!("hash:{}", crate::volume::node_id::hash_of(value));
            }
        }
        Fingerprint { fields }
    }

    /// The same with one more field, which must hold no secret.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.push((field(name), value.to_owned()));
        self
    }

    /// The fields as properties of the new volume.
    #[must_use]
    pub fn properties(&self) -> &[(String, String)] {
        &self.fields
    }

    /// One line that two equal requests share, for the operation registry.
    #[must_use]
    pub fn line(&self) -> String {
        self.fields.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
    }

    /// In what this request differs from the one that made the volume, in words; nothing when it is the same request.
    /// `capacity` is the volume's present size in bytes; `range` the range of this request. A volume without a
    /// fingerprint (made by tns-csi) is compared by size, protocol and source.
    #[must_use]
    pub fn differences(&self, stored: &Metadata, range: Range, capacity: u64) -> Vec<String> {
        if stored.with_prefix(REQUEST_PREFIX).next().is_none() {
            return self.differences_without_fingerprint(stored, range, capacity);
        }
        let mut differences = Vec::new();
        for (key, asked) in &self.fields {
            let kept = stored.get(key);
            if kept != Some(asked.as_str()) && !(asked.is_empty() && kept.is_none()) {
                differences.push(describe(key, kept, Some(asked)));
            }
        }
        for (name, kept) in stored.with_prefix(REQUEST_PREFIX).filter(|(_, kept)| !kept.is_empty()) {
            let key = field(name);
            if !self.fields.iter().any(|(asked, _)| *asked == key) {
                differences.push(describe(&key, Some(kept), None));
            }
        }
        differences
    }

    fn differences_without_fingerprint(&self, stored: &Metadata, range: Range, capacity: u64) -> Vec<String> {
        let mut differences = Vec::new();
        if !range.admits(capacity) {
            let size = stored.get(CAPACITY_BYTES).and_then(|b| b.parse().ok()).unwrap_or(capacity);
            if !range.admits(size) {
                differences.push(format!("its size is {capacity} bytes, asked is {}", self.get("range")));
            }
        }
        let protocol = stored.get(crate::volume::metadata::PROTOCOL);
        if protocol != Some(self.get("p.protocol")) {
            differences.push(describe(&field("p.protocol"), protocol, Some(self.get("p.protocol"))));
        }
        if stored.get(CONTENT_SOURCE_TYPE).is_some() != (self.get("source") != "none") {
            differences.push(format!(
                "its content source is {:?}, asked is {:?}",
                stored.get(CONTENT_SOURCE_TYPE).unwrap_or("none"),
                self.get("source")
            ));
        }
        differences
    }

    fn get(&self, name: &str) -> &str {
        let key = field(name);
        self.fields.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str()).unwrap_or_default()
    }
}

fn field(name: &str) -> String {
    format!("{REQUEST_PREFIX}{name}")
}

fn describe(key: &str, kept: Option<&str>, asked: Option<&str>) -> String {
    let name = key.strip_prefix(REQUEST_PREFIX).unwrap_or(key);
    let name = name.strip_prefix("p.").map_or_else(|| name.to_owned(), |p| format!("parameter {p}"));
    let show = |value: Option<&str>| value.map_or_else(|| "not set".to_owned(), |v| format!("{v:?}"));
    format!("{name} was {}, asked is {}", show(kept), show(asked))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::volume::capability::{Access, Mode};

    fn parameters(more: &[(&str, &str)]) -> Parameters {
        let base = [("protocol", "nfs"), ("pool", "tank"), ("server", "192.0.2.10")];
        let all = base.iter().chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Parameters::parse(&all.collect()).unwrap()
    }

    fn capability(mode: Mode) -> Capability {
        Capability { access: Access::Mount { fs_type: String::new() }, mode }
    }

    fn request(required: i64, more: &[(&str, &str)]) -> (Fingerprint, Range) {
        let range = Range::new(required, 0).unwrap();
        (Fingerprint::of(range, &[capability(Mode::SingleNodeWriter)], "", &parameters(more)), range)
    }

    fn stored(fingerprint: &Fingerprint) -> Metadata {
        Metadata::from(fingerprint.properties().iter().cloned().collect::<BTreeMap<_, _>>())
    }

    #[test]
    fn the_same_request_has_no_difference_also_after_expansion() {
        let (asked, range) = request(1 << 30, &[("parentDataset", "a")]);
        assert!(asked.differences(&stored(&asked), range, 1 << 40).is_empty());
    }

    #[test]
    fn every_difference_is_named() {
        let (first, _) = request(1 << 30, &[("parentDataset", "a"), ("port", "2049")]);
        let (second, range) = request(2 << 30, &[("parentDataset", "b"), ("deleteStrategy", "retain")]);
        let words = second.differences(&stored(&first), range, 1 << 30).join("; ");
        for part in [
            "range was \"1073741824-\"",
            "parameter parentdataset",
            "parameter port was \"2049\", asked is not set",
            "parameter deletestrategy was not set",
        ] {
            assert!(words.contains(part), "{part} not in {words}");
        }
    }

    #[test]
    fn capabilities_have_one_order() {
        let range = Range::default();
        let (a, b) = (capability(Mode::SingleNodeWriter), capability(Mode::MultiNodeMultiWriter));
        let one = Fingerprint::of(range, &[a.clone(), b.clone()], "", &parameters(&[]));
        assert_eq!(one, Fingerprint::of(range, &[b, a.clone()], "", &parameters(&[])));
        let less = Fingerprint::of(range, &[a], "", &parameters(&[]));
        assert_eq!(less.differences(&stored(&one), range, 0).len(), 1);
    }

    #[test]
    fn a_volume_without_fingerprint_is_compared_by_size_protocol_and_source() {
        let legacy = |pairs: &[(&str, &str)]| {
            Metadata::from(
                pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>(),
            )
        };
        let (asked, range) = request(1 << 30, &[]);
        let same = legacy(&[("tns-csi:protocol", "nfs"), (CAPACITY_BYTES, "1073741824")]);
        assert!(asked.differences(&same, range, 1 << 30).is_empty());
        assert!(!asked.differences(&legacy(&[("tns-csi:protocol", "nfs")]), range, 1 << 20).is_empty());
        assert!(!asked.differences(&legacy(&[("tns-csi:protocol", "smb")]), range, 1 << 30).is_empty());
        let clone = legacy(&[("tns-csi:protocol", "nfs"), (CONTENT_SOURCE_TYPE, "snapshot")]);
        assert!(!asked.differences(&clone, range, 1 << 30).is_empty());
    }
}
