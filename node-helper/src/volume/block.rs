//! Staging a block device: connect, find it by identity, prove what it holds, format only with proof, mount.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use rustix::io::Errno;
use tokio::time::Instant;

use super::view::is_staging;
use super::{Stage, StageAccess, Volumes};
use crate::attach::{Authentication, IscsiTarget, NvmeTarget, Target};
use crate::device::{DeviceError, DeviceIdentity, DeviceNumber, NvmeIdentity, VolumeNode};
use crate::failure::Failure;
use crate::filesystem::{Content, FilesystemError, Found, FsType, MkfsOptions, Probed};
use crate::ledger::{Device, Formatting, Intent, Record};
use crate::mount::attach::Removal;
use crate::mount::options::Parameter;
use crate::mount::{Detached, MountError, MountOptions, btrfs};
use crate::paths::Place;
use crate::source::{Endpoint, Source, VolumeId};
use crate::work;

/// What a stage wants of a file system.
struct Wanted<'a> {
    kind: FsType,
    options: &'a MountOptions,
    mkfs_options: &'a MkfsOptions,
    group: Option<u32>,
}

impl Volumes {
    pub(super) async fn stage_block(
        self: &Arc<Self>,
        request: &Stage,
        record: &mut Record,
        place: Place,
        deadline: Instant,
    ) -> Result<&'static str, Failure> {
        let target = self.target(&request.volume, &request.source, deadline).await?;
        let node = self.parts.attachments.attach(&target, deadline).await?.node;
        // Open until the volume is mounted: nothing that follows can end up on another device of the same number.
        let _pinned = self.parts.devices.pin(&node).await?;
        if node.size < request.capacity {
            return Err(Failure::precondition(format!(
                "{} has {} bytes, volume {} should have at least {}: it is not used",
                node.path.display(),
                node.size,
                request.volume,
                request.capacity
            )));
        }
        record.device = Some(Device::from(&node));
        self.remember(&request.volume, record).await?;
        match &request.access {
            StageAccess::RawBlock { .. } => Ok("connected"),
            StageAccess::Filesystem { kind, options, mkfs_options, group } => {
                let wanted = Wanted { kind: *kind, options, mkfs_options, group: *group };
                self.stage_filesystem(request, &wanted, &node, record, place, deadline).await
            }
            StageAccess::Export { .. } => Err(Failure::invalid("a block source is not an export")),
        }
    }

    /// A device belongs to one volume: under a second id it could be written as raw block beneath a mounted file system.
    pub(super) async fn refuse_second_name(self: &Arc<Self>, record: &Record) -> Result<(), Failure> {
        if record.identity().is_none() {
            return Ok(());
        }
        let this = Arc::clone(self);
        let (records, _unusable) =
            work::run("reading the ledger", move || this.parts.ledger.list()).await??;
        let other = records.iter().find(|other| {
            other.volume_id != record.volume_id
                && other.intent != Intent::Unstaged
                && other.source == record.source
        });
        match other {
            None => Ok(()),
            Some(other) => Err(Failure::precondition(format!(
                "{} is staged on this host as volume {}; unstage it there before it is used as volume {}",
                record.source.describe(),
                other.volume_id,
                record.volume_id
            ))),
        }
    }

    /// What to attach for a block source.
    async fn target(&self, volume: &VolumeId, source: &Source, deadline: Instant) -> Result<Target, Failure> {
        match source {
            Source::Nvmeof(nvmeof) => {
                let portals = self.portals(&nvmeof.portals, deadline).await?;
                let identity = NvmeIdentity {
                    subsystem_nqn: nvmeof.nqn.clone(),
                    uuid: nvmeof.uuid,
                    nguid: nvmeof.nguid,
                };
                let (io_queues, queue_size) = (nvmeof.io_queues, nvmeof.queue_size);
                let host = &self.parts.host;
                let authentication = match nvmeof.sealed_dhchap.as_slice() {
                    [] => None,
                    sealed => Some(Authentication::open(&host.sealing, host.uuid, volume.as_str(), sealed)?),
                };
                Ok(Target::Nvme(NvmeTarget { portals, identity, io_queues, queue_size, authentication }))
            }
            Source::Iscsi(iscsi) => {
                let portals = self.portals(&iscsi.portals, deadline).await?;
                let (identity, chap) = (iscsi.identity.clone(), iscsi.chap.clone());
                Ok(Target::Iscsi(IscsiTarget { identity, portals, chap }))
            }
            Source::Nfs(_) | Source::Smb(_) => Err(Failure::internal("a file source has no block device")),
        }
    }

    /// Resolves every portal. One outside the list is never used; the others suffice.
    async fn portals(&self, given: &[Endpoint], deadline: Instant) -> Result<Vec<SocketAddr>, Failure> {
        let mut portals: Vec<SocketAddr> = Vec::new();
        let mut refused = None;
        for portal in given {
            match self.parts.servers.resolve(portal, deadline).await {
                Ok(found) => portals.extend(found),
                Err(failure) => {
                    tracing::warn!(portal = portal.host, reason = %failure, "a portal is not used");
                    refused = refused.or(Some(failure));
                }
            }
        }
        portals.sort_unstable();
        portals.dedup();
        match (portals.is_empty(), refused) {
            (true, Some(failure)) => Err(failure),
            _ => Ok(portals),
        }
    }

    async fn stage_filesystem(
        self: &Arc<Self>,
        request: &Stage,
        wanted: &Wanted<'_>,
        node: &VolumeNode,
        record: &mut Record,
        place: Place,
        deadline: Instant,
    ) -> Result<&'static str, Failure> {
        let probed = self.probe(node, deadline).await?;
        let formatted = match &probed.content {
            Content::Filesystem(found) if found.fs == wanted.kind => false,
            Content::Filesystem(_) | Content::Other(_) => {
                return Err(refuse_content(request, wanted.kind, node, &probed.content));
            }
            Content::Blank | Content::Unfinished(_) | Content::Unknown(_) => {
                let interrupted = record.formatting.is_some();
                if !interrupted && probed.content != Content::Blank {
                    return Err(refuse_content(request, wanted.kind, node, &probed.content));
                }
                self.may_format(request, wanted, node)?;
                // The permit comes before the record: without proof nothing is written, not even the intent.
                let permit =
                    if interrupted { probed.permit_interrupted(node)? } else { probed.permit_blank(node)? };
                record.formatting = Some(Formatting {
                    identity: node.identity.clone(),
                    size: node.size,
                    fs_type: wanted.kind.name().to_owned(),
                });
                self.remember(&request.volume, record).await?;
                let made = self
                    .parts
                    .filesystems
                    .make(node, wanted.kind, wanted.mkfs_options, permit, deadline)
                    .await;
                if let Err(error) = made {
                    self.drop_idle_marker(request, node, record, deadline).await;
                    return Err(error.into());
                }
                true
            }
        };
        if !formatted && !wanted.options.read_only() {
            self.parts.filesystems.check(node, wanted.kind, deadline).await?;
        }
        let place = self.mount_device(request, node, wanted, record, place, deadline).await?;
        if let (Content::Filesystem(found), false) = (&probed.content, wanted.options.read_only()) {
            self.fill_device(node, found, &place, deadline).await?;
        }
        Ok(if formatted { "formatted and mounted" } else { "mounted" })
    }

    /// After a mkfs that wrote nothing (refused options, a missing program) the marker goes: it would outlive its meaning
    /// and speak of a device that another node may have filled since.
    async fn drop_idle_marker(
        self: &Arc<Self>,
        request: &Stage,
        node: &VolumeNode,
        record: &mut Record,
        deadline: Instant,
    ) {
        let blank = self.probe(node, deadline).await.is_ok_and(|probed| probed.content == Content::Blank);
        if blank {
            let marker = record.formatting.take();
            if let Err(failure) = self.remember(&request.volume, record).await {
                record.formatting = marker;
                tracing::warn!(volume = %request.volume, reason = %failure, "the formatting marker stays");
            }
        }
    }

    /// Probes the device, patient with a holder that is gone in a moment.
    async fn probe(&self, node: &VolumeNode, deadline: Instant) -> Result<Probed, FilesystemError> {
        for pause in work::pauses() {
            match self.parts.filesystems.probe(node, deadline).await {
                Err(FilesystemError::Device(DeviceError::InUse { .. })) => tokio::time::sleep(pause).await,
                outcome => return outcome,
            }
        }
        self.parts.filesystems.probe(node, deadline).await
    }

    /// Whether this request may format at all, now that the device is known to hold nothing.
    fn may_format(&self, request: &Stage, wanted: &Wanted<'_>, node: &VolumeNode) -> Result<(), Failure> {
        let fault = if request.never_format {
            Some("the volume has content from elsewhere and must never be formatted".to_owned())
        } else if wanted.options.read_only() {
            Some("it is staged read-only".to_owned())
        } else if node.size != request.capacity {
            Some(format!("it has {} bytes, the volume should have {}", node.size, request.capacity))
        } else {
            None
        };
        match fault {
            None => Ok(()),
            Some(fault) => Err(Failure::precondition(format!(
                "{} of volume {} holds no file system and is not formatted: {fault}",
                node.path.display(),
                request.volume
            ))),
        }
    }

    /// Mounts the node detached, checks that what was mounted is the device, gives it to its group, and only then shows
    /// it. What its mount will be known by is in the ledger before anybody sees it.
    async fn mount_device(
        self: &Arc<Self>,
        request: &Stage,
        node: &VolumeNode,
        wanted: &Wanted<'_>,
        record: &mut Record,
        place: Place,
        deadline: Instant,
    ) -> Result<Place, Failure> {
        let (own, kind, options) = (node.clone(), wanted.kind, wanted.options.clone());
        let group = wanted.group.filter(|_| !options.read_only());
        let patience = self.patience(deadline);
        let doing = format!("mounting {}", node.path.display());
        let outcome = work::run("mounting the device", move || {
            let mount = mount_checked(&own, kind, &options)?;
            super::group::give(&mount, group, &own.path.display().to_string(), &patience)?;
            let shown = mount.device().map_err(|error| Failure::internal(error.to_string()))?;
            Ok((mount, shown))
        });
        let outcome: Result<(Detached, DeviceNumber), Failure> = outcome.await?;
        let (mount, shown) = outcome.map_err(|failure| failure.while_doing(&doing))?;
        if shown != node.number {
            record.device = Some(Device { mounted: Some(shown), ..Device::from(node) });
            self.remember(&request.volume, record).await?;
        }
        work::run("attaching the mount", move || mount.attach(&place).map(|()| place))
            .await?
            .map_err(|error| Failure::internal(error.to_string()).while_doing(&doing))
    }

    /// Grows the file system when its device became larger while nobody could (an expansion while it was not staged,
    /// a clone larger than its source).
    async fn fill_device(
        &self,
        node: &VolumeNode,
        found: &Found,
        place: &Place,
        deadline: Instant,
    ) -> Result<(), Failure> {
        /// File systems leave less than this unused at the end of a device (an ext4 block group of 128 MiB is used in
        /// part; XFS rounds down to an allocation group's minimum of 64 blocks).
        const SLACK: u64 = 16 << 20;
        if node.size.saturating_sub(found.size) <= SLACK {
            return Ok(());
        }
        self.grow_at(node, found.fs, place, deadline).await.map(|_| ())
    }

    /// Grows the file system of `node`, mounted at `place`.
    pub(super) async fn grow_at(
        &self,
        node: &VolumeNode,
        kind: FsType,
        place: &Place,
        deadline: Instant,
    ) -> Result<crate::filesystem::Grown, Failure> {
        let path = place.through_descriptor();
        let real = place.real().to_owned();
        let opened = work::run("opening the mount", move || {
            OpenOptions::new()
                .read(true)
                .custom_flags(
                    rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()
                        | rustix::fs::OFlags::DIRECTORY.bits().cast_signed(),
                )
                .open(path)
        });
        let root = opened
            .await?
            .map_err(|error| Failure::internal(format!("{} cannot be opened: {error}", real.display())))?;
        Ok(self.parts.filesystems.grow(node, kind, &root, &real, deadline).await?)
    }

    /// Takes back what a stage began, before a final answer. What cannot be taken back stays in the ledger and is
    /// undone by unstage.
    pub(super) async fn undo_stage(self: &Arc<Self>, request: &Stage, record: &mut Record) {
        let undone = self.try_undo(request, record).await;
        if let Err(failure) = undone {
            tracing::warn!(volume = %request.volume, reason = %failure, "a failed stage is not taken back in full");
        }
    }

    async fn try_undo(self: &Arc<Self>, request: &Stage, record: &mut Record) -> Result<(), Failure> {
        let now = Instant::now();
        let deadline = now.checked_add(super::UNDO).unwrap_or(now);
        let mounted = record.clone();
        let place = self.place(&request.staging.0).await?;
        self.take_away(place, Removal::Clean, move |mount| is_staging(&mounted, mount)).await?;
        if let Some(identity) = record.identity().cloned() {
            // A mkfs that outlived the helper still writes: its device is not taken from it.
            self.prove_unused(&identity).await?;
            self.disconnect(request.volume.as_str(), &identity, deadline).await?;
        }
        // A record with targets still has something to undo.
        if record.published.is_empty() { self.forget(&request.volume, record).await } else { Ok(()) }
    }

    /// Proves that nobody uses a device. A file system may live on after its last mount here is gone, in another
    /// mount namespace; the kernel gives the device to nobody exclusively then, and its session must not be taken from
    /// under it.
    pub(super) async fn prove_unused(&self, identity: &DeviceIdentity) -> Result<(), Failure> {
        // Of several disks between which nothing decides, each: otherwise nothing of them could ever be taken away.
        for node in self.parts.devices.every(identity).await? {
            let busy = |error: &DeviceError| matches!(error, DeviceError::InUse { .. });
            let open = move || work::until_free(busy, || node.open_exclusive().map(drop));
            work::run("opening the device", open).await??;
        }
        Ok(())
    }

    /// Ends the connection of a device, unless another volume of the ledger uses the same one.
    pub(super) async fn disconnect(
        self: &Arc<Self>,
        volume: &str,
        identity: &DeviceIdentity,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let this = Arc::clone(self);
        let (records, unusable) = work::run("reading the ledger", move || this.parts.ledger.list()).await??;
        let shared = records.iter().any(|other| {
            other.volume_id != volume
                && other.intent != Intent::Unstaged
                && other.identity().is_some_and(|other| share_connection(other, identity))
        });
        if shared {
            return Ok(());
        }
        // A file that cannot be read may be about a volume behind the same target; the kernel knows whether its device
        // is in use, and disconnecting refuses then.
        for error in unusable {
            tracing::warn!(%error, "a ledger file is not understood");
        }
        self.parts.attachments.detach(identity, deadline).await?;
        Ok(())
    }
}

/// Mounts the node detached, and proves that the mount is of this device. Blocks.
fn mount_checked(node: &VolumeNode, kind: FsType, options: &MountOptions) -> Result<Detached, Failure> {
    let source = node.path.display().to_string();
    let is = |error: &MountError, errno: Errno| error.errno.raw_os_error() == Some(errno.raw_os_error());
    let busy = |error: &MountError| is(error, Errno::BUSY);
    let mut parameters = options.parameters().to_vec();
    if kind == FsType::Btrfs {
        // The top of the volume, whatever subvolume a pod has made its default.
        parameters.push(Parameter::with("subvolid", "5"));
    }
    let mount = work::until_free(busy, || {
        Detached::file_system(kind.name(), &source, &parameters, None, options.attributes())
    });
    let mount = mount.map_err(|error| {
        if busy(&error) {
            Failure::precondition(format!("{error}; something on this host holds the device"))
        } else if is(&error, Errno::NODEV) {
            Failure::precondition(error.to_string())
        } else if kind == FsType::Btrfs && is(&error, Errno::EXIST) {
            Failure::precondition(format!(
                "{error}; the kernel knows another device with this file system's id, as a clone and its source have. \
                 Before Linux 6.7 both cannot be on one host: use another node, or unstage the other one and run \
                 \"btrfs device scan --forget\" on this host"
            ))
        } else {
            Failure::internal(error.to_string())
        }
    })?;
    let mounted = match kind {
        FsType::Btrfs => btrfs::device_of(&mount),
        FsType::Ext4 | FsType::Xfs => mount.device(),
    };
    let mounted = mounted.map_err(|error| Failure::internal(error.to_string()))?;
    if mounted == node.number {
        return Ok(mount);
    }
    Err(Failure::unavailable(format!(
        "{source} became another device while it was mounted ({mounted} instead of {}); nothing is mounted",
        node.number
    )))
}

/// Whether two devices hang on the same subsystem or target.
fn share_connection(one: &DeviceIdentity, other: &DeviceIdentity) -> bool {
    match (one, other) {
        (DeviceIdentity::Nvme(one), DeviceIdentity::Nvme(other)) => one.subsystem_nqn == other.subsystem_nqn,
        (DeviceIdentity::Iscsi(one), DeviceIdentity::Iscsi(other)) => one.target == other.target,
        (DeviceIdentity::Nvme(_), DeviceIdentity::Iscsi(_))
        | (DeviceIdentity::Iscsi(_), DeviceIdentity::Nvme(_)) => false,
    }
}

fn refuse_content(request: &Stage, kind: FsType, node: &VolumeNode, content: &Content) -> Failure {
    Failure::precondition(format!(
        "{} of volume {} holds {content}, not a file system {kind}: it is neither mounted nor formatted",
        node.path.display(),
        request.volume
    ))
}
