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

/// What a capability says of a mount beside its file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Mount options, which may hold secrets.
    pub flags: Vec<String>,
    /// Group that shall own the volume.
    pub group: Option<u32>,
}

/// The required volume capability, with what it says of the mount.
///
/// # Errors
/// INVALID_ARGUMENT naming what is missing or impossible.
pub fn capability(capability: Option<csi::VolumeCapability>) -> Result<(Capability, Mount), Failure> {
    use csi::volume_capability::AccessType;
    let capability = capability.ok_or_else(|| Failure::missing("volume_capability"))?;
    let parsed = Capability::parse("volume_capability", &capability)?;
    let mount = match capability.access_type {
        Some(AccessType::Mount(mount)) => {
            Mount { group: group(&mount.volume_mount_group)?, flags: mount.mount_flags }
        }
        _ => Mount::default(),
    };
    Ok((parsed, mount))
}

/// A mount group: empty for none, else a group id in decimal digits. The largest 32-bit number is none: chown(2) takes
/// it for "as it was".
fn group(text: &str) -> Result<Option<u32>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u32>() {
        Ok(id) if digits && id != u32::MAX => Ok(Some(id)),
        _ => Err(Failure::invalid(format!(
            "volume_capability.mount.volume_mount_group {:?} is no group id: it has to be a decimal number below {}",
            text.chars().take(32).collect::<String>(),
            u32::MAX
        ))),
    }
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

#[cfg(test)]
mod tests {
    use super::group;

    #[test]
    fn a_mount_group_is_a_number_and_nothing_else() {
        assert_eq!(group("").unwrap(), None);
        assert_eq!(group("0").unwrap(), Some(0));
        assert_eq!(group("2000").unwrap(), Some(2000));
        for wrong in ["staff", "-1", "+5", " 5", "5,uid=0", "4294967295", "4294967296"] {
            assert!(group(wrong).unwrap_err().message.contains("volume_mount_group"), "{wrong}");
        }
    }
}
