//! SMB shares: `sharing.smb.*`. Reading only, for the check that nobody shares a directory before it is deleted.

use serde::Deserialize;

use super::Calls;
use super::query::{Filter, Query};
use crate::dialect::NO_LOCK_STATE;
use crate::error::CallError;

/// A share as read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SmbShare {
    /// Assigned by the appliance.
    pub id: i64,
    /// Share name, unique without regard to case.
    pub name: String,
    /// Shared directory, `/mnt/pool/...`, or `EXTERNAL`.
    pub path: String,
    /// Free text.
    #[serde(default)]
    pub comment: String,
    /// Served at all.
    #[serde(default)]
    pub enabled: bool,
}

impl Calls {
    /// Lists shares.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn smb_share_query(&self, filters: &[Filter]) -> Result<Vec<SmbShare>, CallError> {
        let query = Query::default()
            .select(&["id", "name", "path", "comment", "enabled"])
            .extra(NO_LOCK_STATE.0, NO_LOCK_STATE.1);
        self.call("sharing.smb.query", &(filters, query)).await
    }

    /// Shares of exactly this directory.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn smb_shares_at(&self, path: &str) -> Result<Vec<SmbShare>, CallError> {
        self.smb_share_query(&[Filter::eq("path", path)]).await
    }
}
