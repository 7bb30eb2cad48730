//! The CSI Identity service, the same on controller and node agent.
//!
//! The rule it keeps: name and capabilities never depend on anything being reachable, because sidecars exit when they
//! cannot get them (CSI 1.12 asks for identical plugin capabilities from every instance). Only `Probe` looks around.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::csi::v1::identity_server::Identity;
use tonic::{Request, Response, Status};
use tracing::{info, warn};
use truenas::ConnectionState;

use crate::helper::{Helper, TimeLimit};

/// Longest a probe waits for the node-helper. Livenessprobe gives up after 3 s.
const PROBE_WITHIN: Duration = Duration::from_secs(1);

/// What `Probe` asks about.
#[derive(Clone, Debug)]
pub enum Dependency {
    /// The controller: its connection to the appliance.
    Appliance(truenas::Client),
    /// The node agent: the node-helper.
    Helper(Helper),
}

/// What `Probe` found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// Calls can be served.
    Ready,
    /// Not at the moment; it will be tried again without anybody's help.
    NotReady(String),
    /// Not until somebody changes something, which is said.
    Refused(String),
}

/// The Identity service.
#[derive(Debug)]
pub struct Service {
    driver_name: String,
    dependency: Dependency,
    /// Whether volumes are tied to places: then sidecars look at topology.
    has_topology: bool,
    /// The last answer, so that each change is logged once and not every probe.
    last: Mutex<Option<Found>>,
}

impl Service {
    /// A service for the driver `driver_name`.
    #[must_use]
    pub fn new(driver_name: String, dependency: Dependency) -> Self {
        Service { driver_name, dependency, has_topology: false, last: Mutex::new(None) }
    }

    /// The same, saying whether volumes are tied to places.
    #[must_use]
    pub fn with_topology(self, has_topology: bool) -> Self {
        Service { has_topology, ..self }
    }

    async fn look(&self) -> Found {
        match &self.dependency {
            Dependency::Appliance(client) => match client.state() {
                ConnectionState::Connected(_) => Found::Ready,
                refused @ ConnectionState::LoginRefused { .. } => Found::Refused(refused.to_string()),
                other => Found::NotReady(other.to_string()),
            },
            Dependency::Helper(helper) => match helper.host_info(TimeLimit::within(PROBE_WITHIN)).await {
                Ok(_) => Found::Ready,
                Err(status) if status.code() == tonic::Code::FailedPrecondition => {
                    Found::Refused(status.message().to_owned())
                }
                Err(status) => Found::NotReady(status.message().to_owned()),
            },
        }
    }

    fn log_change(&self, found: &Found) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.replace(found.clone());
        // The words of a state that lasts change (attempts, times); only its kind is news.
        if before.as_ref().map(std::mem::discriminant) == Some(std::mem::discriminant(found)) {
            return;
        }
        match found {
            Found::Ready => info!("probe: ready"),
            Found::NotReady(why) => warn!(why, "probe: not ready"),
            Found::Refused(why) => warn!(why, "probe: refused"),
        }
    }
}

#[tonic::async_trait]
impl Identity for Service {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        Ok(Response::new(csi::GetPluginInfoResponse {
            name: self.driver_name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        use csi::plugin_capability::{self, Type, service, volume_expansion};
        let capabilities = [
            Type::Service(plugin_capability::Service { r#type: service::Type::ControllerService.into() }),
            Type::VolumeExpansion(plugin_capability::VolumeExpansion {
                r#type: volume_expansion::Type::Online.into(),
            }),
        ]
        .into_iter()
        .chain(self.has_topology.then(|| {
            Type::Service(plugin_capability::Service {
                r#type: service::Type::VolumeAccessibilityConstraints.into(),
            })
        }))
        .map(|kind| csi::PluginCapability { r#type: Some(kind) })
        .collect();
        Ok(Response::new(csi::GetPluginCapabilitiesResponse { capabilities }))
    }

    /// Ready or not; an error only where waiting does not help, because only an error carries words (CSI 1.12, Probe:
    /// FAILED_PRECONDITION).
    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Result<Response<csi::ProbeResponse>, Status> {
        let found = self.look().await;
        self.log_change(&found);
        match found {
            Found::Ready => Ok(Response::new(csi::ProbeResponse { ready: Some(true) })),
            Found::NotReady(_) => Ok(Response::new(csi::ProbeResponse { ready: Some(false) })),
            Found::Refused(why) => Err(Status::failed_precondition(why)),
        }
    }
}
