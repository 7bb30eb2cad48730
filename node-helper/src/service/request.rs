//! From messages to typed requests: every field is checked here once, before anything is touched.

use std::time::Duration;

use prost::Message;
use sha2::{Digest, Sha256};
use tns_csi_proto::helper::v1 as api;
use tokio::time::Instant;

use crate::failure::{Failure, Kind};
use crate::filesystem::{FsType, MkfsOptions};
use crate::mount::options::Family;
use crate::mount::{BindOptions, MountOptions};
use crate::paths::{Layout, PathError};
use crate::source::{Source, VolumeId};
use crate::volume::{Call, Expand, Publish, Stage, StageAccess, Stats, Unpublish, Unstage};

/// Time of a request that names none: a little less than kubelet's own two minutes.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(110_000);
/// Longest time that is granted.
const MAX_TIMEOUT: Duration = Duration::from_millis(600_000);
/// Most time that is kept for taking back what was begun and for answering, out of a request's own.
const MAX_MARGIN: Duration = Duration::from_secs(5);

fn call<M: Message>(message: &M, timeout_ms: u32) -> Call {
    let timeout = match timeout_ms {
        0 => DEFAULT_TIMEOUT,
        milliseconds => Duration::from_millis(u64::from(milliseconds)).min(MAX_TIMEOUT),
    };
    let now = Instant::now();
    Call {
        deadline: now.checked_add(timeout - (timeout / 10).min(MAX_MARGIN)).unwrap_or(now),
        answer_by: now.checked_add(timeout).unwrap_or(now),
        // A hash, because the message may carry secrets and the registry keeps this while the work runs.
        fingerprint: Sha256::digest(message.encode_to_vec()).to_vec(),
    }
}

fn invalid(error: &PathError) -> Failure {
    Failure::invalid(error.to_string())
}

/// Parses StageVolume.
pub fn stage(message: &api::StageVolumeRequest, layout: &Layout) -> Result<(Stage, Call), Failure> {
    use api::stage_volume_request::Access;
    let volume = VolumeId::parse(&message.volume_id)?;
    let Some(access) = &message.access else {
        return Err(Failure::invalid("access is missing: filesystem or block"));
    };
    let block = matches!(access, Access::Block(_));
    let staging = layout.staging(&message.staging_path, &volume, block).map_err(|error| invalid(&error))?;
    let source = Source::parse(message.source.as_ref())?;
    if source.is_block() && message.capacity_bytes == 0 {
        return Err(Failure::invalid(
            "capacity_bytes is missing: a block volume is checked against its size",
        ));
    }
    let access = match access {
        Access::Block(_) if !source.is_block() => {
            return Err(Failure::invalid("access.block: this protocol serves files, not block devices"));
        }
        Access::Block(_) => StageAccess::RawBlock { readonly: message.readonly },
        Access::Filesystem(wanted) => filesystem(wanted, &source, message.readonly)?,
    };
    let request = Stage {
        volume,
        staging,
        source,
        access,
        capacity: message.capacity_bytes,
        never_format: message.never_format,
    };
    let same = api::StageVolumeRequest { min_revision: 0, timeout_ms: 0, ..message.clone() };
    Ok((request, call(&same, message.timeout_ms)))
}

fn filesystem(
    wanted: &api::FilesystemAccess,
    source: &Source,
    readonly: bool,
) -> Result<StageAccess, Failure> {
    let group = group("access.filesystem.group", wanted.group)?;
    let name = wanted.fs_type.as_str();
    if !source.is_block() {
        let (family, fs_type) = match source {
            Source::Smb(_) => (Family::Cifs, "cifs"),
            _ => (Family::Nfs, "nfs"),
        };
        if !name.is_empty() && name != fs_type {
            return Err(Failure::invalid(format!(
                "access.filesystem.fs_type {name:?} does not fit this source, which is {fs_type}"
            )));
        }
        if !wanted.mkfs_options.is_empty() {
            return Err(Failure::invalid("access.filesystem.mkfs_options: a file source is never formatted"));
        }
        let mut options = MountOptions::parse(family, &wanted.mount_flags, readonly)?;
        if let (Family::Cifs, Some(group)) = (family, group) {
            options.give_to_group(group)?;
        }
        return Ok(StageAccess::Export { fs_type, options, group });
    }
    let kind = match name {
        "" => FsType::Ext4,
        name => name.parse().map_err(|_| {
            Failure::invalid(format!("access.filesystem.fs_type {name:?} is none of ext4, xfs, btrfs"))
        })?,
    };
    let options = MountOptions::parse(Family::Block(kind), &wanted.mount_flags, readonly)?;
    let mkfs_options = MkfsOptions::parse(kind, &wanted.mkfs_options)
        .map_err(|error| Failure::invalid(format!("access.filesystem.mkfs_options: {error}")))?;
    Ok(StageAccess::Filesystem { kind, options, mkfs_options, group })
}

/// A group id. The largest number is none: chown(2) takes it for "as it was".
fn group(field: &str, id: Option<u32>) -> Result<Option<u32>, Failure> {
    if id == Some(u32::MAX) {
        return Err(Failure::invalid(format!("{field}: {} is no group id", u32::MAX)));
    }
    Ok(id)
}

/// Parses UnstageVolume. A path of another shape cannot be where this volume is staged: that is a success of nothing,
/// which the flow answers.
pub fn unstage(message: &api::UnstageVolumeRequest, layout: &Layout) -> Result<(Unstage, Call), Failure> {
    let volume = VolumeId::parse(&message.volume_id)?;
    if message.staging_path.is_empty() {
        return Err(Failure::invalid("staging_path is missing"));
    }
    let staging = layout.any(&message.staging_path, &volume, "staging_path").ok();
    let same = api::UnstageVolumeRequest { min_revision: 0, timeout_ms: 0, ..message.clone() };
    Ok((Unstage { volume, staging }, call(&same, message.timeout_ms)))
}

/// Parses PublishVolume.
pub fn publish(message: &api::PublishVolumeRequest, layout: &Layout) -> Result<(Publish, Call), Failure> {
    let volume = VolumeId::parse(&message.volume_id)?;
    let staging =
        layout.staging(&message.staging_path, &volume, message.block).map_err(|error| invalid(&error))?;
    let target = layout.target(&message.target_path, message.block).map_err(|error| invalid(&error))?;
    if staging.0 == target.0 {
        return Err(Failure::invalid("target_path is the staging path"));
    }
    let options = BindOptions::parse(&message.mount_flags, message.readonly)?;
    let group = group("group", message.group)?;
    if message.block && group.is_some() {
        return Err(Failure::invalid("group: a raw block device belongs to no group"));
    }
    let (block, exclusive) = (message.block, message.exclusive);
    let request = Publish { volume, staging, target, block, exclusive, options, group };
    let same = api::PublishVolumeRequest { min_revision: 0, timeout_ms: 0, ..message.clone() };
    Ok((request, call(&same, message.timeout_ms)))
}

/// Parses UnpublishVolume; paths as in [`unstage`].
pub fn unpublish(
    message: &api::UnpublishVolumeRequest,
    layout: &Layout,
) -> Result<(Unpublish, Call), Failure> {
    let volume = VolumeId::parse(&message.volume_id)?;
    if message.target_path.is_empty() {
        return Err(Failure::invalid("target_path is missing"));
    }
    let target = layout.any(&message.target_path, &volume, "target_path").ok();
    let same = api::UnpublishVolumeRequest { min_revision: 0, timeout_ms: 0, ..message.clone() };
    Ok((Unpublish { volume, target }, call(&same, message.timeout_ms)))
}

/// Parses ExpandVolume.
pub fn expand(message: &api::ExpandVolumeRequest, layout: &Layout) -> Result<(Expand, Call), Failure> {
    let volume = VolumeId::parse(&message.volume_id)?;
    let path = present_path(&message.volume_path, &volume, layout)?;
    let same = api::ExpandVolumeRequest { min_revision: 0, timeout_ms: 0, ..message.clone() };
    let request = Expand { volume, path, required: message.required_bytes };
    Ok((request, call(&same, message.timeout_ms)))
}

/// Parses GetVolumeStats.
pub fn stats(message: &api::GetVolumeStatsRequest, layout: &Layout) -> Result<(Stats, Call), Failure> {
    let volume = VolumeId::parse(&message.volume_id)?;
    let path = present_path(&message.volume_path, &volume, layout)?;
    let same = api::GetVolumeStatsRequest { min_revision: 0, timeout_ms: 0, ..message.clone() };
    Ok((Stats { volume, path }, call(&same, message.timeout_ms)))
}

/// A path at which the volume is said to be: one where it cannot be is NOT_FOUND (CSI, NodeGetVolumeStats).
fn present_path(text: &str, volume: &VolumeId, layout: &Layout) -> Result<crate::paths::VolumePath, Failure> {
    if text.is_empty() {
        return Err(Failure::invalid("volume_path is missing"));
    }
    layout.any(text, volume, "volume_path").map_err(|error| Failure::new(Kind::NotFound, error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn layout() -> Layout {
        Layout::new(Path::new("/var/lib/kubelet"), "tns.csi.io", &["csi-sanity".to_owned()])
            .expect("a layout")
    }

    fn nvme() -> api::Source {
        api::Source {
            protocol: Some(api::source::Protocol::Nvmeof(api::NvmeofSource {
                portals: vec![api::Portal { address: "192.0.2.7".to_owned(), port: 0 }],
                subsystem_nqn: "nqn.2011-06.com.truenas:uuid:a".to_owned(),
                namespace_uuid: "6a1d0f4e-0000-4000-8000-000000000001".to_owned(),
                ..Default::default()
            })),
        }
    }

    fn request() -> api::StageVolumeRequest {
        api::StageVolumeRequest {
            volume_id: "tank/a".to_owned(),
            staging_path: "/var/lib/kubelet/csi-sanity/staging".to_owned(),
            source: Some(nvme()),
            access: Some(api::stage_volume_request::Access::Filesystem(api::FilesystemAccess::default())),
            capacity_bytes: 1 << 30,
            ..Default::default()
        }
    }

    fn refusal(change: impl FnOnce(&mut api::StageVolumeRequest)) -> Failure {
        let mut message = request();
        change(&mut message);
        stage(&message, &layout()).expect_err("refused")
    }

    #[test]
    fn a_missing_or_wrong_field_is_named() {
        use api::stage_volume_request::Access;
        assert!(stage(&request(), &layout()).is_ok());
        assert!(refusal(|m| m.volume_id.clear()).message.contains("volume_id"));
        assert!(refusal(|m| m.staging_path.clear()).message.contains("staging_path"));
        assert!(refusal(|m| m.source = None).message.contains("source"));
        assert!(refusal(|m| m.access = None).message.contains("access"));
        assert!(refusal(|m| m.capacity_bytes = 0).message.contains("capacity_bytes"));
        let with = |fs_type: &str| {
            Some(Access::Filesystem(api::FilesystemAccess {
                fs_type: fs_type.to_owned(),
                ..Default::default()
            }))
        };
        assert!(refusal(|m| m.access = with("ntfs")).message.contains("ntfs"));
        let of_nobody = api::FilesystemAccess { group: Some(u32::MAX), ..Default::default() };
        assert!(refusal(|m| m.access = Some(Access::Filesystem(of_nobody))).message.contains("group"));
        let nfs = api::NfsSource {
            portal: Some(api::Portal { address: "192.0.2.7".to_owned(), port: 0 }),
            export: "/mnt/a".to_owned(),
        };
        let nfs = Some(api::Source { protocol: Some(api::source::Protocol::Nfs(nfs)) });
        assert!(
            refusal(|m| {
                m.source = nfs.clone();
                m.access = Some(Access::Block(api::BlockAccess {}));
                m.staging_path = "/var/lib/kubelet/csi-sanity/staging".to_owned();
            })
            .message
            .contains("files")
        );
        assert!(
            refusal(|m| {
                m.source = nfs;
                m.access = with("ext4");
            })
            .message
            .contains("fs_type")
        );
    }

    #[test]
    fn a_request_is_the_same_whatever_its_deadline_and_revision() {
        let layout = layout();
        let (_, first) = stage(&request(), &layout).expect("valid");
        let (_, again) =
            stage(&api::StageVolumeRequest { timeout_ms: 5, min_revision: 1, ..request() }, &layout)
                .expect("valid");
        let (_, other) =
            stage(&api::StageVolumeRequest { readonly: true, ..request() }, &layout).expect("valid");
        assert_eq!(first.fingerprint, again.fingerprint);
        assert_ne!(first.fingerprint, other.fingerprint);
        assert!(again.deadline < first.deadline);
        assert!(first.answer_by - first.deadline == MAX_MARGIN, "the work's last words arrive in time");
        assert!(again.deadline < again.answer_by);
    }

    #[test]
    fn a_path_where_no_volume_can_be_is_not_found_or_nothing_to_undo() {
        let layout = layout();
        let message = api::GetVolumeStatsRequest {
            volume_id: "tank/a".to_owned(),
            volume_path: "some/path".to_owned(),
            ..Default::default()
        };
        assert_eq!(stats(&message, &layout).expect_err("no such place").kind, Kind::NotFound);
        let message = api::GetVolumeStatsRequest { volume_path: String::new(), ..message };
        assert_eq!(stats(&message, &layout).expect_err("missing").kind, Kind::InvalidArgument);
        let message = api::UnpublishVolumeRequest {
            volume_id: "tank/a".to_owned(),
            target_path: "/etc".to_owned(),
            ..Default::default()
        };
        assert_eq!(unpublish(&message, &layout).expect("nothing to undo").0.target, None);
    }
}
