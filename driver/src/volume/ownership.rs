//! Whose a dataset is.
//!
//! The rule it keeps: nothing is changed or deleted that does not carry our marker *about itself*. TrueNAS shows
//! inherited properties as local and a replica copies them, so the marker alone proves nothing: the recorded volume id
//! must be the id under which the dataset was read.

use std::fmt;

use crate::volume::id::{self, VolumeId};
use crate::volume::metadata::{CLUSTER_ID, CSI_VOLUME_NAME, MANAGED_BY, Metadata, VOLUME_ID};

/// The judgement about a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Ours: the marker is about this dataset.
    Ours,
    /// A volume from before the volume id was recorded: ours if no owned dataset is above it, which has to be read.
    OursIfNoOwnedAncestor,
    /// Not ours.
    Foreign(Foreign),
}

/// Why a dataset is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The reason in words, beginning with the dataset.
    pub why: String,
    /// The dataset has a mark about itself. One without may be a volume that the appliance is still making: ZFS makes a
    /// dataset in one transaction and sets its properties in a later one (`module/zfs/zfs_ioctl.c`, `zfs_ioc_create`),
    /// all user properties in one, after the sizes (`zfs_set_prop_nvlist`).
    pub settled: bool,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// Prefixes of the user properties by which other drivers for TrueNAS mark their volumes.
const OTHER_DRIVERS: [(&str, &str); 3] = [
    ("democratic-csi:", "democratic-csi"),
    ("truenas-csi:", "truenas-csi"),
    ("io.truenas.csi:", "the driver that marks its volumes with io.truenas.csi"),
];

/// The other driver that marked a dataset, and a property that says so. Like every marker it may be inherited.
#[must_use]
pub fn other_driver(metadata: &Metadata) -> Option<(&'static str, String)> {
    OTHER_DRIVERS.into_iter().find_map(|(prefix, driver)| {
        let (name, _) = metadata.with_prefix(prefix).find(|(_, value)| !value.is_empty())?;
        Some((driver, format!("{prefix}{name}")))
    })
}

/// Judges the dataset `dataset`, read for volume `volume`, by its properties. `cluster_id` is this driver's.
#[must_use]
pub fn judge(volume: &VolumeId, dataset: &str, metadata: &Metadata, cluster_id: Option<&str>) -> Ownership {
    let own = metadata.get(VOLUME_ID).is_some_and(|recorded| recorded == volume.to_string());
    let foreign =
        |why: String| Ownership::Foreign(Foreign { why: format!("dataset {dataset} {why}"), settled: own });
    if !metadata.is_marked() {
        if let Some((driver, marker)) = other_driver(metadata) {
            return foreign(format!("was made by {driver} (it has {marker}) and not by this driver"));
        }
        let found = metadata.get(MANAGED_BY).map_or_else(|| "no".to_owned(), |m| format!("{m:?} as"));
        return foreign(format!("has {found} {MANAGED_BY} and was not made by this driver"));
    }
    if let Some(theirs) = metadata.get(CLUSTER_ID)
        && Some(theirs) != cluster_id
    {
        let ours = cluster_id.map_or_else(|| "none".to_owned(), |c| format!("{c:?}"));
        return foreign(format!("belongs to cluster {theirs:?}, the cluster id of this driver is {ours}"));
    }
    match metadata.get(VOLUME_ID) {
        Some(_) if own => Ownership::Ours,
        Some(recorded) => foreign(format!(
            "carries the marker of volume {recorded:?} and not of {:?}: it inherited it, or is a copy",
            volume.to_string()
        )),
        None => match metadata.get(CSI_VOLUME_NAME) {
            Some(name) if name == id::leaf(dataset) => Ownership::OursIfNoOwnedAncestor,
            Some(name) => foreign(format!("has the {CSI_VOLUME_NAME} {name:?}, which is not its own name")),
            None => foreign(format!("has neither {VOLUME_ID} nor {CSI_VOLUME_NAME}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn judged(dataset: &str, properties: &[(&str, &str)], cluster: Option<&str>) -> Ownership {
        let properties: BTreeMap<String, String> =
            properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        judge(&VolumeId::parse(dataset).unwrap(), dataset, &Metadata::from(properties), cluster)
    }

    const MARK: (&str, &str) = (MANAGED_BY, "tns-csi");

    #[test]
    fn our_marker_about_itself_is_ours() {
        let ours = [MARK, (VOLUME_ID, "tank/pvc-1")];
        assert_eq!(judged("tank/pvc-1", &ours, None), Ownership::Ours);
        assert_eq!(
            judged("tank/pvc-1", &ours, Some("east")),
            Ownership::Ours,
            "no cluster id belongs to any cluster"
        );
    }

    #[test]
    fn t8_an_inherited_or_copied_marker_makes_nothing_ours() {
        for (dataset, properties) in [
            ("tank/pvc-1/child", vec![MARK, (VOLUME_ID, "tank/pvc-1")]),
            ("backup/pvc-1", vec![MARK, (VOLUME_ID, "tank/pvc-1")]),
            ("tank/pvc-1/child", vec![MARK, (CSI_VOLUME_NAME, "pvc-1")]),
            ("tank/pvc-1", vec![]),
            ("tank/pvc-1", vec![(MANAGED_BY, "someone")]),
            ("tank/pvc-1", vec![MARK]),
            ("tank/pvc-1", vec![(VOLUME_ID, "tank/pvc-1")]),
        ] {
            assert!(
                matches!(judged(dataset, &properties, None), Ownership::Foreign(_)),
                "{dataset} {properties:?}"
            );
        }
    }

    #[test]
    fn t1_a_name_that_merely_begins_alike_is_another_volume() {
        let old = [MARK, (VOLUME_ID, "tank/data-old")];
        assert!(matches!(judged("tank/data", &old, None), Ownership::Foreign(_)));
    }

    #[test]
    fn another_cluster_is_foreign() {
        let theirs = [MARK, (VOLUME_ID, "tank/pvc-1"), (CLUSTER_ID, "west")];
        assert_eq!(judged("tank/pvc-1", &theirs, Some("west")), Ownership::Ours);
        for ours in [Some("east"), None] {
            let Ownership::Foreign(theirs) = judged("tank/pvc-1", &theirs, ours) else { panic!("{ours:?}") };
            assert!(theirs.settled, "{theirs}");
        }
    }

    #[test]
    fn a_dataset_without_a_mark_about_itself_may_still_be_in_the_making() {
        for properties in [
            vec![],
            // As everything below a marked parent looks.
            vec![MARK, (VOLUME_ID, "tank"), (CLUSTER_ID, "west")],
            vec![("democratic-csi:managed_resource", "true")],
        ] {
            let found = judged("tank/pvc-1", &properties, Some("east"));
            assert!(matches!(&found, Ownership::Foreign(f) if !f.settled), "{properties:?}: {found:?}");
        }
    }

    #[test]
    fn a_volume_of_another_driver_is_named_as_what_it_is() {
        for (marker, driver) in [
            (("democratic-csi:managed_resource", "true"), "democratic-csi"),
            (("democratic-csi:csi_volume_name", "pvc-1"), "democratic-csi"),
            (("truenas-csi:managed_resource", "true"), "truenas-csi"),
            (("io.truenas.csi:managed", "true"), "io.truenas.csi"),
        ] {
            let Ownership::Foreign(Foreign { why, .. }) = judged("tank/pvc-1", &[marker], None) else {
                panic!("{marker:?}")
            };
            assert!(why.contains(&format!("made by {driver}")) || why.contains(driver), "{why}");
            assert!(why.contains(marker.0), "{why}");
        }
        let ours = [MARK, (VOLUME_ID, "tank/pvc-1"), ("democratic-csi:managed_resource", "true")];
        assert_eq!(judged("tank/pvc-1", &ours, None), Ownership::Ours, "taken over earlier");
    }

    #[test]
    fn a_volume_from_before_the_volume_id_needs_a_look_above() {
        let legacy = [MARK, (CSI_VOLUME_NAME, "pvc-1")];
        assert_eq!(judged("tank/pvc-1", &legacy, None), Ownership::OursIfNoOwnedAncestor);
    }
}
