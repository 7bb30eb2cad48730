//! ControllerPublishVolume, and the queue in which changes of access wait for each other.
//!
//! The rule it keeps: a publish lets exactly this node in and says so on the volume in the same hop, under the node's
//! name, so that unpublish can take back what was given even when the node has changed or died since. A volume that is
//! made for one node never gets a second one.

use std::collections::BTreeMap;
use std::sync::Arc;

use tns_csi_proto::csi::v1 as csi;
use tokio::time::Instant;
use truenas::Calls;
use truenas::calls::{Dataset, DatasetUpdate, PropertyChange, UserProperty};

use crate::csi::controller::get::locked;
use crate::csi::controller::lookup::Owned;
use crate::csi::controller::{Done, Inner, deadline, until_known, wait};
use crate::observe::VolumeOperation;
use crate::protocol::appliance::Appliance;
use crate::protocol::{
    Answer as _, Content, Endpoint, Export, Grantee, Granting, NodeIdentity, Revocation, Volume, failed,
    with_export,
};
use crate::volume::capability::Capability;
use crate::volume::chap::Chap;
use crate::volume::failure::{Failure, Kind};
use crate::volume::id::VolumeId;
use crate::volume::metadata::{Metadata, NodeRecord, VOLUME_ID, node_property};
use crate::volume::node_id::NodeId;
use crate::volume::parameter::export::ExportSettings;
use crate::volume::protocol::Protocol;

/// A change of who may attach a volume.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Let a node in.
    Grant(Box<Grant>),
    /// Take a node's access back; none means everyone's.
    Revoke(Option<NodeId>),
}

/// A node to be let in.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    node: NodeId,
    capability: Capability,
    endpoint: Option<Endpoint>,
    hint: Option<Protocol>,
    chap: Option<Chap>,
}

/// A grant that the volume's state allows.
struct Accepted {
    index: usize,
    property: String,
    node: NodeIdentity,
    grantee: Grantee,
    /// The record that it replaces, when the node's identity has changed since.
    replaces: Option<NodeRecord>,
}

/// Outcomes by the position of the grant, or the protocol that the volume turned out to have.
type Granted = Result<Vec<Result<Done, Failure>>, Protocol>;

pub(super) async fn publish(
    inner: &Arc<Inner>,
    request: csi::ControllerPublishVolumeRequest,
    until: Instant,
) -> Result<csi::ControllerPublishVolumeResponse, Failure> {
    if request.volume_id.is_empty() {
        return Err(Failure::missing("volume_id"));
    }
    if request.node_id.is_empty() {
        return Err(Failure::missing("node_id"));
    }
    let capability =
        request.volume_capability.as_ref().ok_or_else(|| Failure::missing("volume_capability"))?;
    let capability = Capability::parse("volume_capability", capability)?;
    if request.readonly {
        let words = "readonly is not possible here: the controller does not offer PUBLISH_READONLY";
        return Err(Failure::invalid(words));
    }
    let (appliance, id) =
        inner.locate(&request.volume_id).ok_or_else(|| Failure::volume_not_found(&request.volume_id))?;
    let node = NodeId::parse(&request.node_id).map_err(|error| {
        let words = format!("node {:?} is not one of this driver's node agents: {error}", request.node_id);
        Failure::new(Kind::NodeNotFound, words)
    })?;
    let context = |key: &str| request.volume_context.get(key).filter(|v| !v.is_empty());
    let port =
        context("port").map(|p| p.parse().map_err(|_| Failure::invalid("volume_context[port] is no port")));
    let port = port.transpose()?;
    let endpoint = context("server").map(|server| Endpoint { server: server.clone(), port });
    let hint = context("protocol").and_then(|p| p.parse().ok());
    let chap = Chap::read(&request.secrets)
        .map_err(|error| Failure::invalid(format!("controller-publish secret: {error}")))?;
    let arguments = format!("publish {node} {capability} {endpoint:?}");
    let name = node.name.clone();
    let change = Change::Grant(Box::new(Grant { node, capability, endpoint, hint, chap }));
    appliance.check_reachable()?;
    let ticket = inner.enqueue(appliance, &id, &name, arguments, change)?;
    match wait(ticket, appliance, until).await? {
        Done::Published(publish_context) => Ok(csi::ControllerPublishVolumeResponse { publish_context }),
        other => Err(Failure::new(Kind::Internal, format!("publish ended as {other:?}"))),
    }
}

impl Inner {
    /// Queues a change of access. `node` is empty for all nodes.
    pub(super) fn enqueue(
        self: &Arc<Self>,
        appliance: &Arc<Appliance>,
        id: &VolumeId,
        node: &str,
        arguments: String,
        change: Change,
    ) -> Result<crate::volume::registry::Ticket<Done>, Failure> {
        let (inner, appliance, volume_id) = (Arc::clone(self), Arc::clone(appliance), id.clone());
        self.registry.attachment(&id.to_string(), node, arguments, change, move |changes| {
            let (inner, appliance, id) = (Arc::clone(&inner), Arc::clone(&appliance), volume_id.clone());
            Box::pin(async move { inner.attach(&appliance, &id, changes).await })
        })
    }

    /// Carries out changes that waited together: first what takes access back.
    async fn attach(
        &self,
        appliance: &Appliance,
        id: &VolumeId,
        changes: Vec<Change>,
    ) -> Vec<Result<Done, Failure>> {
        let calls = appliance.fence_calls(deadline::of_work());
        let revokes: Vec<Option<NodeId>> = changes
            .iter()
            .filter_map(|c| match c {
                Change::Revoke(node) => Some(node.clone()),
                Change::Grant(_) => None,
            })
            .collect();
        let grants: Vec<&Grant> = changes
            .iter()
            .filter_map(|c| match c {
                Change::Grant(grant) => Some(grant.as_ref()),
                Change::Revoke(_) => None,
            })
            .collect();
        let revoked = if revokes.is_empty() {
            Ok(())
        } else {
            let work = until_known(calls.deadline(), |_| self.revoke(appliance, &calls, id, &revokes));
            self.counted(VolumeOperation::Unpublish, appliance, id, work).await
        };
        let granted = if grants.is_empty() {
            Ok(Vec::new())
        } else {
            let work = until_known(calls.deadline(), |_| self.grant(appliance, &calls, id, &grants));
            self.counted(VolumeOperation::Publish, appliance, id, work).await
        };
        let mut granted = granted.map(Vec::into_iter);
        let outcome = |change: &Change| match (change, &mut granted) {
            (Change::Revoke(_), _) => revoked.clone().map(|()| Done::Unpublished),
            (Change::Grant(_), Ok(outcomes)) => outcomes
                .next()
                .unwrap_or_else(|| Err(Failure::new(Kind::Internal, "a publish got no outcome"))),
            (Change::Grant(_), Err(failure)) => Err(failure.clone()),
        };
        changes.iter().map(outcome).collect()
    }

    async fn grant(
        &self,
        appliance: &Appliance,
        calls: &Calls,
        id: &VolumeId,
        grants: &[&Grant],
    ) -> Result<Vec<Result<Done, Failure>>, Failure> {
        let unknown = || Failure::volume_not_found(&id.to_string());
        let volume = self.resolve(calls, id).await?.ok_or_else(unknown)?;
        let hint =
            grants.iter().find_map(|g| g.hint).or_else(|| appliance.index.protocol_hint(&id.to_string()));
        let mut protocol = match hint {
            Some(hint) => hint,
            None => self.find(appliance, calls, &volume).await?.owned(id)?.protocol,
        };
        loop {
            let granted = with_export!(
                protocol,
                E => Box::pin(self.grant_as::<E>(appliance, calls, &volume, grants)).await?
            );
            match granted {
                Ok(outcomes) => return Ok(outcomes),
                Err(other) => protocol = other,
            }
        }
    }

    async fn grant_as<E: Export>(
        &self,
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
        grants: &[&Grant],
    ) -> Result<Granted, Failure> {
        let hosts: Vec<NodeIdentity> = grants.iter().map(|g| NodeIdentity::of(&g.node)).collect();
        let (read, found) =
            tokio::join!(calls.dataset_read(&volume.dataset), E::find(appliance, calls, volume, &hosts));
        let read = read.or_failed(&format!("reading dataset {}", volume.dataset))?;
        let owned = self.judge(appliance, calls, volume, read).await?.owned(&volume.id)?;
        if owned.protocol != E::PROTOCOL {
            return Ok(Err(owned.protocol));
        }
        if let Some(entry) = locked(volume, owned.locked) {
            return Err(Failure::precondition(format!("volume {}: {}", volume.id, entry.message)));
        }
        let mut outcomes: Vec<Option<Failure>> = Vec::new();
        let mut accepted: Vec<Accepted> = Vec::new();
        for (index, grant) in grants.iter().enumerate() {
            outcomes.push(match accept(volume, &owned, grant, index, &accepted) {
                Ok(this) => {
                    accepted.push(this);
                    None
                }
                Err(failure) => Some(failure),
            });
        }
        let mut contexts = match accepted.first().and_then(|a| grants.get(a.index)) {
            None => return Ok(Ok(outcomes.into_iter().map(|o| Err(o.unwrap_or_else(unanswered))).collect())),
            Some(first) => {
                let endpoint = first.endpoint.clone().or_else(|| Endpoint::recorded(&owned.metadata));
                let endpoint = endpoint.ok_or_else(|| {
                    let words = "is missing and the volume does not record where it is served: publish it with a \
                                 volume_context that names the appliance's data address";
                    Failure::precondition(format!("volume {}: volume_context[server] {words}", volume.id))
                })?;
                self.write_grants::<E>(
                    appliance,
                    calls,
                    volume,
                    &owned,
                    found?,
                    &accepted,
                    &endpoint,
                    first.chap.as_ref(),
                )
                .await?
            }
        };
        let outcome = |(index, refused): (usize, Option<Failure>)| match refused {
            Some(failure) => Err(failure),
            None => contexts.remove(&index).map(Done::Published).ok_or_else(unanswered),
        };
        Ok(Ok(outcomes.into_iter().enumerate().map(outcome).collect()))
    }

    /// Lets the accepted nodes in and records them; gives each one's publish context by the position of its grant.
    #[allow(clippy::too_many_arguments, reason = "everything that was read and decided about one volume")]
    async fn write_grants<E: Export>(
        &self,
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
        owned: &Owned,
        found: E::Found,
        accepted: &[Accepted],
        endpoint: &Endpoint,
        chap: Option<&Chap>,
    ) -> Result<BTreeMap<usize, BTreeMap<String, String>>, Failure> {
        let id = volume.id.to_string();
        let hosts: Vec<NodeIdentity> = accepted.iter().map(|a| a.node.clone()).collect();
        let settings = ExportSettings::recorded(&owned.metadata)?;
        let context = Granting { appliance, calls, volume, endpoint, settings: &settings, chap };
        let present: Vec<NodeRecord> = owned
            .metadata
            .nodes(&id)
            .into_iter()
            .filter(|(property, _)| !accepted.iter().any(|a| a.property == *property))
            .filter_map(|(_, record)| record.ok())
            .collect();
        let mut found = E::prepare(&context, &owned.metadata, found, &hosts).await?;
        let grantees: Vec<Grantee> = accepted.iter().map(|a| a.grantee.clone()).collect();
        let leaving: Vec<NodeRecord> = accepted.iter().filter_map(|a| a.replaces.clone()).collect();
        if !leaving.is_empty() {
            // Of a volume for one node nobody else keeps access: then what the old identity still has open is ended too.
            let revocation = if grantees.iter().all(|grantee| grantee.record.multi_node) {
                let remaining = present.iter().chain(grantees.iter().map(|g| &g.record)).cloned().collect();
                Revocation::Nodes { leaving, remaining }
            } else {
                Revocation::Everyone
            };
            let access = E::access(calls, volume).await?;
            E::revoke(appliance, calls, volume, Some(&owned.metadata), access, &revocation).await?;
            let again = E::find(appliance, calls, volume, &hosts).await?;
            found = E::prepare(&context, &owned.metadata, again, &hosts).await?;
        }
        let record = record(calls, volume, owned, accepted, E::records(&found));
        // The grant is sent before the record: whoever sees the record knows that the grant is on its way.
        let (granted, recorded) = tokio::join!(E::grant(&context, &found, &grantees, &present), record);
        let after = match (granted, recorded) {
            (Ok(()), Ok(after)) => after,
            (Err(failure), _) | (_, Err(failure)) => return Err(half_done(failure)),
        };
        if let Some(after) = after {
            let settled = self.settle::<E>(appliance, calls, volume, owned, &found, accepted, after);
            settled.await.map_err(half_done)?;
        }
        let content = Content {
            capacity_bytes: owned.capacity_bytes,
            never_format: owned.metadata.has_foreign_content(),
        };
        let for_node = |a: &Accepted| {
            let connection = E::connection(&context, &found, &a.node, content)?;
            let written = connection.to_publish_context();
            let written = written.map_err(|error| Failure::precondition(format!("volume {id}: {error}")))?;
            Ok((a.index, written))
        };
        accepted.iter().map(for_node).collect()
    }

    /// Looks at the records after ours was written: another controller process may have granted at the same time.
    #[allow(clippy::too_many_arguments, reason = "everything that was read and decided about one volume")]
    async fn settle<E: Export>(
        &self,
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
        owned: &Owned,
        found: &E::Found,
        accepted: &[Accepted],
        after: Dataset,
    ) -> Result<(), Failure> {
        let id = volume.id.to_string();
        let before = owned.metadata.nodes(&id);
        let after = Metadata::from(after.user_properties).nodes(&id);
        let mine = |property: &String| accepted.iter().any(|a| a.property == *property);
        let Some(other) = after.keys().find(|p| !before.contains_key(*p) && !mine(p)) else { return Ok(()) };
        if accepted.iter().all(|a| a.grantee.record.multi_node) {
            let recorded: Vec<NodeRecord> = after.into_values().filter_map(Result::ok).collect();
            return E::reconcile(calls, volume, &recorded).await;
        }
        // Two processes let two nodes in to a volume for one: neither may stay by accident.
        tracing::warn!(
            volume = id,
            property = other,
            "another process published the volume at the same time"
        );
        let remaining =
            after.iter().filter(|(p, _)| !mine(p)).filter_map(|(_, record)| record.clone().ok()).collect();
        let leaving = accepted.iter().map(|a| a.grantee.record.clone()).collect();
        let revocation = Revocation::Nodes { leaving, remaining };
        let access = E::access(calls, volume).await?;
        E::revoke(appliance, calls, volume, Some(&owned.metadata), access, &revocation).await?;
        let mut properties: Vec<_> =
            accepted.iter().map(|a| PropertyChange::Remove(a.property.clone())).collect();
        properties.extend(E::records(found).into_keys().map(PropertyChange::Remove));
        let update = DatasetUpdate { user_properties_update: properties, ..DatasetUpdate::default() };
        calls.dataset_update(&volume.dataset, &update).await.or_failed("taking back a publish")?;
        Err(Failure::new(
            Kind::Busy,
            format!("volume {id} was published to another node at the same time; repeat"),
        ))
    }
}

/// Writes the records (and, on an old volume, the volume id); none when there is nothing to write.
async fn record(
    calls: &Calls,
    volume: &Volume,
    owned: &Owned,
    accepted: &[Accepted],
    of_export: BTreeMap<String, String>,
) -> Result<Option<Dataset>, Failure> {
    let fresh = accepted.iter().filter(|a| !a.grantee.repeated);
    let mut changes: Vec<PropertyChange> = fresh
        .map(|a| PropertyChange::Set(UserProperty::new(a.property.clone(), a.grantee.record.to_value())))
        .collect();
    changes
        .extend(of_export.into_iter().map(|(key, value)| PropertyChange::Set(UserProperty::new(key, value))));
    if owned.unstamped {
        changes.push(PropertyChange::Set(UserProperty::new(VOLUME_ID, volume.id.to_string())));
    }
    if changes.is_empty() {
        return Ok(None);
    }
    let update = DatasetUpdate { user_properties_update: changes, ..DatasetUpdate::default() };
    let result = calls.dataset_update(&volume.dataset, &update).await;
    result.map(Some).map_err(|error| failed(&format!("recording the publish of {}", volume.id), &error))
}

/// Whether the volume's state allows a grant.
fn accept(
    volume: &Volume,
    owned: &Owned,
    grant: &Grant,
    index: usize,
    accepted: &[Accepted],
) -> Result<Accepted, Failure> {
    let id = volume.id.to_string();
    grant.capability.check(owned.protocol)?;
    let property = node_property(&grant.node);
    let record = NodeRecord::new(&volume.id, &grant.node, &grant.capability);
    let unreadable = |why: &dyn std::fmt::Display| {
        Failure::precondition(format!(
            "volume {id}: {why}; nobody knows whom it lets in; unpublish all nodes"
        ))
    };
    let mut existing = None;
    for (other, recorded) in owned.metadata.nodes(&id) {
        let recorded = recorded.map_err(|error| unreadable(&error))?;
        if other == property {
            existing = Some(recorded);
        } else {
            check_together(&id, &record, &recorded)?;
        }
    }
    for other in accepted.iter().filter(|a| a.property != property) {
        check_together(&id, &record, &other.grantee.record)?;
    }
    if let Some(existing) = &existing {
        if existing.name != record.name {
            return Err(unreadable(&format!("nodes {} and {} share one record", existing.name, record.name)));
        }
        if (existing.multi_node, existing.block) != (record.multi_node, record.block) {
            return Err(Failure::new(
                Kind::Conflict,
                format!(
                    "volume {id} is published to node {} with another capability; unpublish it first",
                    record.name
                ),
            ));
        }
    }
    let repeated = existing.as_ref() == Some(&record);
    let replaces = existing.filter(|e| (e.host, &e.addresses) != (record.host, &record.addresses));
    Ok(Accepted {
        index,
        property,
        node: NodeIdentity::of(&grant.node),
        grantee: Grantee { record, repeated },
        replaces,
    })
}

/// Whether two nodes may have the volume at once.
fn check_together(id: &str, wanted: &NodeRecord, other: &NodeRecord) -> Result<(), Failure> {
    if wanted.multi_node && other.multi_node {
        return Ok(());
    }
    Err(Failure::precondition(format!(
        "volume {id} is published to node {} and may be used by one node only; unpublish it there first",
        other.name
    )))
}

/// A failure after which access may be granted in part: the orchestrator has to come back, so it must not be final.
pub(super) fn half_done(failure: Failure) -> Failure {
    if failure.is_final() { Failure { kind: Kind::Unavailable, ..failure } } else { failure }
}

fn unanswered() -> Failure {
    Failure::new(Kind::Internal, "a publish was neither accepted nor refused")
}
