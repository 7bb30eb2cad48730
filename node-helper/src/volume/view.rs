//! What is there: the ledger's record and the mount table, compared.

use std::sync::Arc;

use tokio::time::Instant;

use super::{ANSWER, Volumes};
use crate::device::{DeviceNumber, VolumeNode};
use crate::failure::Failure;
use crate::ledger::{Access, Device, Published, Record, RecordedSource};
use crate::mount::attach::{Removal, remove};
use crate::mount::{Answer, Mount, MountTable, cifs, nfs};
use crate::paths::{Contents, Place, VolumePath};
use crate::source::VolumeId;
use crate::work;

/// More mounts than this on one point are not undone in one call.
const MAX_STACK: usize = 32;

/// Whether what a record describes works at this moment.
#[derive(Debug)]
pub(super) enum Life {
    /// The device of this identity, and it is the one that was staged.
    Device(VolumeNode),
    /// The export's root answered.
    Export,
    /// It is gone: in words.
    Dead(String),
    /// The server does not answer; it may come back.
    Silent,
}

impl Volumes {
    /// The mount table at this moment.
    pub(super) async fn table(&self) -> Result<MountTable, Failure> {
        let root = self.parts.root.real().to_owned();
        work::run("reading the mount table", move || MountTable::read_below(&root))
            .await?
            .map_err(|error| Failure::internal(format!("the mount table cannot be read: {error}")))
    }

    /// Opens the place of a path; a path that cannot be opened is a wrong argument.
    pub(super) async fn place(self: &Arc<Self>, path: &VolumePath) -> Result<Place, Failure> {
        let (this, path) = (Arc::clone(self), path.clone());
        work::run("opening the path", move || this.parts.root.place(&path))
            .await?
            .map_err(|error| Failure::invalid(error.to_string()))
    }

    /// What lies at a place on which nothing is mounted.
    pub(super) async fn contents(place: Place) -> Result<(Place, Contents), Failure> {
        let shown = place.real().display().to_string();
        work::run("looking at the path", move || place.contents().map(|contents| (place, contents)))
            .await?
            .map_err(|error| Failure::internal(format!("{shown} cannot be looked at: {error}")))
    }

    /// The volume's record.
    pub(super) async fn record(self: &Arc<Self>, volume: &VolumeId) -> Result<Option<Record>, Failure> {
        let (this, volume) = (Arc::clone(self), volume.clone());
        Ok(work::run("reading the ledger", move || this.parts.ledger.read(&volume)).await??)
    }

    /// Makes the record durable.
    pub(super) async fn remember(
        self: &Arc<Self>,
        volume: &VolumeId,
        record: &Record,
    ) -> Result<(), Failure> {
        let (this, volume, record) = (Arc::clone(self), volume.clone(), record.clone());
        Ok(work::run("writing the ledger", move || this.parts.ledger.write(&volume, &record)).await??)
    }

    /// Forgets the volume, but keeps the record while its formatting marker stands: without the marker nobody could
    /// finish a file system that was cut off in the making.
    pub(super) async fn forget(
        self: &Arc<Self>,
        volume: &VolumeId,
        record: &mut Record,
    ) -> Result<(), Failure> {
        if record.formatting.is_some() {
            record.intent = crate::ledger::Intent::Unstaged;
            record.device = None;
            record.published.clear();
            return self.remember(volume, record).await;
        }
        let (this, volume) = (Arc::clone(self), volume.clone());
        Ok(work::run("writing the ledger", move || this.parts.ledger.remove(&volume)).await??)
    }

    /// Whether what the record describes works: a device by its identity and number, an export by its root's answer.
    pub(super) async fn life(self: &Arc<Self>, record: &Record, deadline: Instant) -> Result<Life, Failure> {
        if let Some(identity) = record.identity() {
            let number = record.device.as_ref().map(|device| device.number);
            return Ok(match self.parts.devices.find(identity).await? {
                Some(node) if Some(node.number) == number => Life::Device(node),
                Some(node) => Life::Dead(format!(
                    "the device that was staged died; the volume came back as {} ({})",
                    node.path.display(),
                    node.number
                )),
                None => Life::Dead(format!("no device of {identity} is on this host")),
            });
        }
        let path = VolumePath::from_ledger(&record.staging)
            .ok_or_else(|| Failure::internal("the recorded staging path is not plain"))?;
        let place = self.place(&path).await?;
        Ok(match self.ask(place, deadline).await? {
            Answer::Alive(_) => Life::Export,
            Answer::Dead(error) => Life::Dead(format!("the mount answers: {error}")),
            Answer::Silent => Life::Silent,
        })
    }

    /// Asks the mount at `place` whether it lives, for [`ANSWER`] at most.
    pub(super) async fn ask(&self, place: Place, deadline: Instant) -> Result<Answer, Failure> {
        let mount = self.table().await?.top(place.real()).map_or(0, |mount| mount.id);
        self.asked.ask(place, mount, work::at_most(deadline, ANSWER)).await
    }

    /// Takes away what is mounted at `place` as long as `ours` recognises the mount on top. Returns how many were.
    pub(super) async fn take_away(
        &self,
        place: Place,
        how: Removal,
        ours: impl Fn(&Mount) -> bool + Send + 'static,
    ) -> Result<(Place, usize), Failure> {
        let shown = place.real().display().to_string();
        let kubelet = self.parts.root.real().to_owned();
        let outcome = work::run("unmounting", move || {
            for count in 0..MAX_STACK {
                let table = MountTable::read_below(&kubelet)?;
                match table.top(place.real()) {
                    Some(mount) if ours(mount) => remove(&place, how)?,
                    _ => return Ok((place, count)),
                }
            }
            Err(std::io::Error::other("too many mounts lie on each other"))
        });
        outcome.await?.map_err(|error: std::io::Error| {
            if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) {
                Failure::precondition(format!(
                    "{shown} cannot be unmounted: a process on this host still uses it (files or a working directory)"
                ))
            } else {
                Failure::internal(format!("{shown} cannot be unmounted: {error}"))
            }
        })
    }
}

/// Whether a mount is the one that the record's staging made.
pub(super) fn is_staging(record: &Record, mount: &Mount) -> bool {
    is_volume(record, record.device.as_ref().map(Device::shown), mount)
}

/// Whether a mount is the one that the record's publish made at that target.
pub(super) fn is_target(
    record: &Record,
    published: &Published,
    mount: &Mount,
    contents: Option<Contents>,
) -> bool {
    if record.is_raw_block() {
        // The bind of a single node: never the root of its file system, and the node itself tells the number.
        return mount.root != "/"
            && published.device.is_some_and(|number| contents == Some(Contents::BlockDevice(number)));
    }
    is_volume(record, published.device, mount)
}

fn is_volume(record: &Record, device: Option<DeviceNumber>, mount: &Mount) -> bool {
    match (&record.source, &record.access) {
        (RecordedSource::Nfs { device: source, .. }, Access::Filesystem { .. }) => {
            mount.fs_type == nfs::FS_TYPE && mount.source == *source
        }
        (RecordedSource::Smb { device: source, .. }, Access::Filesystem { .. }) => {
            mount.fs_type == cifs::FS_TYPE && mount.source == *source
        }
        (RecordedSource::Block(_), Access::Filesystem { fs_type, .. }) => {
            mount.fs_type == *fs_type && mount.root == "/" && device == Some(mount.device)
        }
        (_, Access::Block { .. }) => false,
    }
}
