//! NodeGetInfo and NodeGetCapabilities: who this node is and what its agent can do.

use std::net::IpAddr;

use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::helper::v1;
use tonic::Status;
use uuid::Uuid;

use crate::volume::node_id::NodeId;

/// The optional calls that work. SINGLE_NODE_MULTI_WRITER is among them on node and controller alike: Kubernetes then
/// maps ReadWriteOnce to it, and two pods of one node may share a volume. With VOLUME_MOUNT_GROUP kubelet leaves a pod's
/// `fsGroup` to the helper on every protocol.
#[must_use]
pub fn capabilities() -> csi::NodeGetCapabilitiesResponse {
    use csi::node_service_capability::rpc::Type;
    use csi::node_service_capability::{Rpc, Type as Capability};
    let capabilities = [
        Type::StageUnstageVolume,
        Type::GetVolumeStats,
        Type::ExpandVolume,
        Type::VolumeCondition,
        Type::SingleNodeMultiWriter,
        Type::VolumeMountGroup,
    ]
    .into_iter()
    .map(|rpc| csi::NodeServiceCapability { r#type: Some(Capability::Rpc(Rpc { r#type: rpc.into() })) })
    .collect();
    csi::NodeGetCapabilitiesResponse { capabilities }
}

/// The node id that the helper's answer makes.
///
/// # Errors
/// FAILED_PRECONDITION naming the part of the helper's answer that makes no node id.
pub fn node_id(host: &v1::GetHostInfoResponse) -> Result<NodeId, Status> {
    let refuse = |what: String| {
        Status::failed_precondition(format!(
            "the node-helper's answer makes no node id: {what}; check its flags"
        ))
    };
    let uuid = Uuid::try_parse(&host.host_uuid)
        .map_err(|_| refuse(format!("host_uuid {:?} is no UUID", host.host_uuid)))?;
    let addresses = host
        .storage_addresses
        .iter()
        .map(|a| a.parse::<IpAddr>().map_err(|_| refuse(format!("storage address {a:?} is no IP address"))))
        .collect::<Result<Vec<_>, _>>()?;
    let public_key = match host.public_key.as_slice() {
        [] => None,
        key => Some(
            <[u8; 32]>::try_from(key)
                .map_err(|_| refuse(format!("public_key has {} bytes, expected 32", key.len())))?,
        ),
    };
    NodeId::new(&host.node_name, uuid, addresses, public_key).map_err(|error| refuse(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> v1::GetHostInfoResponse {
        v1::GetHostInfoResponse {
            node_name: "worker-1".to_owned(),
            host_uuid: "01234567-89ab-4cde-8f01-23456789abcd".to_owned(),
            storage_addresses: vec!["192.0.2.7".to_owned()],
            ..Default::default()
        }
    }

    #[test]
    fn the_node_id_is_the_helpers_identity() {
        assert_eq!(
            node_id(&host()).unwrap().to_string(),
            "worker-1;0123456789ab4cde8f0123456789abcd;192.0.2.7"
        );
    }

    #[test]
    fn a_part_that_makes_no_id_is_named() {
        type Spoil = fn(&mut v1::GetHostInfoResponse);
        let cases: [(&str, Spoil); 5] = [
            ("host_uuid", |h| h.host_uuid = "x".to_owned()),
            ("storage address", |h| h.storage_addresses = vec!["nas".to_owned()]),
            ("at least one storage address", |h| h.storage_addresses.clear()),
            ("node name", |h| h.node_name.clear()),
            ("public_key has 3 bytes", |h| h.public_key = vec![1, 2, 3]),
        ];
        for (named, spoil) in cases {
            let mut host = host();
            spoil(&mut host);
            let status = node_id(&host).unwrap_err();
            assert_eq!(status.code(), tonic::Code::FailedPrecondition);
            assert!(status.message().contains(named), "{named}: {}", status.message());
        }
    }
}
