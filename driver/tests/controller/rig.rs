//! A controller in a process of its own (a runtime that can be killed) against the stand-in appliance.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tns_csi::csi::controller::{ControllerOptions, Service};
use tns_csi::kubernetes::Kubernetes;
use tns_csi::volume::node_id::NodeId;
use tns_csi::volume::topology::Topology;
use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::csi::v1::controller_server::Controller as _;
use tns_csi_proto::csi::v1::volume_capability::access_mode::Mode;
use tns_csi_proto::csi::v1::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tonic::{Request, Status};
use truenas::{ApiKey, Client, ConnectionState, Options};
use truenas_sim::{Appliance, Config, Control};
use uuid::Uuid;

pub const GIB: i64 = 1 << 30;
pub const SERVER: &str = "127.0.0.1";
/// Longer than anything here takes, shorter than a person's patience.
pub const DEADLINE: Duration = Duration::from_secs(30);
pub const PROTOCOLS: [&str; 4] = ["nfs", "smb", "iscsi", "nvmeof"];
/// The iSCSI tables of the appliance.
const ISCSI: [&str; 5] =
    ["iscsi.target", "iscsi.extent", "iscsi.targetextent", "iscsi.initiator", "iscsi.auth"];

/// A controller process.
pub struct Process {
    runtime: Option<Runtime>,
    session: watch::Receiver<ConnectionState>,
    pub service: Service,
}

impl Process {
    pub async fn start(appliance: &Appliance, cluster_id: Option<&str>) -> Process {
        Process::placed(appliance, cluster_id, None, Topology::default()).await
    }

    /// One that runs in a cluster with this API.
    pub async fn in_cluster(
        appliance: &Appliance,
        cluster_id: Option<&str>,
        kubernetes: Option<Kubernetes>,
    ) -> Process {
        Process::placed(appliance, cluster_id, kubernetes, Topology::default()).await
    }

    /// One whose appliance is reached from these segments.
    pub async fn placed(
        appliance: &Appliance,
        cluster_id: Option<&str>,
        kubernetes: Option<Kubernetes>,
        topology: Topology,
    ) -> Process {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut options =
            Options::new(appliance.url().parse().unwrap(), ApiKey::new(appliance.api_key()).unwrap());
        options.ca_file = Some(appliance.ca_file().to_owned());
        options.user = Some(appliance.api_key_user().to_owned());
        options.reconnect.first = Duration::from_millis(10);
        let cluster_id = cluster_id.map(str::to_owned);
        let made = runtime.spawn(async move {
            let client = Client::new(options).unwrap();
            let mut session = client.watch();
            session.wait_for(ConnectionState::is_connected).await.unwrap();
            let options = ControllerOptions {
                driver_name: "tns.csi.io".to_owned(),
                cluster_id,
                kubernetes,
                topology,
                metrics: None,
            };
            (Service::new(options, client), session)
        });
        let (service, session) =
            tokio::time::timeout(DEADLINE, made).await.expect("the session begins").unwrap();
        Process { runtime: Some(runtime), session, service }
    }

    /// Waits until the session is there again.
    pub async fn connected(&mut self) {
        let session = self.session.wait_for(ConnectionState::is_connected);
        tokio::time::timeout(DEADLINE, session).await.expect("the session comes back").unwrap();
    }

    /// Runs a call in the process.
    pub fn spawn<T, F, W>(&self, work: W) -> tokio::task::JoinHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
        W: FnOnce(Service) -> F,
    {
        self.runtime.as_ref().unwrap().spawn(work(self.service.clone()))
    }

    /// Ends the process at once, with all its tasks, wherever they are.
    pub fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    async fn call<T, F, W>(&self, work: W) -> Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
        W: FnOnce(Service) -> F,
    {
        tokio::time::timeout(DEADLINE, self.spawn(work)).await.expect("a call answers in time").unwrap()
    }

    pub async fn create(&self, request: csi::CreateVolumeRequest) -> Result<csi::Volume, Status> {
        let answer = self.call(|s| async move { s.create_volume(Request::new(request)).await });
        answer.await.map(|a| a.into_inner().volume.unwrap())
    }

    pub async fn delete(&self, id: &str) -> Result<(), Status> {
        let request = csi::DeleteVolumeRequest { volume_id: id.to_owned(), ..Default::default() };
        self.call(|s| async move { s.delete_volume(Request::new(request)).await }).await.map(|_| ())
    }

    pub async fn publish(
        &self,
        volume: &csi::Volume,
        node: &str,
    ) -> Result<BTreeMap<String, String>, Status> {
        self.publish_as(volume, node, single()).await
    }

    pub async fn publish_as(
        &self,
        volume: &csi::Volume,
        node: &str,
        capability: csi::VolumeCapability,
    ) -> Result<BTreeMap<String, String>, Status> {
        let request = publish_request(volume, node, capability);
        let answer = self.call(|s| async move { s.controller_publish_volume(Request::new(request)).await });
        answer.await.map(|a| a.into_inner().publish_context)
    }

    pub async fn unpublish(&self, id: &str, node: &str) -> Result<(), Status> {
        let request = csi::ControllerUnpublishVolumeRequest {
            volume_id: id.to_owned(),
            node_id: node.to_owned(),
            ..Default::default()
        };
        self.call(|s| async move { s.controller_unpublish_volume(Request::new(request)).await })
            .await
            .map(|_| ())
    }

    pub async fn expand(&self, id: &str, bytes: i64) -> Result<csi::ControllerExpandVolumeResponse, Status> {
        let request = csi::ControllerExpandVolumeRequest {
            volume_id: id.to_owned(),
            capacity_range: Some(csi::CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
            ..Default::default()
        };
        let answer = self.call(|s| async move { s.controller_expand_volume(Request::new(request)).await });
        answer.await.map(tonic::Response::into_inner)
    }

    /// Whether the volume is abnormal, and its condition in words.
    pub async fn condition(&self, id: &str) -> Result<(bool, String), Status> {
        let request = csi::ControllerGetVolumeRequest { volume_id: id.to_owned() };
        let answer = self.call(|s| async move { s.controller_get_volume(Request::new(request)).await });
        let condition = answer.await?.into_inner().status.unwrap().volume_condition.unwrap();
        Ok((condition.abnormal, condition.message))
    }

    pub async fn list(&self, max: i32, token: &str) -> Result<csi::ListVolumesResponse, Status> {
        let request = csi::ListVolumesRequest { max_entries: max, starting_token: token.to_owned() };
        let answer = self.call(|s| async move { s.list_volumes(Request::new(request)).await });
        answer.await.map(tonic::Response::into_inner)
    }

    pub async fn capacity(&self, parameters: BTreeMap<String, String>) -> Result<i64, Status> {
        self.capacity_of(csi::GetCapacityRequest { parameters, ..Default::default() }).await
    }

    pub async fn capacity_of(&self, request: csi::GetCapacityRequest) -> Result<i64, Status> {
        let answer = self.call(|s| async move { s.get_capacity(Request::new(request)).await });
        answer.await.map(|a| a.into_inner().available_capacity)
    }

    pub async fn validate(
        &self,
        id: &str,
        capabilities: Vec<csi::VolumeCapability>,
    ) -> Result<csi::ValidateVolumeCapabilitiesResponse, Status> {
        let request = csi::ValidateVolumeCapabilitiesRequest {
            volume_id: id.to_owned(),
            volume_capabilities: capabilities,
            ..Default::default()
        };
        let answer =
            self.call(|s| async move { s.validate_volume_capabilities(Request::new(request)).await });
        answer.await.map(tonic::Response::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An appliance and a controller process.
pub struct Rig {
    pub appliance: Appliance,
    pub controller: Process,
}

impl Rig {
    pub async fn start() -> Rig {
        Rig::with(Config::default()).await
    }

    pub async fn with(config: Config) -> Rig {
        let schemas = config.schemas.clone().or_else(schemas);
        if schemas.is_none() {
            eprintln!(
                "NOT CHECKED: the appliance's schemas are not here; messages are not compared with them"
            );
        }
        let port = format!("{SERVER}:4420").parse().unwrap();
        let portal = format!("{SERVER}:3260").parse().unwrap();
        // These tests log in as often as they break connections.
        let config = Config {
            nvmet_port: Some(port),
            iscsi_portal: Some(portal),
            schemas,
            login_rate: usize::MAX,
            ..config
        };
        let appliance = Appliance::start(config).await.expect("the appliance starts");
        let controller = Process::start(&appliance, None).await;
        Rig { appliance, controller }
    }

    pub fn control(&self) -> Control {
        self.appliance.control()
    }

    /// Ends this controller process and starts another that knows nothing.
    pub async fn replace_controller(&mut self) {
        let next = Process::start(&self.appliance, None).await;
        std::mem::replace(&mut self.controller, next).kill();
    }

    /// Kills this controller process, lets go what was held at the appliance, and once that has ended there starts a
    /// controller that knows nothing.
    pub async fn replace_controller_dead(&mut self, release: impl FnOnce()) {
        let runtime = self.controller.runtime.take().unwrap();
        tokio::task::block_in_place(|| runtime.shutdown_timeout(DEADLINE));
        release();
        self.controller = Process::start(&self.appliance, None).await;
    }

    /// A client of the appliance beside the controller's, for what an administrator does.
    pub fn client(&self) -> Client {
        let mut options = Options::new(
            self.appliance.url().parse().unwrap(),
            ApiKey::new(self.appliance.api_key()).unwrap(),
        );
        options.ca_file = Some(self.appliance.ca_file().to_owned());
        options.user = Some(self.appliance.api_key_user().to_owned());
        Client::new(options).unwrap()
    }

    /// Puts things in place at the appliance.
    pub async fn seed(&self, seed: Value) {
        let mut command = seed;
        command["command"] = "seed".into();
        self.control().json(command).await.expect("the appliance takes the seed");
    }

    /// Datasets below the pool.
    pub fn datasets(&self) -> Vec<String> {
        self.control().datasets().into_iter().filter(|d| d.contains('/') && !d.contains("/.")).collect()
    }

    pub fn rows(&self, table: &str) -> Vec<Value> {
        self.control().rows(table)
    }

    /// Nothing of any volume is left, and every message kept the appliance's schema. Hosts stay: they are nodes.
    pub fn assert_empty(&self) {
        assert_eq!(self.datasets(), Vec::<String>::new());
        let others = [
            "sharing.nfs",
            "sharing.smb",
            "nvmet.subsys",
            "nvmet.namespace",
            "nvmet.host_subsys",
            "nvmet.port_subsys",
        ];
        for table in others.into_iter().chain(ISCSI) {
            assert_eq!(self.rows(table), Vec::<Value>::new(), "{table}");
        }
        self.assert_schemas();
    }

    pub fn assert_schemas(&self) {
        assert_eq!(self.control().stats().schema_violations, Vec::<String>::new());
    }

    /// Exactly one volume of the protocol, complete, letting nobody in.
    pub fn assert_one_volume(&self, protocol: &str) {
        assert_eq!(self.datasets().len(), 1, "{:?}", self.datasets());
        let of = |own: &str| usize::from(protocol == own);
        assert_eq!(self.rows("sharing.nfs").len(), of("nfs"), "NFS exports");
        assert_eq!(self.rows("sharing.smb").len(), of("smb"), "SMB shares");
        assert_eq!(self.rows("nvmet.subsys").len(), of("nvmeof"), "subsystems");
        assert_eq!(self.rows("nvmet.namespace").len(), of("nvmeof"), "namespaces");
        for table in ["iscsi.target", "iscsi.extent", "iscsi.targetextent"] {
            assert_eq!(self.rows(table).len(), of("iscsi"), "{table}");
        }
        self.assert_nobody_let_in();
        self.assert_schemas();
    }

    pub fn assert_nobody_let_in(&self) {
        for share in self.rows("sharing.nfs") {
            assert_eq!(share["hosts"], serde_json::json!(["192.0.2.1"]), "{share}");
        }
        for share in self.rows("sharing.smb") {
            assert_eq!(smb_hosts(&share), ["192.0.2.1"], "{share}");
            assert_eq!(share["enabled"], true, "{share}");
        }
        assert_eq!(self.rows("nvmet.host_subsys"), Vec::<Value>::new());
        assert_eq!(self.rows("nvmet.port_subsys"), Vec::<Value>::new());
        for target in self.rows("iscsi.target") {
            assert_eq!(target["groups"], serde_json::json!([]), "{target}");
        }
    }

    /// Whether the volume's node with this last address byte is let in.
    pub fn lets_in(&self, protocol: &str, last: u8) -> bool {
        if protocol == "nfs" {
            let host = Value::from(format!("10.0.0.{last}"));
            let shares = self.rows("sharing.nfs");
            return shares.iter().any(|s| s["hosts"].as_array().is_some_and(|h| h.contains(&host)));
        }
        if protocol == "iscsi" {
            let name = initiator(last);
            return self.initiators_let_in().contains(&name);
        }
        if protocol == "smb" {
            let host = format!("10.0.0.{last}");
            let shares = self.rows("sharing.smb");
            return shares.iter().any(|s| s["enabled"] == true && smb_hosts(s).contains(&host.as_str()));
        }
        let nqn = tns_csi_proto::identity::host_nqn(&Uuid::from_u128(u128::from(last)));
        let hosts = self.rows("nvmet.host");
        let row = hosts.iter().find(|h| h["hostnqn"] == nqn.as_str()).map(|h| h["id"].clone());
        let links = self.rows("nvmet.host_subsys");
        let linked = row.is_some_and(|id| links.iter().any(|l| l["host_id"] == id || l["host"]["id"] == id));
        linked && !self.rows("nvmet.port_subsys").is_empty()
    }
}

impl Rig {
    /// The initiators that some target lets in. A group that lets everyone in is a failure of its own.
    pub fn initiators_let_in(&self) -> Vec<String> {
        let rows = self.rows("iscsi.initiator");
        let mut names = Vec::new();
        for target in self.rows("iscsi.target") {
            for group in target["groups"].as_array().unwrap() {
                let row = rows.iter().find(|r| r["id"] == group["initiator"]);
                let row = row.unwrap_or_else(|| panic!("everyone is let in: {target}"));
                let list = row["initiators"].as_array().unwrap();
                assert!(!list.is_empty(), "everyone is let in: {row}");
                names.extend(list.iter().map(|n| n.as_str().unwrap().to_owned()));
            }
        }
        names
    }
}

/// The initiator name of the node with this last address byte.
pub fn initiator(last: u8) -> String {
    tns_csi_proto::identity::initiator_name(&Uuid::from_u128(u128::from(last)))
}

/// The hosts that an SMB share lets in, wherever the version keeps them.
pub fn smb_hosts(share: &Value) -> Vec<&str> {
    let list =
        if share["options"].is_object() { &share["options"]["hostsallow"] } else { &share["hostsallow"] };
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The appliance's schemas beside the repository, when they are there.
fn schemas() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/truenas-api/schemas");
    folder.is_dir().then_some(folder)
}

pub fn mount(fs_type: &str, mode: Mode) -> csi::VolumeCapability {
    csi::VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume {
            fs_type: fs_type.to_owned(),
            ..Default::default()
        })),
        access_mode: Some(AccessMode { mode: mode.into() }),
    }
}

pub fn block(mode: Mode) -> csi::VolumeCapability {
    csi::VolumeCapability {
        access_type: Some(AccessType::Block(BlockVolume {})),
        access_mode: Some(AccessMode { mode: mode.into() }),
    }
}

pub fn single() -> csi::VolumeCapability {
    mount("", Mode::SingleNodeMultiWriter)
}

/// A capability with which several nodes may have a volume of the protocol.
pub fn shared(protocol: &str) -> csi::VolumeCapability {
    if ["nfs", "smb"].contains(&protocol) {
        mount("", Mode::MultiNodeMultiWriter)
    } else {
        block(Mode::MultiNodeMultiWriter)
    }
}

pub fn parameters(protocol: &str, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let base = [("protocol", protocol), ("pool", "tank"), ("server", SERVER)];
    base.iter().chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub fn request(name: &str, protocol: &str, gib: i64) -> csi::CreateVolumeRequest {
    csi::CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: Some(csi::CapacityRange { required_bytes: gib * GIB, limit_bytes: 0 }),
        volume_capabilities: vec![single()],
        parameters: parameters(protocol, &[]),
        ..Default::default()
    }
}

/// A request for a volume that several nodes may use.
pub fn shared_request(name: &str, protocol: &str) -> csi::CreateVolumeRequest {
    csi::CreateVolumeRequest { volume_capabilities: vec![shared(protocol)], ..request(name, protocol, 1) }
}

pub fn publish_request(
    volume: &csi::Volume,
    node: &str,
    capability: csi::VolumeCapability,
) -> csi::ControllerPublishVolumeRequest {
    csi::ControllerPublishVolumeRequest {
        volume_id: volume.volume_id.clone(),
        node_id: node.to_owned(),
        volume_capability: Some(capability),
        volume_context: volume.volume_context.clone(),
        ..Default::default()
    }
}

/// The node id of a node with this last address byte.
pub fn node(name: &str, last: u8) -> String {
    NodeId::new(name, Uuid::from_u128(u128::from(last)), [[10, 0, 0, last].into()], None).unwrap().to_string()
}
