//! NVMe-oF targets: `nvmet.*` (25.10 and later).
//!
//! On an older appliance there is nothing to list, and creating anything says which version it takes.
//!
//! Requests refer to other objects by `*_id`, answers and filters nest them (`subsys.id`). Every change renders the
//! whole target again at the appliance, so changes of several objects do not run faster side by side.

use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;

use super::query::{Filter, Query};
use super::{Calls, NO_PARAMS};
use crate::dialect::NO_LOCK_STATE;
use crate::error::CallError;

/// Global settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NvmetGlobalConfig {
    /// Prefix of generated subsystem NQNs.
    pub basenqn: String,
    /// Served by the kernel's target.
    #[serde(default)]
    pub kernel: bool,
    /// Asymmetric namespace access (HA).
    #[serde(default)]
    pub ana: bool,
}

/// A subsystem as read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NvmetSubsys {
    /// Assigned by the appliance; not stored.
    pub id: i64,
    /// Unique name.
    pub name: String,
    /// NQN that hosts connect to.
    #[serde(default)]
    pub subnqn: Option<String>,
    /// Generated serial number.
    #[serde(default)]
    pub serial: String,
    /// Admits every host; must be false for a volume.
    #[serde(default)]
    pub allow_any_host: bool,
}

/// A namespace as read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NvmetNamespace {
    /// Assigned by the appliance; not stored.
    pub id: i64,
    /// Namespace id within the subsystem.
    #[serde(default)]
    pub nsid: Option<u32>,
    /// The subsystem.
    pub subsys: NvmetSubsys,
    /// `ZVOL` or `FILE`.
    pub device_type: String,
    /// `zvol/<dataset>` or a file.
    pub device_path: String,
    /// Stable identity by which a host recognises the device.
    #[serde(default)]
    pub device_uuid: String,
    /// The same as NGUID.
    #[serde(default)]
    pub device_nguid: String,
    /// Served at all.
    #[serde(default)]
    pub enabled: bool,
}

/// A host as read; its keys are never asked for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NvmetHost {
    /// Assigned by the appliance.
    pub id: i64,
    /// Its NQN, unique.
    pub hostnqn: String,
}

/// DH-HMAC-CHAP keys of a host (`DHHC-1:0x:...:`).
#[derive(Debug, Clone, Default)]
pub struct DhChapKeys {
    /// By which the host proves itself.
    pub host: Option<SecretString>,
    /// By which the controller proves itself; needs `host`.
    pub controller: Option<SecretString>,
    /// `SHA-256`, `SHA-384` or `SHA-512`; none is the appliance's default.
    pub hash: Option<&'static str>,
    /// `2048-BIT` to `8192-BIT`; none exchanges no Diffie-Hellman values.
    pub dh_group: Option<String>,
}

/// Transport of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NvmetTransport {
    /// TCP.
    #[serde(rename = "TCP")]
    Tcp,
    /// RDMA (Enterprise).
    #[serde(rename = "RDMA")]
    Rdma,
    /// Fibre Channel (Enterprise).
    #[serde(rename = "FC")]
    FibreChannel,
}

/// A port as read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NvmetPort {
    /// Assigned by the appliance.
    pub id: i64,
    /// Transport.
    pub addr_trtype: NvmetTransport,
    /// Address it listens on.
    pub addr_traddr: String,
    /// TCP or RDMA port number.
    #[serde(default, deserialize_with = "service_id")]
    pub addr_trsvcid: Option<u16>,
    /// Served at all.
    #[serde(default)]
    pub enabled: bool,
}

/// `addr_trsvcid` is a number, a text or null.
fn service_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Id {
        Number(u16),
        Text(String),
    }
    Ok(match Option::<Id>::deserialize(deserializer)? {
        Some(Id::Number(n)) => Some(n),
        Some(Id::Text(t)) => t.parse().ok(),
        None => None,
    })
}

/// A new port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NvmetPortCreate {
    /// Transport.
    pub addr_trtype: NvmetTransport,
    /// One of the appliance's addresses.
    pub addr_traddr: String,
    /// 1024 to 65535.
    pub addr_trsvcid: u16,
    /// Served at all.
    pub enabled: bool,
}

/// A grant: this host may use this subsystem.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NvmetHostSubsys {
    /// Assigned by the appliance.
    pub id: i64,
    /// The host.
    pub host: NvmetHost,
    /// The subsystem.
    pub subsys: NvmetSubsys,
}

/// An exposure: this subsystem is reachable through this port.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NvmetPortSubsys {
    /// Assigned by the appliance.
    pub id: i64,
    /// The port.
    pub port: NvmetPort,
    /// The subsystem.
    pub subsys: NvmetSubsys,
}

/// A live controller: this host is connected.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NvmetSession {
    /// NQN of the host.
    #[serde(default)]
    pub hostnqn: String,
    /// Its address.
    #[serde(default)]
    pub host_traddr: String,
    /// The subsystem.
    #[serde(default)]
    pub subsys_id: Option<i64>,
    /// The port.
    #[serde(default)]
    pub port_id: Option<i64>,
    /// Controller id.
    #[serde(default)]
    pub ctrl: Option<i64>,
}

#[derive(Serialize)]
struct HostCreate<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    hostnqn: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "exposed")]
    dhchap_key: Option<&'a SecretString>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "exposed")]
    dhchap_ctrl_key: Option<&'a SecretString>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dhchap_hash: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dhchap_dhgroup: Option<&'a str>,
}

impl<'a> HostCreate<'a> {
    fn new(hostnqn: Option<&'a str>, keys: &'a DhChapKeys) -> Self {
        HostCreate {
            hostnqn,
            dhchap_key: keys.host.as_ref(),
            dhchap_ctrl_key: keys.controller.as_ref(),
            dhchap_hash: keys.hash,
            dhchap_dhgroup: keys.dh_group.as_deref(),
        }
    }
}

fn exposed<S: Serializer>(secret: &Option<&SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.map(|s| s.expose_secret()).serialize(serializer)
}

/// Result of every deletion.
type Deleted = Option<bool>;

impl Calls {
    /// A method that only an appliance with NVMe-oF has.
    async fn nvmet<P, R>(&self, method: &'static str, params: &P) -> Result<R, CallError>
    where
        P: Serialize + Sync,
        R: DeserializeOwned,
    {
        self.require_nvmeof().await?;
        self.call(method, params).await
    }

    /// A list: an appliance without NVMe-oF has nothing to show.
    async fn nvmet_rows<P, R>(&self, method: &'static str, params: &P) -> Result<Vec<R>, CallError>
    where
        P: Serialize + Sync,
        R: DeserializeOwned,
    {
        if !self.features().await?.nvmeof {
            return Ok(Vec::new());
        }
        self.call(method, params).await
    }

    /// Reads the global settings.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn nvmet_global_config(&self) -> Result<NvmetGlobalConfig, CallError> {
        self.nvmet("nvmet.global.config", &NO_PARAMS).await
    }

    /// Lists live controllers.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn nvmet_sessions(&self, filters: &[Filter]) -> Result<Vec<NvmetSession>, CallError> {
        self.nvmet_rows("nvmet.global.sessions", &(filters, Query::default())).await
    }

    /// Lists subsystems.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn nvmet_subsys_query(&self, filters: &[Filter]) -> Result<Vec<NvmetSubsys>, CallError> {
        self.nvmet_rows("nvmet.subsys.query", &(filters, Query::default())).await
    }

    /// Creates a subsystem that admits no host. `subnqn`: 11 to 223 characters; `None` lets the appliance derive it.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn nvmet_subsys_create(
        &self,
        name: &str,
        subnqn: Option<&str>,
    ) -> Result<NvmetSubsys, CallError> {
        let mut request = json!({"name": name, "allow_any_host": false});
        if let (Some(nqn), Some(fields)) = (subnqn, request.as_object_mut()) {
            fields.insert("subnqn".to_owned(), nqn.into());
        }
        self.nvmet("nvmet.subsys.create", &(request,)).await
    }

    /// Deletes a subsystem that has neither namespaces nor ports; its host grants go with it.
    ///
    /// # Errors
    /// [`CallError`]; a missing one is [`CallError::is_not_found`].
    pub async fn nvmet_subsys_delete(&self, id: i64) -> Result<(), CallError> {
        self.call::<_, Deleted>("nvmet.subsys.delete", &(id,)).await.map(|_| ())
    }

    /// Lists namespaces.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn nvmet_namespace_query(&self, filters: &[Filter]) -> Result<Vec<NvmetNamespace>, CallError> {
        self.nvmet_rows(
            "nvmet.namespace.query",
            &(filters, Query::default().extra(NO_LOCK_STATE.0, NO_LOCK_STATE.1)),
        )
        .await
    }

    /// Creates an enabled namespace on a zvol. The device of a new zvol appears late: see
    /// [`ApiError::is_device_missing`](crate::ApiError::is_device_missing).
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn nvmet_namespace_create(
        &self,
        subsys_id: i64,
        dataset: &str,
    ) -> Result<NvmetNamespace, CallError> {
        let path = zvol_path(dataset);
        let request =
            json!({"subsys_id": subsys_id, "device_type": "ZVOL", "device_path": path, "enabled": true});
        self.nvmet("nvmet.namespace.create", &(request,)).await
    }

    /// Enables or disables a namespace.
    ///
    /// # Errors
    /// [`CallError`]; a missing one is [`CallError::is_not_found`].
    pub async fn nvmet_namespace_enable(&self, id: i64, enabled: bool) -> Result<NvmetNamespace, CallError> {
        self.nvmet("nvmet.namespace.update", &(id, json!({"enabled": enabled}))).await
    }

    /// Deletes a namespace at once, in use or not. The zvol stays.
    ///
    /// # Errors
    /// [`CallError`]; a missing one is [`CallError::is_not_found`].
    pub async fn nvmet_namespace_delete(&self, id: i64) -> Result<(), CallError> {
        self.call::<_, Deleted>("nvmet.namespace.delete", &(id,)).await.map(|_| ())
    }

    /// Lists hosts, without their keys.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn nvmet_host_query(&self, filters: &[Filter]) -> Result<Vec<NvmetHost>, CallError> {
        self.nvmet_rows("nvmet.host.query", &(filters, Query::default().select(&["id", "hostnqn"]))).await
    }

    /// Creates a host.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn nvmet_host_create(&self, hostnqn: &str, keys: &DhChapKeys) -> Result<NvmetHost, CallError> {
        self.nvmet("nvmet.host.create", &(HostCreate::new(Some(hostnqn), keys),)).await
    }

    /// Gives a host other keys. Connections that exist stay until they have to be made anew.
    ///
    /// # Errors
    /// [`CallError`]; a missing one is [`CallError::is_not_found`].
    pub async fn nvmet_host_update(&self, id: i64, keys: &DhChapKeys) -> Result<NvmetHost, CallError> {
        self.nvmet("nvmet.host.update", &(id, HostCreate::new(None, keys))).await
    }

    /// Deletes a host that has no grants.
    ///
    /// # Errors
    /// [`CallError`]; a missing one is [`CallError::is_not_found`].
    pub async fn nvmet_host_delete(&self, id: i64) -> Result<(), CallError> {
        self.call::<_, Deleted>("nvmet.host.delete", &(id,)).await.map(|_| ())
    }

    /// Lists grants; filter by `subsys.id`, `subsys.subnqn`, `host.hostnqn`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn nvmet_host_subsys_query(
        &self,
        filters: &[Filter],
    ) -> Result<Vec<NvmetHostSubsys>, CallError> {
        self.nvmet_rows("nvmet.host_subsys.query", &(filters, Query::default())).await
    }

    /// Grants a subsystem to a host.
    ///
    /// # Errors
    /// [`CallError`]; an existing grant is [`ApiError::is_exists`](crate::ApiError::is_exists).
    pub async fn nvmet_host_subsys_create(
        &self,
        host_id: i64,
        subsys_id: i64,
    ) -> Result<NvmetHostSubsys, CallError> {
        self.nvmet("nvmet.host_subsys.create", &(json!({"host_id": host_id, "subsys_id": subsys_id}),)).await
    }

    /// Takes a grant back. A live controller goes on writing: only a dropped port link cuts it.
    ///
    /// # Errors
    /// [`CallError`]; a missing one is [`CallError::is_not_found`].
    pub async fn nvmet_host_subsys_delete(&self, id: i64) -> Result<(), CallError> {
        self.call::<_, Deleted>("nvmet.host_subsys.delete", &(id,)).await.map(|_| ())
    }

    /// Lists ports.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn nvmet_port_query(&self, filters: &[Filter]) -> Result<Vec<NvmetPort>, CallError> {
        self.nvmet_rows("nvmet.port.query", &(filters, Query::default())).await
    }

    /// Creates a port.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn nvmet_port_create(&self, create: &NvmetPortCreate) -> Result<NvmetPort, CallError> {
        self.nvmet("nvmet.port.create", &(create,)).await
    }

    /// Deletes a port that exposes nothing.
    ///
    /// # Errors
    /// [`CallError`]; a missing one is [`CallError::is_not_found`].
    pub async fn nvmet_port_delete(&self, id: i64) -> Result<(), CallError> {
        self.call::<_, Deleted>("nvmet.port.delete", &(id,)).await.map(|_| ())
    }

    /// Lists exposures; filter by `subsys.id`, `port.id`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn nvmet_port_subsys_query(
        &self,
        filters: &[Filter],
    ) -> Result<Vec<NvmetPortSubsys>, CallError> {
        self.nvmet_rows("nvmet.port_subsys.query", &(filters, Query::default())).await
    }

    /// Exposes a subsystem through a port.
    ///
    /// # Errors
    /// [`CallError`]; an existing exposure is [`ApiError::is_exists`](crate::ApiError::is_exists).
    pub async fn nvmet_port_subsys_create(
        &self,
        port_id: i64,
        subsys_id: i64,
    ) -> Result<NvmetPortSubsys, CallError> {
        self.nvmet("nvmet.port_subsys.create", &(json!({"port_id": port_id, "subsys_id": subsys_id}),)).await
    }

    /// Takes an exposure back, which cuts every controller connected through it.
    ///
    /// # Errors
    /// [`CallError`]; a missing one is [`CallError::is_not_found`].
    pub async fn nvmet_port_subsys_delete(&self, id: i64) -> Result<(), CallError> {
        self.call::<_, Deleted>("nvmet.port_subsys.delete", &(id,)).await.map(|_| ())
    }
}

/// How the API names a zvol's device: `zvol/<dataset>`, blanks as `+`.
fn zvol_path(dataset: &str) -> String {
    format!("zvol/{}", dataset.replace(' ', "+"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_id_is_read_as_number_text_or_null() {
        for (id, expected) in
            [("4420", Some(4420)), ("\"4420\"", Some(4420)), ("null", None), ("\"x\"", None)]
        {
            let text = format!(
                r#"{{"id":1,"index":1,"addr_trtype":"TCP","addr_traddr":"192.0.2.1","addr_trsvcid":{id},"addr_adrfam":"IPV4"}}"#
            );
            assert_eq!(serde_json::from_str::<NvmetPort>(&text).unwrap().addr_trsvcid, expected);
        }
    }

    #[test]
    fn keys_are_sent_but_never_shown() {
        let keys = DhChapKeys { host: Some("DHHC-1:00:hush:".into()), ..DhChapKeys::default() };
        assert!(!format!("{keys:?}").contains("hush"));
        let request = HostCreate::new(Some("nqn"), &keys);
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"hostnqn":"nqn","dhchap_key":"DHHC-1:00:hush:"}"#
        );
    }
}
