//! ListVolumes.
//!
//! The rule it keeps: ours only, by the same judgement as everywhere. One filtered query of datasets answers a listing, and
//! one query for each kind of object that serves the volumes found tells their condition; further pages come from what
//! these gave, kept true by our own calls.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::csi::v1::list_volumes_response::VolumeStatus;
use tokio::time::Instant;
use truenas::Calls;
use truenas::calls::{Filter, ListedDataset, user_property_path};

use crate::csi::controller::Inner;
use crate::csi::controller::get::locked;
use crate::csi::controller::lookup::as_volume;
use crate::protocol::appliance::Appliance;
use crate::protocol::iscsi::Iscsi;
use crate::protocol::nfs::Nfs;
use crate::protocol::nvmeof::Nvmeof;
use crate::protocol::smb::Smb;
use crate::protocol::{Answer as _, Export};
use crate::volume::failure::Failure;
use crate::volume::id::{self, VolumeId};
use crate::volume::index::{Entry, Listed, read_token};
use crate::volume::metadata::{
    CLUSTER_ID, CSI_VOLUME_NAME, DETACHED_SNAPSHOT, ISCSI_IQN, MANAGED_BY, MANAGER, Metadata, NFS_SHARE_ID,
    NFS_SHARE_PATH, NVMEOF_SUBSYSTEM_NQN, PROTOCOL, SCHEMA_VERSION, SMB_SHARE_ID, SMB_SHARE_NAME, VOLUME_ID,
};
use crate::volume::ownership::{Ownership, judge};
use crate::volume::protocol::Protocol;
use crate::volume::{capacity, health};

/// What a listing reads of each volume: whose it is, and by which names it is served.
const READ: [&str; 13] = [
    SCHEMA_VERSION,
    DETACHED_SNAPSHOT,
    MANAGED_BY,
    VOLUME_ID,
    CSI_VOLUME_NAME,
    CLUSTER_ID,
    PROTOCOL,
    NFS_SHARE_PATH,
    NFS_SHARE_ID,
    SMB_SHARE_NAME,
    SMB_SHARE_ID,
    NVMEOF_SUBSYSTEM_NQN,
    ISCSI_IQN,
];

pub(super) async fn list(
    inner: &Arc<Inner>,
    request: csi::ListVolumesRequest,
    until: Instant,
) -> Result<csi::ListVolumesResponse, Failure> {
    let max = usize::try_from(request.max_entries).map_err(|_| {
        Failure::invalid(format!("max_entries is {}, it is not negative", request.max_entries))
    })?;
    let after = read_token(&request.starting_token)?;
    let appliance = inner.default_appliance()?;
    if after.is_none() || !appliance.index.is_complete() {
        appliance.check_reachable()?;
        inner.relist(appliance, &appliance.calls(until)).await?;
    }
    let page = appliance.index.page(after, max);
    let entry = |(volume_id, listed): (String, Listed)| csi::list_volumes_response::Entry {
        volume: Some(csi::Volume {
            volume_id,
            capacity_bytes: capacity::to_csi(listed.entry.capacity_bytes),
            accessible_topology: inner.options.topology.accessible(),
            ..Default::default()
        }),
        status: Some(VolumeStatus {
            volume_condition: Some(condition(listed.health.as_deref())),
            ..VolumeStatus::default()
        }),
    };
    Ok(csi::ListVolumesResponse {
        entries: page.entries.into_iter().map(entry).collect(),
        next_token: page.next.unwrap_or_default(),
    })
}

fn condition(found: Option<&[health::Entry]>) -> csi::VolumeCondition {
    let (abnormal, message) = found.map_or_else(
        || (false, "seen after this listing was made, not yet looked at".to_owned()),
        health::condition,
    );
    csi::VolumeCondition { abnormal, message }
}

impl Inner {
    async fn relist(&self, appliance: &Appliance, calls: &Calls) -> Result<(), Failure> {
        let listing = appliance.index.begin();
        let filters = [Filter::eq(&user_property_path(MANAGED_BY), MANAGER)];
        let marked = calls.datasets_listed(&filters, &READ).await.or_failed("listing datasets")?;
        let mut volumes = self.volumes_among(appliance, marked);
        let mut of = |protocol| volumes.remove(&protocol).unwrap_or_default();
        let (nfs, smb, iscsi, nvmeof) = tokio::join!(
            self.judged::<Nfs>(calls, of(Protocol::Nfs)),
            self.judged::<Smb>(calls, of(Protocol::Smb)),
            self.judged::<Iscsi>(calls, of(Protocol::Iscsi)),
            self.judged::<Nvmeof>(calls, of(Protocol::Nvmeof)),
        );
        let mut entries = BTreeMap::new();
        entries.extend(nfs?);
        entries.extend(smb?);
        entries.extend(iscsi?);
        entries.extend(nvmeof?);
        listing.replace(entries);
        Ok(())
    }

    /// The volumes among datasets that carry our marker, by protocol.
    fn volumes_among(
        &self,
        appliance: &Appliance,
        marked: Vec<ListedDataset>,
    ) -> BTreeMap<Protocol, Vec<ListedDataset>> {
        let names: HashSet<&str> = marked.iter().map(|dataset| &*dataset.name).collect();
        let protocols: Vec<_> =
            marked.iter().map(|dataset| self.protocol_of(appliance, dataset, &names)).collect();
        let mut by_protocol: BTreeMap<_, Vec<ListedDataset>> = BTreeMap::new();
        for (protocol, dataset) in protocols.into_iter().zip(marked) {
            if let Some(protocol) = protocol {
                by_protocol.entry(protocol).or_default().push(dataset);
            }
        }
        by_protocol
    }

    /// How a dataset is served, when it is a volume of this driver at this appliance.
    fn protocol_of(
        &self,
        appliance: &Appliance,
        dataset: &ListedDataset,
        marked: &HashSet<&str>,
    ) -> Option<Protocol> {
        let metadata = Metadata::from(&*dataset.user_properties);
        let id = recorded_id(&metadata)?;
        let here = match id.dataset() {
            Some(path) => path == &*dataset.name && id.backend() == appliance.backend.as_deref(),
            None => id.name() == id::leaf(&dataset.name),
        };
        let ours = match judge(&id, &dataset.name, &metadata, self.cluster_id()) {
            Ownership::Ours => here,
            Ownership::OursIfNoOwnedAncestor => {
                here && !id::ancestors(&dataset.name).any(|a| marked.contains(a))
            }
            Ownership::Foreign(_) => false,
        };
        as_volume(&metadata, dataset.kind).ok().filter(|_| ours)
    }

    /// Volumes of one protocol with what is wrong with them.
    async fn judged<E: Export>(
        &self,
        calls: &Calls,
        volumes: Vec<ListedDataset>,
    ) -> Result<Vec<(String, Listed)>, Failure> {
        if volumes.is_empty() {
            return Ok(Vec::new());
        }
        let served = E::served(calls, None).await?;
        let judge = |dataset: ListedDataset| {
            let metadata = Metadata::from(&*dataset.user_properties);
            let id = recorded_id(&metadata)?;
            let volume = self.volume(&id, &dataset.name);
            let mut health: Vec<_> = locked(&volume, dataset.locked).into_iter().collect();
            health.extend(E::health(&served, &volume, &metadata));
            let entry = Entry { capacity_bytes: dataset.capacity.unwrap_or(0), protocol: Some(E::PROTOCOL) };
            Some((id.to_string(), Listed { entry, health: Some(health.into_boxed_slice()) }))
        };
        Ok(volumes.into_iter().filter_map(judge).collect())
    }
}

/// The id by which the orchestrator knows a volume: the recorded one; an old volume's is its name.
fn recorded_id(metadata: &Metadata) -> Option<VolumeId> {
    VolumeId::parse(metadata.get(VOLUME_ID).or_else(|| metadata.get(CSI_VOLUME_NAME))?)
}
