//! ControllerExpandVolume.
//!
//! The rule it keeps: a volume never becomes smaller; the present size is read before it is changed, so that a repeated
//! smaller request lowers no quota. The recorded capacity changes in the same call as the size.

use std::sync::Arc;

use tns_csi_proto::csi::v1 as csi;
use tokio::time::Instant;
use truenas::Calls;
use truenas::calls::{DatasetUpdate, PropertyChange, UserProperty};

use crate::csi::controller::lookup::Owned;
use crate::csi::controller::{Done, Inner, deadline, until_known, wait};
use crate::observe::VolumeOperation;
use crate::protocol::appliance::Appliance;
use crate::protocol::{Volume, failed};
use crate::volume::capability::Capability;
use crate::volume::capacity::{self, Granularity, Range, VOLBLOCKSIZE};
use crate::volume::failure::{Failure, Kind};
use crate::volume::id::VolumeId;
use crate::volume::index::Entry;
use crate::volume::metadata::CAPACITY_BYTES;
use crate::volume::parameter::zfs::RESERVE;

pub(super) async fn expand(
    inner: &Arc<Inner>,
    request: csi::ControllerExpandVolumeRequest,
    until: Instant,
) -> Result<csi::ControllerExpandVolumeResponse, Failure> {
    if request.volume_id.is_empty() {
        return Err(Failure::missing("volume_id"));
    }
    let range = request.capacity_range.ok_or_else(|| Failure::missing("capacity_range"))?;
    let range = Range::new(range.required_bytes, range.limit_bytes)?;
    if range == Range::default() {
        return Err(Failure::missing("capacity_range.required_bytes"));
    }
    let capability = request.volume_capability.as_ref();
    let capability = capability.map(|c| Capability::parse("volume_capability", c)).transpose()?;
    let Some((appliance, id)) = inner.locate(&request.volume_id) else {
        return Err(Failure::volume_not_found(&request.volume_id));
    };
    appliance.check_reachable()?;
    let arguments = format!("{range:?} {capability:?}");
    let ticket = inner.registry.alone(&id.to_string(), "expand", arguments, || {
        let (inner, appliance, id) = (Arc::clone(inner), Arc::clone(appliance), id.clone());
        async move {
            let calls = appliance.calls(deadline::of_work());
            let once = || inner.expand(&appliance, &calls, &id, range, capability.as_ref());
            let work = until_known(calls.deadline(), |_| once());
            inner.counted(VolumeOperation::Expand, &appliance, &id, work).await
        }
    })?;
    match wait(ticket, appliance, until).await? {
        Done::Expanded { capacity_bytes, node_expansion } => Ok(csi::ControllerExpandVolumeResponse {
            capacity_bytes: capacity::to_csi(capacity_bytes),
            node_expansion_required: node_expansion,
        }),
        other => Err(Failure::new(Kind::Internal, format!("expand ended as {other:?}"))),
    }
}

impl Inner {
    async fn expand(
        &self,
        appliance: &Appliance,
        calls: &Calls,
        id: &VolumeId,
        range: Range,
        capability: Option<&Capability>,
    ) -> Result<Done, Failure> {
        let unknown = || Failure::volume_not_found(&id.to_string());
        let volume = self.resolve(calls, id).await?.ok_or_else(unknown)?;
        let owned = self.find(appliance, calls, &volume).await?.owned(id)?;
        if let Some(capability) = capability {
            capability.check(owned.protocol)?;
        }
        let block = owned.protocol.is_block();
        let granularity = if block {
            Granularity::zvol(owned.volblocksize.unwrap_or(VOLBLOCKSIZE))
        } else {
            Granularity::REFQUOTA
        };
        let present = owned.capacity_bytes;
        if let Some(limit) = range.limit
            && present > limit
        {
            return Err(Failure::new(
                Kind::OutOfRange,
                format!("volume {id} has {present} bytes already, capacity_range.limit_bytes is {limit}"),
            ));
        }
        // Without a required size anything up to the limit will do, and it has some size already.
        let required = range.required.unwrap_or(present);
        let (capacity_bytes, reserved) = if present >= required && present > 0 {
            (present, owned.refreservation)
        } else {
            let size = capacity::choose(range, granularity)?;
            self.grow(appliance, calls, &volume, &owned, size).await?
        };
        if is_reserved(&owned) && reserved.is_none_or(|reserved| reserved < capacity_bytes) {
            self.reserve(calls, &volume, capacity_bytes).await?;
        }
        Ok(Done::Expanded { capacity_bytes, node_expansion: block })
    }

    /// Lets the reservation follow the size. A call of its own: ZFS takes no reservation beyond the quota that is
    /// there, and raises that of a zvol by itself only when it stands exactly where `zfs create` puts it.
    async fn reserve(&self, calls: &Calls, volume: &Volume, size: u64) -> Result<(), Failure> {
        let update = DatasetUpdate { refreservation: Some(size), ..DatasetUpdate::default() };
        let doing = format!("reserving {size} bytes for dataset {}", volume.dataset);
        calls.dataset_update(&volume.dataset, &update).await.map_err(|error| failed(&doing, &error))?;
        Ok(())
    }

    /// Gives the new size and reservation.
    async fn grow(
        &self,
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
        owned: &Owned,
        size: u64,
    ) -> Result<(u64, Option<u64>), Failure> {
        let block = owned.protocol.is_block();
        let update = DatasetUpdate {
            refquota: (!block).then_some(size),
            volsize: block.then_some(size),
            // TrueNAS applies its 80 % rule to sparse zvols too.
            force_size: (block && owned.sparse).then_some(true),
            user_properties_update: vec![PropertyChange::Set(UserProperty::new(
                CAPACITY_BYTES,
                size.to_string(),
            ))],
            ..DatasetUpdate::default()
        };
        let changed = calls.dataset_update(&volume.dataset, &update).await.map_err(|error| {
            if error.is_not_found() {
                Failure::volume_not_found(&volume.id.to_string())
            } else {
                failed(&format!("expanding dataset {} to {size} bytes", volume.dataset), &error)
            }
        })?;
        let real = if block { changed.volsize } else { changed.refquota }.unwrap_or(size);
        let entry = Entry { capacity_bytes: real, protocol: Some(owned.protocol) };
        appliance.index.note(&volume.id.to_string(), entry);
        Ok((real, changed.refreservation))
    }
}

/// Whether the volume's whole size is to be reserved for it: so the class said, or so it stands.
fn is_reserved(owned: &Owned) -> bool {
    let asked = |key: &str, value: &str| owned.metadata.requested_parameter(key) == Some(value);
    if owned.protocol.is_block() {
        asked("zfs.sparse", "false")
            || (owned.capacity_bytes > 0 && owned.refreservation.is_some_and(|r| r >= owned.capacity_bytes))
    } else {
        asked(RESERVE, "true")
    }
}
