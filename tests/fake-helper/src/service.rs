//! The verbs as a gRPC service, with what tests need to look behind it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use tns_csi_proto::helper::v1;
use tns_csi_proto::helper::v1::node_helper_server::NodeHelper;
use tonic::{Request, Response, Status};

use crate::Options;
use crate::paths::Layout;
use crate::state::State;
use crate::volumes::Volumes;

/// Most requests that are remembered for tests.
const REMEMBERED: usize = 1000;

/// A request as it arrived.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variants are the verbs of helper.proto")]
pub enum Received {
    Stage(Box<v1::StageVolumeRequest>),
    Unstage(v1::UnstageVolumeRequest),
    Publish(v1::PublishVolumeRequest),
    Unpublish(v1::UnpublishVolumeRequest),
    Expand(v1::ExpandVolumeRequest),
    Stats(v1::GetVolumeStatsRequest),
}

/// The fake helper. Clones share everything.
#[derive(Clone, Debug)]
pub struct FakeHelper {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    options: Options,
    volumes: Volumes,
    received: VecDeque<Received>,
    failures: VecDeque<Status>,
    health: HashMap<String, Vec<v1::HealthEntry>>,
}

impl FakeHelper {
    /// A helper with the state of an earlier run, or a new one.
    ///
    /// # Errors
    /// The directories cannot be made, or the state cannot be read.
    pub fn new(options: Options) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&options.state_dir)
            .with_context(|| format!("making {}", options.state_dir.display()))?;
        let layout = Layout {
            root: options.kubelet_root.clone(),
            driver: options.driver_name.clone(),
            extra_parents: options.extra_parents.clone(),
        };
        let volumes =
            Volumes { state: State::open(&options.state_dir)?, dir: options.state_dir.clone(), layout };
        let inner = Inner {
            options,
            volumes,
            received: VecDeque::new(),
            failures: VecDeque::new(),
            health: HashMap::new(),
        };
        Ok(FakeHelper { inner: Arc::new(Mutex::new(inner)) })
    }

    /// Every request about a volume that has arrived, oldest first.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.lock().received.iter().cloned().collect()
    }

    /// Answers the next request about a volume with `status`, without any effect.
    pub fn fail_next(&self, status: Status) {
        self.lock().failures.push_back(status);
    }

    /// Adds findings to every later GetVolumeStats and ListVolumes of the volume; none makes it healthy again.
    pub fn set_health(&self, volume_id: &str, findings: Vec<v1::HealthEntry>) {
        self.lock().health.insert(volume_id.to_owned(), findings);
    }

    /// The file or directory that stands for the data of a staged volume.
    #[must_use]
    pub fn data_of(&self, volume_id: &str) -> Option<std::path::PathBuf> {
        self.lock().volumes.state.volumes.get(volume_id).map(|volume| volume.data.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the request and checks what comes before every verb. Verbs run one at a time, which is what the real
    /// helper's registry looks like from outside.
    fn begin(&self, min_revision: u32, received: Received) -> Result<MutexGuard<'_, Inner>, Status> {
        let mut inner = self.lock();
        inner.received.push_back(received);
        if inner.received.len() > REMEMBERED {
            inner.received.pop_front();
        }
        if let Some(failure) = inner.failures.pop_front() {
            return Err(failure);
        }
        inner.check(min_revision)?;
        Ok(inner)
    }
}

impl Inner {
    fn check(&self, min_revision: u32) -> Result<(), Status> {
        let own = self.options.revision;
        if min_revision > own {
            return Err(Status::failed_precondition(format!(
                "the request needs revision {min_revision} of the node-helper's API, this helper serves revision \
                 {own}: update the node-helper on node {}",
                self.options.node_name
            )));
        }
        Ok(())
    }

    fn findings(&self, volume_id: &str) -> Vec<v1::HealthEntry> {
        self.health.get(volume_id).cloned().unwrap_or_default()
    }
}

fn not_built(verb: &str) -> Status {
    Status::unimplemented(format!("{verb} is not built in this helper"))
}

#[tonic::async_trait]
impl NodeHelper for FakeHelper {
    type WatchVolumesStream = tokio_stream::Empty<Result<v1::VolumeEvent, Status>>;

    async fn get_host_info(
        &self,
        request: Request<v1::GetHostInfoRequest>,
    ) -> Result<Response<v1::GetHostInfoResponse>, Status> {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        let inner = self.lock();
        inner.check(request.get_ref().min_revision)?;
        Ok(Response::new(v1::GetHostInfoResponse {
            revision: inner.options.revision,
            version: concat!("fake-helper ", env!("CARGO_PKG_VERSION")).to_owned(),
            node_name: inner.options.node_name.clone(),
            host_uuid: inner.volumes.state.host.to_string(),
            storage_addresses: words(&["127.0.0.1"]),
            public_key: Vec::new(),
            kernel_release: "6.12.0-fake".to_owned(),
            protocols: words(&["nfs", "smb", "iscsi", "nvmeof"]),
            filesystems: words(&["ext4", "xfs", "btrfs"]),
        }))
    }

    async fn stage_volume(
        &self,
        request: Request<v1::StageVolumeRequest>,
    ) -> Result<Response<v1::StageVolumeResponse>, Status> {
        let asked = request.into_inner();
        let mut inner = self.begin(asked.min_revision, Received::Stage(Box::new(asked.clone())))?;
        inner.volumes.stage(&asked).map(Response::new)
    }

    async fn unstage_volume(
        &self,
        request: Request<v1::UnstageVolumeRequest>,
    ) -> Result<Response<v1::UnstageVolumeResponse>, Status> {
        let asked = request.into_inner();
        let mut inner = self.begin(asked.min_revision, Received::Unstage(asked.clone()))?;
        inner.volumes.unstage(&asked).map(Response::new)
    }

    async fn publish_volume(
        &self,
        request: Request<v1::PublishVolumeRequest>,
    ) -> Result<Response<v1::PublishVolumeResponse>, Status> {
        let asked = request.into_inner();
        let mut inner = self.begin(asked.min_revision, Received::Publish(asked.clone()))?;
        inner.volumes.publish(&asked).map(Response::new)
    }

    async fn unpublish_volume(
        &self,
        request: Request<v1::UnpublishVolumeRequest>,
    ) -> Result<Response<v1::UnpublishVolumeResponse>, Status> {
        let asked = request.into_inner();
        let mut inner = self.begin(asked.min_revision, Received::Unpublish(asked.clone()))?;
        inner.volumes.unpublish(&asked).map(Response::new)
    }

    async fn expand_volume(
        &self,
        request: Request<v1::ExpandVolumeRequest>,
    ) -> Result<Response<v1::ExpandVolumeResponse>, Status> {
        let asked = request.into_inner();
        let mut inner = self.begin(asked.min_revision, Received::Expand(asked.clone()))?;
        inner.volumes.expand(&asked).map(Response::new)
    }

    async fn get_volume_stats(
        &self,
        request: Request<v1::GetVolumeStatsRequest>,
    ) -> Result<Response<v1::GetVolumeStatsResponse>, Status> {
        let asked = request.into_inner();
        let inner = self.begin(asked.min_revision, Received::Stats(asked.clone()))?;
        let mut answer = inner.volumes.stats(&asked)?;
        answer.health.extend(inner.findings(&asked.volume_id));
        Ok(Response::new(answer))
    }

    async fn list_volumes(
        &self,
        request: Request<v1::ListVolumesRequest>,
    ) -> Result<Response<v1::ListVolumesResponse>, Status> {
        let inner = self.lock();
        inner.check(request.get_ref().min_revision)?;
        let mut volumes = inner.volumes.list();
        for volume in &mut volumes {
            volume.health = inner.findings(&volume.volume_id);
        }
        Ok(Response::new(v1::ListVolumesResponse { volumes }))
    }

    async fn watch_volumes(
        &self,
        _: Request<v1::WatchVolumesRequest>,
    ) -> Result<Response<Self::WatchVolumesStream>, Status> {
        Err(not_built("WatchVolumes"))
    }

    async fn freeze_volume(
        &self,
        _: Request<v1::FreezeVolumeRequest>,
    ) -> Result<Response<v1::FreezeVolumeResponse>, Status> {
        Err(not_built("FreezeVolume"))
    }

    async fn thaw_volume(
        &self,
        _: Request<v1::ThawVolumeRequest>,
    ) -> Result<Response<v1::ThawVolumeResponse>, Status> {
        Err(not_built("ThawVolume"))
    }

    async fn trim_volume(
        &self,
        _: Request<v1::TrimVolumeRequest>,
    ) -> Result<Response<v1::TrimVolumeResponse>, Status> {
        Err(not_built("TrimVolume"))
    }
}
