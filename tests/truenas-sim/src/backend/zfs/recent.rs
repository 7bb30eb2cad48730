//! Datasets as they were read last, for as long as the pool has not changed: starting `zfs` takes a quarter of a second
//! in an emulated guest, and one creation of a volume reads the same few datasets again and again.
//!
//! The rule it keeps: no change is missed of which its maker has heard. Every change of a dataset or property is in a
//! transaction group that was written before the changer hears of it, so nothing is given when another group was written
//! since, nor when the backend itself changed anything. Mounts and loaded keys are in no group: who changes them behind the
//! backend's back is seen with the next group.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::backend::Dataset;

/// The moment of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    group: u64,
    change: u64,
}

#[derive(Debug, Default)]
struct Inner {
    change: u64,
    read_at: Option<Moment>,
    /// By name; `None`: it did not exist.
    datasets: HashMap<String, Option<Dataset>>,
}

/// What was read last.
#[derive(Debug)]
pub(super) struct Recent {
    /// The kernel's list of transaction groups of the pool.
    groups: PathBuf,
    inner: Mutex<Inner>,
}

impl Recent {
    pub(super) fn new(pool: &str) -> Self {
        Self { groups: ["/proc/spl/kstat/zfs", pool, "txgs"].iter().collect(), inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now; `None` when the kernel keeps no list of groups.
    pub(super) fn moment(&self) -> Option<Moment> {
        let change = self.inner().change;
        let group = written(&std::fs::read_to_string(&self.groups).ok()?)?;
        Some(Moment { group, change })
    }

    /// What is known at this moment of each name; a name that is missing here has to be read.
    pub(super) fn known(&self, at: Moment, names: &[String]) -> HashMap<String, Option<Dataset>> {
        let inner = self.inner();
        if inner.read_at != Some(at) {
            return HashMap::new();
        }
        let known = names.iter().filter_map(|name| inner.datasets.get_key_value(name));
        known.map(|(name, found)| (name.clone(), found.clone())).collect()
    }

    /// Keeps what was read of these names, begun at this moment.
    pub(super) fn keep(&self, at: Moment, names: &[String], read: &[Dataset]) {
        let mut inner = self.inner();
        if inner.change != at.change {
            return;
        }
        if inner.read_at != Some(at) {
            inner.datasets.clear();
            inner.read_at = Some(at);
        }
        for name in names {
            let found = read.iter().find(|dataset| dataset.name == *name).cloned();
            inner.datasets.insert(name.clone(), found);
        }
    }

    /// The backend has changed something, or tried to.
    pub(super) fn changed(&self) {
        self.inner().change += 1;
    }
}

/// The highest group that is written (state `C`) in the kernel's list: a heading of two lines, then lines of group, time
/// of birth and state (`module/zfs/spa_stats.c`, `spa_txg_history_show`).
fn written(list: &str) -> Option<u64> {
    let groups = list.lines().filter_map(|line| {
        let mut columns = line.split_whitespace();
        let (group, _birth, state) = (columns.next()?, columns.next()?, columns.next()?);
        if state == "C" { group.parse().ok() } else { None }
    });
    groups.max()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;
    use crate::backend::DatasetKind;

    fn dataset(name: &str) -> Dataset {
        Dataset {
            name: name.to_owned(),
            kind: DatasetKind::Filesystem,
            properties: BTreeMap::new(),
            user_properties: BTreeMap::new(),
        }
    }

    fn list(written: u64) -> String {
        format!(
            "19 0 0x01 100 11200 1 2\ntxg      birth            state ndirty       nread\n\
             {}     1        C     0            0\n{written}     2        C     0            0\n\
             {}     3        S     0            0\n{}     4        O     0            0\n",
            written - 1,
            written + 1,
            written + 2
        )
    }

    fn recent() -> (tempfile::TempDir, Recent) {
        let directory = tempfile::tempdir().unwrap();
        let groups = directory.path().join("txgs");
        fs::write(&groups, list(7)).unwrap();
        let recent = Recent { groups, inner: Mutex::default() };
        (directory, recent)
    }

    #[test]
    fn the_last_written_group_is_found() {
        assert_eq!(written(&list(7)), Some(7));
        assert_eq!(written("19 0 0x01 100 11200 1 2\n"), None);
        assert_eq!(written(""), None);
    }

    #[test]
    fn what_was_read_counts_until_something_changes() {
        let (_directory, recent) = recent();
        let names = ["tank/a".to_owned(), "tank/b".to_owned()];
        let at = recent.moment().unwrap();
        assert!(recent.known(at, &names).is_empty());
        recent.keep(at, &names, &[dataset("tank/a")]);
        let known = recent.known(recent.moment().unwrap(), &names);
        assert_eq!(known.len(), 2);
        assert!(known["tank/a"].is_some() && known["tank/b"].is_none());

        fs::write(&recent.groups, list(8)).unwrap();
        assert!(recent.known(recent.moment().unwrap(), &names).is_empty(), "another group was written");
        let at = recent.moment().unwrap();
        recent.keep(at, &names, &[dataset("tank/a")]);
        recent.changed();
        assert!(recent.known(recent.moment().unwrap(), &names).is_empty(), "the backend changed something");
        recent.keep(at, &names, &[dataset("tank/a")]);
        assert!(
            recent.known(recent.moment().unwrap(), &names).is_empty(),
            "a reading that began before a change is not kept"
        );
    }

    #[test]
    fn without_a_list_of_groups_nothing_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let recent = Recent { groups: directory.path().join("txgs"), inner: Mutex::default() };
        assert!(recent.moment().is_none());
    }
}
