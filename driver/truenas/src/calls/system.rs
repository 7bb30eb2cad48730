//! System facts and services: `system.*`, `service.query`, `core.ping`.

use serde::Deserialize;

use super::query::{Filter, Query};
use super::{Calls, NO_PARAMS};
use crate::error::CallError;

/// Facts about the appliance.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SystemInfo {
    /// Version text.
    pub version: String,
    /// Host name.
    pub hostname: String,
    /// Serial number of the machine.
    #[serde(default)]
    pub system_serial: Option<String>,
}

/// Whether a service runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum ServiceState {
    /// `RUNNING`.
    Running,
    /// `STOPPED`.
    Stopped,
    /// Anything else.
    Other(String),
}

impl From<String> for ServiceState {
    fn from(text: String) -> Self {
        match text.as_str() {
            "RUNNING" => Self::Running,
            "STOPPED" => Self::Stopped,
            _ => Self::Other(text),
        }
    }
}

/// A service as read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Service {
    /// `nfs`, `cifs`, `iscsitarget`, `nvmet`, ...
    pub service: String,
    /// Whether it runs.
    pub state: ServiceState,
    /// Whether it starts with the appliance.
    #[serde(default)]
    pub enable: bool,
}

impl Calls {
    /// Reads version and host name (needs the role READONLY_ADMIN).
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn system_info(&self) -> Result<SystemInfo, CallError> {
        self.call("system.info", &NO_PARAMS).await
    }

    /// Lists services.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn services_query(&self, filters: &[Filter]) -> Result<Vec<Service>, CallError> {
        self.call("service.query", &(filters, Query::default().select(&["service", "state", "enable"]))).await
    }

    /// Asks for a sign of life of the API itself.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn ping(&self) -> Result<(), CallError> {
        self.call::<_, String>("core.ping", &NO_PARAMS).await.map(|_| ())
    }
}
