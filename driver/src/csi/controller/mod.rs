//! The CSI Controller service: a file per RPC family, and here what they share.
//!
//! The rules it keeps: the request is read into types before anything happens; the work runs in a task of its own, one
//! operation per volume, and goes on when the caller gives up; work whose outcome became unknown begins again with
//! reading; and nothing half done is left behind a final answer.

mod capacity;
mod create;
mod deadline;
mod delete;
mod expand;
mod get;
mod list;
mod lookup;
mod publish;
mod rpc;
mod unanswered;
mod unpublish;
mod validate;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tns_csi_proto::csi::v1 as csi;
use tokio::time::Instant;

use crate::csi::controller::unanswered::Unanswered;
use crate::csi::status::code;
use crate::kubernetes::Kubernetes;
use crate::observe::{Metrics, VolumeOperation};
use crate::protocol::Volume;
use crate::protocol::appliance::Appliance;
use crate::volume::failure::{Failure, Kind};
use crate::volume::id::VolumeId;
use crate::volume::registry::{Registry, Ticket};
use crate::volume::topology::Topology;

/// How often an operation begins again after an unknown outcome.
const ATTEMPTS: usize = 8;
/// First pause before it does; doubles up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What the controller is called and which volumes are its own.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// Name of the driver, as in `GetPluginInfo`.
    pub driver_name: String,
    /// Cluster whose volumes this driver owns; volumes of another cluster are foreign to it.
    pub cluster_id: Option<String>,
    /// The cluster's API, for classes that let their claims override them; none outside a pod.
    pub kubernetes: Option<Kubernetes>,
    /// From where the appliance is reached.
    pub topology: Topology,
    /// Where operations on volumes are counted.
    pub metrics: Option<Arc<Metrics>>,
}

/// The controller.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    options: ControllerOptions,
    /// By name; the default one has none.
    appliances: BTreeMap<Option<String>, Arc<Appliance>>,
    registry: Registry<Done, publish::Change>,
    unanswered: Unanswered,
}

/// What an operation gives.
#[derive(Clone, Debug)]
enum Done {
    Created(Box<csi::Volume>),
    Deleted,
    Published(BTreeMap<String, String>),
    Unpublished,
    Expanded { capacity_bytes: u64, node_expansion: bool },
}

impl Service {
    /// A controller for one appliance. Nothing is sent before the first request.
    #[must_use]
    pub fn new(options: ControllerOptions, client: truenas::Client) -> Self {
        let appliance = Arc::new(Appliance::new(None, client));
        let appliances = BTreeMap::from([(None, appliance)]);
        Service {
            inner: Arc::new(Inner {
                options,
                appliances,
                registry: Registry::default(),
                unanswered: Unanswered::default(),
            }),
        }
    }

    /// Waits until no operation runs any more.
    pub async fn idle(&self) {
        self.inner.registry.idle().await;
    }
}

impl Inner {
    /// The appliance on which volumes are created when nothing says otherwise.
    fn default_appliance(&self) -> Result<&Arc<Appliance>, Failure> {
        let none = || Failure::new(Kind::Internal, "no appliance is configured");
        self.appliances.get(&None).or_else(|| self.appliances.values().next()).ok_or_else(none)
    }

    /// The appliance of a volume; none when the id names one that is not configured.
    fn appliance_of(&self, id: &VolumeId) -> Option<&Arc<Appliance>> {
        self.appliances.get(&id.backend().map(str::to_owned))
    }

    fn cluster_id(&self) -> Option<&str> {
        self.options.cluster_id.as_deref()
    }

    /// Runs an operation and counts it: the one place where operations on volumes are counted. One on a volume of which
    /// nothing was found has no protocol and is not.
    async fn counted<T>(
        &self,
        operation: VolumeOperation,
        appliance: &Appliance,
        id: &VolumeId,
        work: impl Future<Output = Result<T, Failure>> + Send,
    ) -> Result<T, Failure> {
        let (begun, id) = (Instant::now(), id.to_string());
        let before = appliance.index.protocol_hint(&id);
        let outcome = work.await;
        let protocol = appliance.index.protocol_hint(&id).or(before);
        if let (Some(metrics), Some(protocol)) = (&self.options.metrics, protocol) {
            let code = outcome.as_ref().err().map_or(tonic::Code::Ok, |failure| code(failure.kind));
            metrics.volume_operation(protocol, operation, code, begun.elapsed());
        }
        outcome
    }

    fn volume(&self, id: &VolumeId, dataset: &str) -> Volume {
        Volume::new(id, dataset, self.cluster_id())
    }
}

/// Waits for an operation until the caller's deadline; the operation goes on after it.
async fn wait(ticket: Ticket<Done>, appliance: &Appliance, until: Instant) -> Result<Done, Failure> {
    match tokio::time::timeout_at(until, ticket.wait()).await {
        Ok(outcome) => outcome,
        Err(_) => Err(appliance.deadline_failure()),
    }
}

/// Runs an operation that begins with reading, again and again while its outcome is unknown, until `deadline`. The
/// argument tells the attempt, from 0.
async fn until_known<T, F>(deadline: Instant, mut operation: impl FnMut(usize) -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut pause = PAUSE_FIRST;
    let mut attempt = 0;
    loop {
        match operation(attempt).await {
            Err(failure)
                if failure.kind == Kind::OutcomeUnknown
                    && attempt + 1 < ATTEMPTS
                    && Instant::now() + pause < deadline =>
            {
                tracing::info!(%failure, attempt, "reading back after an unknown outcome");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
                attempt += 1;
            }
            outcome => return outcome,
        }
    }
}
