//! The gRPC edge: messages in, typed requests to [`crate::volume`], failures out as codes.
//!
//! Every handler does the same: the revision, the fields, the flow, the log line. Nothing else happens here.

mod rate;
mod request;
pub mod server;
mod status;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use tns_csi_proto::HELPER_REVISION;
use tns_csi_proto::helper::v1 as api;
use tns_csi_proto::helper::v1::node_helper_server::NodeHelper;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::failure::Failure;
use crate::volume::Volumes;

/// The helper's API over the flows.
#[derive(Debug, Clone)]
pub struct Service {
    volumes: Arc<Volumes>,
    rate: Arc<rate::Rate>,
}

impl Service {
    /// Serves these volumes.
    #[must_use]
    pub fn new(volumes: Arc<Volumes>) -> Self {
        Self { volumes, rate: Arc::new(rate::Rate::new()) }
    }

    /// Runs one call: admits it, checks the revision, and writes the one log line that tells how it ended.
    async fn answer<T>(
        &self,
        verb: &'static str,
        volume: &str,
        min_revision: u32,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<Response<T>, Status> {
        let begun = Instant::now();
        let outcome = match self.rate.admit().and_then(|()| check_revision(min_revision)) {
            Ok(()) => work.await,
            Err(failure) => Err(failure),
        };
        let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        // A hostile id stays one short line.
        let volume: String = volume.chars().take(128).flat_map(char::escape_default).collect();
        match outcome {
            Ok(answer) => {
                tracing::info!(verb, volume, milliseconds, "done");
                Ok(Response::new(answer))
            }
            Err(failure) => {
                tracing::warn!(verb, volume, milliseconds, kind = ?failure.kind, reason = %failure, "refused");
                Err(status::of(&failure))
            }
        }
    }
}

/// An older helper would ignore what it does not know; so it answers instead.
fn check_revision(min_revision: u32) -> Result<(), Failure> {
    if min_revision <= HELPER_REVISION {
        Ok(())
    } else {
        Err(Failure::precondition(format!(
            "the request needs revision {min_revision} of the helper's API, this helper serves revision \
             {HELPER_REVISION}; update the node-helper on this host"
        )))
    }
}

fn not_built(what: &str) -> Failure {
    Failure::unimplemented(format!("{what} is not built yet in this helper"))
}

/// The events of WatchVolumes.
type Events = Pin<Box<dyn Stream<Item = Result<api::VolumeEvent, Status>> + Send>>;

#[tonic::async_trait]
impl NodeHelper for Service {
    async fn get_host_info(
        &self,
        request: Request<api::GetHostInfoRequest>,
    ) -> Result<Response<api::GetHostInfoResponse>, Status> {
        let request = request.into_inner();
        self.answer("GetHostInfo", "", request.min_revision, self.volumes.host_info()).await
    }

    async fn stage_volume(
        &self,
        request: Request<api::StageVolumeRequest>,
    ) -> Result<Response<api::StageVolumeResponse>, Status> {
        let message = request.into_inner();
        self.answer("StageVolume", &message.volume_id, message.min_revision, async {
            let (request, call) = request::stage(&message, self.volumes.layout())?;
            self.volumes.stage(request, call).await
        })
        .await
    }

    async fn unstage_volume(
        &self,
        request: Request<api::UnstageVolumeRequest>,
    ) -> Result<Response<api::UnstageVolumeResponse>, Status> {
        let message = request.into_inner();
        self.answer("UnstageVolume", &message.volume_id, message.min_revision, async {
            let (request, call) = request::unstage(&message, self.volumes.layout())?;
            let outcome = self.volumes.unstage(request, call).await?;
            Ok(api::UnstageVolumeResponse { outcome })
        })
        .await
    }

    async fn publish_volume(
        &self,
        request: Request<api::PublishVolumeRequest>,
    ) -> Result<Response<api::PublishVolumeResponse>, Status> {
        let message = request.into_inner();
        self.answer("PublishVolume", &message.volume_id, message.min_revision, async {
            let (request, call) = request::publish(&message, self.volumes.layout())?;
            let outcome = self.volumes.publish(request, call).await?;
            Ok(api::PublishVolumeResponse { outcome })
        })
        .await
    }

    async fn unpublish_volume(
        &self,
        request: Request<api::UnpublishVolumeRequest>,
    ) -> Result<Response<api::UnpublishVolumeResponse>, Status> {
        let message = request.into_inner();
        self.answer("UnpublishVolume", &message.volume_id, message.min_revision, async {
            let (request, call) = request::unpublish(&message, self.volumes.layout())?;
            let outcome = self.volumes.unpublish(request, call).await?;
            Ok(api::UnpublishVolumeResponse { outcome })
        })
        .await
    }

    async fn expand_volume(
        &self,
        request: Request<api::ExpandVolumeRequest>,
    ) -> Result<Response<api::ExpandVolumeResponse>, Status> {
        let message = request.into_inner();
        self.answer("ExpandVolume", &message.volume_id, message.min_revision, async {
            let (request, call) = request::expand(&message, self.volumes.layout())?;
            self.volumes.expand(request, call).await
        })
        .await
    }

    async fn get_volume_stats(
        &self,
        request: Request<api::GetVolumeStatsRequest>,
    ) -> Result<Response<api::GetVolumeStatsResponse>, Status> {
        let message = request.into_inner();
        self.answer("GetVolumeStats", &message.volume_id, message.min_revision, async {
            let (request, call) = request::stats(&message, self.volumes.layout())?;
            self.volumes.stats(request, call).await
        })
        .await
    }

    async fn list_volumes(
        &self,
        request: Request<api::ListVolumesRequest>,
    ) -> Result<Response<api::ListVolumesResponse>, Status> {
        let request = request.into_inner();
        self.answer("ListVolumes", "", request.min_revision, self.volumes.list()).await
    }

    type WatchVolumesStream = Events;

    async fn watch_volumes(
        &self,
        request: Request<api::WatchVolumesRequest>,
    ) -> Result<Response<Self::WatchVolumesStream>, Status> {
        let request = request.into_inner();
        self.answer("WatchVolumes", "", request.min_revision, async { Err(not_built("watching volumes")) })
            .await
    }

    async fn freeze_volume(
        &self,
        request: Request<api::FreezeVolumeRequest>,
    ) -> Result<Response<api::FreezeVolumeResponse>, Status> {
        let request = request.into_inner();
        let work = async { Err(not_built("freezing")) };
        self.answer("FreezeVolume", &request.volume_id, request.min_revision, work).await
    }

    async fn thaw_volume(
        &self,
        request: Request<api::ThawVolumeRequest>,
    ) -> Result<Response<api::ThawVolumeResponse>, Status> {
        let request = request.into_inner();
        let work = async { Err(not_built("thawing")) };
        self.answer("ThawVolume", &request.volume_id, request.min_revision, work).await
    }

    async fn trim_volume(
        &self,
        request: Request<api::TrimVolumeRequest>,
    ) -> Result<Response<api::TrimVolumeResponse>, Status> {
        let request = request.into_inner();
        let work = async { Err(not_built("trimming")) };
        self.answer("TrimVolume", &request.volume_id, request.min_revision, work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_helper_names_both_revisions() {
        assert!(check_revision(0).is_ok() && check_revision(HELPER_REVISION).is_ok());
        let failure = check_revision(HELPER_REVISION + 1).expect_err("too new");
        assert_eq!(failure.kind, crate::failure::Kind::FailedPrecondition);
        for revision in [HELPER_REVISION, HELPER_REVISION + 1] {
            assert!(failure.message.contains(&format!("revision {revision}")), "{failure}");
        }
    }
}
