//! NFS: one export per volume.
//!
//! The rule it keeps: an export is ours when it exports the volume's directory *and* its comment names the volume. A
//! volume of tns-csi has no such comment; there the recorded path counts. An export with networks, or with no hosts at
//! all, is open. What an export admits because its class says so (networks, hosts) is written when it is made and never
//! changed by publish.

use truenas::Calls;
use truenas::calls::{NfsShare, NfsShareCreate, NfsShareUpdate, SmbShare};

use crate::protocol::call::Answer as _;
use crate::protocol::share::{FileShare, Row, marker};
use crate::protocol::{Volume, hosts};
use crate::volume::context::{Connection, Portal};
use crate::volume::failure::Failure;
use crate::volume::metadata::{Metadata, NFS_SHARE_ID, NFS_SHARE_PATH};
use crate::volume::parameter::export::ExportSettings;
use crate::volume::parameter::nfs::OPENED;
use crate::volume::protocol::Protocol;

/// NFS.
pub struct Nfs;

impl Row for NfsShare {
    fn id(&self) -> i64 {
        self.id
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn hosts(&self) -> &[String] {
        &self.hosts
    }

    fn is_enabled(&self) -> bool {
        self.enabled
    }

    fn is_open(&self) -> bool {
        self.hosts.is_empty() || !self.networks.is_empty() || self.comment.contains(OPENED)
    }

    fn goes_with_dataset(&self) -> bool {
        self.enabled
    }

    fn words(&self) -> String {
        format!("NFS export {} of {}", self.id, self.path)
    }
}

impl FileShare for Nfs {
    type Row = NfsShare;

    const PROTOCOL: Protocol = Protocol::Nfs;
    const WORD: &'static str = "NFS export";
    const SERVICE: &'static str = "nfs";

    fn stable_keys(volume: &Volume) -> Vec<(&'static str, String)> {
        vec![(NFS_SHARE_PATH, volume.path())]
    }

    async fn all(calls: &Calls) -> Result<Vec<NfsShare>, Failure> {
        calls.nfs_share_query(&[]).await.or_failed("reading the NFS exports")
    }

    async fn at(calls: &Calls, path: &str) -> Result<Vec<NfsShare>, Failure> {
        calls.nfs_shares_at(path).await.or_failed(&format!("reading the NFS exports of {path}"))
    }

    fn split(nfs: Vec<NfsShare>, smb: Vec<SmbShare>) -> (Vec<NfsShare>, Vec<String>) {
        (nfs, smb.iter().map(Row::words).collect())
    }

    async fn create(
        calls: &Calls,
        volume: &Volume,
        settings: &ExportSettings,
    ) -> Result<Result<(), Failure>, Failure> {
        let nfs = &settings.nfs;
        let open = nfs.is_open();
        let mut comment = nfs.comment.as_ref().map_or_else(String::new, |own| format!("{own} "));
        comment.push_str(&marker(volume));
        if open {
            comment.push_str(OPENED);
        }
        let share = NfsShareCreate {
            path: volume.path(),
            comment,
            networks: nfs.networks.clone(),
            hosts: if open { nfs.hosts.clone() } else { hosts::nobody() },
            ro: false,
            maproot_user: nfs.maproot.user.clone(),
            maproot_group: nfs.maproot.group.clone(),
            mapall_user: nfs.mapall.user.clone(),
            mapall_group: nfs.mapall.group.clone(),
            security: nfs.security.clone(),
            enabled: true,
        };
        let made = calls.nfs_share_create(&share).await;
        Ok(made.definite(&format!("exporting {} over NFS", share.path))?.map(|_| ()))
    }

    async fn write_hosts(calls: &Calls, share: &NfsShare, hosts: Vec<String>) -> Result<(), Failure> {
        if share.hosts == hosts {
            return Ok(());
        }
        let update = NfsShareUpdate { hosts: Some(hosts), ..NfsShareUpdate::default() };
        let doing = format!("changing the hosts of the NFS export of {}", share.path);
        calls.nfs_share_update(share.id, &update).await.or_failed(&doing).map(|_| ())
    }

    async fn close(calls: &Calls, share: &NfsShare) -> Result<(), Failure> {
        // The kernel's server asks the list again at each request: nothing goes on running.
        Self::write_hosts(calls, share, hosts::nobody()).await
    }

    async fn delete(calls: &Calls, id: i64, volume: &Volume) -> Result<(), Failure> {
        match calls.nfs_share_delete(id).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.or_failed(&format!("deleting the NFS export of {}", volume.path())),
        }
    }

    fn is_marked(share: &NfsShare, volume: &Volume) -> bool {
        share.comment.contains(&marker(volume)) && share.path == volume.path()
    }

    fn is_legacy(share: &NfsShare, metadata: &Metadata) -> bool {
        // It writes the row's id, which this driver never does.
        metadata.get(NFS_SHARE_ID).is_some() && metadata.get(NFS_SHARE_PATH) == Some(share.path.as_str())
    }

    fn is_open_on_purpose(share: &NfsShare, _: &Volume) -> bool {
        share.is_open()
    }

    fn connection(portal: Portal, volume: &Volume, _: &NfsShare) -> Connection {
        Connection::Nfs { portal, export: volume.path() }
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
        assert!(Nfs::is_marked(&share(1, "/mnt/tank/pvc-1", "[tns-csi tank/pvc-1]"), &v));
        assert!(Nfs::is_marked(&share(1, "/mnt/tank/pvc-1", "data [tns-csi tank/pvc-1]"), &v));
        assert!(!Nfs::is_marked(&share(1, "/mnt/tank/pvc-1", ""), &v));
        assert!(!Nfs::is_marked(&share(1, "/mnt/tank/pvc-1", "[tns-csi tank/pvc-10]"), &v));
        assert!(!Nfs::is_marked(&share(1, "/mnt/tank/pvc-1/sub", "[tns-csi tank/pvc-1]"), &v));
    }

    #[test]
    fn a_legacy_export_counts_with_its_recorded_path_and_row() {
        let v = volume("tank/pvc-1");
        let recorded = Metadata::from(std::collections::BTreeMap::from([(
            NFS_SHARE_PATH.to_owned(),
            "/mnt/tank/pvc-1".to_owned(),
        )]));
        let mut legacy = std::collections::BTreeMap::from([(NFS_SHARE_ID.to_owned(), "1".to_owned())]);
        legacy.insert(NFS_SHARE_PATH.to_owned(), "/mnt/tank/pvc-1".to_owned());
        let legacy = Metadata::from(legacy);
        let one = share(1, "/mnt/tank/pvc-1", "made by hand");
        assert!(!Nfs::is_marked(&one, &v) && Nfs::is_legacy(&one, &legacy));
        assert!(!Nfs::is_legacy(&one, &recorded), "our own exports are known by their comment");
    }
}
