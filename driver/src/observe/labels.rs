//! The closed sets that metric labels are taken from, so that no request can make a new time series.

use tonic::Code;

/// Every CSI 1.12 call.
const RPCS: &[&str] = &[
    "ControllerExpandVolume",
    "ControllerGetCapabilities",
    "ControllerGetVolume",
    "ControllerModifyVolume",
    "ControllerPublishVolume",
    "ControllerUnpublishVolume",
    "CreateSnapshot",
    "CreateVolume",
    "CreateVolumeGroupSnapshot",
    "DeleteSnapshot",
    "DeleteVolume",
    "DeleteVolumeGroupSnapshot",
    "GetCapacity",
    "GetMetadataAllocated",
    "GetMetadataDelta",
    "GetPluginCapabilities",
    "GetPluginInfo",
    "GetSnapshot",
    "GetVolumeGroupSnapshot",
    "GroupControllerGetCapabilities",
    "ListSnapshots",
    "ListVolumes",
    "NodeExpandVolume",
    "NodeGetCapabilities",
    "NodeGetInfo",
    "NodeGetVolumeStats",
    "NodePublishVolume",
    "NodeStageVolume",
    "NodeUnpublishVolume",
    "NodeUnstageVolume",
    "Probe",
    "ValidateVolumeCapabilities",
];

/// A CSI call by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rpc(&'static str);

impl Rpc {
    /// The call that a gRPC path (`/csi.v1.Node/NodeStageVolume`) names.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        let name =
            path.strip_prefix("/csi.v1.").and_then(|rest| rest.split_once('/')).map_or("", |(_, name)| name);
        Rpc(RPCS.iter().find(|known| **known == name).copied().unwrap_or("unknown"))
    }

    /// The call's name without its service, or `unknown`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0
    }
}

/// What is done to a volume at the appliance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VolumeOperation {
    /// CreateVolume.
    Create,
    /// DeleteVolume.
    Delete,
    /// ControllerPublishVolume.
    Publish,
    /// ControllerUnpublishVolume.
    Unpublish,
    /// ControllerExpandVolume.
    Expand,
}

impl VolumeOperation {
    /// The value of the label `operation`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            VolumeOperation::Create => "create",
            VolumeOperation::Delete => "delete",
            VolumeOperation::Publish => "publish",
            VolumeOperation::Unpublish => "unpublish",
            VolumeOperation::Expand => "expand",
        }
    }
}

/// The value of the label `status`: the gRPC code's own name, `OK` for success.
pub(super) fn status(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_path_names_a_call_of_csi_or_none() {
        assert_eq!(Rpc::of_path("/csi.v1.Node/NodeStageVolume").name(), "NodeStageVolume");
        for path in [
            "",
            "/",
            "/csi.v1.Node",
            "/csi.v1.Node/",
            "/csi.v1.Node/Nonsense",
            "/grpc.health.v1.Health/Probe",
        ] {
            assert_eq!(Rpc::of_path(path).name(), "unknown", "{path:?}");
        }
    }

    #[test]
    fn every_call_of_the_services_has_a_name() {
        let set = prost_types::FileDescriptorSet::decode(tns_csi_proto::FILE_DESCRIPTOR_SET).unwrap();
        let csi = set.file.iter().find(|f| f.package() == "csi.v1").unwrap();
        let mut calls: Vec<&str> = csi.service.iter().flat_map(|s| &s.method).map(|m| m.name()).collect();
        calls.sort_unstable();
        assert_eq!(calls, RPCS);
    }
}
