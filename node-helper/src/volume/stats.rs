//! GetVolumeStats: usage and health at a path where the volume really is.

use std::sync::Arc;

use tns_csi_proto::helper::v1 as api;
use tokio::time::Instant;

use super::view::{is_staging, is_target};
use super::{Call, Stats, Volumes};
use crate::failure::Failure;
use crate::ledger::{Access, Intent, Record};
use crate::mount::{Answer, Mount, MountTable};
use crate::paths::VolumePath;

/// A finding: no I/O is possible.
pub(super) fn inaccessible(reason: &str, message: String) -> api::HealthEntry {
    api::HealthEntry {
        status: api::health_entry::Status::Inaccessible.into(),
        reason: reason.to_owned(),
        message,
    }
}

fn degraded(reason: &str, message: String) -> api::HealthEntry {
    api::HealthEntry {
        status: api::health_entry::Status::Degraded.into(),
        reason: reason.to_owned(),
        message,
    }
}

impl Volumes {
    /// Reports usage and health. Takes no lock on the volume; equal questions are asked once at a time.
    ///
    /// # Errors
    /// `NotFound` when the volume is not at that path.
    pub async fn stats(
        self: &Arc<Self>,
        request: Stats,
        call: Call,
    ) -> Result<api::GetVolumeStatsResponse, Failure> {
        let this = Arc::clone(self);
        let key = format!("{} at {}", request.volume, request.path.relative());
        let deadline = call.deadline;
        let work = async move { Box::pin(this.stats_now(request, deadline)).await };
        self.statistics.run(&key, "GetVolumeStats", Vec::new(), call.answer_by, work).await
    }

    async fn stats_now(
        self: &Arc<Self>,
        request: Stats,
        deadline: Instant,
    ) -> Result<api::GetVolumeStatsResponse, Failure> {
        let (record, mount) = self.located(&request.volume, &request.path).await?;
        if record.is_raw_block() {
            let (size, health) = self.device_health(&record).await?;
            let total = size.or(record.device.as_ref().map(|device| device.size)).unwrap_or(0);
            let bytes = Some(api::Usage { total, used: 0, available: 0 });
            return Ok(api::GetVolumeStatsResponse { bytes, inodes: None, health });
        }
        let (_, mut health) = self.device_health(&record).await?;
        let writable = matches!(record.access, Access::Filesystem { readonly: false, .. });
        if let (true, Some(mount)) = (writable, &mount)
            && mount.superblock_read_only
        {
            health.push(degraded(
                "FileSystemReadOnly",
                format!(
                    "the file system of volume {} became read-only after an error; check the kernel's log, then stage \
                     the volume anew",
                    request.volume
                ),
            ));
        }
        let place = self.place(&request.path).await?;
        let usage = match self.ask(place, deadline).await? {
            Answer::Alive(usage) => Some(usage),
            Answer::Dead(error) => {
                health.push(inaccessible(
                    "MountDead",
                    format!("{} answers: {error}", record.source.describe()),
                ));
                None
            }
            Answer::Silent => {
                health
                    .push(inaccessible("NoAnswer", format!("{} does not answer", record.source.describe())));
                None
            }
        };
        let bytes = usage.map(|usage| api::Usage {
            total: usage.total,
            used: usage.used,
            available: usage.available,
        });
        let inodes = usage.filter(|usage| usage.inodes > 0).map(|usage| api::Usage {
            total: usage.inodes,
            used: usage.inodes.saturating_sub(usage.inodes_free),
            available: usage.inodes_free,
        });
        Ok(api::GetVolumeStatsResponse { bytes, inodes, health })
    }

    /// The record of a volume that is staged or published at `path`, with its mount there (none for a raw block
    /// volume at its staging path).
    ///
    /// # Errors
    /// `NotFound` otherwise.
    pub(super) async fn located(
        self: &Arc<Self>,
        volume: &crate::source::VolumeId,
        path: &VolumePath,
    ) -> Result<(Record, Option<Mount>), Failure> {
        let relative = path.relative();
        let missing = || Failure::not_found(format!("volume {volume} is not at {relative} on this host"));
        let record = self
            .record(volume)
            .await?
            .filter(|record| record.intent != Intent::Unstaged)
            .ok_or_else(missing)?;
        let table: MountTable = self.table().await?;
        let mount = table.top(&self.parts.root.real_path(path));
        if record.staging == relative {
            if record.is_raw_block() {
                return Ok((record, None));
            }
            let mount = mount.filter(|mount| is_staging(&record, mount)).cloned().ok_or_else(missing)?;
            return Ok((record, Some(mount)));
        }
        let published = record.target(&relative).ok_or_else(missing)?;
        let contents = if record.is_raw_block() { self.node_at(path).await } else { None };
        let mount = mount
            .filter(|mount| is_target(&record, published, mount, contents))
            .cloned()
            .ok_or_else(missing)?;
        Ok((record, Some(mount)))
    }

    /// Size and findings of the device behind a record; nothing for file sources.
    pub(super) async fn device_health(
        &self,
        record: &Record,
    ) -> Result<(Option<u64>, Vec<api::HealthEntry>), Failure> {
        let Some(identity) = record.identity() else { return Ok((None, Vec::new())) };
        let staged = record.device.as_ref().map(|device| device.number);
        Ok(match self.parts.devices.find(identity).await? {
            None => {
                let message =
                    format!("no device of {identity} is on this host; restart the pods that use the volume");
                (None, vec![inaccessible("DeviceLost", message)])
            }
            Some(node) if Some(node.number) != staged => {
                let message = format!(
                    "the device that was staged died and came back as {}; restart the pods that use the volume",
                    node.path.display()
                );
                (Some(node.size), vec![inaccessible("DeviceReplaced", message)])
            }
            Some(node) if !node.reachable => {
                let message = format!("no path to the appliance works; {} waits for it", node.path.display());
                (Some(node.size), vec![inaccessible("NoPath", message)])
            }
            Some(node) => (Some(node.size), Vec::new()),
        })
    }
}
