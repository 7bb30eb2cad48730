//! PublishVolume: a bind of the staged volume at the pod's target, never of a dead one, never writable when it must
//! not be.

use std::os::fd::AsFd;
use std::sync::Arc;

use tokio::time::Instant;

use super::view::{Life, is_staging, is_target};
use super::{Call, Done, Publish, Volumes, unexpected};
use crate::device::{DeviceNumber, VolumeNode};
use crate::failure::{Failure, Kind};
use crate::ledger::{Access, Intent, Published, Record, RecordedSource};
use crate::mount::attach::{Removal, device_of};
use crate::mount::{Detached, MountTable};
use crate::paths::{Contents, Place};
use crate::work;

impl Volumes {
    /// Publishes a staged volume.
    ///
    /// # Errors
    /// `FailedPrecondition` when it is not staged, dead, or exclusive to another target; `AlreadyExists` when it is
    /// published there in another way.
    pub async fn publish(self: &Arc<Self>, request: Publish, call: Call) -> Result<String, Failure> {
        let this = Arc::clone(self);
        let volume = request.volume.clone();
        let deadline = call.deadline;
        let work = async move { Box::pin(this.publish_now(request, deadline)).await.map(Done::Text) };
        match self.operations.run(&volume, "PublishVolume", call.fingerprint, call.answer_by, work).await? {
            Done::Text(text) => Ok(text),
            _ => Err(unexpected("PublishVolume")),
        }
    }

    async fn publish_now(self: &Arc<Self>, request: Publish, deadline: Instant) -> Result<String, Failure> {
        let volume = &request.volume;
        let target = request.target.0.relative();
        let mut record = self.staged_record(&request).await?;
        let place = self.place(&request.target.0).await?;
        let table = self.table().await?;
        let node = self.living(&record, &request, &table, deadline).await?;
        // Open until it is bound: the node's number cannot go over to another device meanwhile.
        let _pinned = match &node {
            Some(node) if request.block => Some(self.parts.devices.pin(node).await?),
            _ => None,
        };
        let shown = record.device.as_ref().filter(|_| !request.block).map(crate::ledger::Device::shown);
        let entry = Published {
            target: target.clone(),
            options: request.options.texts(),
            readonly: request.options.read_only(),
            exclusive: request.exclusive,
            device: node.as_ref().map(|node| shown.unwrap_or(node.number)),
        };
        // A pod that may not write changes nothing, not even whose the files are. The mount of an SMB share decides for
        // those who only read too.
        let group =
            request.group.filter(|_| !entry.readonly || matches!(record.source, RecordedSource::Smb { .. }));
        if let Some(mount) = table.top(place.real()) {
            let Some(prior) = record.target(&target) else {
                let fault = format!("is the mount point of {}, which is not this volume's", mount.describe());
                return Err(Failure::invalid(place.refuse(fault).to_string()));
            };
            let contents = match record.is_raw_block() {
                true => self.node_at(&request.target.0).await,
                false => None,
            };
            if !is_target(&record, prior, mount, contents) {
                let fault = format!("is the mount point of {}, which is not this volume's", mount.describe());
                return Err(Failure::invalid(place.refuse(fault).to_string()));
            }
            if prior.device == entry.device {
                if *prior == entry {
                    self.settle_group(&mut record, group, Some(&target), &table, deadline)
                        .await
                        .map_err(|conflict| conflict.into_failure(Kind::FailedPrecondition))?;
                    return Ok("already published".to_owned());
                }
                return Err(Failure::already_exists(format!(
                    "volume {volume} is already published at {target} with other settings: {} instead of {}",
                    show(prior),
                    show(&entry)
                )));
            }
            tracing::warn!(volume = %volume, target, "a bind of a dead device is taken away and made anew");
            let (dead, prior) = (record.clone(), prior.clone());
            let place = self.place(&request.target.0).await?;
            self.take_away(place, Removal::DetachDead, move |mount| {
                is_target(&dead, &prior, mount, contents)
            })
            .await?;
        }
        self.check_exclusive(&record, &request, &table).await?;
        let place = self.check_target(place, request.block).await?;
        self.check_raw_readonly(&record, &entry, node.as_ref(), &table).await?;
        self.settle_group(&mut record, group, Some(&target), &table, deadline)
            .await
            .map_err(|conflict| conflict.into_failure(Kind::FailedPrecondition))?;
        record.published.retain(|other| other.target != target);
        let shown = entry.device;
        record.published.push(entry);
        self.remember(volume, &record).await?;
        match self.bind(&request, node, shown, place).await {
            Ok(()) => Ok("published".to_owned()),
            Err(failure) => {
                record.published.retain(|other| other.target != target);
                if let Err(failure) = self.remember(volume, &record).await {
                    tracing::warn!(volume = %volume, reason = %failure, "a failed publish keeps its entry");
                }
                Err(failure)
            }
        }
    }

    /// The record of a volume that is staged where the request says.
    async fn staged_record(self: &Arc<Self>, request: &Publish) -> Result<Record, Failure> {
        let volume = &request.volume;
        let not_staged = || Failure::precondition(format!("volume {volume} is not staged on this host"));
        let record = self.record(volume).await?.ok_or_else(not_staged)?;
        if record.intent != Intent::Staged {
            return Err(not_staged());
        }
        if record.staging != request.staging.0.relative() {
            return Err(Failure::precondition(format!(
                "volume {volume} is staged at {}, not at the given staging_path",
                record.staging
            )));
        }
        match (&record.access, request.block) {
            (Access::Block { .. }, false) => Err(Failure::invalid(format!(
                "volume {volume} is staged as raw block and cannot be published as files"
            ))),
            (Access::Filesystem { .. }, true) => Err(Failure::invalid(format!(
                "volume {volume} is staged as files and cannot be published as raw block"
            ))),
            _ => Ok(record),
        }
    }

    /// Proves that the staged volume lives: its mount is there and its device is the live one of its identity, or its
    /// root answers. A dead one is never bound.
    async fn living(
        self: &Arc<Self>,
        record: &Record,
        request: &Publish,
        table: &MountTable,
        deadline: Instant,
    ) -> Result<Option<VolumeNode>, Failure> {
        let volume = &request.volume;
        let place = self.place(&request.staging.0).await?;
        if !record.is_raw_block() {
            let mounted = table.top(place.real()).is_some_and(|mount| is_staging(record, mount));
            if !mounted {
                return Err(Failure::precondition(format!(
                    "volume {volume} is not mounted at its staging path any more; it has to be staged again"
                )));
            }
        }
        match self.life(record, deadline).await? {
            Life::Device(node) => Ok(Some(node)),
            Life::Export => Ok(None),
            Life::Dead(fault) => Err(Failure::precondition(format!(
                "volume {volume} is dead on this host: {fault}; it has to be staged again"
            ))),
            Life::Silent => Err(Failure::unavailable(format!(
                "{} of volume {volume} does not answer",
                record.source.describe()
            ))),
        }
    }

    async fn check_exclusive(
        self: &Arc<Self>,
        record: &Record,
        request: &Publish,
        table: &MountTable,
    ) -> Result<(), Failure> {
        let own = request.target.0.relative();
        let others = self.published_targets(record, table).await;
        let Some(other) = others.iter().find(|target| **target != own) else { return Ok(()) };
        let held = others
            .iter()
            .filter(|target| **target != own)
            .any(|target| record.target(target).is_some_and(|published| published.exclusive));
        if request.exclusive || held {
            return Err(Failure::precondition(format!(
                "volume {} is published at {other} and may have only one target on this node",
                request.volume
            )));
        }
        Ok(())
    }

    /// The target is absent or an empty node of the right kind.
    async fn check_target(&self, place: Place, block: bool) -> Result<Place, Failure> {
        let (place, contents) = Self::contents(place).await?;
        match (contents, block) {
            (Contents::Absent, _) | (Contents::EmptyDirectory, false) | (Contents::EmptyFile, true) => {
                Ok(place)
            }
            (other, _) => {
                let fault = format!(
                    "has to be absent or an empty {}; found {}",
                    if block { "file" } else { "directory" },
                    other.describe()
                );
                Err(Failure::invalid(place.refuse(fault).to_string()))
            }
        }
    }

    /// A bind cannot keep a device node from being written (the kernel looks at the mount only for files), so the
    /// device itself is switched, which holds for every target of this node: all are read-only or none is.
    async fn check_raw_readonly(
        self: &Arc<Self>,
        record: &Record,
        entry: &Published,
        node: Option<&VolumeNode>,
        table: &MountTable,
    ) -> Result<(), Failure> {
        let (Access::Block { readonly: staged_readonly }, Some(node)) = (&record.access, node) else {
            return Ok(());
        };
        let readonly = entry.readonly || *staged_readonly;
        for target in self.published_targets(record, table).await {
            let other = record.target(&target).map(|published| published.readonly || *staged_readonly);
            if target != entry.target && other.is_some_and(|other| other != readonly) {
                return Err(Failure::precondition(format!(
                    "volume {} is published {} at {target}: a raw block device is read-only for all targets of a node \
                     or for none",
                    record.volume_id,
                    if readonly { "writable" } else { "read-only" }
                )));
            }
        }
        let own = node.clone();
        let switched = work::run("switching the device's write protection", move || {
            let device = own.open()?;
            node_helper_sys::set_read_only(device.as_fd(), readonly)
                .map_err(|source| crate::device::DeviceError::Unreadable { path: own.path.clone(), source })
        });
        match switched.await? {
            Ok(()) => Ok(()),
            // A device that never was read-only needs no switch back.
            Err(_) if !readonly && !node.read_only => Ok(()),
            Err(error) => Err(Failure::from(error).while_doing("switching the device's write protection")),
        }
    }

    async fn bind(
        self: &Arc<Self>,
        request: &Publish,
        node: Option<VolumeNode>,
        wanted: Option<DeviceNumber>,
        place: Place,
    ) -> Result<(), Failure> {
        let staging = self.place(&request.staging.0).await?;
        let (attributes, atime) = request.options.attributes();
        let block = request.block;
        let shown = place.real().display().to_string();
        let outcome = work::run("binding the volume", move || {
            let internal = |error: &dyn std::fmt::Display| Failure::internal(error.to_string());
            let tree = match (&node, block) {
                (Some(node), true) => {
                    let device = node.open()?;
                    Detached::clone_of(&device, attributes, atime).map_err(|error| internal(&error))?
                }
                _ => {
                    let root = staging.open().map_err(|error| internal(&error))?;
                    if let Some(wanted) = wanted {
                        let found = device_of(&root).map_err(|error| internal(&error))?;
                        if found != wanted {
                            return Err(Failure::unavailable(format!(
                                "the staging path shows device {found} instead of {wanted}; nothing was bound"
                            )));
                        }
                    }
                    Detached::clone_of(&root, attributes, atime).map_err(|error| internal(&error))?
                }
            };
            let made = match place.contents().map_err(|error| internal(&error))? {
                Contents::Absent if block => place.make_file().map(|()| true),
                Contents::Absent => place.make_directory().map(|()| true),
                _ => Ok(false),
            };
            let made = made.map_err(|error| internal(&error))?;
            tree.attach(&place).map_err(|error| {
                if made && let Err(left) = place.remove_empty() {
                    tracing::warn!(target = %place.real().display(), %left, "an empty target is left");
                }
                internal(&error)
            })
        });
        outcome.await?.map_err(|failure| failure.while_doing(&format!("publishing at {shown}")))
    }
}

fn show(published: &Published) -> String {
    let options =
        if published.options.is_empty() { "no options".to_owned() } else { published.options.join(",") };
    if published.exclusive { format!("{options}, exclusive") } else { options }
}
