//! UnpublishVolume: takes away what the ledger says this volume has at the target and the mount table confirms.

use std::sync::Arc;

use tokio::time::Instant;

use super::view::is_target;
use super::{Call, Done, Unpublish, Volumes, unexpected};
use crate::failure::Failure;
use crate::ledger::{Published, Record};
use crate::mount::MountTable;
use crate::mount::attach::Removal;
use crate::paths::{Place, VolumePath};
use crate::work;

impl Volumes {
    /// Unpublishes a volume. A path at which it is not published is a success and stays untouched.
    ///
    /// # Errors
    /// `FailedPrecondition` while the target is in use or holds something that is not ours.
    pub async fn unpublish(self: &Arc<Self>, request: Unpublish, call: Call) -> Result<String, Failure> {
        let this = Arc::clone(self);
        let volume = request.volume.clone();
        let deadline = call.deadline;
        let work = async move { Box::pin(this.unpublish_now(request, deadline)).await.map(Done::Text) };
        match self.operations.run(&volume, "UnpublishVolume", call.fingerprint, call.answer_by, work).await? {
            Done::Text(text) => Ok(text),
            _ => Err(unexpected("UnpublishVolume")),
        }
    }

    async fn unpublish_now(
        self: &Arc<Self>,
        request: Unpublish,
        deadline: Instant,
    ) -> Result<String, Failure> {
        const NOTHING: &str = "not published there";
        let (Some(path), Some(mut record)) = (request.target, self.record(&request.volume).await?) else {
            return Ok(NOTHING.to_owned());
        };
        let Some(published) = record.target(&path.relative()).cloned() else { return Ok(NOTHING.to_owned()) };
        let table = self.table().await?;
        let real = self.parts.root.real_path(&path);
        let mut outcome = "was not mounted";
        match self.place(&path).await {
            // The pod's directory is gone, and nothing is mounted in it: only the entry is left.
            Err(_) if table.top(&real).is_none() => {}
            Err(failure) => return Err(failure),
            Ok(place) => {
                if self.unmount_target(&record, &published, place, &path, &table, deadline).await? {
                    outcome = "unpublished";
                }
                self.remove_target(&path).await?;
            }
        }
        record.published.retain(|other| other.target != published.target);
        self.remember(&request.volume, &record).await?;
        Ok(outcome.to_owned())
    }

    /// Unmounts the target when it is this volume's; false when nothing is mounted there.
    async fn unmount_target(
        self: &Arc<Self>,
        record: &Record,
        published: &Published,
        place: Place,
        path: &VolumePath,
        table: &MountTable,
        deadline: Instant,
    ) -> Result<bool, Failure> {
        let Some(mount) = table.top(place.real()) else { return Ok(false) };
        let contents = match record.is_raw_block() {
            true => self.node_at(path).await,
            false => None,
        };
        if !is_target(record, published, mount, contents) {
            return Err(Failure::precondition(format!(
                "{} is mounted at {}, which is not what this volume has there; it is left alone",
                mount.describe(),
                place.real().display()
            )));
        }
        // The last mount of a file system writes it out, which a dead one never ends; every other mount goes at once.
        let last = table.of_device(mount.device).count() <= 1;
        let how = match last && !record.is_raw_block() {
            true => self.way_of_last(record, published, deadline).await?,
            false => Removal::Clean,
        };
        let (ours, entry) = (record.clone(), published.clone());
        let (_, count) =
            self.take_away(place, how, move |mount| is_target(&ours, &entry, mount, contents)).await?;
        Ok(count > 0)
    }

    /// How the last mount of a file system is taken away: a live one waits, a dead one is detached.
    async fn way_of_last(
        self: &Arc<Self>,
        record: &Record,
        published: &Published,
        deadline: Instant,
    ) -> Result<Removal, Failure> {
        let Some(identity) = record.identity() else {
            let Some(path) = VolumePath::from_ledger(&published.target) else { return Ok(Removal::Clean) };
            let place = self.place(&path).await?;
            return Ok(match self.ask(place, deadline).await? {
                crate::mount::Answer::Dead(_) => Removal::DetachDead,
                _ => Removal::Clean,
            });
        };
        let life = self.parts.devices.find(identity).await?;
        Ok(match life {
            Some(node) if record.device.as_ref().is_some_and(|device| device.number == node.number) => {
                match record.device.as_ref().map(crate::ledger::Device::shown) == published.device {
                    true => Removal::Clean,
                    // A bind of the device before this one.
                    false => Removal::DetachDead,
                }
            }
            _ => Removal::DetachDead,
        })
    }

    /// Removes the empty node that publish made.
    async fn remove_target(self: &Arc<Self>, path: &VolumePath) -> Result<(), Failure> {
        let place = self.place(path).await?;
        let shown = place.real().display().to_string();
        work::run("removing the target", move || place.remove_empty())
            .await?
            .map_err(|error| Failure::precondition(format!("target {shown} cannot be removed: {error}")))
    }
}
