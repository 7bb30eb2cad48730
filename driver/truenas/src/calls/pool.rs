//! Pools: `pool.query`.

use serde::Deserialize;

use super::Calls;
use super::query::{Filter, Query};
use crate::error::CallError;

/// A pool as read. Sizes are bytes of raw space; an offline pool has none.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// `ONLINE`, `DEGRADED`, `OFFLINE`, ...
    #[serde(default)]
    pub status: String,
    /// No device failed.
    #[serde(default)]
    pub healthy: bool,
    /// Total.
    #[serde(default)]
    pub size: Option<u64>,
    /// Taken.
    #[serde(default)]
    pub allocated: Option<u64>,
    /// Free, before reservations and parity: ask the root dataset's `available` for what can be written.
    #[serde(default)]
    pub free: Option<u64>,
}

impl Calls {
    /// Lists pools.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn pools_query(&self, filters: &[Filter]) -> Result<Vec<Pool>, CallError> {
        let query = Query::default().select(&["name", "status", "healthy", "size", "allocated", "free"]);
        self.call("pool.query", &(filters, query)).await
    }
}
