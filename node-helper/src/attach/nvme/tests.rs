//! Connecting and disconnecting, with a kernel that behaves: it keeps sysfs as the real one does.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use nix::errno::Errno;

use super::authentication::tests::SECRET;
use super::*;
use crate::attach::iscsi::testing::FakeHost;
use crate::attach::{Attachments, Target};
use crate::device::testing::{PretendHost, identity, nqn, uuid};
use crate::device::{Events, Trigger};
use crate::failure::Kind;

const GIB: u64 = 1 << 30;
const A: &str = "192.0.2.7:4420";
const B: &str = "192.0.2.8:4420";

/// A door at which a connect waits, as in a kernel whose appliance does not answer.
#[derive(Clone, Default)]
struct Door(Arc<(Mutex<bool>, Condvar)>);

impl Door {
    fn pass(&self) {
        let open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(open, |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

#[derive(Default)]
struct State {
    next: u32,
    namespace: bool,
    errors: HashMap<String, Errno>,
    doors: HashMap<String, Door>,
    connects: Vec<String>,
    writes: Vec<String>,
}

impl State {
    fn refuse(&mut self, portal: &str, error: Errno) {
        self.errors.insert(portal.to_owned(), error);
    }

    fn hold(&mut self, portal: &str, door: &Door) {
        self.doors.insert(portal.to_owned(), door.clone());
    }
}

/// A kernel whose appliance serves volume 1.
struct Kernel {
    host: PretendHost,
    trigger: Trigger,
    state: Mutex<State>,
}

impl Kernel {
    fn appear(&self, controller: u32) {
        self.host.multipath(0, 7, &nqn(1), uuid(1), GIB, &[(controller, "optimized")]);
    }

    fn with(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    fn connects(&self) -> usize {
        self.state.lock().unwrap().connects.len()
    }

    fn writes(&self) -> Vec<String> {
        self.state.lock().unwrap().writes.clone()
    }
}

impl Fabrics for Kernel {
    fn connect(&self, options: &OptionLine) -> io::Result<String> {
        let values: HashMap<&str, &str> =
            options.as_str().split(',').filter_map(|option| option.split_once('=')).collect();
        let portal = format!("{}:{}", values["traddr"], values["trsvcid"]);
        let door = {
            let mut state = self.state.lock().unwrap();
            state.connects.push(portal.clone());
            state.doors.get(&portal).cloned()
        };
        if let Some(door) = door {
            door.pass();
        }
        let mut state = self.state.lock().unwrap();
        if let Some(error) = state.errors.get(&portal) {
            return Err((*error).into());
        }
        let address = format!("traddr={},trsvcid={}", values["traddr"], values["trsvcid"]);
        for entry in std::fs::read_dir(self.host.path("sys/class/nvme"))? {
            let there = std::fs::read_to_string(entry?.path().join("address"))?;
            if there.trim() == address {
                return Err(Errno::EALREADY.into());
            }
        }
        let number = state.next;
        state.next += 1;
        self.host.controller(number, &nqn(1), &address, "live", values["hostnqn"], values["hostid"]);
        if state.namespace {
            self.appear(number);
        }
        self.trigger.raise();
        Ok(format!("instance={number},cntlid=1\n"))
    }

    fn write_attribute(&self, attribute: &Path, value: &str) -> io::Result<()> {
        assert_eq!(value, "1");
        let controller = attribute.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        let file = attribute.file_name().unwrap().to_str().unwrap().to_owned();
        let number: u32 = controller.strip_prefix("nvme").unwrap().parse().unwrap();
        self.with(|state| state.writes.push(format!("{controller}/{file}")));
        match file.as_str() {
            "delete_controller" => {
                self.host.remove_controller(number);
                let more = std::fs::read_dir(self.host.path("sys/class/nvme"))?.next().is_some();
                if !more && self.host.path("sys/block/nvme0n1").exists() {
                    self.host.remove_block("nvme0n1");
                }
            }
            _ => self.appear(number),
        }
        self.trigger.raise();
        Ok(())
    }
}

struct Lab {
    kernel: Arc<Kernel>,
    host: PretendHost,
    attachments: Attachments,
}

impl Lab {
    fn nvme(&self) -> &Nvme {
        self.attachments.nvme()
    }
}

fn own() -> NvmeHost {
    NvmeHost { nqn: Nqn::parse("nqn.2014-08.org.nvmexpress:uuid:h").unwrap(), id: Uuid::from_u128(1) }
}

fn lab() -> Lab {
    let host = PretendHost::new();
    host.write("sys/module/nvme_core/parameters/multipath", "Y\n");
    let (events, trigger) = Events::manual();
    let devices = Devices::new(host.root(), events);
    let state = Mutex::new(State { namespace: true, ..State::default() });
    let kernel = Arc::new(Kernel { host: host.handle(), trigger, state });
    let nvme = Nvme::new(devices.clone(), own(), Tuning::default(), kernel.clone());
    let iscsi = FakeHost::new(&host, Events::manual().1).transport(devices.clone());
    Lab { kernel, host, attachments: Attachments::new(devices, nvme, iscsi) }
}

fn target(portals: &[&str]) -> NvmeTarget {
    let crate::device::DeviceIdentity::Nvme(identity) = identity(1) else { panic!("an NVMe identity") };
    let portals = portals.iter().map(|portal| portal.parse().unwrap()).collect();
    NvmeTarget { identity, portals, io_queues: None, queue_size: None, authentication: None }
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn shortly() -> Instant {
    Instant::now() + Duration::from_millis(50)
}

#[tokio::test]
async fn a_volume_is_attached_found_attached_again_and_detached() {
    let lab = lab();
    let target = Target::Nvme(target(&[A]));
    let first = lab.attachments.attach(&target, later()).await.unwrap();
    assert_eq!((first.connected, first.node.size), (Connected::New, GIB));
    let again = lab.attachments.attach(&target, later()).await.unwrap();
    assert_eq!((again.connected, &again.node), (Connected::Already, &first.node));
    assert_eq!(lab.kernel.connects(), 1);

    assert_eq!(lab.attachments.detach(&identity(1), later()).await.unwrap(), Detached::Done);
    assert_eq!(lab.attachments.detach(&identity(1), later()).await.unwrap(), Detached::Already);
    assert_eq!(lab.attachments.devices().find(&identity(1)).await.unwrap(), None);
}

#[tokio::test]
async fn a_volume_with_keys_is_attached_under_its_own_host_name_and_detached_without_them() {
    let lab = lab();
    let key = tns_csi_proto::sealed::PrivateKey::generate();
    let sealed = super::authentication::tests::sealed(&key, own().id, "tank/v", SECRET);
    let authentication = super::Authentication::open(&key, own().id, "tank/v", &sealed).unwrap();
    let host_name = authentication.host.nqn.to_string();
    let target = Target::Nvme(NvmeTarget { authentication: Some(authentication), ..target(&[A]) });
    assert_eq!(lab.attachments.attach(&target, later()).await.unwrap().connected, Connected::New);
    let seen = std::fs::read_to_string(lab.host.path("sys/class/nvme/nvme0/hostnqn")).unwrap();
    assert_eq!(seen.trim(), host_name);
    assert_eq!(lab.attachments.attach(&target, later()).await.unwrap().connected, Connected::Already);
    // Unstaging knows neither keys nor that there were any.
    assert_eq!(lab.attachments.detach(&identity(1), later()).await.unwrap(), Detached::Done);
    assert!(!lab.host.path("sys/class/nvme/nvme0").exists());
}

#[tokio::test]
async fn refused_keys_are_told_as_such_and_not_shown() {
    let lab = lab();
    lab.kernel.with(|state| state.refuse(A, Errno::EKEYREJECTED));
    let key = tns_csi_proto::sealed::PrivateKey::generate();
    let sealed = super::authentication::tests::sealed(&key, own().id, "tank/v", SECRET);
    let authentication = Some(super::Authentication::open(&key, own().id, "tank/v", &sealed).unwrap());
    let target = NvmeTarget { authentication, ..target(&[A]) };
    let error = lab.nvme().connect(&target, later()).await.unwrap_err().to_string();
    assert!(error.contains("DH-HMAC-CHAP keys") && !error.contains(SECRET), "{error}");
}

#[tokio::test]
async fn c6_dead_portal_the_first_path_suffices_and_nobody_waits_for_the_other() {
    let lab = lab();
    let door = Door::default();
    lab.kernel.with(|state| state.hold(A, &door));
    let connected = lab.nvme().connect(&target(&[A, B]), later()).await.unwrap();
    assert_eq!(connected, Connected::New);
    door.open();
    lab.nvme().running.idle(nqn(1).as_str()).await;
    assert_eq!(lab.nvme().controllers(&nqn(1)).await.unwrap().len(), 2, "the late path joins");
}

#[tokio::test]
async fn a_refused_portal_does_not_spoil_a_good_one_and_all_refusals_are_told() {
    let lab = lab();
    lab.kernel.with(|state| state.refuse(A, Errno::ECONNREFUSED));
    assert_eq!(lab.nvme().connect(&target(&[A, B]), later()).await.unwrap(), Connected::New);
    lab.nvme().disconnect(&nqn(1), later()).await.unwrap();

    lab.kernel.with(|state| state.refuse(B, Errno::EIO));
    let error = lab.nvme().connect(&target(&[A, B]), later()).await.unwrap_err();
    let words = error.to_string();
    assert!(words.contains(A) && words.contains("nothing listens") && words.contains(B), "{words}");
    assert!(words.contains("was the volume published to this node?"), "{words}");
    assert_eq!(error.kind(), Kind::Unavailable);
}

#[tokio::test]
async fn a_missing_module_and_a_clash_of_identities_say_what_to_do() {
    let lab = lab();
    std::fs::remove_dir_all(lab.host.path("sys/module/nvme_tcp")).unwrap();
    lab.kernel.with(|state| state.refuse(A, Errno::EINVAL));
    let error = lab.nvme().connect(&target(&[A]), later()).await.unwrap_err();
    assert!(error.to_string().contains("modprobe nvme-tcp"), "{error}");
    assert_eq!(error.kind(), Kind::FailedPrecondition);

    lab.host.write("sys/module/nvme_tcp/refcnt", "0\n");
    lab.host.controller(9, &nqn(2), "", "live", own().nqn.as_str(), "another-id");
    let error = lab.nvme().connect(&target(&[A]), later()).await.unwrap_err();
    assert!(error.to_string().contains("one host NQN to one host id"), "{error}");
}

#[tokio::test]
async fn two_callers_share_one_connect_and_a_retry_joins_it() {
    let lab = lab();
    let door = Door::default();
    lab.kernel.with(|state| state.hold(A, &door));
    let error = lab.nvme().connect(&target(&[A]), shortly()).await.unwrap_err();
    assert!(matches!(error, AttachError::Deadline { .. }), "{error}");
    let retries: Vec<_> = (0..3)
        .map(|_| {
            let nvme = lab.nvme().clone();
            tokio::spawn(async move { nvme.connect(&target(&[A]), later()).await })
        })
        .collect();
    tokio::task::yield_now().await;
    door.open();
    for retry in retries {
        retry.await.unwrap().unwrap();
    }
    assert_eq!(lab.kernel.connects(), 1);
}

#[tokio::test]
async fn a_connect_on_its_way_does_not_arrive_behind_a_disconnect() {
    let lab = lab();
    let door = Door::default();
    lab.kernel.with(|state| state.hold(A, &door));
    lab.nvme().connect(&target(&[A]), shortly()).await.unwrap_err();
    let error = lab.nvme().disconnect(&nqn(1), shortly()).await.unwrap_err();
    assert!(matches!(error, AttachError::Deadline { .. }), "{error}");

    let nvme = lab.nvme().clone();
    let disconnecting = tokio::spawn(async move { nvme.disconnect(&nqn(1), later()).await });
    tokio::task::yield_now().await;
    door.open();
    assert_eq!(disconnecting.await.unwrap().unwrap(), Detached::Done);
    assert_eq!(lab.nvme().controllers(&nqn(1)).await.unwrap(), []);
}

#[tokio::test]
async fn a_device_that_came_into_use_while_a_disconnect_waited_keeps_its_path() {
    let lab = lab();
    let door = Door::default();
    lab.kernel.with(|state| {
        state.hold(A, &door);
        state.namespace = false;
    });
    // The device is there at the very moment when the path is.
    lab.host.multipath(0, 7, &nqn(1), uuid(1), GIB, &[]);
    lab.nvme().connect(&target(&[A]), shortly()).await.unwrap_err();
    while lab.kernel.connects() == 0 {
        tokio::task::yield_now().await;
    }
    lab.host.write("proc/self/mountinfo", "30 21 259:7 / /var/lib/kubelet/x rw - ext4 /dev/nvme0n1 rw\n");
    let nvme = lab.nvme().clone();
    let disconnecting = tokio::spawn(async move { nvme.disconnect(&nqn(1), later()).await });
    tokio::task::yield_now().await;
    door.open();
    let error = disconnecting.await.unwrap().unwrap_err();
    assert!(matches!(error, AttachError::InUse { .. }), "{error}");
    assert_eq!(lab.kernel.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn disconnect_touches_no_controller_but_ours_of_exactly_this_subsystem() {
    let lab = lab();
    lab.nvme().connect(&target(&[A]), later()).await.unwrap();
    let id = own().id.to_string();
    lab.host.controller(7, &nqn(10), "", "live", own().nqn.as_str(), &id);
    lab.host.controller(8, &nqn(1), "", "live", "nqn.2014-08.org.nvmexpress:uuid:other", "other");
    lab.nvme().disconnect(&nqn(1), later()).await.unwrap();
    assert_eq!(lab.kernel.writes(), ["nvme0/delete_controller"]);
}

#[tokio::test]
async fn c6_self_healing_that_harms_a_device_in_use_is_never_disconnected() {
    let lab = lab();
    lab.attachments.attach(&Target::Nvme(target(&[A])), later()).await.unwrap();
    lab.host.write("proc/self/mountinfo", "30 21 259:7 / /var/lib/kubelet/x rw - ext4 /dev/nvme0n1 rw\n");
    let error = lab.nvme().disconnect(&nqn(1), later()).await.unwrap_err();
    assert!(error.to_string().contains("mounted at /var/lib/kubelet/x"), "{error}");
    assert_eq!(lab.kernel.writes(), Vec::<String>::new());
    assert_eq!(error.kind(), Kind::FailedPrecondition);
}

#[tokio::test]
async fn c6_missed_aen_a_namespace_that_nobody_announced_is_asked_for() {
    let lab = lab();
    lab.kernel.with(|state| state.namespace = false);
    lab.nvme().connect(&target(&[A]), later()).await.unwrap();
    let target = Target::Nvme(target(&[A]));
    let error = lab.attachments.devices().wait(&target.identity(), shortly()).await.unwrap_err();
    assert!(error.to_string().contains("no namespace of this subsystem"), "{error}");
    // The retry finds the path and no device, and asks.
    let attached = lab.attachments.attach(&target, later()).await.unwrap();
    assert_eq!(attached.connected, Connected::Already);
    assert_eq!(lab.kernel.writes(), ["nvme0/rescan_controller"]);
}

#[tokio::test]
async fn a_path_that_the_kernel_reports_but_nobody_sees_is_no_success() {
    let lab = lab();
    lab.kernel.with(|state| state.refuse(A, Errno::EALREADY));
    let error = lab.nvme().connect(&target(&[A]), later()).await.unwrap_err();
    assert!(error.to_string().contains("no controller of this host is there"), "{error}");

    lab.kernel.with(|state| state.errors.clear());
    lab.nvme().connect(&target(&[A]), later()).await.unwrap();
    lab.kernel.with(|state| state.refuse(A, Errno::EALREADY));
    lab.host.set_state(0, "deleting");
    assert!(lab.nvme().connect(&target(&[A]), later()).await.is_err());
    lab.host.set_state(0, "connecting");
    assert_eq!(lab.nvme().connect(&target(&[A]), later()).await.unwrap(), Connected::Already);
}

#[tokio::test]
async fn c6_multipath_off_only_one_path_is_made() {
    let lab = lab();
    lab.host.write("sys/module/nvme_core/parameters/multipath", "N\n");
    lab.kernel.with(|state| state.namespace = false);
    lab.nvme().connect(&target(&[A, B]), later()).await.unwrap();
    lab.nvme().connect(&target(&[A, B]), later()).await.unwrap();
    assert_eq!(lab.kernel.connects(), 1);
}

#[tokio::test]
async fn a_target_without_portals_is_a_wrong_request() {
    let lab = lab();
    let error = lab.nvme().connect(&target(&[]), later()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
}
