//! Where volumes can be reached from, in the words of the cluster's topology.
//!
//! The rule it keeps: one appliance, one place. A node agent says which segments its node lies in, the controller says from
//! which segments the appliance is reached; a volume can be used where all of the controller's segments match.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use tns_csi_proto::csi::v1 as csi;

use crate::volume::failure::{Failure, Kind};

/// Longest prefix of a key in bytes (CSI 1.12, `Topology`).
const MAX_PREFIX: usize = 253;
/// Longest name of a key, and longest value, in bytes (CSI 1.12, `Topology`).
const MAX_NAME: usize = 63;

/// One `KEY=VALUE` of a topology, e.g. `topology.kubernetes.io/zone=east`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    key: String,
    value: String,
}

impl FromStr for Segment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) =
            text.split_once('=').ok_or("expected KEY=VALUE, e.g. topology.kubernetes.io/zone=east")?;
        let (prefix, name) = match key.split_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, key),
        };
        if !is_name(name) {
            return Err(format!(
                "the key's name is 1 to {MAX_NAME} letters, digits, '-', '_' and '.', letters and digits at both ends"
            ));
        }
        if prefix.is_some_and(|prefix| !is_prefix(prefix)) {
            return Err(format!(
                "the key's prefix is a DNS subdomain of at most {MAX_PREFIX} lower-case characters"
            ));
        }
        if !is_name(value) {
            return Err(format!(
                "the value is 1 to {MAX_NAME} letters, digits, '-', '_' and '.', letters and digits at both ends"
            ));
        }
        Ok(Segment { key: key.to_owned(), value: value.to_owned() })
    }
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

fn is_prefix(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=MAX_NAME).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= MAX_PREFIX && text.split('.').all(is_label)
}

/// Segments that all hold. Without any there is no topology, and nothing of it is said to the orchestrator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology(BTreeMap<String, String>);

impl Topology {
    /// The topology of these segments.
    ///
    /// # Errors
    /// A key that is given twice; keys are compared without regard to case (CSI 1.12, `Topology`).
    pub fn new(segments: impl IntoIterator<Item = Segment>) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for Segment { key, value } in segments {
            if all.keys().any(|known: &String| known.eq_ignore_ascii_case(&key)) {
                return Err(format!("topology key {key} is given twice"));
            }
            all.insert(key, value);
        }
        Ok(Topology(all))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As in NodeGetInfo; none when there is none.
    #[must_use]
    pub fn to_csi(&self) -> Option<csi::Topology> {
        (!self.is_empty()).then(|| csi::Topology { segments: self.0.clone() })
    }

    /// As in a volume: where it can be reached from.
    #[must_use]
    pub fn accessible(&self) -> Vec<csi::Topology> {
        self.to_csi().into_iter().collect()
    }

    /// Whether `place` lies in it. Exactly: a PV's node affinity compares with node labels, which know upper and lower case.
    #[must_use]
    pub fn reaches(&self, place: &csi::Topology) -> bool {
        let holds = |(key, value): (&String, &String)| place.segments.get(key) == Some(value);
        self.0.iter().all(holds)
    }

    /// Checks that a volume can be used in one of the places that it is required in.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED (CSI 1.12, CreateVolume: unable to provision in `accessible_topology`), which makes the
    /// scheduler look for another node.
    pub fn check(&self, required: Option<&csi::TopologyRequirement>) -> Result<(), Failure> {
        let requisite = required.map_or(&[][..], |required| &required.requisite);
        if self.is_empty() || requisite.is_empty() || requisite.iter().any(|place| self.reaches(place)) {
            return Ok(());
        }
        let places: Vec<String> = requisite.iter().map(words).collect();
        Err(Failure::new(
            Kind::NoSpace,
            format!(
                "accessibility_requirements: the volume is wanted at {}, and the appliance is reached from {self} only \
                 (--topology of the controller)",
                places.join(" or ")
            ),
        ))
    }
}

fn words(place: &csi::Topology) -> String {
    let all: Vec<String> = place.segments.iter().map(|(key, value)| format!("{key}={value}")).collect();
    all.join(",")
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(key, value)| format!("{key}={value}")).collect();
        f.write_str(&all.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(segments: &[&str]) -> Topology {
        Topology::new(segments.iter().map(|s| s.parse().unwrap())).unwrap()
    }

    fn place(segments: &[(&str, &str)]) -> csi::Topology {
        let segments = segments.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        csi::Topology { segments }
    }

    #[test]
    fn segments_follow_csis_rules() {
        for good in ["zone=east", "topology.kubernetes.io/zone=eu-west_1.a", "a/b=c"] {
            assert!(good.parse::<Segment>().is_ok(), "{good}");
        }
        let long = format!("{}=x", "a".repeat(64));
        for bad in [
            "",
            "zone",
            "zone=",
            "=east",
            "-zone=east",
            "Example.org/zone=east",
            "a/b/c=d",
            "zone=a b",
            &long,
        ] {
            assert!(bad.parse::<Segment>().is_err(), "{bad}");
        }
        let twice = ["zone=a", "Zone=b"].map(|s| s.parse().unwrap());
        assert!(Topology::new(twice).unwrap_err().contains("twice"));
    }

    #[test]
    fn a_place_lies_in_a_topology_when_every_segment_matches() {
        let east = topology(&["zone=east", "rack=r1"]);
        assert!(east.reaches(&place(&[("zone", "east"), ("rack", "r1"), ("host", "h")])));
        assert!(!east.reaches(&place(&[("Zone", "east"), ("rack", "r1")])));
        assert!(!east.reaches(&place(&[("zone", "east")])));
        assert!(!east.reaches(&place(&[("zone", "west"), ("rack", "r1")])));
    }

    #[test]
    fn one_place_that_is_reached_suffices_and_none_is_said_in_words() {
        let required = |places: &[&[(&str, &str)]]| csi::TopologyRequirement {
            requisite: places.iter().map(|p| place(p)).collect(),
            preferred: Vec::new(),
        };
        let east = topology(&["zone=east"]);
        let both = required(&[&[("zone", "west")], &[("zone", "east")]]);
        assert_eq!(east.check(Some(&both)), Ok(()));
        assert_eq!(east.check(None), Ok(()));
        assert_eq!(Topology::default().check(Some(&both)), Ok(()));
        let refused = east.check(Some(&required(&[&[("zone", "west")]]))).unwrap_err();
        assert_eq!(refused.kind, Kind::NoSpace);
        assert!(refused.message.contains("zone=west") && refused.message.contains("zone=east"), "{refused}");
    }
}
