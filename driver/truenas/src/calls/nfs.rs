//! NFS exports: `sharing.nfs.*`.
//!
//! An export with neither hosts nor networks is open to everyone. Entries of `hosts` must resolve at the appliance; IP
//! literals always do.

use serde::{Deserialize, Serialize};

use super::Calls;
use super::query::{Filter, Query};
use crate::dialect::NO_LOCK_STATE;
use crate::error::CallError;

/// Security flavour of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum NfsSecurity {
    /// AUTH_SYS.
    Sys,
    /// Kerberos, authentication only.
    Krb5,
    /// Kerberos with integrity.
    Krb5i,
    /// Kerberos with privacy.
    Krb5p,
}

/// An export as read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NfsShare {
    /// Assigned by the appliance; not stable over a restore, so never stored.
    pub id: i64,
    /// Exported directory, `/mnt/pool/...`.
    pub path: String,
    /// Free text.
    #[serde(default)]
    pub comment: String,
    /// Networks allowed, CIDR.
    #[serde(default)]
    pub networks: Vec<String>,
    /// Hosts allowed.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Read-only.
    #[serde(default)]
    pub ro: bool,
    /// User that root becomes.
    #[serde(default)]
    pub maproot_user: Option<String>,
    /// Group that root becomes.
    #[serde(default)]
    pub maproot_group: Option<String>,
    /// User that everyone becomes.
    #[serde(default)]
    pub mapall_user: Option<String>,
    /// Group that everyone becomes.
    #[serde(default)]
    pub mapall_group: Option<String>,
    /// Flavours; empty means the appliance's default.
    #[serde(default)]
    pub security: Vec<NfsSecurity>,
    /// Served at all.
    #[serde(default)]
    pub enabled: bool,
}

/// A new export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NfsShareCreate {
    /// Exported directory, `/mnt/pool/...`; must exist.
    pub path: String,
    /// Free text.
    pub comment: String,
    /// Networks allowed, CIDR.
    pub networks: Vec<String>,
    /// Hosts allowed. With `networks` empty this must not be: that means everyone.
    pub hosts: Vec<String>,
    /// Read-only.
    pub ro: bool,
    /// User that root becomes; `root` with group `root` exports without squashing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maproot_user: Option<String>,
    /// Group that root becomes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maproot_group: Option<String>,
    /// User that everyone becomes (excludes `maproot_*`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapall_user: Option<String>,
    /// Group that everyone becomes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapall_group: Option<String>,
    /// Flavours; empty means the appliance's default.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub security: Vec<NfsSecurity>,
    /// Served at all.
    pub enabled: bool,
}

/// Changes of an export; those that are `None` stay as they are. A list is written whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NfsShareUpdate {
    /// Hosts allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
    /// Networks allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<String>>,
    /// Free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Read-only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ro: Option<bool>,
    /// Served at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

impl Calls {
    /// Lists exports.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn nfs_share_query(&self, filters: &[Filter]) -> Result<Vec<NfsShare>, CallError> {
        self.call("sharing.nfs.query", &(filters, Query::default().extra(NO_LOCK_STATE.0, NO_LOCK_STATE.1)))
            .await
    }

    /// Exports of exactly this directory (several may exist).
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn nfs_shares_at(&self, path: &str) -> Result<Vec<NfsShare>, CallError> {
        self.nfs_share_query(&[Filter::eq("path", path)]).await
    }

    /// Creates an export. It is stored before the service is reloaded: after any error, query by path.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn nfs_share_create(&self, create: &NfsShareCreate) -> Result<NfsShare, CallError> {
        self.call("sharing.nfs.create", &(create,)).await
    }

    /// Changes an export.
    ///
    /// # Errors
    /// [`CallError`]; a missing one is [`CallError::is_not_found`].
    pub async fn nfs_share_update(&self, id: i64, update: &NfsShareUpdate) -> Result<NfsShare, CallError> {
        self.call("sharing.nfs.update", &(id, update)).await
    }

    /// Deletes an export.
    ///
    /// # Errors
    /// [`CallError`]; a missing one is [`CallError::is_not_found`].
    pub async fn nfs_share_delete(&self, id: i64) -> Result<(), CallError> {
        self.call::<_, Option<bool>>("sharing.nfs.delete", &(id,)).await.map(|_| ())
    }
}
