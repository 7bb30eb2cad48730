//! Schema version 1 of the ZFS user properties that a volume carries (`tns-csi:*`).
//!
//! The rule it keeps: what is true about a volume stands on the volume. Names and meanings are those of tns-csi, so
//! that its volumes are read and ours stay readable to it; ids that TrueNAS assigns are read and never written. TrueNAS
//! shows a property that a dataset inherits as if it were its own, so a record that matters names the volume it is about.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::volume::capability::{Access, Capability};
use crate::volume::id::VolumeId;
use crate::volume::node_id::NodeId;
use crate::volume::parameter::DeleteStrategy;
use crate::volume::protocol::{Protocol, UnknownProtocol};

/// Who made the dataset: [`MANAGER`] for volumes of this driver.
pub const MANAGED_BY: &str = "tns-csi:managed_by";
/// The id under which the volume is known, in full: the proof that the marker is about this dataset.
pub const VOLUME_ID: &str = "tns-csi:volume_id";
/// Name that CreateVolume was called with.
pub const CSI_VOLUME_NAME: &str = "tns-csi:csi_volume_name";
/// Cluster whose driver made the volume.
pub const CLUSTER_ID: &str = "tns-csi:cluster_id";
/// How the volume is served.
pub const PROTOCOL: &str = "tns-csi:protocol";
/// Size in bytes; follows expansion.
pub const CAPACITY_BYTES: &str = "tns-csi:capacity_bytes";
/// What DeleteVolume does.
pub const DELETE_STRATEGY: &str = "tns-csi:delete_strategy";
/// Path of the NFS export.
pub const NFS_SHARE_PATH: &str = "tns-csi:nfs_share_path";
/// Row of the NFS export, on volumes of tns-csi.
pub const NFS_SHARE_ID: &str = "tns-csi:nfs_share_id";
/// Name of the SMB share.
pub const SMB_SHARE_NAME: &str = "tns-csi:smb_share_name";
/// Row of the SMB share, on volumes of tns-csi.
pub const SMB_SHARE_ID: &str = "tns-csi:smb_share_id";
/// NQN of the NVMe-oF subsystem.
pub const NVMEOF_SUBSYSTEM_NQN: &str = "tns-csi:nvmeof_subsystem_nqn";
/// IQN of the iSCSI target.
pub const ISCSI_IQN: &str = "tns-csi:iscsi_iqn";
/// Whether the content came from a snapshot or a volume.
pub const CONTENT_SOURCE_TYPE: &str = "tns-csi:content_source_type";
/// Prefix of the records of granted nodes; the hash of the node's name follows.
pub const NODE_PREFIX: &str = "tns-csi:node.";
/// Prefix of the sealed DH-HMAC-CHAP keys of granted nodes; the hash of the node's name follows.
pub const SEALED_PREFIX: &str = "tns-csi:dhchap.";
/// Prefix of the fingerprint of the create request, with its version.
pub const REQUEST_PREFIX: &str = "tns-csi:request.v1.";

/// Whether the dataset is the full copy of a snapshot, of tns-csi.
pub const DETACHED_SNAPSHOT: &str = "tns-csi:detached_snapshot";
/// Version of the schema.
pub const SCHEMA_VERSION: &str = "tns-csi:schema_version";
/// When the volume was made, in RFC 3339.
pub const CREATED_AT: &str = "tns-csi:created_at";
/// Name of the claim.
pub const PVC_NAME: &str = "tns-csi:pvc_name";
/// Namespace of the claim.
pub const PVC_NAMESPACE: &str = "tns-csi:pvc_namespace";

/// The value of [`MANAGED_BY`].
pub const MANAGER: &str = "tns-csi";

/// What a new volume says about itself; turned into properties that its create call carries.
#[derive(Clone, Debug)]
pub struct NewVolume<'a> {
    /// The id.
    pub id: &'a VolumeId,
    /// Name in the request.
    pub csi_name: &'a str,
    /// Cluster of this driver.
    pub cluster_id: Option<&'a str>,
    /// How it is served.
    pub protocol: Protocol,
    /// Size in bytes.
    pub capacity_bytes: u64,
    /// What DeleteVolume does.
    pub delete_strategy: DeleteStrategy,
    /// Claim, when known.
    pub pvc_name: Option<&'a str>,
    /// Namespace of the claim, when known.
    pub pvc_namespace: Option<&'a str>,
    /// Stable keys of the protocol (path, NQN), as full property names.
    pub stable_keys: &'a [(&'static str, String)],
    /// The fingerprint's fields, as full property names.
    pub fingerprint: &'a [(String, String)],
}

impl NewVolume<'_> {
    /// The properties, with the time of creation in RFC 3339.
    #[must_use]
    pub fn properties(&self, created_at: jiff::Timestamp) -> BTreeMap<String, String> {
        let mut all: BTreeMap<String, String> = self.fingerprint.iter().cloned().collect();
        let mut put = |key: &str, value: String| {
            all.insert(key.to_owned(), value);
        };
        put(SCHEMA_VERSION, "1".to_owned());
        put(MANAGED_BY, MANAGER.to_owned());
        put(VOLUME_ID, self.id.to_string());
        put(CSI_VOLUME_NAME, self.csi_name.to_owned());
        put(PROTOCOL, self.protocol.name().to_owned());
        put(CAPACITY_BYTES, self.capacity_bytes.to_string());
        put(DELETE_STRATEGY, self.delete_strategy.name().to_owned());
        put(CREATED_AT, created_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let optional =
            [(CLUSTER_ID, self.cluster_id), (PVC_NAME, self.pvc_name), (PVC_NAMESPACE, self.pvc_namespace)];
        for (key, value) in optional {
            if let Some(value) = value {
                put(key, value.to_owned());
            }
        }
        for (key, value) in self.stable_keys {
            put(key, value.clone());
        }
        all
    }
}

/// The properties of a dataset as the appliance shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    properties: BTreeMap<String, String>,
}

impl From<BTreeMap<String, String>> for Metadata {
    fn from(properties: BTreeMap<String, String>) -> Self {
        Metadata { properties }
    }
}

impl From<&[(Box<str>, Box<str>)]> for Metadata {
    fn from(properties: &[(Box<str>, Box<str>)]) -> Self {
        let owned = |(key, value): &(Box<str>, Box<str>)| (key.to_string(), value.to_string());
        Metadata { properties: properties.iter().map(owned).collect() }
    }
}

impl Metadata {
    /// The value of a property; an empty one counts as absent.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.properties.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether the marker is there, without saying whom it is about.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.get(MANAGED_BY) == Some(MANAGER)
    }

    /// How the volume is served. None: not recorded.
    ///
    /// # Errors
    /// A word that names no protocol.
    pub fn protocol(&self) -> Result<Option<Protocol>, UnknownProtocol> {
        self.get(PROTOCOL).map(str::parse).transpose()
    }

    /// What DeleteVolume shall do. None: a word that this driver does not know.
    #[must_use]
    pub fn delete_strategy(&self) -> Option<DeleteStrategy> {
        self.get(DELETE_STRATEGY).map_or(Some(DeleteStrategy::Delete), DeleteStrategy::parse)
    }

    /// A parameter of the class as it was at creation.
    #[must_use]
    pub fn requested_parameter(&self, key: &str) -> Option<&str> {
        self.get(&parameter_property(key))
    }

    /// Whether the content came from elsewhere, so that the device must never be formatted.
    #[must_use]
    pub fn has_foreign_content(&self) -> bool {
        self.get(CONTENT_SOURCE_TYPE).is_some()
    }

    /// The nodes to which volume `id` is granted, by property. Records about another volume (inherited from a parent
    /// or copied with a replica) are left out; one that cannot be read is given as an error.
    pub fn nodes(&self, id: &str) -> BTreeMap<String, Result<NodeRecord, UnreadableRecord>> {
        let records = self.properties.range(NODE_PREFIX.to_owned()..);
        let records =
            records.take_while(|(key, _)| key.starts_with(NODE_PREFIX)).filter(|(_, v)| !v.is_empty());
        let read = records.map(|(key, value)| {
            let record = serde_json::from_str::<NodeRecord>(value);
            (key.clone(), record.map_err(|_| UnreadableRecord { property: key.clone() }))
        });
        read.filter(|(_, record)| record.as_ref().map_or(true, |r| r.volume == id)).collect()
    }

    /// All properties whose name begins with `prefix`, without the prefix.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.properties
            .iter()
            .filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value.as_str())))
    }
}

/// The property that records a parameter of the create request. TrueNAS 26 takes lower-case names only.
#[must_use]
pub fn parameter_property(key: &str) -> String {
    format!("{REQUEST_PREFIX}p.{}", key.to_ascii_lowercase())
}

/// A node record that is not what this driver writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("property {property} is no node record of this driver")]
pub struct UnreadableRecord {
    /// The property.
    pub property: String,
}

/// To whom and as what a volume was granted; the value of a `tns-csi:node.*` property, as JSON of at most 1,024 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The volume this record is about.
    pub volume: String,
    /// Node name, as in the node id.
    pub name: String,
    /// Host UUID: host NQN and initiator name derive from it.
    pub host: Uuid,
    /// Addresses that were let in.
    pub addresses: Vec<IpAddr>,
    /// Whether other nodes may have the volume too.
    pub multi_node: bool,
    /// Whether it was granted as a raw block device.
    pub block: bool,
}

impl NodeRecord {
    /// The record of a grant.
    #[must_use]
    pub fn new(volume: &VolumeId, node: &NodeId, capability: &Capability) -> Self {
        NodeRecord {
            volume: volume.to_string(),
            name: node.name.clone(),
            host: node.host,
            addresses: node.addresses.clone(),
            multi_node: capability.mode.is_multi_node(),
            block: capability.access == Access::Block,
        }
    }

    /// The property's value.
    #[must_use]
    pub fn to_value(&self) -> String {
        // Strings, numbers and booleans in a struct always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// NQN under which the node was let in without authentication.
    #[must_use]
    pub fn host_nqn(&self) -> String {
        tns_csi_proto::identity::host_nqn(&self.host)
    }

    /// Initiator name under which the node was let in.
    #[must_use]
    pub fn initiator(&self) -> String {
        tns_csi_proto::identity::initiator_name(&self.host)
    }

    /// NQN under which the node was let in with authentication.
    #[must_use]
    pub fn authenticated_host_nqn(&self) -> String {
        tns_csi_proto::identity::authenticated_host_nqn(&self.host, &self.volume)
    }
}

/// The property that holds the sealed keys of the node whose grant is recorded under `node_property`.
#[must_use]
pub fn sealed_property(node_property: &str) -> String {
    format!("{SEALED_PREFIX}{}", node_property.strip_prefix(NODE_PREFIX).unwrap_or(node_property))
}

/// The property under which grants to `node` are recorded.
#[must_use]
pub fn node_property(node: &NodeId) -> String {
    format!("{NODE_PREFIX}{}", node.name_hash())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::capability::Mode;

    fn id() -> VolumeId {
        VolumeId::parse("tank/k8s/pvc-1").unwrap()
    }

    fn node() -> NodeId {
        let address = "192.0.2.7".parse().unwrap();
        NodeId::new("worker-1", Uuid::from_u128(7), [address], None).unwrap()
    }

    fn record() -> NodeRecord {
        let capability = Capability { access: Access::Block, mode: Mode::SingleNodeWriter };
        NodeRecord::new(&id(), &node(), &capability)
    }

    #[test]
    fn a_new_volume_says_everything_about_itself() {
        let new = NewVolume {
            id: &id(),
            csi_name: "pvc-1",
            cluster_id: Some("east"),
            protocol: Protocol::Nfs,
            capacity_bytes: 1 << 30,
            delete_strategy: DeleteStrategy::Retain,
            pvc_name: Some("data"),
            pvc_namespace: None,
            stable_keys: &[(NFS_SHARE_PATH, "/mnt/tank/k8s/pvc-1".to_owned())],
            fingerprint: &[("tns-csi:request.v1.range".to_owned(), "1073741824-".to_owned())],
        };
        let properties = new.properties(jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(properties[CREATED_AT], "1970-01-01T00:00:00Z");
        for (key, value) in &properties {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ":._-".contains(c);
            assert!(key.len() <= 255 && key.chars().all(fits), "TrueNAS 26 refuses the key {key}");
            assert!(value.len() <= 1024);
        }
        let read = Metadata::from(properties);
        assert!(read.is_marked());
        assert_eq!(read.get(VOLUME_ID), Some("tank/k8s/pvc-1"));
        assert_eq!(read.protocol(), Ok(Some(Protocol::Nfs)));
        assert_eq!(read.delete_strategy(), Some(DeleteStrategy::Retain));
    }

    #[test]
    fn an_unknown_delete_strategy_is_not_taken_for_delete() {
        let read = Metadata::from(BTreeMap::from([(DELETE_STRATEGY.to_owned(), "archive".to_owned())]));
        assert_eq!(read.delete_strategy(), None);
        assert_eq!(Metadata::default().delete_strategy(), Some(DeleteStrategy::Delete));
    }

    #[test]
    fn a_node_record_reads_back_and_fits_a_property() {
        let read = Metadata::from(BTreeMap::from([(node_property(&node()), record().to_value())]));
        let nodes = read.nodes("tank/k8s/pvc-1");
        assert_eq!(nodes.values().collect::<Vec<_>>(), [&Ok(record())]);
        let many = (0..14).map(|n| IpAddr::from([203, 0, 113, n]));
        let wide = NodeId::new(&"n".repeat(63), Uuid::max(), many, None).unwrap();
        let long = VolumeId::parse(&format!("tank/{}", "v".repeat(123))).unwrap();
        let capability = Capability { access: Access::Block, mode: Mode::SingleNodeWriter };
        assert!(NodeRecord::new(&long, &wide, &capability).to_value().len() <= 1024);
    }

    #[test]
    fn a_record_inherited_from_another_volume_is_not_ours() {
        let read = Metadata::from(BTreeMap::from([(node_property(&node()), record().to_value())]));
        assert!(read.nodes("tank/k8s/pvc-1/child").is_empty());
    }

    #[test]
    fn a_record_that_nobody_can_read_is_told_and_not_skipped() {
        let read = Metadata::from(BTreeMap::from([(format!("{NODE_PREFIX}x"), "worker".to_owned())]));
        assert!(read.nodes("tank/k8s/pvc-1")[&format!("{NODE_PREFIX}x")].is_err());
    }
}
