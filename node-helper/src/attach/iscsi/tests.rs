//! Logging in and out, with an open-iscsi and an appliance that behave.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::testing::{Disk, FakeHost, GIB, initiator};
use super::*;
use crate::attach::{
    Attachments, Connected, Fabrics, Nvme, NvmeHost, OptionLine, Target, Tuning as NvmeTuning,
};
use crate::device::Events;
use crate::device::testing::{PretendHost, iqn, nqn, serial, unit, unit_identity, uuid};
use crate::failure::Kind;

const A: &str = "192.0.2.7:3260";
const B: &str = "192.0.2.8:3260";
const MOUNTED: &str = "30 21 8:16 / /var/lib/kubelet/x rw - ext4 /dev/sdb rw\n";

/// A host without NVMe.
struct NoFabrics;

impl Fabrics for NoFabrics {
    fn connect(&self, _: &OptionLine) -> std::io::Result<String> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn write_attribute(&self, _: &std::path::Path, _: &str) -> std::io::Result<()> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

struct Lab {
    pretend: PretendHost,
    host: FakeHost,
    attachments: Attachments,
}

impl Lab {
    fn new() -> Self {
        Self::tuned(Tuning::default())
    }

    fn tuned(tuning: Tuning) -> Self {
        let pretend = PretendHost::new();
        let (events, trigger) = Events::manual();
        let devices = Devices::new(pretend.root(), events);
        let host = FakeHost::new(&pretend, trigger);
        let own = NvmeHost { nqn: nqn(9), id: uuid(9) };
        let nvme = Nvme::new(devices.clone(), own, NvmeTuning::default(), Arc::new(NoFabrics));
        let attachments = Attachments::new(devices.clone(), nvme, host.tuned(devices, tuning));
        Self { pretend, host, attachments }
    }

    fn with_multipathd(claims_from: Option<usize>) -> Self {
        Self::new().and_multipathd(claims_from)
    }

    fn and_multipathd(self, claims_from: Option<usize>) -> Self {
        let lab = self;
        lab.pretend.run_multipathd();
        lab.host.with(|state| state.claims_from = claims_from);
        lab
    }

    fn iscsi(&self) -> &Iscsi {
        self.attachments.iscsi()
    }

    async fn attach(&self, target: IscsiTarget) -> Result<crate::attach::Attached, AttachError> {
        self.attachments.attach(&Target::Iscsi(target), later()).await
    }

    async fn detach(&self) -> Result<Detached, AttachError> {
        self.attachments.detach(&unit_identity(1), later()).await
    }

    async fn idle(&self) {
        self.iscsi().running.idle(iqn(1).as_str()).await;
    }
}

fn target(portals: &[&str]) -> IscsiTarget {
    let portals = portals.iter().map(|portal| portal.parse().unwrap()).collect();
    IscsiTarget { identity: unit(1), portals, chap: None }
}

fn chap() -> Chap {
    Chap {
        initiator: Credentials::parse("csi", "s3cretS3cret").unwrap(),
        target: Some(Credentials::parse("nas", "t3rcesT3rces").unwrap()),
    }
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn shortly() -> Instant {
    Instant::now() + Duration::from_millis(50)
}

#[tokio::test]
async fn a_volume_is_attached_found_attached_again_and_detached() {
    let lab = Lab::new();
    let first = lab.attach(target(&[A])).await.unwrap();
    assert_eq!((first.connected, first.node.size), (Connected::New, GIB));
    assert_eq!(first.node.kernel_name(), "sdb");
    let again = lab.attach(target(&[A])).await.unwrap();
    assert_eq!((again.connected, &again.node), (Connected::Already, &first.node));
    assert_eq!(lab.host.commands("--login").len(), 1);

    assert_eq!(lab.detach().await.unwrap(), Detached::Done);
    assert_eq!(lab.detach().await.unwrap(), Detached::Already);
    assert_eq!(lab.attachments.devices().find(&unit_identity(1)).await.unwrap(), None);
}

#[tokio::test]
async fn t11_and_c6_node_record_leaks_nothing_is_left_but_the_iface_and_nothing_starts_by_itself() {
    let lab = Lab::new();
    lab.attach(IscsiTarget { chap: Some(chap()), ..target(&[A]) }).await.unwrap();
    let name = format!("nodes/{}/192.0.2.7,3260,1/tns-csi", iqn(1));
    assert_eq!(lab.host.files(), ["ifaces/tns-csi", &name]);
    let record = std::fs::read_to_string(lab.host.record(&name)).unwrap();
    for line in [
        "node.startup = manual",
        "node.session.scan = manual",
        "node.session.timeo.replacement_timeout = -1",
        &format!("iface.initiatorname = {}", initiator()),
    ] {
        assert!(record.lines().any(|found| found == line), "{line} in {record}");
    }
    lab.detach().await.unwrap();
    assert_eq!(lab.host.files(), ["ifaces/tns-csi"]);
    assert_eq!(lab.iscsi().sessions(&iqn(1)).await.unwrap(), []);

    // Neither does a login that is refused leave one.
    lab.host.with(|state| state.statuses.insert(A.to_owned(), 19));
    lab.attach(target(&[A])).await.unwrap_err();
    assert_eq!(lab.host.files(), ["ifaces/tns-csi"]);
}

#[tokio::test]
async fn o4_and_c3_chap_is_in_no_argument_and_only_in_the_record_of_its_owner() {
    let lab = Lab::new();
    lab.host.with(|state| state.chap = Some(("csi".to_owned(), "s3cretS3cret".to_owned())));
    let error = lab.attach(target(&[A])).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PermissionDenied);
    assert!(error.to_string().contains("CHAP"), "{error}");

    lab.attach(IscsiTarget { chap: Some(chap()), ..target(&[A]) }).await.unwrap();
    let record = lab.host.record(&format!("nodes/{}/192.0.2.7,3260,1/tns-csi", iqn(1)));
    assert_eq!(record.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(record).unwrap();
    assert!(text.contains("node.session.auth.password_in = t3rcesT3rces"), "{text}");
    for secret in ["s3cretS3cret", "t3rcesT3rces"] {
        assert_eq!(lab.host.commands(secret), Vec::<String>::new());
        assert!(!format!("{:?}", chap()).contains(secret));
    }
}

#[tokio::test]
async fn c6_dead_portal_the_first_path_suffices_and_nobody_waits_for_the_other() {
    // Without multipathd: one session, at the portal that answers.
    let lab = Lab::new();
    lab.host.with(|state| state.unreachable.push(A.to_owned()));
    let _door = lab.host.hold(A);
    lab.attach(target(&[A, B])).await.unwrap();
    assert_eq!(lab.host.commands("--login").len(), 1);
    assert!(lab.host.commands("--login")[0].contains(B));

    // With multipathd: all side by side, the first one counts, the late one joins.
    let lab = Lab::with_multipathd(Some(1));
    let door = lab.host.hold(A);
    lab.iscsi().connect(&target(&[A, B]), later()).await.unwrap();
    door.send_replace(true);
    lab.idle().await;
    assert_eq!(lab.iscsi().sessions(&iqn(1)).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_portal_that_refuses_does_not_spoil_a_good_one_and_all_refusals_are_told() {
    let lab = Lab::new();
    lab.host.with(|state| state.statuses.insert(A.to_owned(), 19));
    lab.attach(target(&[A, B])).await.unwrap();
    lab.detach().await.unwrap();

    lab.host.with(|state| state.statuses.insert(B.to_owned(), 8));
    let error = lab.attach(target(&[A, B])).await.unwrap_err();
    let words = error.to_string();
    assert!(words.contains(A) && words.contains("published") && words.contains(B), "{words}");
    assert!(words.contains("no answer"), "{words}");
    assert_eq!(error.kind(), Kind::Unavailable);
}

#[tokio::test]
async fn a_login_that_fails_leaves_the_record_of_one_beside_it() {
    let lab = Lab::with_multipathd(Some(1));
    let door = lab.host.hold(B);
    lab.host.with(|state| state.statuses.insert(A.to_owned(), 24));
    let iscsi = lab.iscsi().clone();
    let connecting = tokio::spawn(async move { iscsi.connect(&target(&[A, B]), later()).await });
    while lab.host.commands("-o delete").is_empty() || lab.host.commands("--login").len() < 2 {
        tokio::task::yield_now().await;
    }
    door.send_replace(true);
    assert_eq!(connecting.await.unwrap().unwrap(), Connected::New);
    assert_eq!(lab.host.files().len(), 2);
}

/// A volume with a path through B, whose login at A has just failed as by a time out and is tried again after `pause`.
async fn with_a_path_that_failed(pause: Duration) -> Lab {
    let tuning = Tuning { path_pauses: [pause; 3], ..Tuning::default() };
    let lab = Lab::tuned(tuning).and_multipathd(Some(1));
    let door = lab.host.hold(A);
    lab.host.with(|state| state.statuses.insert(A.to_owned(), 8));
    assert_eq!(lab.iscsi().connect(&target(&[A, B]), later()).await.unwrap(), Connected::New);
    door.send_replace(true);
    while lab.host.commands("-o delete").is_empty() {
        tokio::task::yield_now().await;
    }
    lab
}

#[tokio::test]
async fn a_path_that_timed_out_beside_a_good_one_is_tried_again() {
    let lab = with_a_path_that_failed(Duration::from_millis(100)).await;
    lab.host.with(|state| state.statuses.clear());
    lab.idle().await;
    assert_eq!(lab.iscsi().sessions(&iqn(1)).await.unwrap().len(), 2);
    assert_eq!(lab.host.files().len(), 3, "the iface and a record for each path");
}

#[tokio::test]
async fn a_path_is_tried_again_a_few_times_and_not_behind_a_detach() {
    let lab = with_a_path_that_failed(Duration::from_millis(1)).await;
    lab.idle().await;
    assert_eq!(lab.host.commands("--login").len(), 5);

    // Nobody waits for the pause.
    let lab = with_a_path_that_failed(Duration::from_secs(3600)).await;
    assert_eq!(lab.detach().await.unwrap(), Detached::Done);
    lab.idle().await;
    assert_eq!(lab.host.commands("--login").len(), 2);
    assert_eq!(lab.host.files(), ["ifaces/tns-csi"]);
}

#[tokio::test]
async fn a_path_that_pauses_is_tried_at_once_when_somebody_asks_for_it() {
    let lab = with_a_path_that_failed(Duration::from_secs(3600)).await;
    lab.host.with(|state| state.statuses.clear());
    while lab.iscsi().sessions(&iqn(1)).await.unwrap().len() < 2 {
        lab.iscsi().connect(&target(&[A, B]), later()).await.unwrap();
        tokio::task::yield_now().await;
    }
    lab.idle().await;
}

#[tokio::test]
async fn an_unstage_waits_for_no_portal_that_takes_no_connection() {
    let lab = Lab::with_multipathd(Some(1));
    lab.host.with(|state| state.unreachable.push(A.to_owned()));
    assert_eq!(lab.iscsi().connect(&target(&[A, B]), later()).await.unwrap(), Connected::New);
    let start = Instant::now();
    assert_eq!(lab.detach().await.unwrap(), Detached::Done);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_path_that_is_refused_is_not_tried_again() {
    let lab = Lab::with_multipathd(Some(1));
    let door = lab.host.hold(A);
    lab.host.with(|state| state.statuses.insert(A.to_owned(), 24));
    lab.iscsi().connect(&target(&[A, B]), later()).await.unwrap();
    door.send_replace(true);
    lab.idle().await;
    assert_eq!(lab.host.commands("--login").len(), 2);
}

#[tokio::test]
async fn a_portal_that_refuses_a_connection_costs_no_login() {
    let lab = Lab::new();
    lab.host.with(|state| state.closed = vec![A.to_owned(), B.to_owned()]);
    let error = lab.attach(target(&[A, B])).await.unwrap_err();
    assert!(error.to_string().contains("nothing listens there"), "{error}");
    assert_eq!(error.kind(), Kind::Unavailable);
    assert_eq!(lab.host.files(), Vec::<String>::new());
}

#[tokio::test]
async fn a_missing_daemon_says_what_to_do() {
    let lab = Lab::new();
    lab.host.with(|state| state.statuses.insert(A.to_owned(), 20));
    let error = lab.attach(target(&[A])).await.unwrap_err();
    assert!(error.to_string().contains("is iscsid running?"), "{error}");
    assert!(error.to_string().contains("open-iscsi"), "{error}");
    assert_eq!(error.kind(), Kind::FailedPrecondition);
}

#[tokio::test]
async fn c4_logging_out_one_volume_touches_no_session_of_another_initiator_iface_or_target() {
    let lab = Lab::new();
    lab.attach(target(&[A])).await.unwrap();
    lab.host.foreign_session(7, "iqn.1993-08.org.debian:01:abc", "default");
    lab.host.foreign_session(8, initiator().as_str(), "other");
    let other = lab.host.record(&format!("nodes/{}/192.0.2.7,3260,1/default", iqn(1)));
    std::fs::write(&other, "node.startup = automatic\n").unwrap();
    lab.detach().await.unwrap();
    assert_eq!(lab.host.commands(" -u"), ["iscsiadm -m session -r 1 -u"]);
    assert!(other.exists());
    assert!(lab.pretend.path("sys/class/iscsi_session/session7").exists());
}

#[tokio::test]
async fn c6_self_healing_that_harms_a_device_in_use_is_never_logged_out() {
    let lab = Lab::new();
    lab.attach(target(&[A])).await.unwrap();
    lab.pretend.write("proc/self/mountinfo", MOUNTED);
    let error = lab.detach().await.unwrap_err();
    assert!(error.to_string().contains("mounted at /var/lib/kubelet/x"), "{error}");
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert_eq!(lab.host.commands(" -u"), Vec::<String>::new());
    assert_eq!(lab.host.files().len(), 2, "iscsid needs the record when it is restarted");
}

#[tokio::test]
async fn another_unit_in_the_place_of_ours_is_refused() {
    let lab = Lab::new();
    lab.host.with(|state| {
        state.units.insert(iqn(1).as_str().to_owned(), vec![Disk { lun: 0, serial: serial(2), bytes: GIB }]);
    });
    let target = Target::Iscsi(target(&[A]));
    let error = lab.attachments.attach(&target, shortly()).await.unwrap_err();
    let words = error.to_string();
    assert!(words.contains(&serial(1)) && words.contains(&format!("serial {}", serial(2))), "{words}");
    assert_eq!(error.kind(), Kind::DeadlineExceeded);
}

#[tokio::test]
async fn only_our_unit_is_asked_for_and_one_that_nobody_announced_too() {
    let lab = Lab::new();
    let disk = |lun, serial| Disk { lun, serial, bytes: GIB };
    lab.host.with(|state| {
        state.units.insert(iqn(1).as_str().to_owned(), vec![disk(5, serial(5))]);
    });
    let wanted = Target::Iscsi(target(&[A]));
    let error = lab.attachments.attach(&wanted, shortly()).await.unwrap_err();
    assert!(error.to_string().contains("no disk of this target"), "{error}");
    assert!(!lab.pretend.path("sys/block/sdb").exists(), "unit 5 is none of our business");
    lab.host.with(|state| state.units.get_mut(iqn(1).as_str()).unwrap().push(disk(0, serial(1))));
    let attached = lab.attachments.attach(&wanted, later()).await.unwrap();
    assert_eq!(attached.connected, Connected::Already);
    assert_eq!(lab.host.writes(), ["host1/scan 0 0 0", "host1/scan 0 0 0"]);
}

#[tokio::test]
async fn t15_and_c6_expand_race_every_path_is_asked_for_the_size_and_then_the_map() {
    let lab = Lab::new();
    lab.attach(target(&[A])).await.unwrap();
    lab.host.with(|state| state.units.get_mut(iqn(1).as_str()).unwrap()[0].bytes = 2 * GIB);
    lab.attachments.rescan(&unit_identity(1), later()).await.unwrap();
    let node = lab.attachments.devices().find(&unit_identity(1)).await.unwrap().unwrap();
    assert_eq!(node.size, 2 * GIB);
    assert_eq!(lab.host.writes().last().unwrap(), "device/rescan 1");

    let lab = Lab::with_multipathd(Some(2));
    let attached = lab.attach(target(&[A, B])).await.unwrap();
    assert_eq!(attached.node.kernel_name(), "dm-0");
    lab.host.with(|state| state.units.get_mut(iqn(1).as_str()).unwrap()[0].bytes = 2 * GIB);
    lab.attachments.rescan(&unit_identity(1), later()).await.unwrap();
    let node = lab.attachments.devices().find(&unit_identity(1)).await.unwrap().unwrap();
    assert_eq!((node.kernel_name(), node.size), ("dm-0".to_owned(), 2 * GIB));
    assert_eq!(lab.host.writes().iter().filter(|write| write.ends_with("rescan 1")).count(), 2);
}

#[tokio::test]
async fn several_paths_are_one_multipath_device_and_go_together() {
    let lab = Lab::with_multipathd(Some(2));
    let attached = lab.attach(target(&[A, B])).await.unwrap();
    assert_eq!(attached.node.kernel_name(), "dm-0");
    assert!(attached.node.reachable);
    lab.pretend.set_session_state(1, "FAILED");
    let node = lab.attachments.devices().find(&unit_identity(1)).await.unwrap().unwrap();
    assert!(node.reachable, "the other path works");
    lab.pretend.set_session_state(2, "FAILED");
    let node = lab.attachments.devices().find(&unit_identity(1)).await.unwrap().unwrap();
    assert!(!node.reachable);

    // In use through the map.
    lab.pretend.write("proc/self/mountinfo", "30 21 253:0 / /var/lib/kubelet/x rw - ext4 /dev/dm-0 rw\n");
    assert!(matches!(lab.detach().await.unwrap_err(), AttachError::InUse { .. }));
    lab.pretend.write("proc/self/mountinfo", "");
    assert_eq!(lab.detach().await.unwrap(), Detached::Done);
    assert_eq!(lab.host.commands("multipathd"), ["multipathd remove map mpath0"]);
    assert_eq!(lab.iscsi().sessions(&iqn(1)).await.unwrap(), []);
}

#[tokio::test]
async fn a_map_that_something_has_open_keeps_its_paths() {
    let lab = Lab::with_multipathd(Some(2));
    lab.attach(target(&[A, B])).await.unwrap();
    lab.host.with(|state| state.busy = u32::MAX);
    let error = lab.detach().await.unwrap_err();
    assert!(error.to_string().contains("mpath0"), "{error}");
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert_eq!(lab.host.commands(" -u"), Vec::<String>::new());
    // udev looks at it for a moment only.
    lab.host.with(|state| state.busy = 1);
    assert_eq!(lab.detach().await.unwrap(), Detached::Done);
}

#[tokio::test]
async fn c6_multipath_off_only_one_session_is_made() {
    let lab = Lab::new();
    lab.attach(target(&[A, B])).await.unwrap();
    lab.attach(target(&[A, B])).await.unwrap();
    assert_eq!(lab.host.commands("--login").len(), 1);
}

#[tokio::test]
async fn two_disks_of_one_unit_are_refused_but_one_that_is_mounted_keeps_its_place() {
    let lab = Lab::new();
    lab.attach(target(&[A])).await.unwrap();
    lab.host.foreign_session(7, "iqn.1993-08.org.debian:01:abc", "default");
    lab.pretend.scsi_disk(7, 0, "sdh", 112, &serial(1), GIB);
    let devices = lab.attachments.devices();
    let error = devices.find(&unit_identity(1)).await.unwrap_err();
    assert!(error.to_string().contains("sdb, sdh"), "{error}");
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    lab.pretend.write("proc/self/mountinfo", MOUNTED);
    assert_eq!(devices.find(&unit_identity(1)).await.unwrap().unwrap().kernel_name(), "sdb");
    // Not even a multipath device over the other one takes it.
    lab.pretend.map(0, &["sdh"], GIB);
    assert_eq!(devices.find(&unit_identity(1)).await.unwrap().unwrap().kernel_name(), "sdb");
}

#[tokio::test]
async fn callers_share_one_login_and_a_retry_joins_it() {
    let lab = Lab::new();
    let door = lab.host.hold(A);
    let error = lab.iscsi().connect(&target(&[A]), shortly()).await.unwrap_err();
    assert!(matches!(error, AttachError::Deadline { .. }), "{error}");
    let retries: Vec<_> = (0..3)
        .map(|_| {
            let iscsi = lab.iscsi().clone();
            // Also with another portal first: beside a login that runs there is no second one.
            tokio::spawn(async move { iscsi.connect(&target(&[B, A]), later()).await })
        })
        .collect();
    tokio::task::yield_now().await;
    door.send_replace(true);
    for retry in retries {
        retry.await.unwrap().unwrap();
    }
    assert_eq!(lab.host.commands("--login").len(), 1);
}

#[tokio::test]
async fn t11_a_login_on_its_way_does_not_arrive_behind_a_logout() {
    let lab = Lab::new();
    let door = lab.host.hold(A);
    lab.iscsi().connect(&target(&[A]), shortly()).await.unwrap_err();
    let error = lab.iscsi().disconnect(&iqn(1), shortly()).await.unwrap_err();
    assert!(matches!(error, AttachError::Deadline { .. }), "{error}");
    let iscsi = lab.iscsi().clone();
    let leaving = tokio::spawn(async move { iscsi.disconnect(&iqn(1), later()).await });
    tokio::task::yield_now().await;
    door.send_replace(true);
    assert_eq!(leaving.await.unwrap().unwrap(), Detached::Done);
    assert_eq!(lab.iscsi().sessions(&iqn(1)).await.unwrap(), []);
    assert_eq!(lab.host.files(), ["ifaces/tns-csi"]);
}

#[tokio::test]
async fn a_record_of_an_older_form_is_not_replaced() {
    let lab = Lab::new();
    let old = lab.host.record(&format!("nodes/{}/192.0.2.7,3260", iqn(1)));
    std::fs::create_dir_all(old.parent().unwrap()).unwrap();
    std::fs::write(&old, "node.startup = automatic\n").unwrap();
    let error = lab.attach(target(&[A])).await.unwrap_err();
    assert!(error.to_string().contains("192.0.2.7,3260"), "{error}");
    assert!(old.exists());
    assert_eq!(lab.host.commands("--login"), Vec::<String>::new());
}

#[tokio::test]
async fn a_host_can_attach_when_program_and_module_are_there() {
    let lab = Lab::new();
    assert!(lab.iscsi().is_available("6.12.0"));
    std::fs::remove_dir_all(lab.pretend.path("sys/module/iscsi_tcp")).unwrap();
    assert!(!lab.iscsi().is_available("6.12.0"));
    lab.pretend.write("lib/modules/6.12.0/modules.dep", "kernel/drivers/scsi/iscsi_tcp.ko.xz: x\n");
    assert!(lab.iscsi().is_available("6.12.0"));
}

#[tokio::test]
async fn a_target_without_portals_is_a_wrong_request() {
    let lab = Lab::new();
    assert_eq!(lab.attach(target(&[])).await.unwrap_err().kind(), Kind::InvalidArgument);
}
