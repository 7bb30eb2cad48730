//! NodeStageVolume and NodeUnstageVolume as the helper's StageVolume and UnstageVolume.

use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::helper::v1;
use tns_csi_proto::helper::v1::stage_volume_request::Access as HelperAccess;
use tonic::Status;

use super::request;
use crate::helper::source::source;
use crate::volume::capability::Access;
use crate::volume::context::{Connection, default_fs_type, mkfs_options};
use crate::volume::failure::{Failure, Kind};

/// The helper's request for a stage.
///
/// # Errors
/// INVALID_ARGUMENT naming the field, publish context key or secret key; NOT_FOUND for an id that cannot be.
pub fn stage(asked: csi::NodeStageVolumeRequest) -> Result<v1::StageVolumeRequest, Status> {
    let volume_id = request::required("volume_id", asked.volume_id)?;
    let staging_path = request::required("staging_target_path", asked.staging_target_path)?;
    let (capability, mount) = request::capability(asked.volume_capability)?;
    if asked.publish_context.is_empty() {
        return Err(Failure::missing("publish_context").into());
    }
    let volume_id = request::existing(volume_id)?;
    let staging_path = request::path("staging_target_path", staging_path, Kind::InvalidRequest)?;

    let connection =
        Connection::from_publish_context(&asked.publish_context).map_err(|e| request::invalid(&e))?;
    let access = match &capability.access {
        Access::Block => Access::Block,
        Access::Mount { fs_type } if fs_type.is_empty() && connection.protocol().is_block() => {
            Access::Mount { fs_type: default_fs_type(&asked.volume_context).unwrap_or_default().to_owned() }
        }
        mount => mount.clone(),
    };
    let capability = crate::volume::capability::Capability { access, ..capability };
    capability.check(connection.protocol())?;

    let source = source(&connection, &asked.secrets).map_err(|e| request::invalid(&e))?;
    let (capacity_bytes, never_format) = match &connection {
        Connection::Nfs { .. } | Connection::Smb { .. } => (0, false),
        Connection::Iscsi { capacity_bytes, never_format, .. }
        | Connection::Nvmeof { capacity_bytes, never_format, .. } => (*capacity_bytes, *never_format),
    };
    let access = match capability.access {
        Access::Block => HelperAccess::Block(v1::BlockAccess {}),
        Access::Mount { fs_type } => HelperAccess::Filesystem(v1::FilesystemAccess {
            // A file protocol is its own file system, whatever word the capability used for it.
            fs_type: if connection.protocol().is_block() { fs_type } else { String::new() },
            mount_flags: mount.flags,
            mkfs_options: match connection.protocol().is_block() {
                true => mkfs_options(&asked.volume_context),
                false => Vec::new(),
            },
            group: mount.group,
        }),
    };
    Ok(v1::StageVolumeRequest {
        min_revision: 0,
        timeout_ms: 0,
        volume_id,
        staging_path,
        source: Some(source),
        access: Some(access),
        capacity_bytes,
        never_format,
        readonly: request::reads_only(capability.mode),
    })
}

/// The helper's request for an unstage, or none when there cannot be anything to undo.
///
/// # Errors
/// INVALID_ARGUMENT naming a missing field.
pub fn unstage(asked: csi::NodeUnstageVolumeRequest) -> Result<Option<v1::UnstageVolumeRequest>, Status> {
    let volume_id = request::required("volume_id", asked.volume_id)?;
    let staging_path = request::required("staging_target_path", asked.staging_target_path)?;
    Ok(request::undoable(volume_id, staging_path).map(|(volume_id, staging_path)| v1::UnstageVolumeRequest {
        min_revision: 0,
        timeout_ms: 0,
        volume_id,
        staging_path,
    }))
}
