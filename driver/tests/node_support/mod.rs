//! A node agent on a CSI socket with a fake helper behind it, and the requests that tests send.
#![allow(dead_code, missing_docs, reason = "every test binary uses another part; names and tests explain it")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fake_helper::{FakeHelper, Options, Running, sha256};
use tempfile::TempDir;
use tns_csi::csi::identity::{self, Dependency};
use tns_csi::csi::node::Service;
use tns_csi::csi::server::{self, Listener};
use tns_csi::endpoint::UnixEndpoint;
use tns_csi::helper::Helper;
use tns_csi::observe::Metrics;
use tns_csi::volume::context::{Connection, Portal};
use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::csi::v1::identity_client::IdentityClient;
use tns_csi_proto::csi::v1::identity_server::IdentityServer;
use tns_csi_proto::csi::v1::node_client::NodeClient;
use tns_csi_proto::csi::v1::node_server::NodeServer;
use tns_csi_proto::csi::v1::volume_capability::access_mode::Mode;
use tns_csi_proto::csi::v1::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};

pub const VOLUME: &str = "tank/k8s/pvc-1";

pub struct Stand {
    pub node: NodeClient<Channel>,
    pub identity: IdentityClient<Channel>,
    pub helper: FakeHelper,
    pub stop: CancellationToken,
    pub served: JoinHandle<anyhow::Result<()>>,
    running: Option<Running>,
    options: Options,
    dir: TempDir,
}

impl Stand {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Options)) -> Self {
        let mut stand = Self::prepare(change).await;
        stand.running = Some(fake_helper::start(stand.helper.clone(), stand.helper_socket()).unwrap());
        stand
    }

    pub async fn without_helper() -> Self {
        Self::prepare(|_| {}).await
    }

    async fn prepare(change: impl FnOnce(&mut Options)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kubelet = dir.path().join("kubelet");
        std::fs::create_dir(&kubelet).unwrap();
        let mut options = Options::new(kubelet, dir.path().join("state"));
        change(&mut options);
        let helper = FakeHelper::new(options.clone()).unwrap();

        let client = Helper::new(endpoint(&dir.path().join("helper.sock"))).unwrap();
        let csi_endpoint = endpoint(&dir.path().join("csi.sock"));
        let identity = identity::Service::new("tns.csi.io".to_owned(), Dependency::Helper(client.clone()));
        let routes =
            Routes::new(IdentityServer::new(identity)).add_service(NodeServer::new(Service::new(client)));
        let listener = Listener::bind(&csi_endpoint).await.unwrap();
        let stop = CancellationToken::new();
        let metrics = Arc::new(Metrics::new().unwrap());
        let served = tokio::spawn(server::serve(listener, routes, metrics, stop.clone()));
        let channel = Endpoint::from_shared(csi_endpoint.to_string()).unwrap().connect().await.unwrap();
        Stand {
            node: NodeClient::new(channel.clone()),
            identity: IdentityClient::new(channel),
            helper,
            stop,
            served,
            running: None,
            options,
            dir,
        }
    }

    /// Kills the helper and starts another one on its state and socket.
    pub async fn restart_helper(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill().await;
        }
        self.helper = FakeHelper::new(self.options.clone()).unwrap();
        self.running = Some(fake_helper::start(self.helper.clone(), self.helper_socket()).unwrap());
    }

    pub fn helper_socket(&self) -> PathBuf {
        self.dir.path().join("helper.sock")
    }

    pub fn kubelet(&self) -> PathBuf {
        self.dir.path().join("kubelet")
    }

    /// Kubelet's staging directory of a volume, made as kubelet makes it.
    pub fn staging(&self, volume: &str) -> String {
        let tail = format!("plugins/kubernetes.io/csi/tns.csi.io/{}/globalmount", sha256(volume));
        self.made(&self.kubelet().join(tail))
    }

    /// Kubelet's staging directory of a raw block volume.
    pub fn device_staging(&self, pv: &str) -> String {
        self.made(&self.kubelet().join(format!("plugins/kubernetes.io/csi/volumeDevices/staging/{pv}")))
    }

    /// A pod's target; its parent exists.
    pub fn target(&self, pod: &str) -> String {
        let parent = self.kubelet().join(format!("pods/{pod}/volumes/kubernetes.io~csi/pvc-1"));
        format!("{}/mount", self.made(&parent))
    }

    fn made(&self, dir: &Path) -> String {
        std::fs::create_dir_all(dir).unwrap();
        dir.to_str().unwrap().to_owned()
    }

    pub async fn stage(
        &mut self,
        publish_context: BTreeMap<String, String>,
        capability: csi::VolumeCapability,
        staging: &str,
    ) -> Result<(), Status> {
        let request = csi::NodeStageVolumeRequest {
            volume_id: VOLUME.to_owned(),
            publish_context,
            staging_target_path: staging.to_owned(),
            volume_capability: Some(capability),
            ..Default::default()
        };
        self.node.node_stage_volume(request).await.map(drop)
    }

    pub async fn publish(
        &mut self,
        publish_context: BTreeMap<String, String>,
        capability: csi::VolumeCapability,
        staging: &str,
        target: &str,
        readonly: bool,
    ) -> Result<(), Status> {
        let request = csi::NodePublishVolumeRequest {
            volume_id: VOLUME.to_owned(),
            publish_context,
            staging_target_path: staging.to_owned(),
            target_path: target.to_owned(),
            volume_capability: Some(capability),
            readonly,
            ..Default::default()
        };
        self.node.node_publish_volume(request).await.map(drop)
    }

    pub async fn unstage(&mut self, volume: &str, staging: &str) -> Result<(), Status> {
        let request = csi::NodeUnstageVolumeRequest {
            volume_id: volume.to_owned(),
            staging_target_path: staging.to_owned(),
        };
        self.node.node_unstage_volume(request).await.map(drop)
    }

    pub async fn unpublish(&mut self, volume: &str, target: &str) -> Result<(), Status> {
        let request =
            csi::NodeUnpublishVolumeRequest { volume_id: volume.to_owned(), target_path: target.to_owned() };
        self.node.node_unpublish_volume(request).await.map(drop)
    }

    pub async fn stats(
        &mut self,
        volume: &str,
        path: &str,
    ) -> Result<csi::NodeGetVolumeStatsResponse, Status> {
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: volume.to_owned(),
            volume_path: path.to_owned(),
            ..Default::default()
        };
        self.node.node_get_volume_stats(request).await.map(tonic::Response::into_inner)
    }

    pub async fn expand(
        &mut self,
        volume: &str,
        path: &str,
        bytes: i64,
    ) -> Result<csi::NodeExpandVolumeResponse, Status> {
        let request = csi::NodeExpandVolumeRequest {
            volume_id: volume.to_owned(),
            volume_path: path.to_owned(),
            capacity_range: Some(csi::CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
            ..Default::default()
        };
        self.node.node_expand_volume(request).await.map(tonic::Response::into_inner)
    }

    pub async fn probe(&mut self) -> Result<Option<bool>, Status> {
        self.identity.probe(csi::ProbeRequest {}).await.map(|answer| answer.into_inner().ready)
    }
}

pub fn endpoint(path: &Path) -> UnixEndpoint {
    format!("unix://{}", path.display()).parse().unwrap()
}

pub fn mount(fs_type: &str, mode: Mode) -> csi::VolumeCapability {
    let mount = MountVolume { fs_type: fs_type.to_owned(), ..Default::default() };
    csi::VolumeCapability {
        access_type: Some(AccessType::Mount(mount)),
        access_mode: Some(AccessMode { mode: mode.into() }),
    }
}

pub fn block(mode: Mode) -> csi::VolumeCapability {
    csi::VolumeCapability { access_type: Some(AccessType::Block(BlockVolume {})), ..mount("", mode) }
}

pub fn nfs_context() -> BTreeMap<String, String> {
    let export = "/mnt/tank/k8s/pvc-1".to_owned();
    Connection::Nfs { portal: Portal::new("192.0.2.1", 2049), export }.to_publish_context().unwrap()
}

pub fn nvme_context() -> BTreeMap<String, String> {
    Connection::Nvmeof {
        portals: vec![Portal::new("192.0.2.1", 4420)],
        subsystem_nqn: "nqn.2026-01.io.tns-csi:pvc-1".to_owned(),
        namespace_uuid: uuid::Uuid::from_u128(7),
        io_queues: None,
        queue_size: None,
        capacity_bytes: 1 << 30,
        never_format: false,
        sealed_dhchap: None,
    }
    .to_publish_context()
    .unwrap()
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs `work` on this thread alone and returns everything that it logged at any level.
pub fn captured_logs(work: impl Future<Output = ()>) -> String {
    let buffer = Buffer::default();
    let writer = buffer.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(subscriber, || runtime.block_on(work));
    let bytes = buffer.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}
