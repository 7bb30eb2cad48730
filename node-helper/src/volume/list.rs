//! ListVolumes: what the ledger knows, with what the kernel shows of it.

use std::sync::Arc;

use tns_csi_proto::helper::v1 as api;

use super::Volumes;
use super::stats::inaccessible;
use super::view::is_staging;
use crate::failure::Failure;
use crate::ledger::{Intent, Record};
use crate::mount::MountTable;
use crate::paths::VolumePath;
use crate::work;

impl Volumes {
    /// Lists every volume of the ledger. A ledger file that cannot be read is an entry with that finding.
    ///
    /// # Errors
    /// When ledger or mount table cannot be read at all.
    pub async fn list(self: &Arc<Self>) -> Result<api::ListVolumesResponse, Failure> {
        let this = Arc::clone(self);
        let (records, unusable) = work::run("reading the ledger", move || this.parts.ledger.list()).await??;
        let table = self.table().await?;
        let mut volumes = Vec::new();
        for record in records.iter().filter(|record| record.intent != Intent::Unstaged) {
            volumes.push(self.entry(record, &table).await);
        }
        volumes.extend(unusable.iter().map(|error| api::VolumeEntry {
            health: vec![inaccessible("LedgerUnusable", error.to_string())],
            ..Default::default()
        }));
        Ok(api::ListVolumesResponse { volumes })
    }

    async fn entry(self: &Arc<Self>, record: &Record, table: &MountTable) -> api::VolumeEntry {
        let mut health = match self.device_health(record).await {
            Ok((_, health)) => health,
            Err(failure) => vec![inaccessible("DeviceUnknown", failure.message)],
        };
        let staging = VolumePath::from_ledger(&record.staging).map(|path| self.parts.root.real_path(&path));
        let mounted =
            staging.as_ref().and_then(|path| table.top(path)).is_some_and(|mount| is_staging(record, mount));
        if !mounted && !record.is_raw_block() && record.intent == Intent::Staged {
            let message =
                "the volume is not mounted at its staging path; restart the pods that use it".to_owned();
            health.push(inaccessible("NotMounted", message));
        }
        let device = match record.identity() {
            None => None,
            Some(identity) => self.parts.devices.find(identity).await.ok().flatten(),
        };
        let root = self.parts.layout.root();
        let absolute = |relative: &String| root.join(relative).display().to_string();
        api::VolumeEntry {
            volume_id: record.volume_id.clone(),
            protocol: record.source.protocol().to_owned(),
            staging_path: absolute(&record.staging),
            target_paths: self.published_targets(record, table).await.iter().map(absolute).collect(),
            device: device.map(|node| node.kernel_name()).unwrap_or_default(),
            health,
        }
    }
}
