//! NVMe-oF over TCP: one subsystem with one namespace per volume, host links for who may connect, a port link for
//! whether anybody can.
//!
//! The rule it keeps: no subsystem admits any host, and without a publish it has neither host nor port link. A dropped
//! host link leaves a live controller writing; a dropped port link cuts it. So the port link belongs to publish and goes
//! with the last node.

mod access;
pub mod dhchap;
mod health;
mod subsystem;

use std::collections::BTreeMap;

use tns_csi_proto::identity::authenticated_host_nqn;
use truenas::Calls;
use truenas::calls::{DhChapKeys, Filter, NvmetNamespace, NvmetSubsys};
use uuid::Uuid;

use crate::protocol::appliance::{Appliance, ServingPort, WantedPort};
use crate::protocol::call::Answer as _;
use crate::protocol::{
    Attached, Content, Export, Grantee, Granting, Judge, NodeIdentity, Revocation, Volume,
};
use crate::volume::context::{Connection, Portal};
use crate::volume::failure::{Failure, Kind};
use crate::volume::health::Entry;
use crate::volume::metadata::{Metadata, NVMEOF_SUBSYSTEM_NQN, NodeRecord};
use crate::volume::name::subsystem_nqn;
use crate::volume::parameter::Parameters;
use crate::volume::parameter::export::ExportSettings;
use crate::volume::protocol::Protocol;

/// NVMe-oF over TCP.
pub struct Nvmeof;

/// The namespace on a volume's zvol, and what else granting needs.
pub struct Target {
    namespace: Option<NvmetNamespace>,
    /// Rows of the nodes by host NQN.
    hosts: BTreeMap<String, i64>,
    /// The port at which the volume is to be served.
    port: ServingPort,
    /// Sealed keys by host UUID, of nodes that have to authenticate.
    sealed: BTreeMap<Uuid, Vec<u8>>,
    /// What of it is not recorded yet.
    records: dhchap::Records,
}

/// How the API names a zvol's device; blanks are written `+`.
fn device_path(volume: &Volume) -> String {
    format!("zvol/{}", volume.dataset.replace(' ', "+"))
}

/// Whether a subsystem is the volume's: by derived name and NQN, or by the recorded NQN.
fn is_ours(subsys: &NvmetSubsys, volume: &Volume, metadata: Option<&Metadata>) -> bool {
    let nqn = subsys.subnqn.as_deref();
    let derived = subsys.name == volume.global && nqn == Some(subsystem_nqn(&volume.global).as_str());
    derived || (nqn.is_some() && metadata.and_then(|m| m.get(NVMEOF_SUBSYSTEM_NQN)) == nqn)
}

/// The namespace that serves the volume's zvol, in whatever subsystem; a zvol can be in one only.
async fn namespace_on(calls: &Calls, volume: &Volume) -> Result<Option<NvmetNamespace>, Failure> {
    let path = device_path(volume);
    let found = calls.nvmet_namespace_query(&[Filter::eq("device_path", path.as_str())]).await;
    let found = found.or_failed(&format!("reading the NVMe-oF namespace of {path}"))?;
    Ok(found.into_iter().find(|n| n.device_path == path))
}

fn foreign_namespace(volume: &Volume, namespace: &NvmetNamespace) -> Failure {
    Failure::precondition(format!(
        "zvol {} is served by namespace {} of subsystem {:?}, which is not this volume's",
        volume.dataset, namespace.id, namespace.subsys.name
    ))
}

impl Export for Nvmeof {
    type Found = Target;
    type Beside = NvmetSubsys;
    type Access = access::Access;

    const PROTOCOL: Protocol = Protocol::Nvmeof;

    fn stable_keys(_: &Appliance, volume: &Volume) -> Vec<(&'static str, String)> {
        vec![(NVMEOF_SUBSYSTEM_NQN, subsystem_nqn(&volume.global))]
    }

    async fn check(appliance: &Appliance, calls: &Calls, parameters: &Parameters) -> Result<(), Failure> {
        let found = async {
            calls.require_nvmeof().await.or_failed("protocol nvmeof")?;
            let wanted = WantedPort {
                server: &parameters.server,
                number: parameters.port,
                id: parameters.export.nvmeof.port_id,
            };
            appliance.nvmeof_port(calls, &wanted).await
        };
        // For a new volume the class is what is wrong.
        found.await.map(|_| ()).map_err(|failure| match failure.kind {
            Kind::Precondition => Failure::invalid(failure.message),
            _ => failure,
        })
    }

    async fn beside(calls: &Calls, volume: &Volume, _: &ExportSettings) -> Option<NvmetSubsys> {
        calls.nvmet_subsys_create(&volume.global, Some(&subsystem_nqn(&volume.global))).await.ok()
    }

    async fn complete(
        _: &Appliance,
        calls: &Calls,
        volume: &Volume,
        _: &ExportSettings,
        beside: Option<NvmetSubsys>,
    ) -> Result<(), Failure> {
        if let Some(subsys) = beside
            && subsystem::create_namespace(calls, volume, subsys.id).await?.is_ok()
        {
            return Ok(());
        }
        subsystem::ensure(calls, volume, None).await
    }

    async fn ensure(
        _: &Appliance,
        calls: &Calls,
        volume: &Volume,
        _: &ExportSettings,
        metadata: &Metadata,
    ) -> Result<(), Failure> {
        subsystem::ensure(calls, volume, Some(metadata)).await
    }

    async fn sweep(calls: &Calls, volume: &Volume) -> Result<(), Failure> {
        match subsystem::by_name(calls, volume).await? {
            Some(subsys) if is_ours(&subsys, volume, None) => {
                subsystem::dismantle(calls, volume, subsys.id).await
            }
            _ => Ok(()),
        }
    }

    async fn attached(_: &Appliance, calls: &Calls, volume: &Volume) -> Result<Judge, Failure> {
        let namespace = namespace_on(calls, volume).await?;
        // Without a namespace the subsystem may still be there: a create or delete that was cut short.
        let bare = if namespace.is_none() { subsystem::by_name(calls, volume).await? } else { None };
        Ok(Box::new(move |volume, metadata| {
            let mut attached = Attached::default();
            match &namespace {
                Some(n) if is_ours(&n.subsys, volume, metadata) => attached.ours.push(n.subsys.id),
                Some(n) => attached
                    .foreign
                    .push(format!("NVMe-oF namespace {} of subsystem {:?}", n.id, n.subsys.name)),
                None => {}
            }
            attached.ours.extend(bare.filter(|s| is_ours(s, volume, metadata)).map(|s| s.id));
            attached
        }))
    }

    async fn clear(calls: &Calls, volume: &Volume, attached: &Attached) -> Result<(), Failure> {
        for id in &attached.ours {
            match calls.nvmet_subsys_delete(*id).await {
                Ok(()) => {}
                Err(error) if error.is_not_found() => {}
                // Something is still in it: take it apart, if it is all ours.
                Err(error) if error.refused().is_some() => subsystem::dismantle(calls, volume, *id).await?,
                other => other.or_failed(&format!("deleting the NVMe-oF subsystem {}", volume.global))?,
            }
        }
        Ok(())
    }

    async fn find(
        _: &Appliance,
        calls: &Calls,
        volume: &Volume,
        hosts: &[NodeIdentity],
    ) -> Result<Target, Failure> {
        // Whether the volume asks for authentication stands on the dataset, which is read at the same time.
        let id = volume.id.to_string();
        let nqns = hosts.iter().flat_map(|h| [h.host_nqn.clone(), authenticated_host_nqn(&h.host, &id)]);
        let (namespace, hosts) = tokio::join!(namespace_on(calls, volume), read_hosts(calls, nqns));
        Ok(Target {
            namespace: namespace?,
            hosts: hosts?,
            port: ServingPort::default(),
            sealed: BTreeMap::new(),
            records: BTreeMap::new(),
        })
    }

    async fn prepare(
        context: &Granting<'_>,
        metadata: &Metadata,
        mut found: Target,
        hosts: &[NodeIdentity],
    ) -> Result<Target, Failure> {
        let Granting { appliance, calls, volume, endpoint, settings, .. } = context;
        calls.require_nvmeof().await.or_failed(&format!("publishing {}", volume.id))?;
        let wanted =
            WantedPort { server: &endpoint.server, number: endpoint.port, id: settings.nvmeof.port_id };
        found.port = appliance.nvmeof_port(calls, &wanted).await?;
        if found.namespace.is_none() {
            subsystem::ensure(calls, volume, Some(metadata)).await?;
            found.namespace = namespace_on(calls, volume).await?;
        }
        match &found.namespace {
            Some(n) if !is_ours(&n.subsys, volume, Some(metadata)) => {
                return Err(foreign_namespace(volume, n));
            }
            Some(n) if !n.enabled => {
                return Err(Failure::precondition(format!(
                    "namespace {} on zvol {} was disabled on the appliance; enable it there",
                    n.id, volume.dataset
                )));
            }
            Some(_) => {}
            None => {
                return Err(Failure::new(
                    Kind::Unavailable,
                    format!("namespace of {} went away", volume.dataset),
                ));
            }
        }
        if let Some(dhchap) = &settings.nvmeof.dhchap {
            for host in hosts {
                dhchap::ensure(context, metadata, dhchap, host, &mut found).await?;
            }
            return Ok(found);
        }
        for host in
            hosts.iter().filter(|h| !found.hosts.contains_key(&h.host_nqn)).cloned().collect::<Vec<_>>()
        {
            let made = calls.nvmet_host_create(&host.host_nqn, &DhChapKeys::default()).await;
            match made.definite(&format!("admitting host {}", host.host_nqn))? {
                Ok(row) => {
                    found.hosts.insert(row.hostnqn, row.id);
                }
                Err(refused) => {
                    let read = read_hosts(calls, std::iter::once(host.host_nqn.clone())).await?;
                    if read.is_empty() {
                        return Err(refused);
                    }
                    found.hosts.extend(read);
                }
            }
        }
        Ok(found)
    }

    async fn grant(
        context: &Granting<'_>,
        found: &Target,
        grantees: &[Grantee],
        present: &[NodeRecord],
    ) -> Result<(), Failure> {
        access::grant(context, found, grantees, present).await
    }

    async fn reconcile(_: &Calls, _: &Volume, _: &[NodeRecord]) -> Result<(), Failure> {
        // Links are rows of their own: two processes do not overwrite each other.
        Ok(())
    }

    fn records(found: &Target) -> BTreeMap<String, String> {
        found.records.clone()
    }

    fn connection(
        context: &Granting<'_>,
        found: &Target,
        node: &NodeIdentity,
        content: Content,
    ) -> Result<Connection, Failure> {
        let Granting { volume, endpoint, settings, .. } = context;
        let settings = &settings.nvmeof;
        let sealed = found.sealed.get(&node.host).cloned();
        if settings.dhchap.is_some() && sealed.is_none() {
            let words = "has no keys for the node, although it asks for DH-HMAC-CHAP; repeat the publish";
            return Err(Failure::new(Kind::Unavailable, format!("volume {} {words}", volume.id)));
        }
        let broken =
            |what: &str| Failure::precondition(format!("the NVMe-oF export of {} has no {what}", volume.id));
        let namespace = found.namespace.as_ref().ok_or_else(|| broken("namespace"))?;
        Ok(Connection::Nvmeof {
            portals: vec![Portal::new(&endpoint.server, found.port.number)],
            subsystem_nqn: namespace.subsys.subnqn.clone().ok_or_else(|| broken("subsystem NQN"))?,
            namespace_uuid: Uuid::try_parse(&namespace.device_uuid).map_err(|_| broken("namespace UUID"))?,
            io_queues: settings.io_queues,
            queue_size: settings.queue_size,
            capacity_bytes: content.capacity_bytes,
            never_format: content.never_format,
            sealed_dhchap: sealed,
        })
    }

    async fn access(calls: &Calls, volume: &Volume) -> Result<access::Access, Failure> {
        access::read(calls, volume).await
    }

    async fn revoke(
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
        metadata: Option<&Metadata>,
        access: access::Access,
        revocation: &Revocation,
    ) -> Result<(), Failure> {
        access::revoke(appliance, calls, volume, metadata, access, revocation).await
    }

    type Served = health::Served;

    async fn served(calls: &Calls, of: Option<(&Volume, &Metadata)>) -> Result<Self::Served, Failure> {
        health::read(calls, of.map(|(volume, _)| volume)).await
    }

    fn health(served: &Self::Served, volume: &Volume, metadata: &Metadata) -> Vec<Entry> {
        health::check(served, volume, metadata)
    }
}

/// Rows of hosts by NQN; those that the appliance does not know are left out.
async fn read_hosts(
    calls: &Calls,
    nqns: impl Iterator<Item = String>,
) -> Result<BTreeMap<String, i64>, Failure> {
    let wanted: Vec<String> = nqns.collect();
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let filter = Filter::one_of("hostnqn", wanted.iter().map(String::as_str));
    let rows = calls.nvmet_host_query(&[filter]).await.or_failed("reading NVMe-oF hosts")?;
    Ok(rows.into_iter().filter(|r| wanted.contains(&r.hostnqn)).map(|r| (r.hostnqn, r.id)).collect())
}
