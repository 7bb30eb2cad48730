//! Who may connect to a volume's subsystem: host links and the port link.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use tns_csi_proto::identity::is_authenticated_host_of;
use tokio::time::Instant;
use truenas::Calls;
use truenas::calls::{Filter, NvmetHostSubsys, NvmetNamespace, NvmetPortSubsys};

use crate::protocol::appliance::{Appliance, WantedPort};
use crate::protocol::call::{Answer as _, gone};
use crate::protocol::nvmeof::{Target, is_ours, namespace_on};
use crate::protocol::{Endpoint, Grantee, Granting, Revocation, Volume};
use crate::volume::failure::Failure;
use crate::volume::metadata::{Metadata, NodeRecord};
use crate::volume::parameter::export::ExportSettings;

/// The Linux initiator tries again after this long by default (`reconnect_delay` of `nvme-fabrics`, 10 s). A port link
/// that is back within half of it costs a granted host one pause and no device.
const RECONNECT_DELAY: Duration = Duration::from_secs(10);

/// Who has access.
pub struct Access {
    namespace: Option<NvmetNamespace>,
    hosts: Vec<NvmetHostSubsys>,
    ports: Vec<NvmetPortSubsys>,
}

/// Reads the links of the subsystem with the volume's derived name, and which subsystem its zvol is really in.
pub(super) async fn read(calls: &Calls, volume: &Volume) -> Result<Access, Failure> {
    let by_name = Filter::eq("subsys.name", volume.global.as_str());
    let (namespace, links) = tokio::join!(namespace_on(calls, volume), links(calls, by_name, volume));
    let (hosts, ports) = links?;
    let derived = |name: &str| name == volume.global;
    Ok(Access {
        namespace: namespace?,
        hosts: hosts.into_iter().filter(|l| derived(&l.subsys.name)).collect(),
        ports: ports.into_iter().filter(|l| derived(&l.subsys.name)).collect(),
    })
}

async fn links(
    calls: &Calls,
    filter: Filter,
    volume: &Volume,
) -> Result<(Vec<NvmetHostSubsys>, Vec<NvmetPortSubsys>), Failure> {
    let filter = [filter];
    let (hosts, ports) =
        tokio::join!(calls.nvmet_host_subsys_query(&filter), calls.nvmet_port_subsys_query(&filter));
    let doing = format!("reading who has access to the NVMe-oF subsystem of {}", volume.id);
    Ok((hosts.or_failed(&doing)?, ports.or_failed(&doing)?))
}

/// Lets nodes in: a host link for each, and the port link.
pub(super) async fn grant(
    context: &Granting<'_>,
    found: &Target,
    grantees: &[Grantee],
    present: &[NodeRecord],
) -> Result<(), Failure> {
    let Granting { calls, volume, .. } = context;
    let Some(namespace) = &found.namespace else {
        return Err(Failure::precondition(format!("zvol {} has no NVMe-oF namespace", volume.dataset)));
    };
    let subsys = &namespace.subsys;
    if subsys.allow_any_host {
        tracing::warn!(volume = %volume.id, subsystem = subsys.name, "not fenced: the subsystem admits every host");
    }
    // A repetition, and a node that joins others, mostly finds its links: look before writing then.
    let look = present.is_empty() && grantees.iter().all(|g| !g.repeated);
    let (hosts, ports) = if look {
        (Vec::new(), Vec::new())
    } else {
        links(calls, Filter::eq("subsys.id", subsys.id), volume).await?
    };
    let linked: BTreeSet<&str> = hosts.iter().map(|l| l.host.hostnqn.as_str()).collect();
    let authenticated = context.settings.nvmeof.dhchap.is_some();
    if authenticated && subsys.allow_any_host {
        return Err(Failure::precondition(format!(
            "volume {} asks for DH-HMAC-CHAP, and its subsystem {:?} admits every host, whom it asks for no key; switch \
             allow_any_host off on the appliance",
            volume.id, subsys.name
        )));
    }
    let nodes = grantees
        .iter()
        .map(|g| if authenticated { g.record.authenticated_host_nqn() } else { g.record.host_nqn() });
    let missing: Vec<String> =
        nodes.filter(|nqn| !subsys.allow_any_host && !linked.contains(nqn.as_str())).collect();
    let host_links = join_all(missing.iter().map(|nqn| link_host(calls, found, subsys.id, nqn)));
    let port_missing = !ports.iter().any(|l| l.port.id == found.port.id);
    let port_link = async {
        if port_missing {
            link_port(context.appliance, calls, volume, subsys.id, found.port.id).await
        } else {
            Ok(())
        }
    };
    let (hosts, port) = tokio::join!(host_links, port_link);
    hosts.into_iter().collect::<Result<(), _>>()?;
    port
}

async fn link_host(calls: &Calls, found: &Target, subsys: i64, nqn: &str) -> Result<(), Failure> {
    let doing = format!("admitting {nqn} to the NVMe-oF subsystem");
    let Some(host) = found.hosts.get(nqn) else {
        return Err(Failure::precondition(format!("{doing}: the appliance has no such host")));
    };
    let Err(refused) = calls.nvmet_host_subsys_create(*host, subsys).await.definite(&doing)? else {
        return Ok(());
    };
    // It may be there already, or have been stored although the reload failed.
    let links = calls.nvmet_host_subsys_query(&[Filter::eq("subsys.id", subsys)]).await.or_failed(&doing)?;
    if links.iter().any(|l| l.subsys.id == subsys && l.host.id == *host) { Ok(()) } else { Err(refused) }
}

async fn link_port(
    appliance: &Appliance,
    calls: &Calls,
    volume: &Volume,
    subsys: i64,
    port: i64,
) -> Result<(), Failure> {
    let doing = format!("making the NVMe-oF subsystem of {} reachable", volume.id);
    let Err(refused) = calls.nvmet_port_subsys_create(port, subsys).await.definite(&doing)? else {
        return Ok(());
    };
    let links = calls.nvmet_port_subsys_query(&[Filter::eq("subsys.id", subsys)]).await.or_failed(&doing)?;
    if links.iter().any(|l| l.subsys.id == subsys && l.port.id == port) {
        Ok(())
    } else {
        // The port may have been deleted and made anew under another id.
        appliance.forget_facts();
        Err(refused)
    }
}

/// Takes access back.
pub(super) async fn revoke(
    appliance: &Appliance,
    calls: &Calls,
    volume: &Volume,
    metadata: Option<&Metadata>,
    mut access: Access,
    revocation: &Revocation,
) -> Result<(), Failure> {
    if let Some(namespace) = &access.namespace
        && namespace.subsys.name != volume.global
        && is_ours(&namespace.subsys, volume, metadata)
    {
        // A recorded subsystem with another name than the derived one.
        (access.hosts, access.ports) =
            links(calls, Filter::eq("subsys.id", namespace.subsys.id), volume).await?;
    }
    if access.namespace.as_ref().is_some_and(|n| n.subsys.allow_any_host) {
        tracing::warn!(volume = %volume.id, "not fenced: the subsystem admits every host");
        return Ok(());
    }
    let doing = format!("revoking access to the NVMe-oF subsystem of {}", volume.id);
    let (leaving, remaining) = match revocation {
        Revocation::Everyone => {
            let hosts = access.hosts.iter().map(|l| calls.nvmet_host_subsys_delete(l.id));
            let ports = access.ports.iter().map(|l| calls.nvmet_port_subsys_delete(l.id));
            let (hosts, ports) = tokio::join!(join_all(hosts), join_all(ports));
            hosts.into_iter().chain(ports).try_for_each(|result| gone(result, &doing))?;
            forget_keys(calls, volume, access.hosts.iter()).await;
            return Ok(());
        }
        Revocation::Nodes { leaving, remaining } => (leaving, remaining),
    };
    let both = |r: &NodeRecord| [r.host_nqn(), r.authenticated_host_nqn()];
    let kept: BTreeSet<String> = remaining.iter().flat_map(both).collect();
    let gone_hosts: BTreeSet<String> =
        leaving.iter().flat_map(both).filter(|nqn| !kept.contains(nqn)).collect();
    let begun = Instant::now();
    let hosts: Vec<_> = access.hosts.iter().filter(|l| gone_hosts.contains(&l.host.hostnqn)).collect();
    let results = join_all(hosts.iter().map(|l| calls.nvmet_host_subsys_delete(l.id))).await;
    results.into_iter().try_for_each(|result| gone(result, &doing))?;
    forget_keys(calls, volume, hosts.into_iter()).await;
    if access.ports.is_empty() && !remaining.is_empty() {
        // Cutting off somebody was interrupted between dropping the port link and making it again.
        return restore_port(appliance, calls, volume, metadata, &access, &doing).await;
    }
    cut_live(calls, volume, &access.ports, &gone_hosts, begun.elapsed()).await
}

/// Removes the hosts that exist for this volume alone, with their keys. One that stays behind lets nobody in: it is
/// linked to nothing, and the next publish to its node gives it other keys.
async fn forget_keys(calls: &Calls, volume: &Volume, links: impl Iterator<Item = &NvmetHostSubsys>) {
    let id = volume.id.to_string();
    let own = links.filter(|l| is_authenticated_host_of(&l.host.hostnqn, &id));
    let removals = own.map(|l| async move { (l, calls.nvmet_host_delete(l.host.id).await) });
    for (link, removed) in join_all(removals).await {
        if let Err(error) = removed
            && !error.is_not_found()
        {
            tracing::warn!(volume = id, host = link.host.hostnqn, %error, "a revoked host keeps its row");
        }
    }
}

async fn restore_port(
    appliance: &Appliance,
    calls: &Calls,
    volume: &Volume,
    metadata: Option<&Metadata>,
    access: &Access,
    doing: &str,
) -> Result<(), Failure> {
    let (Some(namespace), Some(endpoint)) = (&access.namespace, metadata.and_then(Endpoint::recorded)) else {
        tracing::warn!(volume = %volume.id, "no port link, and no record of where the volume is served");
        return Ok(());
    };
    let id = match metadata {
        Some(metadata) => ExportSettings::recorded(metadata)?.nvmeof.port_id,
        None => None,
    };
    let wanted = WantedPort { server: &endpoint.server, number: endpoint.port, id };
    let port = appliance.nvmeof_port(calls, &wanted).await;
    let port = port.map_err(|failure| failure.context(doing))?;
    link_port(appliance, calls, volume, namespace.subsys.id, port.id).await
}

/// Ends live controllers of hosts whose link is gone while others keep theirs: the port link is dropped and made again,
/// if one change takes so little time that the others' devices survive.
async fn cut_live(
    calls: &Calls,
    volume: &Volume,
    ports: &[NvmetPortSubsys],
    gone_hosts: &BTreeSet<String>,
    one_change: Duration,
) -> Result<(), Failure> {
    let Some(first) = ports.first() else { return Ok(()) };
    let doing = format!("ending the connections of revoked hosts to {}", volume.id);
    let sessions =
        calls.nvmet_sessions(&[Filter::eq("subsys_id", first.subsys.id)]).await.or_failed(&doing)?;
    let live =
        sessions.iter().any(|s| s.subsys_id == Some(first.subsys.id) && gone_hosts.contains(&s.hostnqn));
    if !live {
        return Ok(());
    }
    if one_change * 2 * u32::try_from(ports.len()).unwrap_or(u32::MAX) > RECONNECT_DELAY / 2 {
        tracing::warn!(
            volume = %volume.id,
            change_ms = one_change.as_millis(),
            "not fenced: a revoked host is still connected, and the appliance is too slow to cut it without losing \
             the hosts that keep access; it cannot connect again"
        );
        return Ok(());
    }
    for link in ports {
        gone(calls.nvmet_port_subsys_delete(link.id).await, &doing)?;
        calls.nvmet_port_subsys_create(link.port.id, link.subsys.id).await.or_failed(&doing)?;
    }
    Ok(())
}
