//! ControllerUnpublishVolume: the fence.
//!
//! The rule it keeps: it works with the node dead and needs nothing from it. What is taken back is what was recorded for
//! the node's name and what the node id says at present; on a volume for one node everyone goes; and whoever else is
//! granted stays untouched, also when an unpublish arrives long after the volume has moved on.

use std::sync::Arc;

use tns_csi_proto::csi::v1 as csi;
use tokio::time::Instant;
use truenas::Calls;
use truenas::calls::{DatasetUpdate, PropertyChange};

use crate::csi::controller::lookup::{Finding, Owned};
use crate::csi::controller::publish::{Change, half_done};
use crate::csi::controller::{Inner, wait};
use crate::protocol::appliance::Appliance;
use crate::protocol::{Answer as _, Export, Revocation, Volume, with_export};
use crate::volume::capability::{Access, Capability, Mode};
use crate::volume::failure::Failure;
use crate::volume::id::VolumeId;
use crate::volume::metadata::{NodeRecord, node_property, sealed_property};
use crate::volume::node_id::NodeId;
use crate::volume::ownership::Foreign;
use crate::volume::protocol::Protocol;

pub(super) async fn unpublish(
    inner: &Arc<Inner>,
    request: csi::ControllerUnpublishVolumeRequest,
    until: Instant,
) -> Result<csi::ControllerUnpublishVolumeResponse, Failure> {
    if request.volume_id.is_empty() {
        return Err(Failure::missing("volume_id"));
    }
    let done = csi::ControllerUnpublishVolumeResponse {};
    let Some((appliance, id)) = inner.locate(&request.volume_id) else { return Ok(done) };
    // No node id means every node; one that is not ours was never let in.
    let node = match request.node_id.as_str() {
        "" => None,
        text => match NodeId::parse(text) {
            Ok(node) => Some(node),
            Err(_) => return Ok(done),
        },
    };
    let arguments = node.as_ref().map_or_else(|| "unpublish all".to_owned(), |n| format!("unpublish {n}"));
    let name = node.as_ref().map(|n| n.name.clone()).unwrap_or_default();
    appliance.check_reachable()?;
    let ticket = inner.enqueue(appliance, &id, &name, arguments, Change::Revoke(node))?;
    wait(ticket, appliance, until).await.map(|_| done)
}

/// What an unpublish takes away.
struct Taking {
    revocation: Revocation,
    records: Vec<String>,
}

impl Inner {
    /// Takes access back from nodes; none in the list means everyone.
    pub(super) async fn revoke(
        &self,
        appliance: &Appliance,
        calls: &Calls,
        id: &VolumeId,
        nodes: &[Option<NodeId>],
    ) -> Result<(), Failure> {
        let Some(volume) = self.resolve(calls, id).await? else { return Ok(()) };
        let hint = appliance.index.protocol_hint(&id.to_string());
        let mut protocol = match hint {
            Some(hint) => hint,
            None => match self.find(appliance, calls, &volume).await? {
                Finding::Owned(owned) => owned.protocol,
                Finding::Absent => return self.revoke_leftovers(appliance, calls, &volume).await,
                Finding::Foreign(why) => return Err(foreign(&why)),
            },
        };
        loop {
            let revoked = with_export!(
                protocol,
                E => Box::pin(self.revoke_as::<E>(appliance, calls, &volume, nodes)).await?
            );
            match revoked {
                None => return Ok(()),
                Some(other) => protocol = other,
            }
        }
    }

    /// Reads, decides, writes. Gives the volume's protocol when it is another one.
    async fn revoke_as<E: Export>(
        &self,
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
        nodes: &[Option<NodeId>],
    ) -> Result<Option<Protocol>, Failure> {
        let (read, access) = tokio::join!(calls.dataset_read(&volume.dataset), E::access(calls, volume));
        let read = read.or_failed(&format!("reading dataset {}", volume.dataset))?;
        let owned = match self.judge(appliance, calls, volume, read).await? {
            Finding::Owned(owned) if owned.protocol == E::PROTOCOL => *owned,
            Finding::Owned(owned) => return Ok(Some(owned.protocol)),
            Finding::Absent => return self.revoke_leftovers(appliance, calls, volume).await.map(|()| None),
            Finding::Foreign(why) => return Err(foreign(&why)),
        };
        let Taking { revocation, records } = taking(volume, &owned, nodes);
        let forget = async {
            if records.is_empty() {
                return Ok(());
            }
            // What was sealed to the nodes goes with their records.
            let sealed = records.iter().map(|property| sealed_property(property));
            let sealed: Vec<String> = sealed.filter(|p| owned.metadata.get(p).is_some()).collect();
            let changes = records.into_iter().chain(sealed).map(PropertyChange::Remove).collect();
            let update = DatasetUpdate { user_properties_update: changes, ..DatasetUpdate::default() };
            match calls.dataset_update(&volume.dataset, &update).await {
                Err(error) if error.is_not_found() => Ok(()),
                other => other.map(|_| ()).or_failed(&format!("recording the unpublish of {}", volume.id)),
            }
        };
        let revoke = E::revoke(appliance, calls, volume, Some(&owned.metadata), access?, &revocation);
        let (revoked, forgotten) = tokio::join!(revoke, forget);
        revoked.and(forgotten).map_err(half_done)?;
        Ok(None)
    }

    /// The dataset is gone; what is left of its export lets nobody in.
    async fn revoke_leftovers(
        &self,
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
    ) -> Result<(), Failure> {
        for protocol in Protocol::ALL {
            with_export!(protocol, E => {
                let access = E::access(calls, volume).await?;
                E::revoke(appliance, calls, volume, None, access, &Revocation::Everyone).await.map_err(half_done)?;
            });
        }
        Ok(())
    }
}

fn foreign(why: &Foreign) -> Failure {
    Failure::precondition(format!("{why}; nothing was revoked"))
}

/// Decides who goes.
fn taking(volume: &Volume, owned: &Owned, nodes: &[Option<NodeId>]) -> Taking {
    let mut recorded = owned.metadata.nodes(&volume.id.to_string());
    let all = |recorded: &std::collections::BTreeMap<String, _>| recorded.keys().cloned().collect::<Vec<_>>();
    let mut everyone = nodes.iter().any(Option::is_none);
    let mut leaving = Vec::new();
    let mut records = Vec::new();
    let everything = all(&recorded);
    for node in nodes.iter().flatten() {
        let property = node_property(node);
        // Mode and access play no part in who the node is.
        let any = Capability { access: Access::Block, mode: Mode::SingleNodeWriter };
        leaving.push(NodeRecord::new(&volume.id, node, &any));
        if let Some(record) = recorded.remove(&property) {
            records.push(property);
            if let Ok(record) = record {
                // On a volume for one node whoever has access got it by accident.
                everyone |= !record.multi_node;
                leaving.push(record);
            }
        }
    }
    everyone |= recorded.is_empty();
    if everyone {
        return Taking { revocation: Revocation::Everyone, records: everything };
    }
    let remaining = recorded.into_values().filter_map(Result::ok).collect();
    Taking { revocation: Revocation::Nodes { leaving, remaining }, records }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use uuid::Uuid;

    use super::*;
    use crate::volume::metadata::Metadata;

    fn node(name: &str, last: u8) -> NodeId {
        NodeId::new(name, Uuid::from_u128(u128::from(last)), [[10, 0, 0, last].into()], None).unwrap()
    }

    fn volume() -> Volume {
        let id = VolumeId::parse("tank/v").unwrap();
        Volume::new(&id, "tank/v", None)
    }

    fn owned(nodes: &[(&NodeId, Mode)]) -> Owned {
        let record = |(node, mode): &(&NodeId, Mode)| {
            let capability = Capability { access: Access::Block, mode: *mode };
            (node_property(node), NodeRecord::new(&volume().id, node, &capability).to_value())
        };
        Owned {
            metadata: Metadata::from(nodes.iter().map(record).collect::<BTreeMap<_, _>>()),
            protocol: Protocol::Nvmeof,
            capacity_bytes: 1,
            volblocksize: None,
            sparse: true,
            refreservation: None,
            locked: false,
            unstamped: false,
        }
    }

    #[test]
    fn the_only_node_of_a_volume_takes_everyone_with_it() {
        let a = node("a", 1);
        let taken = taking(&volume(), &owned(&[(&a, Mode::SingleNodeWriter)]), &[Some(a.clone())]);
        assert_eq!(taken.revocation, Revocation::Everyone);
        assert_eq!(taken.records, [node_property(&a)]);
    }

    #[test]
    fn a_late_unpublish_does_not_touch_the_volumes_new_node() {
        let (a, b) = (node("a", 1), node("b", 2));
        let taken = taking(&volume(), &owned(&[(&b, Mode::SingleNodeWriter)]), &[Some(a.clone())]);
        let Revocation::Nodes { leaving, remaining } = taken.revocation else {
            panic!("everyone was revoked")
        };
        assert_eq!((leaving.len(), remaining.len()), (1, 1));
        assert_eq!((leaving[0].name.as_str(), remaining[0].name.as_str()), ("a", "b"));
        assert!(taken.records.is_empty());
    }

    #[test]
    fn a_node_that_came_back_with_another_identity_loses_both() {
        let (then, now) = (node("a", 1), node("a", 9));
        let b = node("b", 2);
        let shared = [(&then, Mode::MultiNodeMultiWriter), (&b, Mode::MultiNodeMultiWriter)];
        let taken = taking(&volume(), &owned(&shared), &[Some(now.clone())]);
        let Revocation::Nodes { leaving, remaining } = taken.revocation else {
            panic!("everyone was revoked")
        };
        let hosts: Vec<Uuid> = leaving.iter().map(|r| r.host).collect();
        assert_eq!(hosts, [now.host, then.host]);
        assert_eq!(remaining.len(), 1);
    }

    #[test]
    fn no_node_id_means_everyone() {
        let (a, b) = (node("a", 1), node("b", 2));
        let shared = [(&a, Mode::MultiNodeMultiWriter), (&b, Mode::MultiNodeMultiWriter)];
        let taken = taking(&volume(), &owned(&shared), &[None]);
        assert_eq!((taken.revocation, taken.records.len()), (Revocation::Everyone, 2));
    }
}
