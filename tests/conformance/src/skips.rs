//! The specs of csi-sanity that may be left out, each with its reason.
//!
//! Rule: a spec that is skipped or pending must match a row, and a row that no run needs any more is a failure, so the
//! list shrinks as the driver grows. That a size cannot be asked for ("Required bytes not supported") is never listed:
//! it would mean that CreateVolume failed.

/// A row of the list.
#[derive(Debug, PartialEq, Eq)]
pub struct Skip {
    /// How the spec's full name begins: the texts of its containers and its own, joined by ` / `.
    pub spec: &'static str,
    /// What csi-sanity gives as the cause, exactly; empty for a spec that it keeps pending.
    pub cause: &'static str,
    /// Why that is right for this driver.
    pub reason: &'static str,
}

const SNAPSHOTS: &str = "CREATE_DELETE_SNAPSHOT is not advertised";
const GROUPS: &str = "GROUP_CONTROLLER_SERVICE is not advertised";
const CLONES: &str = "CLONE_VOLUME is not advertised";
const MODIFY: &str = "MODIFY_VOLUME is not advertised";

macro_rules! create {
    ($text:literal) => {
        concat!("Controller Service [Controller Server] / CreateVolume / ", $text)
    };
}

/// Every skip that is right.
pub const SKIPS: &[Skip] = &[
    Skip {
        spec: "Controller Service [Controller Server] / ListVolumes / pagination should detect volumes added",
        cause: "",
        reason: "csi-sanity itself keeps it pending",
    },
    Skip {
        spec: create!("should create volume from an existing source snapshot"),
        cause: "Snapshot not supported",
        reason: SNAPSHOTS,
    },
    Skip {
        spec: create!("should fail when the volume source snapshot"),
        cause: "Snapshot not supported",
        reason: SNAPSHOTS,
    },
    Skip {
        spec: create!("should create volume from an existing source volume"),
        cause: "Volume Cloning not supported",
        reason: CLONES,
    },
    Skip {
        spec: create!("should fail when the volume source volume"),
        cause: "Volume Cloning not supported",
        reason: CLONES,
    },
    Skip {
        spec: create!("should create volume with a volume attribute class"),
        cause: "Modify volume not supported",
        reason: MODIFY,
    },
    Skip {
        spec: create!("should not create volume with an invalid volume"),
        cause: "Modify Volume not supported",
        reason: MODIFY,
    },
    Skip {
        spec: "Controller Service [Controller Server] / ControllerPublishVolume / should fail when publishing more",
        cause: "testnodevolumeattachlimit not enabled",
        reason: "NodeGetInfo names no limit of volumes",
    },
    Skip {
        spec: "Controller Service [Controller Server] / ControllerPublishVolume / should fail when the volume is already",
        cause: "ControllerPublishVolume.readonly field not supported",
        reason: "PUBLISH_READONLY is not advertised",
    },
    Skip {
        spec: "CreateSnapshot [Controller Server] / ",
        cause: "CreateSnapshot not supported",
        reason: SNAPSHOTS,
    },
    Skip {
        spec: "DeleteSnapshot [Controller Server] / ",
        cause: "DeleteSnapshot not supported",
        reason: SNAPSHOTS,
    },
    Skip {
        spec: "ListSnapshots [Controller Server] / ",
        cause: "ListSnapshots not supported",
        reason: SNAPSHOTS,
    },
    Skip {
        spec: "GetSnapshot [Controller Server] / ",
        cause: "GetSnapshot not supported",
        reason: SNAPSHOTS,
    },
    Skip {
        spec: "ModifyVolume [Controller Server] / ",
        cause: "ControllerModifyVolume not supported",
        reason: MODIFY,
    },
    Skip {
        spec: "GroupController Service [GroupController ",
        cause: "GroupControllerService not supported",
        reason: GROUPS,
    },
];

/// The row's number that allows `spec` to be left out for `cause`.
#[must_use]
pub fn allowed(spec: &str, cause: &str) -> Option<usize> {
    SKIPS.iter().position(|row| spec.starts_with(row.spec) && cause == row.cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_needs_both_the_spec_and_its_cause() {
        let spec = "CreateSnapshot [Controller Server] / should fail when no name is provided";
        assert!(allowed(spec, "CreateSnapshot not supported").is_some());
        assert_eq!(allowed(spec, "another cause"), None);
        assert_eq!(allowed("Node Service / should work", "CreateSnapshot not supported"), None);
    }

    #[test]
    fn that_a_size_cannot_be_asked_for_is_never_allowed() {
        let spec = create!("should return appropriate values SingleNodeWriter WithCapacity 1Gi");
        assert_eq!(allowed(spec, "Required bytes not supported"), None);
    }

    #[test]
    fn every_row_gives_a_reason_and_stands_once() {
        for (number, row) in SKIPS.iter().enumerate() {
            assert!(!row.reason.is_empty() && !row.spec.is_empty());
            assert_eq!(allowed(row.spec, row.cause), Some(number), "{row:?} is covered by an earlier row");
        }
    }
}
