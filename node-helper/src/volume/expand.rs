//! ExpandVolume: the device is asked anew for its size, then the file system fills it.

use std::sync::Arc;

use tns_csi_proto::helper::v1 as api;
use tokio::time::Instant;

use super::view::Life;
use super::{Call, Done, Expand, Volumes, unexpected};
use crate::failure::Failure;
use crate::filesystem::FsType;
use crate::ledger::{Access, Device};
use crate::mount::Answer;

impl Volumes {
    /// Grows a staged volume to what the appliance offers; a volume that is large enough already is a success.
    ///
    /// # Errors
    /// `NotFound` when the volume is not at the path, `FailedPrecondition` when it is dead or read-only.
    pub async fn expand(
        self: &Arc<Self>,
        request: Expand,
        call: Call,
    ) -> Result<api::ExpandVolumeResponse, Failure> {
        let this = Arc::clone(self);
        let volume = request.volume.clone();
        let deadline = call.deadline;
        let work = async move { Box::pin(this.expand_now(request, deadline)).await.map(Done::Expanded) };
        match self.operations.run(&volume, "ExpandVolume", call.fingerprint, call.answer_by, work).await? {
            Done::Expanded(expanded) => Ok(expanded),
            _ => Err(unexpected("ExpandVolume")),
        }
    }

    async fn expand_now(
        self: &Arc<Self>,
        request: Expand,
        deadline: Instant,
    ) -> Result<api::ExpandVolumeResponse, Failure> {
        let volume = &request.volume;
        let (mut record, _) = self.located(volume, &request.path).await?;
        let Some(identity) = record.identity().cloned() else {
            return self.report_export(&request, deadline).await;
        };
        match self.life(&record, deadline).await? {
            Life::Device(_) => {}
            Life::Dead(fault) => {
                return Err(Failure::precondition(format!("volume {volume} is dead on this host: {fault}")));
            }
            Life::Export | Life::Silent => return Err(Failure::internal("a block volume answered as files")),
        }
        self.parts.attachments.rescan(&identity, deadline).await?;
        let node = self.parts.devices.wait_size(&identity, request.required.max(1), deadline).await?;
        let mut outcome = "the device has its size".to_owned();
        if let Access::Filesystem { fs_type, readonly, .. } = &record.access {
            let kind: FsType = fs_type.parse().map_err(|error| Failure::internal(format!("{error}")))?;
            if *readonly {
                return Err(Failure::precondition(format!(
                    "volume {volume} is staged read-only: its file system can grow when it is staged writable"
                )));
            }
            let place = self.place(&request.path).await?;
            let grown = self.grow_at(&node, kind, &place, deadline).await?;
            outcome = if grown.from == grown.to {
                format!("the file system has {} bytes already", grown.to)
            } else {
                format!("the file system grew from {} to {} bytes", grown.from, grown.to)
            };
        }
        let mounted = record.device.as_ref().and_then(|device| device.mounted);
        record.device = Some(Device { mounted, ..Device::from(&node) });
        self.remember(volume, &record).await?;
        Ok(api::ExpandVolumeResponse { capacity_bytes: node.size, outcome })
    }

    /// The appliance alone grows an export; its size is what the server says.
    async fn report_export(
        self: &Arc<Self>,
        request: &Expand,
        deadline: Instant,
    ) -> Result<api::ExpandVolumeResponse, Failure> {
        let place = self.place(&request.path).await?;
        match self.ask(place, deadline).await? {
            Answer::Alive(usage) => Ok(api::ExpandVolumeResponse {
                capacity_bytes: usage.total,
                outcome: "the appliance grows this volume; nothing to do on the node".to_owned(),
            }),
            Answer::Dead(error) => {
                Err(Failure::precondition(format!("the mount of volume {} is dead: {error}", request.volume)))
            }
            Answer::Silent => {
                Err(Failure::unavailable(format!("the server of volume {} does not answer", request.volume)))
            }
        }
    }
}
