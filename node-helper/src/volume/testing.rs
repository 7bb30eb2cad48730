//! A host for tests of the flows: real mounts in a mount namespace of its own, real file systems on loop devices, and
//! an appliance and sysfs that behave.
//!
//! Needs root, `losetup` and loop devices; without them a test says so and skips.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use tns_csi_proto::helper::v1 as api;
use tns_csi_proto::helper::v1::node_helper_server::NodeHelper;
use tns_csi_proto::sealed::PrivateKey;
use tonic::{Request, Status};
use uuid::Uuid;

use super::{Parts, Volumes};
use crate::attach::iscsi::testing::FakeHost;
use crate::attach::{Attachments, Fabrics, Nvme, NvmeHost, OptionLine, Tuning};
use crate::device::testing::{PretendHost, nqn, uuid};
use crate::device::{Devices, Events, HostRoot, Nqn, Trigger};
use crate::filesystem::Filesystems;
use crate::host::Host;
use crate::ledger::{Ledger, Record};
use crate::mount::MountTable;
use crate::paths::{KubeletRoot, Layout, Place};
use crate::servers::AllowedServers;
use crate::service::Service;
use crate::source::VolumeId;
use crate::tool::starting;
use crate::work::until_free;

pub(super) const MIB: u64 = 1 << 20;
/// Size of every test volume.
pub(super) const SIZE: u64 = 32 * MIB;

/// Runs a test in a mount namespace of its own. Mounts of a test that fails disappear with it.
pub(super) fn on_host(test: impl AsyncFnOnce(&mut TestHost) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
        eprintln!("SKIPPED: mounting needs root and loop devices");
        return;
    }
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        rustix::mount::mount_change(
            "/",
            rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
        )
        .expect("mounts of its own");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut host = TestHost::new();
            test(&mut host).await;
        });
        runtime.shutdown_timeout(Duration::from_secs(5));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A loop device over a sparse file.
#[derive(Debug)]
struct Disk {
    node: PathBuf,
    file: PathBuf,
}

impl Disk {
    fn new(file: PathBuf, size: u64) -> Self {
        File::create(&file).and_then(|file| file.set_len(size)).expect("a sparse file");
        let _alone = starting();
        let output = Command::new("losetup").args(["--find", "--show"]).arg(&file).output().expect("losetup");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let node = PathBuf::from(String::from_utf8(output.stdout).expect("text").trim());
        // A loop device keeps the write protection of its last use.
        let device = File::open(&node).expect("the device");
        node_helper_sys::set_read_only(&device, false).expect("writable");
        Self { node, file }
    }

    fn rdev(&self) -> u64 {
        self.node.metadata().expect("a node").rdev()
    }

    fn size(&self) -> u64 {
        self.file.metadata().expect("a file").len()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _alone = starting();
        let _ = Command::new("losetup").arg("--detach").arg(&self.node).status();
    }
}

/// The appliance's namespaces and the kernel's view of them.
#[derive(Default)]
struct State {
    next: u32,
    disks: HashMap<u32, Disk>,
    /// Volume behind each controller.
    controllers: HashMap<u32, u32>,
    connects: u32,
}

/// A kernel that connects to what the appliance has, and keeps sysfs as the real one does.
pub(super) struct Kernel {
    host: PretendHost,
    trigger: Trigger,
    state: Mutex<State>,
}

impl Kernel {
    /// Shows volume `n` through a fresh controller, under the number of its loop device.
    fn appear(&self, state: &mut State, n: u32) -> u32 {
        let controller = state.next;
        state.next += 1;
        state.controllers.insert(controller, n);
        let disk = &state.disks[&n];
        let address = "traddr=192.0.2.7,trsvcid=4420";
        self.host.controller(controller, &nqn(n), address, "live", &host_nqn(), &HOST.to_string());
        self.host.single_path(controller, 1, uuid(n), disk.size());
        let (major, minor) = (rustix::fs::major(disk.rdev()), rustix::fs::minor(disk.rdev()));
        let name = format!("nvme{controller}n1");
        self.host.write(&format!("sys/block/{name}/dev"), &format!("{major}:{minor}\n"));
        let node = self.host.path(&format!("dev/{name}"));
        fs::remove_file(&node).expect("the text node");
        mknod(
            &node,
            SFlag::S_IFBLK,
            Mode::S_IRUSR | Mode::S_IWUSR,
            makedev(u64::from(major), u64::from(minor)),
        )
        .expect("a device node");
        self.trigger.raise();
        controller
    }

    fn vanish(&self, state: &mut State, controller: u32) {
        state.controllers.remove(&controller);
        let _ = fs::remove_file(self.host.path(&format!("dev/nvme{controller}n1")));
        self.host.remove_controller(controller);
        self.trigger.raise();
    }
}

impl Fabrics for Kernel {
    fn connect(&self, options: &OptionLine) -> io::Result<String> {
        let mut state = self.state.lock().expect("whole");
        let wanted = options.as_str().strip_prefix("nqn=").and_then(|rest| rest.split(',').next());
        let n = state.disks.keys().copied().find(|n| wanted == Some(nqn(*n).as_str()));
        let n = n.ok_or_else(|| io::Error::from_raw_os_error(nix::errno::Errno::EIO as i32))?;
        state.connects += 1;
        let controller = self.appear(&mut state, n);
        Ok(format!("instance={controller},cntlid=1\n"))
    }

    fn write_attribute(&self, attribute: &Path, _value: &str) -> io::Result<()> {
        let mut state = self.state.lock().expect("whole");
        let name = attribute.parent().and_then(Path::file_name).expect("a controller").to_string_lossy();
        let controller: u32 = name.strip_prefix("nvme").and_then(|text| text.parse().ok()).expect("a number");
        let n = state.controllers[&controller];
        if attribute.ends_with("delete_controller") {
            self.vanish(&mut state, controller);
        } else {
            self.host.resize(&format!("nvme{controller}n1"), state.disks[&n].size());
            self.trigger.raise();
        }
        Ok(())
    }
}

/// So that the kernel can be shared with [`Nvme`].
struct Shared(Arc<Kernel>);

impl Fabrics for Shared {
    fn connect(&self, options: &OptionLine) -> io::Result<String> {
        self.0.connect(options)
    }

    fn write_attribute(&self, attribute: &Path, value: &str) -> io::Result<()> {
        self.0.write_attribute(attribute, value)
    }
}

const HOST: Uuid = Uuid::from_u128(0x0123_4567_89ab_4cde_8f01_2345_6789_abcd);

fn host_nqn() -> String {
    tns_csi_proto::identity::host_nqn(&HOST)
}

/// The key of the host under test, the same after each restart.
pub(super) fn sealing() -> PrivateKey {
    PrivateKey::from_bytes(&[7; 32])
}

/// The host under test, with the helper's service on it.
pub(super) struct TestHost {
    directory: tempfile::TempDir,
    pretend: PretendHost,
    events: Events,
    pub(super) kernel: Arc<Kernel>,
    service: Option<Service>,
}

impl TestHost {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(directory.path().join("kubelet/t")).expect("the kubelet root");
        let pretend = PretendHost::new();
        let (events, trigger) = Events::manual();
        let kernel = Kernel { host: pretend.handle(), trigger, state: Mutex::default() };
        let mut host = Self { directory, pretend, events, kernel: Arc::new(kernel), service: None };
        host.restart();
        host
    }

    /// A new helper process over the same state, as after a crash.
    pub(super) fn restart(&mut self) {
        self.service = None;
        let kubelet = self.kubelet();
        let root = HostRoot::pretend_with_devices(&self.pretend.path(""));
        let devices = Devices::new(root, self.events.clone());
        let identity = NvmeHost { nqn: Nqn::parse(&host_nqn()).expect("an NQN"), id: HOST };
        let nvme = Nvme::new(
            devices.clone(),
            identity,
            Tuning::default(),
            Arc::new(Shared(Arc::clone(&self.kernel))),
        );
        let iscsi = FakeHost::new(&self.pretend, Events::manual().1).transport(devices.clone());
        let parts = Parts {
            layout: Layout::new(&kubelet, "tns.csi.io", &["t".to_owned()]).expect("a layout"),
            root: KubeletRoot::open(&kubelet).expect("a root"),
            ledger: self.ledger(),
            host: Host {
                node_name: "n1".to_owned(),
                uuid: HOST,
                sealing: Arc::new(sealing()),
                kernel: "6.12".to_owned(),
                storage_networks: vec!["127.0.0.0/8".parse().expect("a network")],
            },
            servers: AllowedServers::new(vec![
                "192.0.2.0/24".parse().expect("a network"),
                "127.0.0.1/32".parse().expect("a network"),
            ]),
            attachments: Attachments::new(devices.clone(), nvme, iscsi),
            devices,
            filesystems: Filesystems::new(crate::tool::testing::tools()),
        };
        self.service = Some(Service::new(Volumes::new(parts)));
    }

    fn ledger(&self) -> Ledger {
        Ledger::open(&self.directory.path().join("state")).expect("a ledger")
    }

    /// Stops the helper and lets a test look at or change a record.
    pub(super) fn edit_record(&mut self, n: u32, edit: impl FnOnce(&mut Option<Record>)) {
        self.service = None;
        let ledger = self.ledger();
        let volume = VolumeId::parse(&volume(n)).expect("an id");
        let mut record = ledger.read(&volume).expect("a ledger");
        edit(&mut record);
        match record {
            Some(record) => ledger.write(&volume, &record).expect("written"),
            None => ledger.remove(&volume).expect("removed"),
        }
        drop(ledger);
        self.restart();
    }

    pub(super) fn service(&self) -> &Service {
        self.service.as_ref().expect("a running helper")
    }

    pub(super) fn kubelet(&self) -> PathBuf {
        self.directory.path().canonicalize().expect("a real path").join("kubelet")
    }

    /// A path below the extra parent.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.kubelet().join("t").join(name)
    }

    /// Makes volume `n` on the appliance, and its staging directory here.
    pub(super) fn create(&self, n: u32) {
        let disk = Disk::new(self.directory.path().join(format!("disk{n}")), SIZE);
        self.kernel.state.lock().expect("whole").disks.insert(n, disk);
        fs::create_dir_all(self.path(&staging(n))).expect("the staging directory");
    }

    /// The node of volume `n`'s loop device, for looking at its bytes.
    pub(super) fn disk(&self, n: u32) -> PathBuf {
        self.kernel.state.lock().expect("whole").disks[&n].node.clone()
    }

    /// Writes bytes onto the volume as another host would.
    pub(super) fn scribble(&self, n: u32, offset: u64, bytes: &[u8]) {
        let disk = fs::OpenOptions::new().write(true).open(self.disk(n)).expect("the device");
        disk.write_all_at(bytes, offset).expect("written");
        disk.sync_all().expect("synced");
    }

    /// Grows the volume on the appliance.
    pub(super) fn enlarge(&self, n: u32, size: u64) {
        let state = self.kernel.state.lock().expect("whole");
        let disk = &state.disks[&n];
        fs::OpenOptions::new()
            .write(true)
            .open(&disk.file)
            .and_then(|file| file.set_len(size))
            .expect("grown");
        let _alone = starting();
        let status = Command::new("losetup").arg("--set-capacity").arg(&disk.node).status().expect("losetup");
        assert!(status.success());
    }

    /// The device dies and comes back under another number: the same bytes through another loop device.
    pub(super) fn die_and_return(&self, n: u32) {
        let mut state = self.kernel.state.lock().expect("whole");
        let dead: Vec<u32> = state.controllers.iter().filter(|(_, of)| **of == n).map(|(c, _)| *c).collect();
        for controller in dead {
            self.kernel.vanish(&mut state, controller);
        }
        let disk = Disk::new(self.directory.path().join(format!("disk{n}-again")), SIZE);
        // The old loop device stays as it is held by the dead mount; what was synced is on both.
        let old = state.disks.remove(&n).expect("the volume");
        fs::copy(&old.file, &disk.file).expect("the same bytes");
        state.disks.insert(n, disk);
        state.disks.insert(1000 + n, old);
        self.kernel.appear(&mut state, n);
    }

    /// The kernel notices the present size of volume `n`.
    pub(super) fn announce_size(&self, n: u32) {
        let state = self.kernel.state.lock().expect("whole");
        for (controller, _) in state.controllers.iter().filter(|(_, of)| **of == n) {
            self.pretend.resize(&format!("nvme{controller}n1"), state.disks[&n].size());
        }
    }

    /// The name and number of volume `n`'s device go over to volume `other`.
    pub(super) fn recycle(&self, n: u32, other: u32) {
        let state = self.kernel.state.lock().expect("whole");
        for (controller, _) in state.controllers.iter().filter(|(_, of)| **of == n) {
            let name = format!("nvme{controller}n1");
            self.pretend.write(&format!("sys/block/{name}/uuid"), &format!("{}\n", uuid(other)));
        }
    }

    /// The devices as the helper sees them.
    pub(super) fn devices(&self) -> Devices {
        Devices::new(HostRoot::pretend_with_devices(&self.pretend.path("")), self.events.clone())
    }

    /// A place below the extra parent.
    pub(super) fn place(&self, name: &str) -> Place {
        let layout = Layout::new(&self.kubelet(), "tns.csi.io", &["t".to_owned()]).expect("a layout");
        let path = layout.target(&text(&self.path(name)), false).expect("a target");
        KubeletRoot::open(&self.kubelet()).expect("a root").place(&path.0).expect("a place")
    }

    pub(super) fn connects(&self) -> u32 {
        self.kernel.state.lock().expect("whole").connects
    }

    pub(super) fn connected(&self) -> usize {
        self.kernel.state.lock().expect("whole").controllers.len()
    }

    /// Takes a mount away behind the helper's back, so that its device is free. A program that another test starts
    /// holds, until it runs, all that this process has open.
    pub(super) fn unmount(&self, name: &str) {
        let busy = |error: &rustix::io::Errno| *error == rustix::io::Errno::BUSY;
        let attempt = || rustix::mount::unmount(self.path(name), rustix::mount::UnmountFlags::empty());
        until_free(busy, attempt).expect("unmounted");
    }

    /// How many mounts are seen at a path.
    pub(super) fn mounts_at(&self, path: &Path) -> usize {
        MountTable::read().expect("a table").iter().filter(|mount| mount.point == path).count()
    }

    pub(super) fn stage_request(&self, n: u32) -> api::StageVolumeRequest {
        let source = api::NvmeofSource {
            portals: vec![api::Portal { address: "192.0.2.7".to_owned(), port: 0 }],
            subsystem_nqn: nqn(n).to_string(),
            namespace_uuid: uuid(n).to_string(),
            ..Default::default()
        };
        api::StageVolumeRequest {
            timeout_ms: 60_000,
            volume_id: volume(n),
            staging_path: text(&self.path(&staging(n))),
            source: Some(api::Source { protocol: Some(api::source::Protocol::Nvmeof(source)) }),
            access: Some(api::stage_volume_request::Access::Filesystem(api::FilesystemAccess::default())),
            capacity_bytes: SIZE,
            ..Default::default()
        }
    }

    pub(super) fn block_request(&self, n: u32) -> api::StageVolumeRequest {
        let access = Some(api::stage_volume_request::Access::Block(api::BlockAccess {}));
        api::StageVolumeRequest { access, ..self.stage_request(n) }
    }

    pub(super) fn publish_request(&self, n: u32, target: &Path) -> api::PublishVolumeRequest {
        api::PublishVolumeRequest {
            timeout_ms: 60_000,
            volume_id: volume(n),
            staging_path: text(&self.path(&staging(n))),
            target_path: text(target),
            ..Default::default()
        }
    }

    pub(super) async fn stage(&self, request: api::StageVolumeRequest) -> Result<String, Status> {
        self.service().stage_volume(Request::new(request)).await.map(|answer| answer.into_inner().outcome)
    }

    pub(super) async fn unstage(&self, n: u32) -> Result<String, Status> {
        let request = api::UnstageVolumeRequest {
            timeout_ms: 60_000,
            volume_id: volume(n),
            staging_path: text(&self.path(&staging(n))),
            ..Default::default()
        };
        self.service().unstage_volume(Request::new(request)).await.map(|answer| answer.into_inner().outcome)
    }

    pub(super) async fn publish(&self, request: api::PublishVolumeRequest) -> Result<String, Status> {
        self.service().publish_volume(Request::new(request)).await.map(|answer| answer.into_inner().outcome)
    }

    pub(super) async fn unpublish(&self, n: u32, target: &Path) -> Result<String, Status> {
        let request = api::UnpublishVolumeRequest {
            timeout_ms: 60_000,
            volume_id: volume(n),
            target_path: text(target),
            ..Default::default()
        };
        self.service().unpublish_volume(Request::new(request)).await.map(|answer| answer.into_inner().outcome)
    }

    pub(super) async fn expand(
        &self,
        n: u32,
        path: &Path,
        required: u64,
    ) -> Result<api::ExpandVolumeResponse, Status> {
        let request = api::ExpandVolumeRequest {
            timeout_ms: 60_000,
            volume_id: volume(n),
            volume_path: text(path),
            required_bytes: required,
            ..Default::default()
        };
        self.service().expand_volume(Request::new(request)).await.map(tonic::Response::into_inner)
    }

    pub(super) async fn stats(&self, n: u32, path: &Path) -> Result<api::GetVolumeStatsResponse, Status> {
        let request = api::GetVolumeStatsRequest {
            timeout_ms: 60_000,
            volume_id: volume(n),
            volume_path: text(path),
            ..Default::default()
        };
        self.service().get_volume_stats(Request::new(request)).await.map(tonic::Response::into_inner)
    }

    pub(super) async fn list(&self) -> Vec<api::VolumeEntry> {
        let answer = self.service().list_volumes(Request::new(api::ListVolumesRequest::default())).await;
        answer.expect("a list").into_inner().volumes
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        // Loop devices can only be given back when nothing is mounted from them.
        if let Ok(table) = MountTable::read() {
            let ours = self.directory.path().canonicalize().unwrap_or_default();
            for mount in table.iter().filter(|mount| mount.point.starts_with(&ours)) {
                let _ = rustix::mount::unmount(&mount.point, rustix::mount::UnmountFlags::DETACH);
            }
        }
    }
}

/// The id of volume `n`.
pub(super) fn volume(n: u32) -> String {
    format!("tank/k8s/pvc-{n}")
}

/// Name of its staging directory.
pub(super) fn staging(n: u32) -> String {
    format!("stage{n}")
}

pub(super) fn text(path: &Path) -> String {
    path.to_str().expect("text").to_owned()
}
