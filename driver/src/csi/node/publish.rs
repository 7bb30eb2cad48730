//! NodePublishVolume and NodeUnpublishVolume as the helper's PublishVolume and UnpublishVolume.

use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::helper::v1;
use tonic::Status;

use super::request;
use crate::volume::capability::Access;
use crate::volume::context::Connection;
use crate::volume::failure::{Failure, Kind};

/// The helper's request for a publish.
///
/// # Errors
/// INVALID_ARGUMENT naming the field or key; FAILED_PRECONDITION without a staging path (CSI 1.12, NodePublishVolume,
/// "Staging target path not set"); NOT_FOUND for an id that cannot be.
pub fn publish(asked: csi::NodePublishVolumeRequest) -> Result<v1::PublishVolumeRequest, Status> {
    let volume_id = request::required("volume_id", asked.volume_id)?;
    let target_path = request::required("target_path", asked.target_path)?;
    let (capability, mount) = request::capability(asked.volume_capability)?;
    if asked.staging_target_path.is_empty() {
        return Err(Failure::precondition("staging_target_path is missing: stage the volume first").into());
    }
    let volume_id = request::existing(volume_id)?;
    let staging_path = request::path("staging_target_path", asked.staging_target_path, Kind::InvalidRequest)?;
    let target_path = request::path("target_path", target_path, Kind::InvalidRequest)?;
    // The staged volume knows its source. A context that comes along still tells an impossible use at once.
    if !asked.publish_context.is_empty() {
        let connection =
            Connection::from_publish_context(&asked.publish_context).map_err(|e| request::invalid(&e))?;
        capability.check(connection.protocol())?;
    }
    Ok(v1::PublishVolumeRequest {
        min_revision: 0,
        timeout_ms: 0,
        volume_id,
        staging_path,
        target_path,
        block: capability.access == Access::Block,
        readonly: asked.readonly || request::reads_only(capability.mode),
        exclusive: request::is_exclusive(capability.mode),
        mount_flags: mount.flags,
        group: mount.group,
    })
}

/// The helper's request for an unpublish, or none when there cannot be anything to undo.
///
/// # Errors
/// INVALID_ARGUMENT naming a missing field.
pub fn unpublish(
    asked: csi::NodeUnpublishVolumeRequest,
) -> Result<Option<v1::UnpublishVolumeRequest>, Status> {
    let volume_id = request::required("volume_id", asked.volume_id)?;
    let target_path = request::required("target_path", asked.target_path)?;
    Ok(request::undoable(volume_id, target_path).map(|(volume_id, target_path)| v1::UnpublishVolumeRequest {
        min_revision: 0,
        timeout_ms: 0,
        volume_id,
        target_path,
    }))
}
