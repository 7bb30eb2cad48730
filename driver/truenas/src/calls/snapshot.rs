//! Snapshots: `pool.snapshot.*` (`zfs.snapshot.*` on 25.04) and their count.

use serde::Deserialize;

use super::Calls;
use super::query::{Filter, Query};
use crate::error::CallError;

/// A snapshot as read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Snapshot {
    /// `dataset@name`.
    pub id: String,
    /// The dataset.
    pub dataset: String,
    /// The part after `@`.
    pub snapshot_name: String,
}

impl Calls {
    /// Number of snapshots of a dataset.
    ///
    /// # Errors
    /// [`CallError`]; a missing dataset is [`CallError::is_not_found`].
    pub async fn snapshot_count(&self, dataset: &str) -> Result<u64, CallError> {
        self.call("pool.dataset.snapshot_count", &(dataset,)).await
    }

    /// Snapshots of exactly this dataset. On 25.10 the appliance lists all snapshots to answer.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn snapshots_of(&self, dataset: &str) -> Result<Vec<Snapshot>, CallError> {
        // One filter only: 26 joins several path filters by OR. Read again here, so that no neighbour slips in.
        let query = Query::default().select(&["id", "dataset", "snapshot_name"]);
        let method = self.features().await?.snapshots.query();
        let rows: Vec<Snapshot> = self.call(method, &([Filter::eq("dataset", dataset)], query)).await?;
        Ok(rows.into_iter().filter(|s| s.dataset == dataset).collect())
    }
}
