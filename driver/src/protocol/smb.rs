//! SMB: one share per volume.
//!
//! The rule it keeps: a share is ours when it shares the volume's directory *and* has the volume's name or the comment
//! that names it. Samba asks the list of hosts only when a client connects; so when the last node goes, the share is
//! disabled together with the change of its list, which disconnects everyone, and then enabled again. A comment says so
//! in between, so that what an administrator disabled stays disabled.

use truenas::Calls;
use truenas::calls::{NfsShare, SmbShare, SmbShareCreate, SmbShareUpdate};

use crate::protocol::call::Answer as _;
use crate::protocol::share::{FileShare, Row, marker};
use crate::protocol::{Volume, hosts};
use crate::volume::context::{Connection, Portal};
use crate::volume::failure::{Failure, Kind};
use crate::volume::metadata::{Metadata, SMB_SHARE_ID, SMB_SHARE_NAME};
use crate::volume::parameter::Parameters;
use crate::volume::parameter::export::ExportSettings;
use crate::volume::protocol::Protocol;

/// End of the comment of a share that is disabled only until its clients are gone.
const DISCONNECTING: &str = " [disconnecting]";

/// SMB.
pub struct Smb;

fn is_disconnecting(share: &SmbShare) -> bool {
    !share.enabled && share.comment.ends_with(DISCONNECTING)
}

impl Row for SmbShare {
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
        self.enabled || is_disconnecting(self)
    }

    fn is_open(&self) -> bool {
        self.hosts.is_empty()
    }

    fn goes_with_dataset(&self) -> bool {
        self.enabled
    }

    fn words(&self) -> String {
        format!("SMB share {:?} of {}", self.name, self.path)
    }
}

/// What a change of the list makes of the share beside it: one that was being closed is served again.
fn serving(share: &SmbShare, hosts: Option<Vec<String>>) -> SmbShareUpdate {
    let open_again = is_disconnecting(share);
    SmbShareUpdate {
        hosts,
        comment: open_again.then(|| share.comment.trim_end_matches(DISCONNECTING).to_owned()),
        enabled: open_again.then_some(true),
    }
}

async fn update(calls: &Calls, share: &SmbShare, update: &SmbShareUpdate) -> Result<SmbShare, Failure> {
    let doing = format!("changing the SMB share {:?} of {}", share.name, share.path);
    let changed = calls.smb_share_update(share, update).await.or_failed(&doing)?;
    match &update.hosts {
        Some(hosts) if changed.hosts != *hosts => Err(other_hosts(&changed, hosts)),
        _ => Ok(changed),
    }
}

/// The appliance keeps another list than it was given, and an empty one lets everyone in.
fn other_hosts(share: &SmbShare, asked: &[String]) -> Failure {
    Failure::new(
        Kind::Internal,
        format!(
            "the SMB share {:?} of {} lets in {:?}, asked were {asked:?}; its purpose on the appliance may have changed the \
             list",
            share.name, share.path, share.hosts
        ),
    )
}

impl FileShare for Smb {
    type Row = SmbShare;

    const PROTOCOL: Protocol = Protocol::Smb;
    const WORD: &'static str = "SMB share";
    const SERVICE: &'static str = "cifs";

    fn stable_keys(volume: &Volume) -> Vec<(&'static str, String)> {
        vec![(SMB_SHARE_NAME, volume.global.clone())]
    }

    async fn all(calls: &Calls) -> Result<Vec<SmbShare>, Failure> {
        calls.smb_share_query(&[]).await.or_failed("reading the SMB shares")
    }

    async fn at(calls: &Calls, path: &str) -> Result<Vec<SmbShare>, Failure> {
        calls.smb_shares_at(path).await.or_failed(&format!("reading the SMB shares of {path}"))
    }

    fn split(nfs: Vec<NfsShare>, smb: Vec<SmbShare>) -> (Vec<SmbShare>, Vec<String>) {
        (smb, nfs.iter().map(Row::words).collect())
    }

    async fn check(calls: &Calls, parameters: &Parameters) -> Result<(), Failure> {
        let checked = calls.require_smb(&parameters.export.smb.settings).await;
        // For a new volume the class is what is wrong.
        checked.or_failed("an SMB share as the class asks for it").map_err(|failure| match failure.kind {
            Kind::Precondition => Failure::invalid(failure.message),
            _ => failure,
        })
    }

    async fn create(
        calls: &Calls,
        volume: &Volume,
        settings: &ExportSettings,
    ) -> Result<Result<(), Failure>, Failure> {
        let own = settings.smb.comment.as_ref().map_or_else(String::new, |own| format!("{own} "));
        let share = SmbShareCreate {
            name: volume.global.clone(),
            path: volume.path(),
            comment: format!("{own}{}", marker(volume)),
            hosts: hosts::nobody(),
            settings: settings.smb.settings.clone(),
        };
        let made = calls.smb_share_create(&share).await;
        match made.definite(&format!("sharing {} over SMB as {:?}", share.path, share.name))? {
            Ok(made) if made.hosts != share.hosts => Err(other_hosts(&made, &share.hosts)),
            other => Ok(other.map(|_| ())),
        }
    }

    async fn write_hosts(calls: &Calls, share: &SmbShare, hosts: Vec<String>) -> Result<(), Failure> {
        if share.hosts == hosts && !is_disconnecting(share) {
            return Ok(());
        }
        update(calls, share, &serving(share, Some(hosts))).await.map(|_| ())
    }

    async fn close(calls: &Calls, share: &SmbShare) -> Result<(), Failure> {
        let closed = if is_disconnecting(share) && share.hosts == hosts::nobody() {
            share.clone()
        } else if share.hosts == hosts::nobody() {
            // Nobody was let in since the last closing.
            return Ok(());
        } else if !share.enabled {
            // An administrator's decision; it has no clients.
            return Self::write_hosts(calls, share, hosts::nobody()).await;
        } else {
            let off = SmbShareUpdate {
                hosts: Some(hosts::nobody()),
                comment: Some(format!("{}{DISCONNECTING}", share.comment)),
                enabled: Some(false),
            };
            update(calls, share, &off).await?
        };
        update(calls, &closed, &serving(&closed, None)).await.map(|_| ())
    }

    async fn delete(calls: &Calls, id: i64, volume: &Volume) -> Result<(), Failure> {
        match calls.smb_share_delete(id).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.or_failed(&format!("deleting the SMB share of {}", volume.path())),
        }
    }

    fn is_marked(share: &SmbShare, volume: &Volume) -> bool {
        let named = share.name.eq_ignore_ascii_case(&volume.global);
        share.path == volume.path() && (named || share.comment.contains(&marker(volume)))
    }

    fn is_legacy(share: &SmbShare, metadata: &Metadata) -> bool {
        // It writes the row's id, which this driver never does.
        let recorded = metadata.get(SMB_SHARE_NAME);
        metadata.get(SMB_SHARE_ID).is_some() && recorded.is_some_and(|n| n.eq_ignore_ascii_case(&share.name))
    }

    fn is_open_on_purpose(share: &SmbShare, volume: &Volume) -> bool {
        // No class opens a share; what tns-csi made is open.
        share.is_open() && !Self::is_marked(share, volume)
    }

    fn connection(portal: Portal, _: &Volume, share: &SmbShare) -> Connection {
        Connection::Smb { portal, share: share.name.clone() }
    }
}
