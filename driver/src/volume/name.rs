//! Names that derive from the CSI name: the dataset's leaf, and names that are global on the appliance.
//!
//! The rule it keeps: the same request always gives the same names, so a repeated create finds its own work, and two
//! different CSI names never give one dataset: a name that had to be changed carries a hash of the original.

use crate::volume::id::VolumeId;
use crate::volume::node_id::{HASH_LEN, hash_of};

/// Longest leaf of a dataset, in characters.
pub const MAX_LEAF: usize = 63;
/// Longest name that is global on the appliance, in characters (iSCSI extents allow 64, `iscsi.extent.create`).
pub const MAX_GLOBAL: usize = 64;
/// Authority part of the NQNs that the driver makes.
const NQN_PREFIX: &str = "nqn.2026-01.io.tns-csi:";
/// Leaves that TrueNAS hides or keeps for itself as parts of dataset names (`pool.dataset.query` filters them out).
const HIDDEN: [&str; 5] = [".system", "ix-apps", "ix-applications", ".ix-virt", ".truenas_containers"];

/// The leaf for a CSI volume name: letters, digits, `.`, `_` and `-`, beginning and ending with a letter or digit, at
/// most [`MAX_LEAF`] characters. A name that fits stays as it is; any other is sanitised (bad characters become one
/// `-`), shortened, and gets `-` and a hash of the original.
#[must_use]
pub fn leaf(csi_name: &str) -> String {
    if fits(csi_name) {
        return csi_name.to_owned();
    }
    let mut kept = String::new();
    for c in csi_name.chars() {
        let c = if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') { c } else { '-' };
        if !(c == '-' && kept.ends_with('-')) {
            kept.push(c);
        }
        if kept.len() >= MAX_LEAF - 1 - HASH_LEN {
            break;
        }
    }
    let kept = kept.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    // What TrueNAS hides by prefix must not come back through sanitising.
    let kept = if kept.is_empty() || hidden(kept) { "volume" } else { kept };
    format!("{kept}-{}", hash_of(csi_name))
}

/// Whether TrueNAS would hide a dataset with this component from every query, so that no volume may live there.
#[must_use]
pub fn hidden(component: &str) -> bool {
    HIDDEN.iter().any(|h| component.starts_with(h))
}

fn fits(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.len() <= MAX_LEAF
        && edge(name.chars().next())
        && edge(name.chars().last())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        && !name.contains("--")
        && !hidden(name)
}

/// A name that is unique on the appliance (target, subsystem, extent, SMB share): the lower-case leaf, shortened, `-`,
/// and a hash of cluster id and volume id. At most [`MAX_GLOBAL`] characters of `a-z0-9.-`.
#[must_use]
pub fn global(cluster_id: Option<&str>, id: &VolumeId) -> String {
    let leaf: String = crate::volume::id::leaf(id.name())
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' })
        .take(MAX_GLOBAL - 1 - HASH_LEN)
        .collect();
    // NUL is in neither part, so two pairs never read as one text.
    let hash = hash_of(&format!("{}\0{id}", cluster_id.unwrap_or_default()));
    format!("{}-{hash}", leaf.trim_matches(|c: char| !c.is_ascii_alphanumeric()))
}

/// The NQN of the subsystem called `name` (NVMe Base 2.0, 4.7; at most 223 bytes).
#[must_use]
pub fn subsystem_nqn(name: &str) -> String {
    format!("{NQN_PREFIX}{name}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_kubernetes_name_stays_as_it_is() {
        let name = "pvc-0b9e8a5e-6f0e-4d55-9a55-0c4d4c0b1f11";
        assert_eq!(leaf(name), name);
    }

    #[test]
    fn a_changed_name_carries_a_hash_of_the_original() {
        for name in
            ["data old", "data/old", "data--old", "-data", "données", "ix-apps", ".system-x", "", "///"]
        {
            let leaf = leaf(name);
            assert!(leaf.ends_with(&hash_of(name)), "{name:?} gave {leaf:?}");
            assert!(fits(&leaf), "{leaf:?}");
        }
        assert_ne!(leaf("data old"), leaf("data/old"));
    }

    #[test]
    fn a_long_name_is_cut_to_the_limit() {
        let (a, b) = (leaf(&"n".repeat(128)), leaf(&"n".repeat(127)));
        assert_eq!(a.len(), MAX_LEAF);
        assert_ne!(a, b);
    }

    #[test]
    fn global_names_differ_by_cluster_and_by_parent() {
        let id = |text: &str| VolumeId::parse(text).unwrap();
        let one = global(Some("east"), &id("tank/a/pvc-1"));
        assert_ne!(one, global(Some("west"), &id("tank/a/pvc-1")));
        assert_ne!(one, global(Some("east"), &id("tank/b/pvc-1")));
        assert_eq!(one, global(Some("east"), &id("tank/a/pvc-1")));
        assert!(one.starts_with("pvc-1-"));
    }

    proptest! {
        #[test]
        fn every_csi_name_gives_a_dataset_component(name in "\\PC{1,128}") {
            let leaf = leaf(&name);
            prop_assert!(leaf.len() <= MAX_LEAF && fits(&leaf), "{:?}", leaf);
        }

        #[test]
        fn different_names_give_different_leaves(a in "[a-zA-Z0-9 /._-]{1,80}", b in "[a-zA-Z0-9 /._-]{1,80}") {
            prop_assert_eq!(a == b, leaf(&a) == leaf(&b));
        }

        #[test]
        fn global_names_keep_to_their_alphabet(leaf in "[A-Za-z0-9][A-Za-z0-9._-]{0,61}", cluster in "[a-z]{0,8}") {
            let id = VolumeId::parse(&format!("tank/{leaf}")).unwrap();
            let name = global(Some(&cluster), &id);
            prop_assert!(name.len() <= MAX_GLOBAL);
            prop_assert!(name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b".-".contains(&c)));
            prop_assert!(subsystem_nqn(&name).len() <= 223);
        }
    }
}
