//! SMB shares: `sharing.smb.*`.
//!
//! A share without allowed hosts is open to every host. From 25.10 on a share has a purpose with options that belong to
//! it, and given options replace all earlier ones; 25.04 has everything side by side. Callers see one shape.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Calls;
use super::query::{Filter, Query};
use crate::dialect::{NO_LOCK_STATE, SmbShape};
use crate::error::CallError;

/// Name of the list of allowed hosts, among the options or side by side with the rest.
const HOSTS: &str = "hostsallow";

/// A share as read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Row")]
pub struct SmbShare {
    /// Assigned by the appliance.
    pub id: i64,
    /// Share name, unique without regard to case.
    pub name: String,
    /// Shared directory, `/mnt/pool/...`, or `EXTERNAL`.
    pub path: String,
    /// Free text.
    pub comment: String,
    /// Served at all.
    pub enabled: bool,
    /// Hosts allowed; empty means everyone.
    pub hosts: Vec<String>,
    /// The purpose, e.g. `DEFAULT_SHARE`.
    purpose: Option<String>,
    /// The purpose's options; none before 25.10.
    options: Option<Map<String, Value>>,
}

/// A share on the wire.
#[derive(Deserialize)]
struct Row {
    id: i64,
    name: String,
    path: String,
    #[serde(default)]
    comment: String,
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    purpose: Option<String>,
    #[serde(default)]
    options: Option<Map<String, Value>>,
    #[serde(default)]
    hostsallow: Vec<String>,
}

impl From<Row> for SmbShare {
    fn from(row: Row) -> Self {
        let text = |host: &Value| host.as_str().map(str::to_owned);
        let of_options = |options: &Map<String, Value>| -> Vec<String> {
            options.get(HOSTS).and_then(Value::as_array).into_iter().flatten().filter_map(text).collect()
        };
        SmbShare {
            id: row.id,
            name: row.name,
            path: row.path,
            comment: row.comment,
            enabled: row.enabled,
            hosts: row.options.as_ref().map_or(row.hostsallow, of_options),
            purpose: row.purpose,
            options: row.options,
        }
    }
}

/// A new share with the appliance's defaults (purpose `DEFAULT_SHARE`), which are right for Linux clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmbShareCreate {
    /// Share name, at most 80 characters, unique without regard to case.
    pub name: String,
    /// Shared directory, `/mnt/pool/...`; must exist.
    pub path: String,
    /// Free text.
    pub comment: String,
    /// Hosts allowed; empty means everyone.
    pub hosts: Vec<String>,
}

/// Changes of a share; those that are `None` stay as they are. A list is written whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SmbShareUpdate {
    /// Hosts allowed.
    pub hosts: Option<Vec<String>>,
    /// Free text.
    pub comment: Option<String>,
    /// Served at all; disabling disconnects the clients.
    pub enabled: Option<bool>,
}

fn create_body(shape: SmbShape, create: &SmbShareCreate) -> Value {
    let SmbShareCreate { name, path, comment, hosts } = create;
    match shape {
        SmbShape::Flat => json!({"name": name, "path": path, "comment": comment, "enabled": true,
            "purpose": "DEFAULT_SHARE", HOSTS: hosts}),
        SmbShape::PurposeAndOptions => {
            json!({"name": name, "path": path, "comment": comment, "enabled": true,
            "purpose": "DEFAULT_SHARE", "options": {"purpose": "DEFAULT_SHARE", HOSTS: hosts}})
        }
    }
}

fn update_body(shape: SmbShape, share: &SmbShare, update: &SmbShareUpdate) -> Value {
    let mut body = Map::new();
    if shape == SmbShape::Flat {
        // 25.04's model asks for path and name, and has defaults for what is left out: what the driver cares for is
        // sent as it is.
        body.insert("path".to_owned(), share.path.as_str().into());
        body.insert("name".to_owned(), share.name.as_str().into());
        body.insert("comment".to_owned(), share.comment.as_str().into());
        body.insert("enabled".to_owned(), share.enabled.into());
        body.insert(HOSTS.to_owned(), share.hosts.clone().into());
    }
    if let Some(comment) = &update.comment {
        body.insert("comment".to_owned(), comment.as_str().into());
    }
    if let Some(enabled) = update.enabled {
        body.insert("enabled".to_owned(), enabled.into());
    }
    if let Some(hosts) = &update.hosts {
        match shape {
            SmbShape::Flat => {
                body.insert(HOSTS.to_owned(), hosts.clone().into());
            }
            SmbShape::PurposeAndOptions => {
                // Options are replaced whole and only taken together with their purpose.
                let purpose: Value = share.purpose.as_deref().unwrap_or("DEFAULT_SHARE").into();
                let mut options = share.options.clone().unwrap_or_default();
                options.insert(HOSTS.to_owned(), hosts.clone().into());
                options.insert("purpose".to_owned(), purpose.clone());
                body.insert("purpose".to_owned(), purpose);
                body.insert("options".to_owned(), options.into());
            }
        }
    }
    body.into()
}

impl Calls {
    /// Lists shares.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn smb_share_query(&self, filters: &[Filter]) -> Result<Vec<SmbShare>, CallError> {
        self.call("sharing.smb.query", &(filters, Query::default().extra(NO_LOCK_STATE.0, NO_LOCK_STATE.1)))
            .await
    }

    /// Shares of exactly this directory.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn smb_shares_at(&self, path: &str) -> Result<Vec<SmbShare>, CallError> {
        self.smb_share_query(&[Filter::eq("path", path)]).await
    }

    /// Creates a share. It is stored before the service is reloaded: after any error, query by path.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn smb_share_create(&self, create: &SmbShareCreate) -> Result<SmbShare, CallError> {
        let shape = self.features().await?.smb_shares;
        self.call("sharing.smb.create", &(create_body(shape, create),)).await
    }

    /// Changes a share as it was read.
    ///
    /// # Errors
    /// [`CallError`]; a missing one is [`CallError::is_not_found`].
    pub async fn smb_share_update(
        &self,
        share: &SmbShare,
        update: &SmbShareUpdate,
    ) -> Result<SmbShare, CallError> {
        let shape = self.features().await?.smb_shares;
        self.call("sharing.smb.update", &(share.id, update_body(shape, share, update))).await
    }

    /// Deletes a share, which disconnects its clients.
    ///
    /// # Errors
    /// [`CallError`]; a missing one is [`CallError::is_not_found`].
    pub async fn smb_share_delete(&self, id: i64) -> Result<(), CallError> {
        self.call::<_, Value>("sharing.smb.delete", &(id,)).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(row: Value) -> SmbShare {
        serde_json::from_value(row).unwrap()
    }

    #[test]
    fn hosts_are_read_from_options_and_from_the_row() {
        let base = json!({"id": 1, "name": "a", "path": "/mnt/tank/a", "enabled": true});
        let mut new = base.clone();
        new["options"] = json!({"hostsallow": ["10.0.0.1"], "guestok": true});
        assert_eq!(read(new).hosts, ["10.0.0.1"]);
        let mut old = base;
        old["hostsallow"] = json!(["10.0.0.2"]);
        assert_eq!(read(old).hosts, ["10.0.0.2"]);
    }

    #[test]
    fn changed_hosts_keep_the_other_options() {
        let share = read(json!({"id": 1, "name": "a", "path": "/mnt/tank/a", "purpose": "LEGACY_SHARE",
            "options": {"guestok": true, "hostsallow": []}}));
        let update = SmbShareUpdate { hosts: Some(vec!["10.0.0.1".into()]), ..SmbShareUpdate::default() };
        assert_eq!(
            update_body(SmbShape::PurposeAndOptions, &share, &update),
            json!({"purpose": "LEGACY_SHARE",
                "options": {"purpose": "LEGACY_SHARE", "guestok": true, "hostsallow": ["10.0.0.1"]}})
        );
        assert_eq!(
            update_body(SmbShape::Flat, &share, &update),
            json!({"path": "/mnt/tank/a", "name": "a", "comment": "", "enabled": false, "hostsallow": ["10.0.0.1"]})
        );
        let off = SmbShareUpdate { enabled: Some(false), ..SmbShareUpdate::default() };
        assert_eq!(update_body(SmbShape::PurposeAndOptions, &share, &off), json!({"enabled": false}));
    }
}
