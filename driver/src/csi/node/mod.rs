//! The CSI Node service: CSI requests become the node-helper's verbs and its answers CSI's.
//!
//! The rules it keeps: one CSI call is at most one helper call; no state, no lock, no path is opened and no device
//! touched here. What can be refused from the request alone is refused before the helper hears of it: required fields
//! first, then what cannot be found, then what cannot be (CSI 1.12, and the order csi-sanity checks).

mod info;
mod publish;
mod request;
mod stage;
mod usage;

use std::num::NonZeroU32;

use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::csi::v1::node_server::Node;
use tonic::{Request, Response, Status};
use tracing::{debug, info};

use crate::helper::{Helper, TimeLimit};
use crate::volume::topology::Topology;

/// The Node service of one node agent.
#[derive(Clone, Debug)]
pub struct Service {
    helper: Helper,
    max_volumes: Option<NonZeroU32>,
    topology: Topology,
}

impl Service {
    /// A service that works through `helper`.
    #[must_use]
    pub fn new(helper: Helper) -> Self {
        Service { helper, max_volumes: None, topology: Topology::default() }
    }

    /// The same for a host that may have so many volumes at once.
    #[must_use]
    pub fn with_max_volumes(self, max_volumes: Option<NonZeroU32>) -> Self {
        Service { max_volumes, ..self }
    }

    /// The same for a host in these segments of the cluster.
    #[must_use]
    pub fn with_topology(self, topology: Topology) -> Self {
        Service { topology, ..self }
    }
}

#[tonic::async_trait]
impl Node for Service {
    async fn node_stage_volume(
        &self,
        request: Request<csi::NodeStageVolumeRequest>,
    ) -> Result<Response<csi::NodeStageVolumeResponse>, Status> {
        let limit = TimeLimit::of(request.metadata());
        let request = request.into_inner();
        debug!(?request, "request");
        let wanted = stage::stage(request)?;
        let (volume, path) = (wanted.volume_id.clone(), wanted.staging_path.clone());
        let done = self.helper.stage(wanted, limit).await?;
        info!(volume, path, fs_type = done.fs_type, outcome = done.outcome, "staged");
        Ok(Response::new(csi::NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Result<Response<csi::NodeUnstageVolumeResponse>, Status> {
        let limit = TimeLimit::of(request.metadata());
        let request = request.into_inner();
        debug!(?request, "request");
        if let Some(wanted) = stage::unstage(request)? {
            let (volume, path) = (wanted.volume_id.clone(), wanted.staging_path.clone());
            let done = self.helper.unstage(wanted, limit).await?;
            info!(volume, path, outcome = done.outcome, "unstaged");
        }
        Ok(Response::new(csi::NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
        let limit = TimeLimit::of(request.metadata());
        let request = request.into_inner();
        debug!(?request, "request");
        let wanted = publish::publish(request)?;
        let (volume, path) = (wanted.volume_id.clone(), wanted.target_path.clone());
        let done = self.helper.publish(wanted, limit).await?;
        info!(volume, path, outcome = done.outcome, "published");
        Ok(Response::new(csi::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<csi::NodeUnpublishVolumeResponse>, Status> {
        let limit = TimeLimit::of(request.metadata());
        let request = request.into_inner();
        debug!(?request, "request");
        if let Some(wanted) = publish::unpublish(request)? {
            let (volume, path) = (wanted.volume_id.clone(), wanted.target_path.clone());
            let done = self.helper.unpublish(wanted, limit).await?;
            info!(volume, path, outcome = done.outcome, "unpublished");
        }
        Ok(Response::new(csi::NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<csi::NodeGetVolumeStatsResponse>, Status> {
        let limit = TimeLimit::of(request.metadata());
        let wanted = usage::stats(request.into_inner())?;
        let found = self.helper.stats(wanted, limit).await?;
        Ok(Response::new(usage::stats_response(found)))
    }

    async fn node_expand_volume(
        &self,
        request: Request<csi::NodeExpandVolumeRequest>,
    ) -> Result<Response<csi::NodeExpandVolumeResponse>, Status> {
        let limit = TimeLimit::of(request.metadata());
        let request = request.into_inner();
        debug!(?request, "request");
        let wanted = usage::expand(request)?;
        let (volume, path) = (wanted.volume_id.clone(), wanted.volume_path.clone());
        let done = self.helper.expand(wanted, limit).await?;
        info!(volume, path, bytes = done.capacity_bytes, outcome = done.outcome, "expanded");
        let capacity_bytes = i64::try_from(done.capacity_bytes).unwrap_or(i64::MAX);
        Ok(Response::new(csi::NodeExpandVolumeResponse { capacity_bytes }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<csi::NodeGetCapabilitiesResponse>, Status> {
        Ok(Response::new(info::capabilities()))
    }

    async fn node_get_info(
        &self,
        request: Request<csi::NodeGetInfoRequest>,
    ) -> Result<Response<csi::NodeGetInfoResponse>, Status> {
        let host = self.helper.host_info(TimeLimit::of(request.metadata())).await?;
        let node_id = info::node_id(&host)?.to_string();
        info!(node_id, helper_version = host.version, helper_revision = host.revision, "node info");
        Ok(Response::new(csi::NodeGetInfoResponse {
            node_id,
            // Zero is no limit (CSI 1.12, NodeGetInfoResponse).
            max_volumes_per_node: self.max_volumes.map_or(0, |max| max.get().into()),
            accessible_topology: self.topology.to_csi(),
        }))
    }
}
