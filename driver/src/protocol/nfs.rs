//! NFS: one export per volume, of the dataset's own directory.
//!
//! The rule it keeps: an export is ours when it exports the volume's directory *and* its comment names the volume. A
//! volume of tns-csi has no such comment; there the recorded path counts, if the export is the only one of its
//! directory. An export that is open (networks, or no hosts at all) was opened on purpose and stays as it is.

use truenas::Calls;
use truenas::calls::{Filter, NfsShare, NfsShareCreate, NfsShareUpdate, SmbShare};

use crate::protocol::appliance::Appliance;
use crate::protocol::call::Answer as _;
use crate::protocol::{
    Attached, Content, Export, Grantee, Granting, Judge, NodeIdentity, Revocation, Volume, hosts,
};
use crate::volume::context::{Connection, Portal};
use crate::volume::failure::{Failure, Kind};
use crate::volume::metadata::{Metadata, NFS_SHARE_ID, NFS_SHARE_PATH, NodeRecord};
use crate::volume::parameter::Parameters;
use crate::volume::parameter::export::ExportSettings;
use crate::volume::protocol::Protocol;

/// How often a list that another process overwrote is written again before the call gives up.
const REWRITES: usize = 5;

/// NFS.
pub struct Nfs;

/// The exports of one directory.
pub struct Shares {
    all: Vec<NfsShare>,
}

impl Shares {
    /// Our export, if there is one; of several (made by two processes at once) the one with the lowest id.
    fn ours(&self, volume: &Volume, metadata: Option<&Metadata>) -> Option<&NfsShare> {
        let marked = self.all.iter().filter(|s| is_marked(s, volume)).min_by_key(|s| s.id);
        marked.or_else(|| match self.all.as_slice() {
            [only] => metadata.is_some_and(|m| is_legacy(only, m)).then_some(only),
            _ => None,
        })
    }
}

/// Whether tns-csi recorded this export: it writes the row's id, which this driver never does.
fn is_legacy(share: &NfsShare, metadata: &Metadata) -> bool {
    metadata.get(NFS_SHARE_ID).is_some() && metadata.get(NFS_SHARE_PATH) == Some(share.path.as_str())
}

/// The part of our comments that names the volume; brackets keep one id from being the beginning of another.
fn marker(volume: &Volume) -> String {
    format!("[tns-csi {}]", volume.id)
}

fn is_marked(share: &NfsShare, volume: &Volume) -> bool {
    share.comment.contains(&marker(volume)) && share.path == volume.path()
}

/// Whether the export admits hosts that no publish let in.
fn is_open(share: &NfsShare) -> bool {
    share.hosts.is_empty() || !share.networks.is_empty()
}

async fn shares_at(calls: &Calls, volume: &Volume) -> Result<Shares, Failure> {
    let path = volume.path();
    let all = calls.nfs_shares_at(&path).await.or_failed(&format!("reading the NFS exports of {path}"))?;
    Ok(Shares { all })
}

async fn create_share(calls: &Calls, volume: &Volume) -> Result<Result<NfsShare, Failure>, Failure> {
    let share = NfsShareCreate {
        path: volume.path(),
        comment: marker(volume),
        networks: Vec::new(),
        hosts: hosts::nobody(),
        ro: false,
        // Only user and group together keep root's rights (`exports.mako`): pods change owners in their volume.
        maproot_user: Some("root".to_owned()),
        maproot_group: Some("root".to_owned()),
        mapall_user: None,
        mapall_group: None,
        security: Vec::new(),
        enabled: true,
    };
    calls.nfs_share_create(&share).await.definite(&format!("exporting {} over NFS", share.path))
}

async fn write_hosts(calls: &Calls, share: &NfsShare, hosts: Vec<String>) -> Result<(), Failure> {
    if share.hosts == hosts {
        return Ok(());
    }
    let update = NfsShareUpdate { hosts: Some(hosts), ..NfsShareUpdate::default() };
    let doing = format!("changing the hosts of the NFS export of {}", share.path);
    calls.nfs_share_update(share.id, &update).await.or_failed(&doing).map(|_| ())
}

fn missing(volume: &Volume) -> Failure {
    Failure::precondition(format!(
        "the NFS export of {} is missing or not ours: an export of ours has {:?} in its comment",
        volume.path(),
        marker(volume)
    ))
}

impl Export for Nfs {
    type Found = Shares;
    type Beside = ();
    type Access = Shares;

    const PROTOCOL: Protocol = Protocol::Nfs;

    fn stable_keys(_: &Appliance, volume: &Volume) -> Vec<(&'static str, String)> {
        vec![(NFS_SHARE_PATH, volume.path())]
    }

    async fn check(_: &Appliance, _: &Calls, _: &Parameters) -> Result<(), Failure> {
        Ok(())
    }

    async fn beside(_: &Calls, _: &Volume, _: &ExportSettings) -> Option<()> {
        Some(())
    }

    async fn complete(
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
        settings: &ExportSettings,
        _: Option<()>,
    ) -> Result<(), Failure> {
        match create_share(calls, volume).await? {
            Ok(_) => Ok(()),
            Err(_) => Self::ensure(appliance, calls, volume, settings, &Metadata::default()).await,
        }
    }

    async fn ensure(
        _: &Appliance,
        calls: &Calls,
        volume: &Volume,
        _: &ExportSettings,
        metadata: &Metadata,
    ) -> Result<(), Failure> {
        if shares_at(calls, volume).await?.ours(volume, Some(metadata)).is_some() {
            return Ok(());
        }
        let Err(refused) = create_share(calls, volume).await? else { return Ok(()) };
        // A row is stored before the service is reloaded: a refusal proves nothing.
        match shares_at(calls, volume).await?.ours(volume, Some(metadata)) {
            Some(_) => Ok(()),
            None => Err(refused),
        }
    }

    async fn sweep(calls: &Calls, volume: &Volume) -> Result<(), Failure> {
        for share in shares_at(calls, volume).await?.all.iter().filter(|s| is_marked(s, volume)) {
            delete_share(calls, share.id, volume).await?;
        }
        Ok(())
    }

    async fn attached(_: &Appliance, calls: &Calls, volume: &Volume) -> Result<Judge, Failure> {
        let path = volume.path();
        // Exports and shares of directories below go with the dataset too.
        let below = [Filter::starts_with("path", path.as_str())];
        let (nfs, smb) = tokio::join!(calls.nfs_share_query(&below), calls.smb_share_query(&below));
        let nfs = nfs.or_failed(&format!("reading the NFS exports of {path}"))?;
        let smb = smb.or_failed(&format!("reading the SMB shares of {path}"))?;
        let inside = move |other: &str| {
            other == path || other.strip_prefix(&path).is_some_and(|rest| rest.starts_with('/'))
        };
        let nfs: Vec<NfsShare> = nfs.into_iter().filter(|s| inside(&s.path)).collect();
        let smb: Vec<SmbShare> = smb.into_iter().filter(|s| inside(&s.path)).collect();
        Ok(Box::new(move |volume, metadata| judge(volume, metadata, &nfs, &smb)))
    }

    async fn clear(calls: &Calls, volume: &Volume, attached: &Attached) -> Result<(), Failure> {
        for id in &attached.ours {
            delete_share(calls, *id, volume).await?;
        }
        Ok(())
    }

    async fn find(
        _: &Appliance,
        calls: &Calls,
        volume: &Volume,
        _: &[NodeIdentity],
    ) -> Result<Shares, Failure> {
        shares_at(calls, volume).await
    }

    async fn prepare(
        context: &Granting<'_>,
        metadata: &Metadata,
        found: Shares,
        _: &[NodeIdentity],
    ) -> Result<Shares, Failure> {
        let Granting { appliance, calls, volume, settings, .. } = context;
        let found = if found.all.is_empty() {
            Self::ensure(appliance, calls, volume, settings, metadata).await?;
            shares_at(calls, volume).await?
        } else {
            found
        };
        let share = found.ours(volume, Some(metadata)).ok_or_else(|| missing(volume))?;
        if !share.enabled {
            return Err(Failure::precondition(format!(
                "the NFS export {} of {} was disabled on the appliance; enable it there",
                share.id, share.path
            )));
        }
        // From here on only ours counts.
        Ok(Shares { all: vec![share.clone()] })
    }

    async fn grant(
        context: &Granting<'_>,
        found: &Shares,
        grantees: &[Grantee],
        present: &[NodeRecord],
    ) -> Result<(), Failure> {
        let share = found.all.first().ok_or_else(|| missing(context.volume))?;
        if is_open(share) {
            tracing::warn!(volume = %context.volume.id, path = share.path, "not fenced: the export is open to networks or to everyone");
            return Ok(());
        }
        let all: Vec<NodeRecord> = grantees.iter().map(|g| &g.record).chain(present).cloned().collect();
        write_hosts(context.calls, share, hosts::with(&share.hosts, &all)).await
    }

    async fn reconcile(calls: &Calls, volume: &Volume, recorded: &[NodeRecord]) -> Result<(), Failure> {
        for _ in 0..REWRITES {
            let shares = shares_at(calls, volume).await?;
            let share = match shares.all.as_slice() {
                [only] => only,
                all => all.iter().find(|s| is_marked(s, volume)).ok_or_else(|| missing(volume))?,
            };
            let wanted = hosts::with(&share.hosts, recorded);
            if is_open(share) || share.hosts == wanted {
                return Ok(());
            }
            write_hosts(calls, share, wanted).await?;
        }
        let words =
            format!("another process keeps changing the hosts of the NFS export of {}", volume.path());
        Err(Failure::new(Kind::Busy, words))
    }

    fn connection(
        context: &Granting<'_>,
        _: &Shares,
        _: &NodeIdentity,
        _: Content,
    ) -> Result<Connection, Failure> {
        let Granting { volume, endpoint, .. } = context;
        let portal = Portal::new(&endpoint.server, endpoint.port_or_default(Protocol::Nfs));
        Ok(Connection::Nfs { portal, export: volume.path() })
    }

    async fn access(calls: &Calls, volume: &Volume) -> Result<Shares, Failure> {
        shares_at(calls, volume).await
    }

    async fn revoke(
        _: &Appliance,
        calls: &Calls,
        volume: &Volume,
        metadata: Option<&Metadata>,
        access: Shares,
        revocation: &Revocation,
    ) -> Result<(), Failure> {
        let marked = access.all.iter().filter(|s| is_marked(s, volume));
        let legacy = access.ours(volume, metadata).filter(|s| !is_marked(s, volume));
        // Every export of ours, should two processes have made one each.
        for share in marked.chain(legacy).filter(|s| !is_open(s)) {
            let hosts = match revocation {
                Revocation::Everyone => hosts::nobody(),
                Revocation::Nodes { leaving, remaining } => hosts::without(&share.hosts, leaving, remaining),
            };
            write_hosts(calls, share, hosts).await?;
        }
        Ok(())
    }
}

fn judge(volume: &Volume, metadata: Option<&Metadata>, nfs: &[NfsShare], smb: &[SmbShare]) -> Attached {
    let mut attached = Attached::default();
    let alone = nfs.len() == 1;
    for share in nfs {
        if is_marked(share, volume) || (alone && metadata.is_some_and(|m| is_legacy(share, m))) {
            // The appliance removes enabled exports with their dataset and leaves the others.
            attached.ours.extend((!share.enabled || metadata.is_none()).then_some(share.id));
        } else {
            attached.foreign.push(format!("NFS export {} of {}", share.id, share.path));
        }
    }
    attached.foreign.extend(smb.iter().map(|s| format!("SMB share {:?} of {}", s.name, s.path)));
    attached
}

async fn delete_share(calls: &Calls, id: i64, volume: &Volume) -> Result<(), Failure> {
    match calls.nfs_share_delete(id).await {
        Err(error) if error.is_not_found() => Ok(()),
        other => other.or_failed(&format!("deleting the NFS export of {}", volume.path())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::id::VolumeId;

    fn volume(dataset: &str) -> Volume {
        Volume::new(&VolumeId::parse(dataset).unwrap(), dataset, None)
    }

    fn share(id: i64, path: &str, comment: &str) -> NfsShare {
        serde_json::from_value(
            serde_json::json!({"id": id, "path": path, "comment": comment, "enabled": true}),
        )
        .unwrap()
    }

    #[test]
    fn an_export_is_ours_by_path_and_comment_together() {
        let v = volume("tank/pvc-1");
        assert!(is_marked(&share(1, "/mnt/tank/pvc-1", "[tns-csi tank/pvc-1]"), &v));
        assert!(is_marked(&share(1, "/mnt/tank/pvc-1", "data [tns-csi tank/pvc-1]"), &v));
        assert!(!is_marked(&share(1, "/mnt/tank/pvc-1", ""), &v));
        assert!(!is_marked(&share(1, "/mnt/tank/pvc-1", "[tns-csi tank/pvc-10]"), &v));
        assert!(!is_marked(&share(1, "/mnt/tank/pvc-1/sub", "[tns-csi tank/pvc-1]"), &v));
    }

    #[test]
    fn a_legacy_export_counts_only_alone_and_with_its_recorded_path() {
        let v = volume("tank/pvc-1");
        let recorded = Metadata::from(std::collections::BTreeMap::from([(
            NFS_SHARE_PATH.to_owned(),
            "/mnt/tank/pvc-1".to_owned(),
        )]));
        let mut legacy = std::collections::BTreeMap::from([(NFS_SHARE_ID.to_owned(), "1".to_owned())]);
        legacy.insert(NFS_SHARE_PATH.to_owned(), "/mnt/tank/pvc-1".to_owned());
        let legacy = Metadata::from(legacy);
        let one = Shares { all: vec![share(1, "/mnt/tank/pvc-1", "made by hand")] };
        assert_eq!(one.ours(&v, Some(&legacy)).map(|s| s.id), Some(1));
        assert!(one.ours(&v, Some(&recorded)).is_none(), "our own exports are known by their comment");
        assert!(one.ours(&v, None).is_none());
        let two = Shares { all: vec![share(1, "/mnt/tank/pvc-1", ""), share(2, "/mnt/tank/pvc-1", "")] };
        assert!(two.ours(&v, Some(&legacy)).is_none());
    }
}
