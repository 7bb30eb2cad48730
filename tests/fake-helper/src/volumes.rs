//! The verbs on plain files: a block volume is a sparse file, an NFS export a directory, a mount a link.
//!
//! Codes and idempotency are the real helper's: what is repeated is a success, what differs is ALREADY_EXISTS, and
//! nothing is removed that the record does not name as this volume's.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tns_csi_proto::helper::v1;
use tns_csi_proto::helper::v1::source::Protocol;
use tns_csi_proto::helper::v1::stage_volume_request::Access;
use tonic::Status;

use crate::paths::{Layout, Use, sha256};
use crate::state::{Staged, State, Target, Volume};

/// Name of the link in a staging directory that stands for the mount.
const STAGED_LINK: &str = "volume";
/// File systems that the fake pretends to make.
const FILESYSTEMS: [&str; 3] = ["ext4", "xfs", "btrfs"];

/// The volumes of one host.
#[derive(Debug)]
pub struct Volumes {
    /// What is remembered.
    pub state: State,
    /// Where it is remembered, and the data with it.
    pub dir: PathBuf,
    /// Which paths are accepted.
    pub layout: Layout,
}

fn internal(what: &str, error: &dyn std::fmt::Display) -> Status {
    Status::internal(format!("{what}: {error}"))
}

/// A volume id of 1 to 128 bytes.
fn volume_id(id: &str) -> Result<(), Status> {
    if (1..=128).contains(&id.len()) {
        Ok(())
    } else {
        Err(Status::invalid_argument(format!("volume_id has {} bytes, expected 1 to 128", id.len())))
    }
}

fn portals(portals: &[v1::Portal]) -> Result<(), Status> {
    if !(1..=16).contains(&portals.len()) || portals.iter().any(|p| p.address.is_empty() || p.port > 65535) {
        return Err(Status::invalid_argument("source.portals: expected 1 to 16 portals with an address"));
    }
    Ok(())
}

/// The protocol and identity of a source.
fn identity(source: Option<&v1::Source>) -> Result<(&'static str, String), Status> {
    match source.and_then(|s| s.protocol.as_ref()) {
        None => Err(Status::invalid_argument("source is missing")),
        Some(Protocol::Nfs(nfs)) => {
            portals(nfs.portal.as_slice())?;
            if !nfs.export.starts_with('/') {
                return Err(Status::invalid_argument("source.nfs.export is no absolute path"));
            }
            let server = nfs.portal.as_ref().map(|p| p.address.as_str()).unwrap_or_default();
            Ok(("nfs", format!("{server}:{}", nfs.export)))
        }
        Some(Protocol::Nvmeof(nvme)) => {
            portals(&nvme.portals)?;
            if !(11..=223).contains(&nvme.subsystem_nqn.len()) {
                return Err(Status::invalid_argument("source.nvmeof.subsystem_nqn has not 11 to 223 bytes"));
            }
            if nvme.namespace_uuid.is_empty() && nvme.namespace_nguid.is_empty() {
                return Err(Status::invalid_argument(
                    "source.nvmeof: namespace_uuid or namespace_nguid is missing",
                ));
            }
            Ok(("nvmeof", format!("{} {}{}", nvme.subsystem_nqn, nvme.namespace_uuid, nvme.namespace_nguid)))
        }
        Some(Protocol::Smb(smb)) => {
            portals(smb.portal.as_slice())?;
            if smb.share.is_empty() || smb.share.contains(['/', '\\']) {
                return Err(Status::invalid_argument("source.smb.share is no share name"));
            }
            if smb.username.is_empty() && !smb.password.is_empty() {
                return Err(Status::invalid_argument(
                    "source.smb.username is missing although there is a password",
                ));
            }
            let server = smb.portal.as_ref().map(|p| p.address.as_str()).unwrap_or_default();
            // With the user and without the password: a changed password is the same volume.
            Ok(("smb", format!("//{server}/{} of {}", smb.share, smb.username)))
        }
        Some(Protocol::Iscsi(iscsi)) => {
            portals(&iscsi.portals)?;
            if !iscsi.iqn.starts_with("iqn.") || iscsi.iqn.len() > 223 {
                return Err(Status::invalid_argument("source.iscsi.iqn is no target name"));
            }
            if iscsi.serial.is_empty() && iscsi.naa.is_empty() {
                return Err(Status::invalid_argument("source.iscsi: serial or naa is missing"));
            }
            Ok(("iscsi", format!("{} {} {}{}", iscsi.iqn, iscsi.lun, iscsi.serial, iscsi.naa)))
        }
    }
}

impl Volumes {
    fn save(&self) -> Result<(), Status> {
        self.state.save(&self.dir).map_err(|error| internal("state", &error))
    }

    /// StageVolume.
    ///
    /// # Errors
    /// As the helper API says.
    pub fn stage(&mut self, asked: &v1::StageVolumeRequest) -> Result<v1::StageVolumeResponse, Status> {
        volume_id(&asked.volume_id)?;
        let access = asked.access.as_ref().ok_or_else(|| Status::invalid_argument("access is missing"))?;
        let block = matches!(access, Access::Block(_));
        let path = self
            .layout
            .parse(&asked.staging_path, &asked.volume_id, Use::Staging, block)
            .map_err(Status::invalid_argument)?;
        let (protocol, identity) = identity(asked.source.as_ref())?;
        let wanted = staged(protocol, identity, access, asked.readonly)?;
        if ["iscsi", "nvmeof"].contains(&protocol) && asked.capacity_bytes == 0 {
            return Err(Status::invalid_argument("capacity_bytes is missing"));
        }
        if !path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            return Err(Status::failed_precondition(format!(
                "staging path {} is no directory",
                path.display()
            )));
        }
        let fs_type = wanted.fs_type.clone();
        if let Some(present) = self.state.volumes.get_mut(&asked.volume_id) {
            let same = Staged { group: present.staged.group, ..wanted.clone() };
            if present.staging_path != asked.staging_path || present.staged != same {
                return Err(Status::already_exists(format!(
                    "volume {} is staged at {} as {:?} ({}), asked for is {:?} ({}) at {}",
                    asked.volume_id,
                    present.staging_path,
                    present.staged.fs_type,
                    present.staged.identity,
                    fs_type,
                    wanted.identity,
                    asked.staging_path
                )));
            }
            settle_group(present, wanted.group, "").map_err(Status::already_exists)?;
            link(&present.data, &path)?;
            self.save()?;
            return Ok(v1::StageVolumeResponse { outcome: "already staged".to_owned(), fs_type });
        }
        if let Some((other, _)) =
            self.state.volumes.iter().find(|(_, v)| v.staging_path == asked.staging_path)
        {
            return Err(Status::failed_precondition(format!(
                "volume {other} is staged at {}",
                path.display()
            )));
        }
        let (data, outcome) = self.prepare(&wanted, asked)?;
        let volume = Volume {
            staged: wanted,
            staging_path: asked.staging_path.clone(),
            data: data.clone(),
            targets: Default::default(),
        };
        self.state.volumes.insert(asked.volume_id.clone(), volume);
        self.save()?;
        link(&data, &path)?;
        Ok(v1::StageVolumeResponse { outcome: outcome.to_owned(), fs_type })
    }

    /// Makes what stands for the data; a blank device is "formatted" by a file beside it that names its file system.
    fn prepare(
        &self,
        wanted: &Staged,
        asked: &v1::StageVolumeRequest,
    ) -> Result<(PathBuf, &'static str), Status> {
        let hash = sha256(&wanted.identity);
        if ["nfs", "smb"].contains(&wanted.protocol.as_str()) {
            let export = self.dir.join("exports").join(hash);
            std::fs::create_dir_all(&export).map_err(|error| internal("export", &error))?;
            return Ok((export, "mounted"));
        }
        let devices = self.dir.join("devices");
        std::fs::create_dir_all(&devices).map_err(|error| internal("devices", &error))?;
        let (device, label) = (devices.join(&hash), devices.join(format!("{hash}.fs")));
        grow(&device, asked.capacity_bytes)?;
        if wanted.block {
            return Ok((device, "connected"));
        }
        match std::fs::read_to_string(&label) {
            Ok(found) if found == wanted.fs_type => Ok((device, "mounted")),
            Ok(found) => Err(Status::failed_precondition(format!(
                "the device of volume {} holds {found}, not {}: it is not formatted",
                asked.volume_id, wanted.fs_type
            ))),
            Err(_) if asked.never_format => Err(Status::failed_precondition(format!(
                "the device of volume {} is blank, but the volume has content from elsewhere: it is not formatted",
                asked.volume_id
            ))),
            Err(_) => {
                std::fs::write(&label, &wanted.fs_type).map_err(|error| internal("format", &error))?;
                Ok((device, "formatted and mounted"))
            }
        }
    }

    /// UnstageVolume.
    ///
    /// # Errors
    /// As the helper API says.
    pub fn unstage(&mut self, asked: &v1::UnstageVolumeRequest) -> Result<v1::UnstageVolumeResponse, Status> {
        volume_id(&asked.volume_id)?;
        let nothing = || Ok(v1::UnstageVolumeResponse { outcome: "not staged there".to_owned() });
        let Some(volume) = self.state.volumes.get(&asked.volume_id) else { return nothing() };
        if volume.staging_path != asked.staging_path {
            return nothing();
        }
        if !volume.targets.is_empty() {
            let targets: Vec<&str> = volume.targets.keys().map(String::as_str).collect();
            return Err(Status::failed_precondition(format!(
                "volume {} is still published at {}",
                asked.volume_id,
                targets.join(", ")
            )));
        }
        unlink(&Path::new(&volume.staging_path).join(STAGED_LINK), &volume.data)?;
        self.state.volumes.remove(&asked.volume_id);
        self.save()?;
        Ok(v1::UnstageVolumeResponse { outcome: "unstaged".to_owned() })
    }

    /// PublishVolume.
    ///
    /// # Errors
    /// As the helper API says.
    pub fn publish(&mut self, asked: &v1::PublishVolumeRequest) -> Result<v1::PublishVolumeResponse, Status> {
        volume_id(&asked.volume_id)?;
        let parse = |path: &str, wanted: Use| {
            self.layout.parse(path, &asked.volume_id, wanted, asked.block).map_err(Status::invalid_argument)
        };
        parse(&asked.staging_path, Use::Staging)?;
        let target = parse(&asked.target_path, Use::Target)?;
        let elsewhere = self.state.volumes.iter().find(|(id, v)| {
            **id != asked.volume_id
                && (v.targets.contains_key(&asked.target_path) || v.staging_path == asked.target_path)
        });
        if let Some((other, _)) = elsewhere {
            return Err(Status::invalid_argument(format!(
                "{} is a mount point of volume {other}",
                target.display()
            )));
        }
        let volume = match self.state.volumes.get_mut(&asked.volume_id) {
            Some(volume) if volume.staging_path == asked.staging_path => volume,
            _ => {
                return Err(Status::failed_precondition(format!(
                    "volume {} is not staged at {}: stage it first",
                    asked.volume_id, asked.staging_path
                )));
            }
        };
        if volume.staged.block != asked.block {
            return Err(Status::failed_precondition(format!(
                "volume {} is staged as {}",
                asked.volume_id,
                if volume.staged.block { "raw block" } else { "a file system" }
            )));
        }
        if asked.block && asked.group.is_some() {
            return Err(Status::invalid_argument("group: a raw block device belongs to no group"));
        }
        let wanted = Target { readonly: asked.readonly, exclusive: asked.exclusive };
        let outcome = match volume.targets.get(&asked.target_path) {
            Some(present) if *present == wanted => "already published",
            Some(_) => {
                return Err(Status::already_exists(format!(
                    "volume {} is published at {} with another access mode or read-only flag",
                    asked.volume_id,
                    target.display()
                )));
            }
            None => {
                if let Some((other, _)) = volume.targets.iter().find(|(_, t)| t.exclusive || asked.exclusive)
                {
                    return Err(Status::failed_precondition(format!(
                        "volume {} is published at {other}, and only one target may exist",
                        asked.volume_id
                    )));
                }
                "published"
            }
        };
        settle_group(volume, asked.group, &asked.target_path).map_err(Status::failed_precondition)?;
        make_empty_node(&target, asked.block)?;
        volume.targets.insert(asked.target_path.clone(), wanted);
        self.save()?;
        Ok(v1::PublishVolumeResponse { outcome: outcome.to_owned() })
    }

    /// UnpublishVolume.
    ///
    /// # Errors
    /// As the helper API says.
    pub fn unpublish(
        &mut self,
        asked: &v1::UnpublishVolumeRequest,
    ) -> Result<v1::UnpublishVolumeResponse, Status> {
        volume_id(&asked.volume_id)?;
        let published = self.state.volumes.get_mut(&asked.volume_id);
        let Some(volume) = published.filter(|v| v.targets.contains_key(&asked.target_path)) else {
            return Ok(v1::UnpublishVolumeResponse { outcome: "not published there".to_owned() });
        };
        remove_empty_node(Path::new(&asked.target_path))?;
        volume.targets.remove(&asked.target_path);
        self.save()?;
        Ok(v1::UnpublishVolumeResponse { outcome: "unpublished".to_owned() })
    }

    /// The volume, when it is staged or published at `path`.
    fn at(&self, id: &str, path: &str) -> Result<&Volume, Status> {
        volume_id(id)?;
        self.state
            .volumes
            .get(id)
            .filter(|v| v.staging_path == path || v.targets.contains_key(path))
            .ok_or_else(|| {
                Status::not_found(format!("volume {id} is neither staged nor published at {path:?}"))
            })
    }

    /// ExpandVolume: the device has at once the size that is asked for.
    ///
    /// # Errors
    /// As the helper API says.
    pub fn expand(&mut self, asked: &v1::ExpandVolumeRequest) -> Result<v1::ExpandVolumeResponse, Status> {
        let volume = self.at(&asked.volume_id, &asked.volume_path)?;
        if ["nfs", "smb"].contains(&volume.staged.protocol.as_str()) {
            let (bytes, _) = usage_of_tree(&volume.data)?;
            return Ok(v1::ExpandVolumeResponse {
                capacity_bytes: bytes.total,
                outcome: "nothing to grow".to_owned(),
            });
        }
        let capacity_bytes = grow(&volume.data, asked.required_bytes)?;
        Ok(v1::ExpandVolumeResponse { capacity_bytes, outcome: "grown".to_owned() })
    }

    /// GetVolumeStats, without the findings that a test has set.
    ///
    /// # Errors
    /// As the helper API says.
    pub fn stats(&self, asked: &v1::GetVolumeStatsRequest) -> Result<v1::GetVolumeStatsResponse, Status> {
        let volume = self.at(&asked.volume_id, &asked.volume_path)?;
        if !volume.data.exists() {
            let gone = v1::HealthEntry {
                status: v1::health_entry::Status::Inaccessible.into(),
                reason: "DeviceGone".to_owned(),
                message: format!("the device of volume {} is gone", asked.volume_id),
            };
            return Ok(v1::GetVolumeStatsResponse {
                bytes: Some(v1::Usage::default()),
                inodes: None,
                health: vec![gone],
            });
        }
        if ["nfs", "smb"].contains(&volume.staged.protocol.as_str()) {
            let (bytes, inodes) = usage_of_tree(&volume.data)?;
            return Ok(v1::GetVolumeStatsResponse {
                bytes: Some(bytes),
                inodes: Some(inodes),
                health: vec![],
            });
        }
        let total = grow(&volume.data, 0)?;
        let (available, inodes) = if volume.staged.block {
            (0, None)
        } else {
            (total, Some(v1::Usage { total: total / 16384, used: 0, available: total / 16384 }))
        };
        Ok(v1::GetVolumeStatsResponse {
            bytes: Some(v1::Usage { total, used: 0, available }),
            inodes,
            health: vec![],
        })
    }

    /// ListVolumes.
    #[must_use]
    pub fn list(&self) -> Vec<v1::VolumeEntry> {
        let entry = |(id, volume): (&String, &Volume)| v1::VolumeEntry {
            volume_id: id.clone(),
            protocol: volume.staged.protocol.clone(),
            staging_path: volume.staging_path.clone(),
            target_paths: volume.targets.keys().cloned().collect(),
            device: String::new(),
            health: vec![],
        };
        self.state.volumes.iter().map(entry).collect()
    }
}

fn staged(protocol: &str, identity: String, access: &Access, readonly: bool) -> Result<Staged, Status> {
    let files = match protocol {
        "nfs" => Some("nfs"),
        "smb" => Some("cifs"),
        _ => None,
    };
    let (fs_type, flags, block) = match access {
        Access::Block(_) if files.is_some() => {
            return Err(Status::invalid_argument(
                "access.block: this protocol serves files, not block devices",
            ));
        }
        Access::Block(_) => (String::new(), String::new(), true),
        Access::Filesystem(asked) => {
            if asked.group == Some(u32::MAX) {
                return Err(Status::invalid_argument("access.filesystem.group is no group id"));
            }
            let fs_type = match (asked.fs_type.as_str(), files) {
                ("", Some(own)) => own,
                (named, Some(own)) if named == own => own,
                ("", None) => "ext4",
                (known, None) if FILESYSTEMS.contains(&known) => known,
                (other, _) => {
                    return Err(Status::invalid_argument(format!(
                        "fs_type {other:?} is impossible on {protocol}"
                    )));
                }
            };
            (fs_type.to_owned(), sha256(&asked.mount_flags.join("\0")), false)
        }
    };
    let group = match access {
        Access::Filesystem(asked) => asked.group,
        Access::Block(_) => None,
    };
    Ok(Staged {
        protocol: protocol.to_owned(),
        identity,
        fs_type,
        block,
        readonly,
        mount_flags: flags,
        group,
    })
}

/// Lets the volume belong to the group of a request, or says why it cannot; `own` is the target it is about.
fn settle_group(volume: &mut Volume, wanted: Option<u32>, own: &str) -> Result<(), String> {
    let Some(wanted) = wanted.filter(|wanted| volume.staged.group != Some(*wanted)) else { return Ok(()) };
    if volume.staged.protocol == "smb" {
        return Err(format!("the SMB mount is not one of group {wanted}: it has to be staged anew"));
    }
    let other = volume.targets.keys().find(|target| *target != own);
    if let (Some(staged), Some(other)) = (volume.staged.group, other) {
        return Err(format!("it is published at {other} for group {staged}, not for group {wanted}"));
    }
    volume.staged.group = Some(wanted);
    Ok(())
}

/// Lengthens the sparse file to `bytes` if it is shorter; never shortens it. Returns its length.
fn grow(device: &Path, bytes: u64) -> Result<u64, Status> {
    let fail = |error: io::Error| internal("device", &error);
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(bytes > 0).truncate(false).open(device).map_err(fail)?;
    let present = file.metadata().map_err(fail)?.len();
    if bytes > present {
        file.set_len(bytes).map_err(fail)?;
    }
    Ok(present.max(bytes))
}

fn link(data: &Path, staging: &Path) -> Result<(), Status> {
    match symlink(data, staging.join(STAGED_LINK)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(internal("staging path", &error)),
        _ => Ok(()),
    }
}

/// Removes the link, if it is the one to this volume's data.
fn unlink(link: &Path, data: &Path) -> Result<(), Status> {
    if std::fs::read_link(link).is_ok_and(|leads_to| leads_to == data) {
        std::fs::remove_file(link).map_err(|error| internal("staging path", &error))?;
    }
    Ok(())
}

/// Makes the target, or takes one that is there and empty.
fn make_empty_node(target: &Path, block: bool) -> Result<(), Status> {
    match target.symlink_metadata() {
        Ok(found) if found.is_dir() && !block => {
            match std::fs::read_dir(target).map(|mut dir| dir.next().is_none()) {
                Ok(true) => Ok(()),
                Ok(false) => {
                    Err(Status::failed_precondition(format!("target {} is not empty", target.display())))
                }
                Err(error) => Err(internal("target path", &error)),
            }
        }
        Ok(found) if found.is_file() && block && found.len() == 0 => Ok(()),
        Ok(_) => Err(Status::failed_precondition(format!(
            "target {} exists and is no empty node",
            target.display()
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made =
                if block { std::fs::File::create_new(target).map(drop) } else { std::fs::create_dir(target) };
            made.map_err(|error| Status::failed_precondition(format!("target {}: {error}", target.display())))
        }
        Err(error) => Err(internal("target path", &error)),
    }
}

/// Removes the target if it is an empty node; one that is gone is a success.
fn remove_empty_node(target: &Path) -> Result<(), Status> {
    let removed = match target.symlink_metadata() {
        Ok(found) if found.is_dir() => std::fs::remove_dir(target),
        Ok(found) if found.is_file() && found.len() == 0 => std::fs::remove_file(target),
        Ok(_) => Err(io::Error::other("it is no empty node")),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Status::failed_precondition(format!("target {} was left alone: {error}", target.display())))
        }
        _ => Ok(()),
    }
}

fn usage_of_tree(path: &Path) -> Result<(v1::Usage, v1::Usage), Status> {
    let found = nix::sys::statvfs::statvfs(path).map_err(|error| internal("statvfs", &error))?;
    let unit = found.fragment_size();
    let usage = |total: u64, free: u64, available: u64, unit: u64| v1::Usage {
        total: total.saturating_mul(unit),
        used: total.saturating_sub(free).saturating_mul(unit),
        available: available.saturating_mul(unit),
    };
    Ok((
        usage(found.blocks(), found.blocks_free(), found.blocks_available(), unit),
        usage(found.files(), found.files_free(), found.files_available(), 1),
    ))
}
