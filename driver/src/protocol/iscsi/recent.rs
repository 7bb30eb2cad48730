//! What this process itself did to volumes' targets a moment ago.
//!
//! The rule it keeps: it spares reading back what this process has just made or read, never a check of whose something
//! is; and it is old soon, so that what an administrator changes is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::protocol::Volume;
use crate::protocol::iscsi::marker;

/// How long a memory counts.
const LIFE: Duration = Duration::from_secs(300);
/// From how many memories on the old ones are thrown away.
const MANY: usize = 1024;

/// A complete target as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::protocol) struct Seen {
    pub(super) target: i64,
    pub(super) extent: i64,
    pub(super) lun: u16,
    pub(super) serial: Option<String>,
    pub(super) naa: Option<String>,
    /// The initiator group of ours to which the target was made to refer.
    pub(super) row: Option<i64>,
    /// Everything that this driver ever made for the volume was made by this process and is accounted for here.
    pub(super) tidy: bool,
}

/// The memories, by volume.
#[derive(Debug)]
pub(in crate::protocol) struct Recent {
    seen: Mutex<BTreeMap<String, (Instant, Seen)>>,
    /// Volumes for which this process began to make an initiator group to which no target refers yet.
    pending: Mutex<BTreeSet<String>>,
    /// Tells the initiator groups that this process made from those of others.
    process: String,
}

impl Default for Recent {
    fn default() -> Self {
        let process = Uuid::new_v4().simple().to_string().chars().take(8).collect();
        Recent { seen: Mutex::default(), pending: Mutex::default(), process }
    }
}

impl Recent {
    /// The comment of the initiator groups that this process makes for the volume.
    pub(super) fn mark(&self, volume: &Volume) -> String {
        format!("{} {}", marker(volume), self.process)
    }

    pub(super) fn is_pending(&self, volume: &Volume) -> bool {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).contains(&volume.id.to_string())
    }

    pub(super) fn set_pending(&self, volume: &Volume, pending: bool) {
        let mut all = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending {
            all.insert(volume.id.to_string());
        } else {
            all.remove(&volume.id.to_string());
        }
    }

    /// What was seen of a volume, if it is not too long ago.
    pub(super) fn of(&self, volume: &Volume) -> Option<Seen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&volume.id.to_string()).filter(|(at, _)| at.elapsed() < LIFE).map(|(_, seen)| seen.clone())
    }

    pub(super) fn note(&self, volume: &Volume, seen: Seen) {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MANY {
            all.retain(|_, (at, _)| at.elapsed() < LIFE);
        }
        all.insert(volume.id.to_string(), (Instant::now(), seen));
    }

    /// Changes what is remembered of a volume, if anything is. It does not become younger by that.
    pub(super) fn change(&self, volume: &Volume, change: impl FnOnce(&mut Seen)) {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, seen)) = all.get_mut(&volume.id.to_string()) {
            change(seen);
        }
    }

    pub(super) fn forget(&self, volume: &Volume) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(&volume.id.to_string());
    }
}
