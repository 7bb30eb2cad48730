//! What each protocol may cost: a row of the table in the architecture's "Calls on the good path" per protocol. A
//! further protocol is one more value here.

use std::fmt;

use harness::orchestrator::Class;
use tns_csi_proto::csi::v1::volume_capability::access_mode::Mode;

/// Pool of the appliance.
pub const POOL: &str = "tank";
/// Address of the appliance in volume contexts.
const SERVER: &str = "127.0.0.1";

/// Calls and sequential hops of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Calls that the appliance gets.
    pub calls: u64,
    /// Longest chain of calls of which each waits for the one before.
    pub hops: u64,
}

impl Cost {
    /// Whether it stays within a bound, in both.
    pub fn within(self, bound: Cost) -> bool {
        self.calls <= bound.calls && self.hops <= bound.hops
    }

    /// The larger of two, each number by itself.
    pub fn max(self, other: Cost) -> Cost {
        Cost { calls: self.calls.max(other.calls), hops: self.hops.max(other.hops) }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.calls, self.hops)
    }
}

/// A protocol with the bounds of its operations.
#[derive(Debug)]
pub struct Protocol {
    /// Value of the StorageClass parameter `protocol`.
    pub name: &'static str,
    /// Name for people.
    pub title: &'static str,
    /// File system of the claim; empty leaves it to the driver.
    fs_type: &'static str,
    mode: Mode,
    /// CreateVolume.
    pub create: Cost,
    /// ControllerPublishVolume, the first one for a node.
    pub first_publish: Cost,
    /// ControllerPublishVolume, a later one.
    pub publish: Cost,
    /// ControllerUnpublishVolume.
    pub unpublish: Cost,
    /// ControllerExpandVolume.
    pub expand: Cost,
    /// DeleteVolume.
    pub delete: Cost,
}

/// All that is measured.
pub const PROTOCOLS: &[Protocol] = &[
    Protocol {
        name: "nfs",
        title: "NFS",
        fs_type: "",
        mode: Mode::MultiNodeMultiWriter,
        create: cost(2, 2),
        // The appliance keeps no object per NFS client: a node's first publish costs no more than a later one.
        first_publish: cost(4, 2),
        publish: cost(4, 2),
        unpublish: cost(4, 2),
        expand: cost(2, 2),
        delete: cost(6, 3),
    },
    Protocol {
        name: "smb",
        title: "SMB",
        fs_type: "",
        mode: Mode::MultiNodeMultiWriter,
        create: cost(2, 2),
        first_publish: cost(4, 2),
        publish: cost(4, 2),
        unpublish: cost(4, 2),
        expand: cost(2, 2),
        delete: cost(6, 3),
    },
    Protocol {
        name: "iscsi",
        title: "iSCSI",
        fs_type: "ext4",
        mode: Mode::SingleNodeWriter,
        create: cost(4, 3),
        // The initiator group is the volume's own: a node's first publish costs no more than a later one.
        first_publish: cost(5, 3),
        publish: cost(5, 3),
        unpublish: cost(5, 3),
        expand: cost(2, 2),
        delete: cost(6, 3),
    },
    Protocol {
        name: "nvmeof",
        title: "NVMe-oF",
        fs_type: "ext4",
        mode: Mode::SingleNodeWriter,
        create: cost(3, 2),
        // The host object is made between reading and linking.
        first_publish: cost(7, 3),
        publish: cost(6, 2),
        unpublish: cost(7, 2),
        expand: cost(2, 2),
        delete: cost(6, 4),
    },
];

const fn cost(calls: u64, hops: u64) -> Cost {
    Cost { calls, hops }
}

impl Protocol {
    /// The StorageClass and claim that are measured.
    pub fn class(&self) -> Class {
        Class::mount(self.name, self.fs_type, self.mode).with("pool", POOL).with("server", SERVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_is_within_its_bound_only_in_both_numbers() {
        assert!(cost(2, 2).within(cost(2, 2)) && cost(1, 2).within(cost(3, 2)));
        assert!(!cost(3, 2).within(cost(2, 2)) && !cost(2, 3).within(cost(2, 2)));
        assert_eq!(cost(2, 3).max(cost(4, 1)), cost(4, 3));
    }
}
