//! ControllerGetVolume: the volume, and its health as the appliance shows it now.
//!
//! The rule it keeps: it changes nothing, and what could not be read is an error and no verdict. A volume whose dataset
//! is gone does not exist; everything else that is wrong is told in the condition.

use std::sync::Arc;

use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::csi::v1::controller_get_volume_response::VolumeStatus;
use tokio::time::Instant;

use crate::csi::controller::Inner;
use crate::protocol::{Export, Volume, with_export};
use crate::volume::failure::Failure;
use crate::volume::health::{Entry, Status};
use crate::volume::{capacity, health};

pub(super) async fn get(
    inner: &Arc<Inner>,
    request: csi::ControllerGetVolumeRequest,
    until: Instant,
) -> Result<csi::ControllerGetVolumeResponse, Failure> {
    if request.volume_id.is_empty() {
        return Err(Failure::missing("volume_id"));
    }
    let unknown = || Failure::volume_not_found(&request.volume_id);
    let (appliance, id) = inner.locate(&request.volume_id).ok_or_else(unknown)?;
    appliance.check_reachable()?;
    let calls = appliance.calls(until);
    let volume = inner.resolve(&calls, &id).await?.ok_or_else(unknown)?;
    let owned = inner.find(appliance, &calls, &volume).await?.owned(&id)?;
    let mut entries: Vec<Entry> = locked(&volume, owned.locked).into_iter().collect();
    entries.extend(with_export!(owned.protocol, E => {
        let served = E::served(&calls, Some((&volume, &owned.metadata))).await?;
        E::health(&served, &volume, &owned.metadata)
    }));
    let (abnormal, message) = health::condition(&entries);
    Ok(csi::ControllerGetVolumeResponse {
        volume: Some(csi::Volume {
            volume_id: request.volume_id,
            capacity_bytes: capacity::to_csi(owned.capacity_bytes),
            accessible_topology: inner.options.topology.accessible(),
            ..Default::default()
        }),
        status: Some(VolumeStatus {
            // Without LIST_VOLUMES_PUBLISHED_NODES: docs/decisions.md says why.
            published_node_ids: Vec::new(),
            volume_condition: Some(csi::VolumeCondition { abnormal, message }),
        }),
    })
}

/// What to say of an encrypted dataset whose key is not loaded: after the appliance's restart, one with a passphrase.
pub(super) fn locked(volume: &Volume, is_locked: bool) -> Option<Entry> {
    let words = || {
        format!(
            "dataset {} is encrypted and locked; unlock it on the appliance (Datasets, Unlock)",
            volume.dataset
        )
    };
    is_locked.then(|| Entry::new(Status::Inaccessible, "DatasetLocked", words()))
}
