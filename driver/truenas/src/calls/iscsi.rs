//! iSCSI: `iscsi.*`.
//!
//! A target refers to portals and initiator groups by row id, to credentials by their `tag`. Two empty things admit
//! everyone: an initiator group without names, and a target group without an initiator group. And deleting an initiator
//! group leaves the target groups that refer to it without one: it may only go when nothing refers to it.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;

use super::query::{Filter, Query};
use super::{Calls, NO_PARAMS};
use crate::dialect::NO_LOCK_STATE;
use crate::error::CallError;

/// Global settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IscsiGlobalConfig {
    /// Prefix of target names: `<basename>:<name>` is the IQN.
    pub basename: String,
    /// TCP port of every portal.
    #[serde(default = "default_port")]
    pub listen_port: u16,
}

fn default_port() -> u16 {
    3260
}

/// A logged-in initiator.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IscsiSession {
    /// Name of the initiator.
    #[serde(default)]
    pub initiator: String,
    /// Its address.
    #[serde(default)]
    pub initiator_addr: String,
    /// IQN of the target.
    #[serde(default)]
    pub target: String,
}

/// An address on which a portal listens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IscsiListen {
    /// IP literal; `0.0.0.0` and `::` stand for every address.
    pub ip: String,
    /// TCP port.
    #[serde(default = "default_port")]
    pub port: u16,
}

/// A portal group.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IscsiPortal {
    /// Assigned by the appliance; not stored.
    pub id: i64,
    /// Its addresses.
    #[serde(default)]
    pub listen: Vec<IscsiListen>,
    /// The administrator's words.
    #[serde(default)]
    pub comment: String,
}

/// A group of initiators.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IscsiInitiator {
    /// Assigned by the appliance; not stored.
    pub id: i64,
    /// Names of the initiators; an empty list is everyone.
    #[serde(default)]
    pub initiators: Vec<String>,
    /// Free words.
    #[serde(default)]
    pub comment: String,
}

/// Credentials as read; secrets are never asked for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IscsiAuth {
    /// Assigned by the appliance; not stored.
    pub id: i64,
    /// By which targets refer to it; several rows may have the same.
    pub tag: i64,
    /// User that the initiator presents.
    #[serde(default)]
    pub user: String,
}

/// CHAP credentials to be written.
#[derive(Debug, Clone, Serialize)]
pub struct IscsiAuthWrite {
    /// By which targets refer to it.
    pub tag: i64,
    /// User that the initiator presents.
    pub user: String,
    /// Its secret, 12 to 16 characters.
    #[serde(serialize_with = "exposed")]
    pub secret: SecretString,
    /// User that the target presents for mutual CHAP; empty for one-way.
    pub peeruser: String,
    /// Its secret, another one; empty for one-way.
    #[serde(serialize_with = "exposed")]
    pub peersecret: SecretString,
}

fn exposed<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    secret.expose_secret().serialize(serializer)
}

/// How initiators prove themselves to a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum IscsiAuthMethod {
    /// Not at all.
    #[default]
    None,
    /// CHAP, one-way.
    Chap,
    /// CHAP, both sides.
    ChapMutual,
}

/// One way into a target. A portal can be in one group only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IscsiGroup {
    /// Row of the portal.
    pub portal: i64,
    /// Row of the initiators; none is everyone.
    #[serde(default)]
    pub initiator: Option<i64>,
    /// How initiators prove themselves.
    #[serde(default)]
    pub authmethod: IscsiAuthMethod,
    /// **Tag** of the credentials.
    #[serde(default)]
    pub auth: Option<i64>,
}

/// A target.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IscsiTarget {
    /// Assigned by the appliance; not stored.
    pub id: i64,
    /// Unique name; the IQN is `<basename>:<name>` unless it begins with `iqn.`, `naa.` or `eui.`.
    pub name: String,
    /// The ways in; none is nobody.
    #[serde(default)]
    pub groups: Vec<IscsiGroup>,
    /// Networks from which it can be reached; none is everywhere.
    #[serde(default)]
    pub auth_networks: Vec<String>,
}

/// A logical unit's backing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IscsiExtent {
    /// Assigned by the appliance; not stored.
    pub id: i64,
    /// Unique name.
    pub name: String,
    /// `zvol/<dataset>`, or a file.
    #[serde(default)]
    pub path: Option<String>,
    /// Unit serial number (VPD page 0x80).
    #[serde(default)]
    pub serial: Option<String>,
    /// NAA identifier (VPD page 0x83), `0x` in front.
    #[serde(default)]
    pub naa: String,
    /// Served at all.
    #[serde(default)]
    pub enabled: bool,
}

/// A new extent on a zvol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IscsiExtentCreate {
    /// Unique name, at most 64 characters.
    pub name: String,
    /// Always `DISK`.
    #[serde(rename = "type")]
    pub kind: IscsiExtentKind,
    /// `zvol/<dataset>`: see [`IscsiExtentCreate::disk`].
    pub disk: String,
    /// Logical block size: 512, 1024, 2048 or 4096.
    pub blocksize: u16,
    /// Do not tell the physical block size.
    pub pblocksize: bool,
    /// Percentage of space used (1 to 99) from which initiators are warned.
    pub avail_threshold: Option<u8>,
    /// Free words.
    pub comment: String,
    /// Third-party copy past the access lists.
    pub insecure_tpc: bool,
    /// For Xen initiators.
    pub xen: bool,
    /// `UNKNOWN`, `SSD`, `5400`, `7200`, `10000` or `15000`.
    pub rpm: String,
}

/// What backs an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum IscsiExtentKind {
    /// A zvol.
    #[serde(rename = "DISK")]
    Disk,
}

impl IscsiExtentCreate {
    /// How the API names the device of `dataset`: blanks as `+`.
    #[must_use]
    pub fn disk(dataset: &str) -> String {
        format!("zvol/{}", dataset.replace(' ', "+"))
    }
}

/// An extent as a logical unit of a target. An extent can be in one only.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IscsiTargetExtent {
    /// Assigned by the appliance; not stored.
    pub id: i64,
    /// Row of the target.
    pub target: i64,
    /// Logical unit number.
    #[serde(default)]
    pub lunid: Option<u16>,
    /// Row of the extent.
    pub extent: i64,
}

/// Result of every deletion.
type Deleted = Option<bool>;

impl Calls {
    /// Reads the global settings.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn iscsi_global_config(&self) -> Result<IscsiGlobalConfig, CallError> {
        self.call("iscsi.global.config", &NO_PARAMS).await
    }

    /// Lists logged-in initiators; filter by `target` (an IQN).
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn iscsi_sessions(&self, filters: &[Filter]) -> Result<Vec<IscsiSession>, CallError> {
        self.call("iscsi.global.sessions", &(filters, Query::default())).await
    }

    /// Lists portals.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn iscsi_portal_query(&self, filters: &[Filter]) -> Result<Vec<IscsiPortal>, CallError> {
        self.call("iscsi.portal.query", &(filters, Query::default())).await
    }

    /// Lists groups of initiators.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn iscsi_initiator_query(&self, filters: &[Filter]) -> Result<Vec<IscsiInitiator>, CallError> {
        self.call("iscsi.initiator.query", &(filters, Query::default())).await
    }

    /// Creates a group of initiators. An empty list would be everyone.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn iscsi_initiator_create(
        &self,
        initiators: &[String],
        comment: &str,
    ) -> Result<IscsiInitiator, CallError> {
        let request = json!({"initiators": initiators, "comment": comment});
        self.call("iscsi.initiator.create", &(request,)).await
    }

    /// Replaces the names of a group. An empty list would be everyone.
    ///
    /// # Errors
    /// [`CallError`]; a missing one is [`CallError::is_not_found`].
    pub async fn iscsi_initiator_update(
        &self,
        id: i64,
        initiators: &[String],
    ) -> Result<IscsiInitiator, CallError> {
        self.call("iscsi.initiator.update", &(id, json!({"initiators": initiators}))).await
    }

    /// Deletes a group of initiators to which no target refers: a target group that does would admit everyone.
    ///
    /// # Errors
    /// [`CallError`]; a missing one is [`CallError::is_not_found`].
    pub async fn iscsi_initiator_delete(&self, id: i64) -> Result<(), CallError> {
        self.call::<_, Deleted>("iscsi.initiator.delete", &(id,)).await.map(|_| ())
    }

    /// Lists credentials, without their secrets.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn iscsi_auth_query(&self, filters: &[Filter]) -> Result<Vec<IscsiAuth>, CallError> {
        self.call("iscsi.auth.query", &(filters, Query::default().select(&["id", "tag", "user"]))).await
    }

    /// Creates credentials.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn iscsi_auth_create(&self, auth: &IscsiAuthWrite) -> Result<IscsiAuth, CallError> {
        self.call("iscsi.auth.create", &(auth,)).await
    }

    /// Replaces credentials.
    ///
    /// # Errors
    /// [`CallError`]; missing ones are [`CallError::is_not_found`].
    pub async fn iscsi_auth_update(&self, id: i64, auth: &IscsiAuthWrite) -> Result<IscsiAuth, CallError> {
        self.call("iscsi.auth.update", &(id, auth)).await
    }

    /// Deletes credentials; the last ones of a tag that a target refers to are refused.
    ///
    /// # Errors
    /// [`CallError`]; missing ones are [`CallError::is_not_found`].
    pub async fn iscsi_auth_delete(&self, id: i64) -> Result<(), CallError> {
        self.call::<_, Deleted>("iscsi.auth.delete", &(id,)).await.map(|_| ())
    }

    /// Lists targets.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn iscsi_target_query(&self, filters: &[Filter]) -> Result<Vec<IscsiTarget>, CallError> {
        self.call("iscsi.target.query", &(filters, Query::default())).await
    }

    /// Creates a target without groups, which admits nobody. `networks` (CIDR): from where it can be reached, none is
    /// everywhere.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn iscsi_target_create(
        &self,
        name: &str,
        networks: &[String],
    ) -> Result<IscsiTarget, CallError> {
        let request = json!({"name": name, "groups": [], "auth_networks": networks});
        self.call("iscsi.target.create", &(request,)).await
    }

    /// Replaces the groups of a target.
    ///
    /// # Errors
    /// [`CallError`]; a missing one is [`CallError::is_not_found`].
    pub async fn iscsi_target_update(
        &self,
        id: i64,
        groups: &[IscsiGroup],
    ) -> Result<IscsiTarget, CallError> {
        self.call("iscsi.target.update", &(id, json!({"groups": groups}))).await
    }

    /// Deletes a target and its logical units, not what backs them. With `force` live sessions end, without it they
    /// are a refusal.
    ///
    /// # Errors
    /// [`CallError`]; a missing one is [`CallError::is_not_found`].
    pub async fn iscsi_target_delete(&self, id: i64, force: bool) -> Result<(), CallError> {
        self.call::<_, Deleted>("iscsi.target.delete", &(id, force)).await.map(|_| ())
    }

    /// Lists extents.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn iscsi_extent_query(&self, filters: &[Filter]) -> Result<Vec<IscsiExtent>, CallError> {
        let options = Query::default().extra(NO_LOCK_STATE.0, NO_LOCK_STATE.1);
        self.call("iscsi.extent.query", &(filters, options)).await
    }

    /// Creates an extent. The device of a new zvol appears late: see
    /// [`ApiError::is_device_missing`](crate::ApiError::is_device_missing).
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn iscsi_extent_create(&self, create: &IscsiExtentCreate) -> Result<IscsiExtent, CallError> {
        self.call("iscsi.extent.create", &(create,)).await
    }

    /// Deletes an extent with its mapping; the zvol stays. With `force` live sessions are no refusal.
    ///
    /// # Errors
    /// [`CallError`]; a missing one is [`CallError::is_not_found`].
    pub async fn iscsi_extent_delete(&self, id: i64, force: bool) -> Result<(), CallError> {
        self.call::<_, Deleted>("iscsi.extent.delete", &(id, false, force)).await.map(|_| ())
    }

    /// Lists logical units; filter by `target`, `extent`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn iscsi_targetextent_query(
        &self,
        filters: &[Filter],
    ) -> Result<Vec<IscsiTargetExtent>, CallError> {
        self.call("iscsi.targetextent.query", &(filters, Query::default())).await
    }

    /// Makes an extent a logical unit. The number is given: the appliance's own choice is not safe against another
    /// create.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn iscsi_targetextent_create(
        &self,
        target: i64,
        lunid: u16,
        extent: i64,
    ) -> Result<IscsiTargetExtent, CallError> {
        let request = json!({"target": target, "lunid": lunid, "extent": extent});
        self.call("iscsi.targetextent.create", &(request,)).await
    }

    /// Takes an extent out of a target. With `force` live sessions are no refusal.
    ///
    /// # Errors
    /// [`CallError`]; a missing one is [`CallError::is_not_found`].
    pub async fn iscsi_targetextent_delete(&self, id: i64, force: bool) -> Result<(), CallError> {
        self.call::<_, Deleted>("iscsi.targetextent.delete", &(id, force)).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_the_wire_shape() {
        let group = IscsiGroup {
            portal: 1,
            initiator: Some(2),
            authmethod: IscsiAuthMethod::ChapMutual,
            auth: Some(7),
        };
        let text = r#"{"portal":1,"initiator":2,"authmethod":"CHAP_MUTUAL","auth":7}"#;
        assert_eq!(serde_json::to_string(&group).unwrap(), text);
        assert_eq!(serde_json::from_str::<IscsiGroup>(text).unwrap(), group);
        let open: IscsiGroup = serde_json::from_str(r#"{"portal":1,"initiator":null}"#).unwrap();
        assert_eq!((open.initiator, open.authmethod), (None, IscsiAuthMethod::None));
    }

    #[test]
    fn secrets_are_sent_but_never_shown() {
        let auth = IscsiAuthWrite {
            tag: 1,
            user: "u".to_owned(),
            secret: "hushhushhush".into(),
            peeruser: String::new(),
            peersecret: "".into(),
        };
        assert!(!format!("{auth:?}").contains("hush"));
        assert!(serde_json::to_string(&auth).unwrap().contains(r#""secret":"hushhushhush""#));
    }
}
