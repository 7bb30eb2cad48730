//! Whose files a volume's are: the group of the pod (`fsGroup`), given at staging and kept true at publish.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Volumes;
use crate::failure::{Failure, Kind};
use crate::ledger::{Access, Record, RecordedSource};
use crate::mount::MountTable;
use crate::mount::group::{self, Given, GroupError};
use crate::paths::VolumePath;
use crate::source::VolumeId;
use crate::work;

/// Longest time that giving one volume to a group takes. It goes on after its caller's time, as a tree that needs more
/// would never be finished otherwise: who calls again joins it.
const LONGEST: Duration = Duration::from_secs(3600);

/// How long a volume is being given to its group.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    /// When the caller has no time left for anything after it.
    deadline: Instant,
    /// The helper is about to end.
    stopping: Arc<AtomicBool>,
}

/// Why a volume did not come to a group.
#[derive(Debug)]
pub(super) enum NotGiven {
    /// It belongs to another one that cannot be taken from it now: in words. The verb decides which code that is.
    Conflict(String),
    /// Anything else.
    Failed(Failure),
}

impl NotGiven {
    /// The failure, with the code that the verb has for a conflict.
    pub(super) fn into_failure(self, conflict: Kind) -> Failure {
        match self {
            Self::Conflict(words) => Failure::new(conflict, words),
            Self::Failed(failure) => failure,
        }
    }
}

impl From<Failure> for NotGiven {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Volumes {
    /// For a call with this deadline.
    pub(super) fn patience(&self, deadline: Instant) -> Patience {
        Patience { deadline, stopping: Arc::clone(&self.stopping) }
    }

    /// Makes a staged volume belong to the group of a request, when it names one. A root that belongs to it already
    /// costs one look. `own` is the target that the request is about, relative to the kubelet root.
    ///
    /// # Errors
    /// [`NotGiven::Conflict`] when pods of another group use the volume on this host, or the group is a mount's option.
    pub(super) async fn settle_group(
        self: &Arc<Self>,
        record: &mut Record,
        wanted: Option<u32>,
        own: Option<&str>,
        table: &MountTable,
        deadline: Instant,
    ) -> Result<(), NotGiven> {
        let Access::Filesystem { group: staged, readonly, .. } = &record.access else { return Ok(()) };
        let (Some(wanted), staged, readonly) = (wanted, *staged, *readonly) else { return Ok(()) };
        if matches!(record.source, RecordedSource::Smb { .. }) {
            if staged == Some(wanted) {
                return Ok(());
            }
            return Err(NotGiven::Conflict(format!(
                "volume {} is mounted over SMB for {}, and the mount decides for all pods of this node: group {wanted} \
                 can have it when no pod of this node uses it any more and it is staged anew",
                record.volume_id,
                staged.map_or_else(|| "no group".to_owned(), |group| format!("group {group}")),
            )));
        }
        if readonly {
            return Ok(());
        }
        if let Some(staged) = staged.filter(|staged| *staged != wanted) {
            let targets = self.published_targets(record, table).await;
            if let Some(target) = targets.iter().find(|target| Some(target.as_str()) != own) {
                return Err(NotGiven::Conflict(format!(
                    "volume {} is published at {target} for group {staged}: its files cannot go over to group {wanted} \
                     while a pod uses them. Give all pods of a node that share it one fsGroup",
                    record.volume_id
                )));
            }
        }
        if staged != Some(wanted) {
            record.access = record.access.clone().with_group(Some(wanted));
            let volume = VolumeId::parse(&record.volume_id)?;
            self.remember(&volume, record).await?;
        }
        let path = VolumePath::from_ledger(&record.staging)
            .ok_or_else(|| Failure::internal("the recorded staging path is not plain"))?;
        let (place, source) = (self.place(&path).await?, record.source.describe());
        let patience = self.patience(deadline);
        work::run("giving the volume to its group", move || {
            let root = place
                .open()
                .map_err(|error| Failure::internal(format!("{}: {error}", place.real().display())))?;
            give(&root, Some(wanted), &source, &patience)
        })
        .await??;
        Ok(())
    }
}

/// Gives the mount at `root` to a group, if there is one. Blocks, beyond the caller's deadline if need be; then nothing
/// follows that relies on what was true before, but the caller has to come again.
pub(super) fn give(
    root: impl AsFd,
    group: Option<u32>,
    source: &str,
    patience: &Patience,
) -> Result<(), Failure> {
    let Some(group) = group else { return Ok(()) };
    let begun = Instant::now();
    let go_on = || begun.elapsed() < LONGEST && !patience.stopping.load(Ordering::Relaxed);
    match group::give(root, group, go_on) {
        Ok(Given::Before) => Ok(()),
        Ok(Given::Walked(seen)) => {
            tracing::info!(source, group, seen, "the volume belongs to its group now");
            if Instant::now() >= patience.deadline {
                return Err(Failure::deadline(format!(
                    "{source} belongs to group {group} now, after {} s: longer than the call had. The next call goes on",
                    begun.elapsed().as_secs()
                )));
            }
            Ok(())
        }
        Err(error) => Err(judge(&error, group, source)),
    }
}

fn judge(error: &GroupError, group: u32, source: &str) -> Failure {
    match error {
        GroupError::Refused { .. } => Failure::precondition(format!(
            "{source} does not go over to group {group} (the pod's fsGroup): {error}. On NFS the export maps root to \
             another user or an ACL forbids it: leave root as it is for this class (nfs.rootSquash \"false\", no \
             nfs.maprootUser or nfs.mapallUser), or give the dataset that group with mode 2770 on the appliance"
        )),
        GroupError::CutOff(_) => Failure::deadline(format!(
            "{source} belongs to group {group} only in part yet: {error}; the next call goes on"
        )),
        GroupError::TooDeep(_) => Failure::precondition(format!(
            "{source} does not go over to group {group}: {error}; give it the group with chgrp in a pod, its \
             root last and with chmod g+rwxs"
        )),
        GroupError::Kernel { .. } => Failure::internal(format!("giving {source} to group {group}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_squashed_root_is_told_what_to_change_and_a_lack_of_time_is_no_final_answer() {
        let refused = GroupError::Refused { name: "data".to_owned(), errno: Errno::PERM };
        let failure = judge(&refused, 2000, "NFS export nas:/mnt/a");
        assert_eq!(failure.kind, Kind::FailedPrecondition);
        for word in ["nas:/mnt/a", "2000", "nfs.rootSquash", "nfs.maprootUser"] {
            assert!(failure.message.contains(word), "{failure}");
        }
        let failure = judge(&GroupError::CutOff(7), 2000, "nas:/mnt/a");
        assert!(!failure.is_final() && failure.message.contains('7'), "{failure}");
    }

    #[test]
    fn a_walk_goes_on_after_its_callers_time_but_not_after_the_helpers() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: giving files to a group of others needs root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "x").unwrap();
        let root = std::fs::File::open(directory.path()).unwrap();
        let stopping = Arc::new(AtomicBool::new(true));
        let patience = Patience { deadline: Instant::now(), stopping: Arc::clone(&stopping) };
        let group_of_file = || {
            use std::os::unix::fs::MetadataExt;
            directory.path().join("file").metadata().unwrap().gid()
        };
        let failure = give(&root, Some(2000), "nas:/mnt/a", &patience).unwrap_err();
        assert!(!failure.is_final() && group_of_file() != 2000, "{failure}");
        stopping.store(false, Ordering::Relaxed);
        let failure = give(&root, Some(2000), "nas:/mnt/a", &patience).unwrap_err();
        assert!(!failure.is_final() && group_of_file() == 2000, "{failure}");
        give(&root, Some(2000), "nas:/mnt/a", &patience).unwrap();
    }
}
