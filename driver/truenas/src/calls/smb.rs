//! SMB shares: `sharing.smb.*`.
//!
//! A share without allowed hosts is open to every host. From 25.10 on a share has a purpose with options that belong to
//! it, and given options replace all earlier ones; 25.04 has everything side by side. Callers see one shape.
//!
//! The presets of 25.04 overwrite what the request says, and `DEFAULT_SHARE` among them empties the list of hosts: in what is
//! served, while the row may still show the list that was asked for. Its other values are the defaults of `NO_PRESET`, which
//! is therefore used in its place, and a share that has such a preset is read as one that lets everyone in.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Calls;
use super::query::{Filter, Query};
use crate::dialect::{Feature, NO_LOCK_STATE, SmbShape, require};
use crate::error::CallError;
use crate::exchange;

/// Name of the list of allowed hosts, among the options or side by side with the rest.
const HOSTS: &str = "hostsallow";
/// Settings of 25.04 that an update has to repeat, because its model has defaults for what is left out.
const FLAT: [&str; 17] = [
    "path_suffix",
    "home",
    "ro",
    "browsable",
    "timemachine",
    "timemachine_quota",
    "recyclebin",
    "guestok",
    "abe",
    "hostsdeny",
    "aapl_name_mangling",
    "acl",
    "durablehandle",
    "shadowcopy",
    "streams",
    "fsrvp",
    "auxsmbconf",
];
/// 25.04's purpose that leaves all settings as they are given.
const FREE: &str = "NO_PRESET";
/// 25.04's purposes that empty the list of hosts.
const OPENING: [&str; 2] = ["DEFAULT_SHARE", "VEEAM_REPOSITORY_SHARE"];

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
    /// Hosts allowed, as they are served; empty means everyone.
    pub hosts: Vec<String>,
    /// The purpose, e.g. `DEFAULT_SHARE`.
    purpose: Option<String>,
    /// The purpose's options; none before 25.10.
    options: Option<Map<String, Value>>,
    /// The settings side by side, before 25.10.
    flat: Map<String, Value>,
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
    #[serde(flatten)]
    others: Map<String, Value>,
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
            hosts: match &row.options {
                Some(options) => of_options(options),
                None if row.purpose.as_deref().is_some_and(|purpose| OPENING.contains(&purpose)) => {
                    Vec::new()
                }
                None => row.hostsallow,
            },
            purpose: row.purpose,
            options: row.options,
            flat: row.others.into_iter().filter(|(key, _)| FLAT.contains(&key.as_str())).collect(),
        }
    }
}

/// What a share is for. Each version has its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SmbPurpose {
    /// The appliance's defaults, which are right for Linux clients.
    #[default]
    Default,
    /// All settings free, guests among them (25.04: no preset).
    Legacy,
    /// The directory is also served over NFS.
    Multiprotocol,
    /// Files become read-only after a time.
    TimeLocked,
}

impl SmbPurpose {
    fn word(self, shape: SmbShape) -> &'static str {
        match (self, shape) {
            (Self::Default, SmbShape::PurposeAndOptions) => "DEFAULT_SHARE",
            (Self::Legacy, SmbShape::PurposeAndOptions) => "LEGACY_SHARE",
            (Self::Default | Self::Legacy, SmbShape::Flat) => FREE,
            (Self::Multiprotocol, SmbShape::PurposeAndOptions) => "MULTIPROTOCOL_SHARE",
            (Self::Multiprotocol, SmbShape::Flat) => "MULTI_PROTOCOL_NFS",
            (Self::TimeLocked, SmbShape::PurposeAndOptions) => "TIME_LOCKED_SHARE",
            (Self::TimeLocked, SmbShape::Flat) => "WORM_DROPBOX",
        }
    }
}

/// Settings of a new share; those that are `None` are the appliance's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SmbSettings {
    /// What it is for.
    pub purpose: SmbPurpose,
    /// Shown when a client lists the shares.
    pub browsable: Option<bool>,
    /// Hides what a user may not read.
    pub access_based_enumeration: Option<bool>,
    /// Apple's way with characters that NTFS does not take.
    pub apple_name_mangling: Option<bool>,
    /// Seconds until files become read-only; [`SmbPurpose::TimeLocked`] only, from 25.10 on.
    pub grace_period: Option<u32>,
    /// Access without a password; [`SmbPurpose::Legacy`] only, as all that follow.
    pub guest: Option<bool>,
    /// Deleted files are kept in a directory.
    pub recycle_bin: Option<bool>,
    /// Alternate data streams.
    pub streams: Option<bool>,
    /// Handles that survive a short loss of the connection.
    pub durable_handles: Option<bool>,
    /// Snapshots as previous versions.
    pub shadow_copies: Option<bool>,
}

/// A new share.
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
    /// Everything else.
    pub settings: SmbSettings,
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
    let SmbShareCreate { name, path, comment, hosts, settings } = create;
    let purpose = settings.purpose.word(shape);
    let mut body = Map::new();
    let fixed: [(&str, Value); 5] = [
        ("name", name.as_str().into()),
        ("path", path.as_str().into()),
        ("comment", comment.as_str().into()),
        ("enabled", true.into()),
        ("purpose", purpose.into()),
    ];
    body.extend(fixed.map(|(key, value)| (key.to_owned(), value)));
    let mut options = Map::from_iter([(HOSTS.to_owned(), hosts.clone().into())]);
    let optional: [(&str, Option<Value>); 7] = [
        ("aapl_name_mangling", settings.apple_name_mangling.map(Value::from)),
        ("grace_period", settings.grace_period.map(Value::from)),
        ("guestok", settings.guest.map(Value::from)),
        ("recyclebin", settings.recycle_bin.map(Value::from)),
        ("streams", settings.streams.map(Value::from)),
        ("durablehandle", settings.durable_handles.map(Value::from)),
        ("shadowcopy", settings.shadow_copies.map(Value::from)),
    ];
    options.extend(optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    let access_based = match shape {
        SmbShape::Flat => "abe",
        SmbShape::PurposeAndOptions => "access_based_share_enumeration",
    };
    for (key, value) in [("browsable", settings.browsable), (access_based, settings.access_based_enumeration)]
    {
        if let Some(value) = value {
            body.insert(key.to_owned(), value.into());
        }
    }
    match shape {
        SmbShape::Flat => body.extend(options),
        SmbShape::PurposeAndOptions => {
            options.insert("purpose".to_owned(), purpose.into());
            body.insert("options".to_owned(), options.into());
        }
    }
    body.into()
}

fn update_body(shape: SmbShape, share: &SmbShare, update: &SmbShareUpdate) -> Value {
    let mut body = Map::new();
    if shape == SmbShape::Flat {
        // 25.04's model asks for path and name, and has defaults for what is left out: all is sent as it is, but for
        // empty auxiliary parameters, which only a full administrator may name.
        let kept = share.flat.iter().filter(|(key, value)| *key != "auxsmbconf" || *value != "");
        body.extend(kept.map(|(key, value)| (key.clone(), value.clone())));
        body.insert("path".to_owned(), share.path.as_str().into());
        body.insert("name".to_owned(), share.name.as_str().into());
        body.insert("comment".to_owned(), share.comment.as_str().into());
        body.insert("enabled".to_owned(), share.enabled.into());
        body.insert(HOSTS.to_owned(), share.hosts.clone().into());
        let purpose = share.purpose.as_deref().filter(|purpose| !OPENING.contains(purpose)).unwrap_or(FREE);
        body.insert("purpose".to_owned(), purpose.into());
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

    /// Checks that the appliance's version has what a new share asks for.
    ///
    /// # Errors
    /// [`CallError::NotSent`] with [`NotSent::Unsupported`](crate::NotSent::Unsupported) when it has not, or without
    /// connection before the deadline.
    pub async fn require_smb(&self, settings: &SmbSettings) -> Result<(), CallError> {
        const METHOD: &str = "sharing.smb.create";
        let session = exchange::session(self, METHOD).await?;
        let supported = match settings.grace_period {
            Some(_) => require(&session.version, Feature::SmbGracePeriod),
            None => Ok(()),
        };
        supported.map_err(|e| CallError::NotSent { method: METHOD, why: e.into() })
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
    use serde_json::json;

    use super::*;

    fn read(row: Value) -> SmbShare {
        serde_json::from_value(row).unwrap()
    }

    fn new_share(settings: SmbSettings) -> SmbShareCreate {
        let (name, path) = ("a".to_owned(), "/mnt/tank/a".to_owned());
        SmbShareCreate { name, path, comment: "c".to_owned(), hosts: vec!["10.0.0.1".to_owned()], settings }
    }

    #[test]
    fn a_new_share_is_told_in_the_words_of_its_version() {
        let plain = new_share(SmbSettings::default());
        assert_eq!(
            create_body(SmbShape::PurposeAndOptions, &plain),
            json!({"name": "a", "path": "/mnt/tank/a", "comment": "c", "enabled": true, "purpose": "DEFAULT_SHARE",
                "options": {"purpose": "DEFAULT_SHARE", "hostsallow": ["10.0.0.1"]}})
        );
        let guest = SmbSettings {
            purpose: SmbPurpose::Legacy,
            guest: Some(true),
            access_based_enumeration: Some(true),
            ..SmbSettings::default()
        };
        assert_eq!(
            create_body(SmbShape::PurposeAndOptions, &new_share(guest.clone())),
            json!({"name": "a", "path": "/mnt/tank/a", "comment": "c", "enabled": true, "purpose": "LEGACY_SHARE",
                "access_based_share_enumeration": true,
                "options": {"purpose": "LEGACY_SHARE", "hostsallow": ["10.0.0.1"], "guestok": true}})
        );
        assert_eq!(
            create_body(SmbShape::Flat, &new_share(guest)),
            json!({"name": "a", "path": "/mnt/tank/a", "comment": "c", "enabled": true, "purpose": "NO_PRESET",
                "abe": true, "hostsallow": ["10.0.0.1"], "guestok": true})
        );
    }

    #[test]
    fn no_preset_of_25_04_opens_a_share_to_everyone() {
        assert_eq!(create_body(SmbShape::Flat, &new_share(SmbSettings::default()))["purpose"], "NO_PRESET");
        let share = read(json!({"id": 1, "name": "a", "path": "/mnt/tank/a", "purpose": "DEFAULT_SHARE"}));
        let update = SmbShareUpdate { hosts: Some(vec!["10.0.0.1".into()]), ..SmbShareUpdate::default() };
        assert_eq!(update_body(SmbShape::Flat, &share, &update)["purpose"], "NO_PRESET");
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
            json!({"path": "/mnt/tank/a", "name": "a", "comment": "", "enabled": false, "purpose": "LEGACY_SHARE",
                "hostsallow": ["10.0.0.1"]})
        );
        let flat = read(json!({"id": 1, "name": "a", "path": "/mnt/tank/a", "purpose": "WORM_DROPBOX",
            "enabled": true, "guestok": true, "auxsmbconf": "", "vuid": "", "hostsallow": ["10.0.0.2"]}));
        assert_eq!(
            update_body(SmbShape::Flat, &flat, &update),
            json!({"path": "/mnt/tank/a", "name": "a", "comment": "", "enabled": true, "purpose": "WORM_DROPBOX",
                "guestok": true, "hostsallow": ["10.0.0.1"]})
        );
        let off = SmbShareUpdate { enabled: Some(false), ..SmbShareUpdate::default() };
        assert_eq!(update_body(SmbShape::PurposeAndOptions, &share, &off), json!({"enabled": false}));
    }
}
