//! Fields that the requests of the Node service share, and the code that each gets when it cannot be.

use tns_csi_proto::csi::v1 as csi;
use tonic::Status;

use crate::volume::capability::{Capability, Mode};
use crate::volume::failure::{Failure, Kind};
use crate::volume::id::MAX_ID;

/// Longest path the helper takes, in bytes (helper API; PATH_MAX of Linux).
pub const MAX_PATH: usize = 4096;

/// A required text field.
///
/// # Errors
/// INVALID_ARGUMENT naming it when it is empty.
pub fn required(field: &str, value: String) -> Result<String, Failure> {
    if value.is_empty() { Err(Failure::missing(field)) } else { Ok(value) }
}

/// Whether any volume of this driver can have this id, which is at most [`MAX_ID`] bytes.
fn can_exist(volume_id: &str) -> bool {
    volume_id.len() <= MAX_ID && !volume_id.contains('\0')
}

/// The volume id of a call for which an unknown volume is NOT_FOUND.
///
/// # Errors
/// NOT_FOUND for an id that no volume can have.
pub fn existing(volume_id: String) -> Result<String, Failure> {
    if can_exist(&volume_id) {
        return Ok(volume_id);
    }
    let bytes = volume_id.len();
    Err(Failure::new(
        Kind::VolumeNotFound,
        format!(
            "the volume id has {bytes} bytes or a NUL; no volume has one like it (at most {MAX_ID} bytes)"
        ),
    ))
}

/// What unstage and unpublish are about, or none when no volume can have this id or nothing can be at this path: then
/// there is nothing to undo, which is a success.
#[must_use]
pub fn undoable(volume_id: String, path: String) -> Option<(String, String)> {
    let possible = can_exist(&volume_id) && self::path("", path.clone(), Kind::VolumeNotFound).is_ok();
    possible.then_some((volume_id, path))
}

/// Whether a path is one that the helper could ever have used: absolute and at most [`MAX_PATH`] bytes.
///
/// # Errors
/// What is wrong, with `kind`: INVALID_ARGUMENT where the call would use the path, NOT_FOUND where it asks for what
/// is there.
pub fn path(field: &str, path: String, kind: Kind) -> Result<String, Failure> {
    let wrong = if path.len() > MAX_PATH {
        format!("has {} bytes, at most {MAX_PATH} are possible", path.len())
    } else if path.contains('\0') {
        "holds a NUL byte".to_owned()
    } else if !path.starts_with('/') {
        format!("is {path:?}, which is not absolute")
    } else {
        return Ok(path);
    };
    Err(Failure::new(kind, format!("{field} {wrong}")))
}

/// The required volume capability in both its forms: parsed, and the mount flags with it.
///
/// # Errors
/// INVALID_ARGUMENT naming what is missing or impossible.
pub fn capability(
    capability: Option<csi::VolumeCapability>,
) -> Result<(Capability, csi::volume_capability::MountVolume), Failure> {
    use csi::volume_capability::AccessType;
    let capability = capability.ok_or_else(|| Failure::missing("volume_capability"))?;
    let parsed = Capability::parse("volume_capability", &capability)?;
    let mount = match capability.access_type {
        Some(AccessType::Mount(mount)) => mount,
        _ => csi::volume_capability::MountVolume::default(),
    };
    if !mount.volume_mount_group.is_empty() {
        return Err(Failure::invalid(
            "volume_capability.mount.volume_mount_group is set, but this driver does not advertise VOLUME_MOUNT_GROUP",
        ));
    }
    Ok((parsed, mount))
}

/// Whether the mode allows reading only.
#[must_use]
pub fn reads_only(mode: Mode) -> bool {
    matches!(mode, Mode::SingleNodeReaderOnly | Mode::MultiNodeReaderOnly)
}

/// Whether only one target per node may exist (CSI 1.12, NodePublishVolume, second table: every single-node mode but
/// SINGLE_NODE_MULTI_WRITER, to which Kubernetes maps ReadWriteOnce).
#[must_use]
pub fn is_exclusive(mode: Mode) -> bool {
    matches!(mode, Mode::SingleNodeWriter | Mode::SingleNodeReaderOnly | Mode::SingleNodeSingleWriter)
}

/// An INVALID_ARGUMENT from any error that explains itself.
pub fn invalid(error: &dyn std::error::Error) -> Status {
    Status::invalid_argument(error.to_string())
}
