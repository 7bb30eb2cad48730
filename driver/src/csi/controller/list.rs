//! ListVolumes.
//!
//! The rule it keeps: ours only, by the same judgement as everywhere. One filtered query answers a listing; its further
//! pages come from what that query gave, kept true by our own calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tns_csi_proto::csi::v1 as csi;
use tokio::time::Instant;
use truenas::Calls;
use truenas::calls::{Dataset, DatasetKind, Filter, Query};

use crate::csi::controller::Inner;
use crate::csi::controller::lookup::property_path;
use crate::protocol::Answer as _;
use crate::protocol::appliance::Appliance;
use crate::volume::capacity;
use crate::volume::failure::Failure;
use crate::volume::id::{self, VolumeId};
use crate::volume::index::{Entry, read_token};
use crate::volume::metadata::{CSI_VOLUME_NAME, MANAGED_BY, MANAGER, Metadata, VOLUME_ID};
use crate::volume::ownership::{Ownership, judge};

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
    let entry = |(volume_id, entry): (String, Entry)| csi::list_volumes_response::Entry {
        volume: Some(csi::Volume {
            volume_id,
            capacity_bytes: capacity::to_csi(entry.capacity_bytes),
            ..Default::default()
        }),
        status: None,
    };
    Ok(csi::ListVolumesResponse {
        entries: page.entries.into_iter().map(entry).collect(),
        next_token: page.next.unwrap_or_default(),
    })
}

impl Inner {
    async fn relist(&self, appliance: &Appliance, calls: &Calls) -> Result<(), Failure> {
        let filters = [Filter::eq(&property_path(MANAGED_BY), MANAGER)];
        let marked = calls.datasets_query(&filters, Query::default()).await.or_failed("listing datasets")?;
        appliance.index.replace(self.volumes_among(appliance, &marked));
        Ok(())
    }

    /// The volumes among datasets that carry our marker, by id.
    fn volumes_among(&self, appliance: &Appliance, marked: &[Dataset]) -> BTreeMap<String, Entry> {
        let names: BTreeSet<&str> = marked.iter().map(|d| d.name.as_str()).collect();
        marked.iter().filter_map(|dataset| self.entry(appliance, dataset, &names)).collect()
    }

    fn entry(
        &self,
        appliance: &Appliance,
        dataset: &Dataset,
        marked: &BTreeSet<&str>,
    ) -> Option<(String, Entry)> {
        let metadata = Metadata::from(dataset.user_properties.clone());
        // The id by which the orchestrator knows it is the recorded one; an old volume's is its name.
        let recorded = metadata.get(VOLUME_ID).or_else(|| metadata.get(CSI_VOLUME_NAME))?;
        let id = VolumeId::parse(recorded)?;
        let here = match id.dataset() {
            Some(path) => path == dataset.name && id.backend() == appliance.backend.as_deref(),
            None => id.name() == id::leaf(&dataset.name),
        };
        let ours = match judge(&id, &dataset.name, &metadata, self.cluster_id()) {
            Ownership::Ours => here,
            Ownership::OursIfNoOwnedAncestor => {
                here && !id::ancestors(&dataset.name).any(|a| marked.contains(a))
            }
            Ownership::Foreign(_) => false,
        };
        let capacity = match dataset.kind {
            DatasetKind::Filesystem => dataset.refquota,
            DatasetKind::Volume => dataset.volsize,
        };
        let protocol = metadata.protocol().ok().flatten();
        ours.then(|| (id.to_string(), Entry { capacity_bytes: capacity.unwrap_or(0), protocol }))
    }
}
