//! DeleteVolume.
//!
//! The rule it keeps: a volume with a snapshot, a child or somebody else's share is refused before any effect, because
//! the appliance removes exports before it finds out that ZFS refuses. And gone is only what was seen to be gone.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use tns_csi_proto::csi::v1 as csi;
use tokio::time::Instant;
use truenas::Calls;
use truenas::calls::Dataset;

use crate::csi::controller::lookup::{Finding, Owned};
use crate::csi::controller::{Done, Inner, deadline, until_known, wait};
use crate::observe::VolumeOperation;
use crate::protocol::appliance::Appliance;
use crate::protocol::{Answer as _, Attached, Export, Judge, Volume, with_export};
use crate::volume::failure::{Failure, Kind};
use crate::volume::metadata::Metadata;
use crate::volume::parameter::DeleteStrategy;
use crate::volume::protocol::Protocol;

pub(super) async fn delete(
    inner: &Arc<Inner>,
    request: csi::DeleteVolumeRequest,
    until: Instant,
) -> Result<csi::DeleteVolumeResponse, Failure> {
    if request.volume_id.is_empty() {
        return Err(Failure::missing("volume_id"));
    }
    // An id that this driver cannot have given names nothing that is left to delete.
    let Some((appliance, id)) = inner.locate(&request.volume_id) else {
        return Ok(csi::DeleteVolumeResponse {});
    };
    appliance.check_reachable()?;
    let ticket = inner.registry.alone(&id.to_string(), "delete", String::new(), || {
        let (inner, appliance, id) = (Arc::clone(inner), Arc::clone(appliance), id.clone());
        async move {
            let calls = appliance.calls(deadline::of_work());
            let work = until_known(calls.deadline(), |_| async {
                let Some(volume) = inner.resolve(&calls, &id).await? else {
                    return Ok(Done::Deleted);
                };
                inner.remove(&appliance, &calls, &volume, Strategy::Honoured).await.map(|()| Done::Deleted)
            });
            inner.counted(VolumeOperation::Delete, &appliance, &id, work).await
        }
    })?;
    wait(ticket, appliance, until).await.map(|_| csi::DeleteVolumeResponse {})
}

/// Whether the volume's own delete strategy counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    /// A deletion that was asked for.
    Honoured,
    /// Undoing a creation that could not be completed: nobody has seen the volume.
    Ignored,
}

/// What was read for a deletion.
struct Reading {
    tree: Vec<Dataset>,
    snapshots: Result<u64, Failure>,
    hanging: Vec<(Protocol, Judge)>,
}

impl Inner {
    /// Removes a volume with its export, or finds that it is gone and removes what is left of its export.
    pub(super) async fn remove(
        &self,
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
        strategy: Strategy,
    ) -> Result<(), Failure> {
        let id = volume.id.to_string();
        let mut reading = self.read_for_removal(appliance, calls, volume).await?;
        let dataset = &volume.dataset;
        let own = reading.tree.iter().position(|d| d.name == *dataset).map(|at| reading.tree.swap_remove(at));
        let owned = match self.judge(appliance, calls, volume, own).await? {
            Finding::Absent => {
                self.clear(appliance, calls, volume, None, reading.hanging).await?;
                appliance.index.forget(&id);
                return Ok(());
            }
            Finding::Foreign(why) => {
                return Err(Failure::precondition(format!("{why}; nothing was deleted")));
            }
            Finding::Owned(owned) => *owned,
        };
        match owned.metadata.delete_strategy() {
            Some(DeleteStrategy::Delete) => {}
            _ if strategy == Strategy::Ignored => {}
            Some(DeleteStrategy::Retain) => {
                tracing::info!(volume = id, "kept on the appliance: its delete strategy is retain");
                return Ok(());
            }
            None => {
                return Err(Failure::precondition(format!(
                    "volume {id} has a delete strategy that this driver does not know; nothing was deleted"
                )));
            }
        }
        if !reading.hanging.iter().any(|(protocol, _)| *protocol == owned.protocol) {
            let judge = attached(appliance, calls, volume, owned.protocol).await?;
            reading.hanging.push((owned.protocol, judge));
        }
        // To another protocol's judge the volume's own share is a stranger's.
        reading.hanging.retain(|(protocol, _)| *protocol == owned.protocol);
        let (attached, foreign) = judged(volume, Some(&owned.metadata), reading.hanging);
        check_free(volume, &owned, &reading.tree, reading.snapshots?, &foreign)?;
        match calls.dataset_delete(dataset).await {
            Err(error) if error.is_not_found() => {}
            Err(error) if error.refused().is_some_and(|e| e.is_not_empty()) => {
                return Err(Failure::precondition(format!("deleting dataset {dataset}: {error}")));
            }
            other => other.or_failed(&format!("deleting dataset {dataset}"))?,
        }
        // TrueNAS 26 answers true on a busy volume that stays.
        let left = calls.dataset_read(dataset).await.or_failed(&format!("reading dataset {dataset}"))?;
        if left.is_some() {
            let words =
                format!("the appliance said that it deleted dataset {dataset}, but it is still there (busy)");
            return Err(Failure::new(Kind::Busy, words));
        }
        for (protocol, attached) in attached {
            clear(calls, volume, protocol, &attached).await?;
        }
        appliance.index.forget(&id);
        Ok(())
    }

    async fn read_for_removal(
        &self,
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
    ) -> Result<Reading, Failure> {
        let dataset = &volume.dataset;
        let hint = appliance.index.protocol_hint(&volume.id.to_string());
        let protocols: Vec<Protocol> = hint.map_or_else(|| Protocol::ALL.to_vec(), |p| vec![p]);
        let hanging = join_all(protocols.iter().map(|p| attached(appliance, calls, volume, *p)));
        let (tree, snapshots, hanging) =
            tokio::join!(calls.dataset_read_tree(dataset), calls.snapshot_count(dataset), hanging);
        let hanging = protocols.into_iter().zip(hanging).map(|(p, judge)| Ok((p, judge?)));
        Ok(Reading {
            tree: tree.or_failed(&format!("reading dataset {dataset}"))?,
            // Only asked of a dataset that is there; of a missing one it is an error.
            snapshots: snapshots.or_failed(&format!("counting the snapshots of {dataset}")),
            hanging: hanging.collect::<Result<_, Failure>>()?,
        })
    }

    /// Removes what is left of the export of a volume whose dataset is gone, whatever protocol it had.
    async fn clear(
        &self,
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
        metadata: Option<&Metadata>,
        mut hanging: Vec<(Protocol, Judge)>,
    ) -> Result<(), Failure> {
        for protocol in Protocol::ALL {
            if !hanging.iter().any(|(p, _)| *p == protocol) {
                hanging.push((protocol, attached(appliance, calls, volume, protocol).await?));
            }
        }
        for (protocol, attached) in judged(volume, metadata, hanging).0 {
            clear(calls, volume, protocol, &attached).await?;
        }
        Ok(())
    }
}

fn attached<'a>(
    appliance: &'a Appliance,
    calls: &'a Calls,
    volume: &'a Volume,
    protocol: Protocol,
) -> BoxFuture<'a, Result<Judge, Failure>> {
    async move { with_export!(protocol, E => E::attached(appliance, calls, volume).await) }.boxed()
}

async fn clear(
    calls: &Calls,
    volume: &Volume,
    protocol: Protocol,
    attached: &Attached,
) -> Result<(), Failure> {
    with_export!(protocol, E => E::clear(calls, volume, attached).await)
}

fn judged(
    volume: &Volume,
    metadata: Option<&Metadata>,
    hanging: Vec<(Protocol, Judge)>,
) -> (Vec<(Protocol, Attached)>, Vec<String>) {
    let mut foreign = Vec::new();
    let mut all = Vec::new();
    for (protocol, judge) in hanging {
        let mut attached = judge(volume, metadata);
        foreign.append(&mut attached.foreign);
        all.push((protocol, attached));
    }
    (all, foreign)
}

/// Refuses a deletion that would hurt somebody.
fn check_free(
    volume: &Volume,
    owned: &Owned,
    below: &[Dataset],
    snapshots: u64,
    foreign: &[String],
) -> Result<(), Failure> {
    let id = volume.id.to_string();
    let mut reasons = Vec::new();
    let nodes: Vec<String> = owned
        .metadata
        .nodes(&id)
        .into_values()
        .map(|record| record.map_or_else(|unreadable| unreadable.property, |r| r.name))
        .collect();
    if !nodes.is_empty() {
        reasons.push(format!("it is still published to {}", nodes.join(", ")));
    }
    if snapshots > 0 {
        reasons.push(format!("it has {snapshots} snapshots"));
    }
    if let Some(child) = below.first() {
        reasons.push(format!("dataset {} is below it", child.name));
    }
    if !foreign.is_empty() {
        reasons.push(format!("objects of others are on it: {}", foreign.join(", ")));
    }
    if reasons.is_empty() {
        return Ok(());
    }
    Err(Failure::precondition(format!(
        "volume {id} was not deleted: {}; remove that first",
        reasons.join("; ")
    )))
}
