//! Finding and waiting, on a pretend host.

use std::time::Duration;

use super::testing::{PretendHost, identity, nqn, uuid};
use super::*;

const GIB: u64 = 1 << 30;
const HOST: (&str, &str) = ("nqn.2014-08.org.nvmexpress:uuid:h", "h");

fn devices(host: &PretendHost) -> (Devices, Trigger) {
    let (events, trigger) = Events::manual();
    (Devices::new(host.root(), events), trigger)
}

fn controller(host: &PretendHost, number: u32, volume: u32, state: &str) {
    host.controller(number, &nqn(volume), "traddr=192.0.2.7,trsvcid=4420", state, HOST.0, HOST.1);
}

fn in_ms(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

#[tokio::test]
async fn a_multipath_namespace_is_its_head_and_never_a_hidden_path() {
    let host = PretendHost::new();
    controller(&host, 3, 1, "live");
    host.multipath(0, 7, &nqn(1), uuid(1), GIB, &[(3, "optimized")]);
    let (devices, _) = devices(&host);
    let node = devices.find(&identity(1)).await.unwrap().unwrap();
    assert_eq!(node.path, host.path("dev/nvme0n1"));
    assert_eq!((node.number, node.size), (DeviceNumber { major: 259, minor: 7 }, GIB));
    assert!(node.reachable && !node.read_only);
    assert_eq!(devices.find(&identity(2)).await.unwrap(), None);
}

#[tokio::test]
async fn c6_multipath_off_the_device_below_the_controller_is_found() {
    let host = PretendHost::new();
    controller(&host, 3, 1, "live");
    host.single_path(3, 9, uuid(1), GIB);
    let (devices, _) = devices(&host);
    let node = devices.find(&identity(1)).await.unwrap().unwrap();
    assert_eq!((node.kernel_name().as_str(), node.reachable), ("nvme3n1", true));

    controller(&host, 4, 1, "live");
    host.single_path(4, 10, uuid(1), GIB);
    let error = devices.find(&identity(1)).await.unwrap_err();
    assert!(
        error.to_string().contains("nvme3n1, nvme4n1") && error.to_string().contains("multipath"),
        "{error}"
    );
}

#[tokio::test]
async fn t7_the_name_of_the_controller_and_a_fitting_size_prove_nothing() {
    let host = PretendHost::new();
    controller(&host, 0, 1, "live");
    // Same subsystem, same size, the very name that controller number and namespace number suggest: another volume.
    host.multipath(0, 7, &nqn(1), uuid(99), GIB, &[(0, "optimized")]);
    let (devices, _) = devices(&host);
    assert_eq!(devices.find(&identity(1)).await.unwrap(), None);
    let error = devices.wait(&identity(1), in_ms(1)).await.unwrap_err();
    assert!(error.to_string().contains(&uuid(99).to_string()), "the error says what is there: {error}");
}

#[tokio::test]
async fn c6_wrong_device_after_reconnect_the_name_is_reused_and_the_node_moves() {
    let host = PretendHost::new();
    controller(&host, 0, 1, "live");
    host.multipath(0, 7, &nqn(1), uuid(1), GIB, &[(0, "optimized")]);
    let (devices, _) = devices(&host);
    let before = devices.find(&identity(1)).await.unwrap().unwrap();

    host.remove_block("nvme0n1");
    host.remove_controller(0);
    controller(&host, 0, 2, "live");
    host.multipath(0, 7, &nqn(2), uuid(2), GIB, &[(0, "optimized")]);
    controller(&host, 1, 1, "live");
    host.multipath(1, 8, &nqn(1), uuid(1), GIB, &[(1, "optimized")]);
    let after = devices.find(&identity(1)).await.unwrap().unwrap();
    assert_ne!(before.number, after.number);
    assert_eq!(after.kernel_name(), "nvme1n1");
}

#[tokio::test]
async fn a_stale_node_is_refused() {
    let host = PretendHost::new();
    controller(&host, 0, 1, "live");
    host.multipath(0, 7, &nqn(1), uuid(1), GIB, &[(0, "optimized")]);
    let (devices, _) = devices(&host);
    host.write("dev/nvme0n1", "259:6\n");
    let error = devices.find(&identity(1)).await.unwrap_err();
    assert!(error.to_string().contains("259:6") && error.to_string().contains("259:7"), "{error}");
    std::fs::remove_file(host.path("dev/nvme0n1")).unwrap();
    let error = devices.wait(&identity(1), in_ms(1)).await.unwrap_err();
    assert!(
        matches!(error, DeviceError::Deadline { .. }) && error.to_string().contains("is missing"),
        "{error}"
    );
}

#[tokio::test]
async fn a_device_without_a_live_path_is_found_but_not_reachable() {
    let host = PretendHost::new();
    controller(&host, 0, 1, "connecting");
    host.multipath(0, 7, &nqn(1), uuid(1), GIB, &[(0, "optimized")]);
    let (devices, trigger) = devices(&host);
    assert!(!devices.find(&identity(1)).await.unwrap().unwrap().reachable);

    let waiting = tokio::spawn({
        let devices = devices.clone();
        async move { devices.wait(&identity(1), in_ms(20_000)).await }
    });
    tokio::task::yield_now().await;
    host.set_state(0, "live");
    trigger.raise();
    assert!(waiting.await.unwrap().unwrap().reachable);

    host.write("sys/block/nvme0c0n1/ana_state", "inaccessible\n");
    let error = devices.wait(&identity(1), in_ms(1)).await.unwrap_err();
    assert!(error.to_string().contains("without a working path"), "{error}");
}

#[tokio::test]
async fn an_event_ends_the_wait_at_once() {
    let host = PretendHost::new();
    let (devices, trigger) = devices(&host);
    let waiting = tokio::spawn({
        let devices = devices.clone();
        async move { devices.wait(&identity(1), in_ms(20_000)).await }
    });
    tokio::task::yield_now().await;
    controller(&host, 0, 1, "live");
    host.multipath(0, 7, &nqn(1), uuid(1), GIB, &[(0, "optimized")]);
    trigger.raise();
    assert_eq!(waiting.await.unwrap().unwrap().number.minor, 7);
}

#[tokio::test]
async fn a_change_without_an_event_is_seen_by_the_timer() {
    let host = PretendHost::new();
    let (devices, _trigger) = devices(&host);
    let waiting = tokio::spawn({
        let devices = devices.clone();
        async move { devices.wait(&identity(1), in_ms(20_000)).await }
    });
    tokio::task::yield_now().await;
    controller(&host, 0, 1, "live");
    host.multipath(0, 7, &nqn(1), uuid(1), GIB, &[(0, "optimized")]);
    assert_eq!(waiting.await.unwrap().unwrap().number.minor, 7);
}

#[tokio::test]
async fn growth_is_waited_for_and_a_lack_of_it_told() {
    let host = PretendHost::new();
    controller(&host, 0, 1, "live");
    host.multipath(0, 7, &nqn(1), uuid(1), GIB, &[(0, "optimized")]);
    let (devices, trigger) = devices(&host);
    let error = devices.wait_size(&identity(1), 2 * GIB, in_ms(1)).await.unwrap_err();
    assert!(error.to_string().contains(&GIB.to_string()), "{error}");
    assert_eq!(error.kind(), crate::failure::Kind::DeadlineExceeded);

    let waiting = tokio::spawn({
        let devices = devices.clone();
        async move { devices.wait_size(&identity(1), 2 * GIB, in_ms(20_000)).await }
    });
    tokio::task::yield_now().await;
    host.resize("nvme0n1", 2 * GIB);
    trigger.raise();
    assert_eq!(waiting.await.unwrap().unwrap().size, 2 * GIB);
}

#[tokio::test]
async fn an_unreadable_sysfs_is_an_error_and_not_an_absence() {
    let host = PretendHost::new();
    let (devices, _) = devices(&host);
    std::fs::remove_dir_all(host.path("sys/block")).unwrap();
    std::fs::write(host.path("sys/block"), "").unwrap();
    assert!(matches!(devices.find(&identity(1)).await.unwrap_err(), DeviceError::Unreadable { .. }));
}

#[tokio::test]
async fn every_kind_of_user_is_named() {
    let host = PretendHost::new();
    controller(&host, 0, 1, "live");
    host.multipath(0, 7, &nqn(1), uuid(1), GIB, &[(0, "optimized")]);
    let (devices, _) = devices(&host);
    let node = devices.find(&identity(1)).await.unwrap().unwrap();
    assert_eq!(devices.users(&node).await.unwrap(), Vec::<String>::new());

    host.write("sys/block/nvme0n1/nvme0n1p1/partition", "1\n");
    host.write("sys/block/nvme0n1/nvme0n1p1/dev", "259:8\n");
    host.write("sys/block/nvme0n1/holders/dm-3", "");
    host.write(
        "proc/self/mountinfo",
        "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
         30 21 259:7 / /var/lib/kubelet/a\\040b rw - ext4 /dev/nvme0n1 rw\n\
         31 21 259:8 / /mnt rw - xfs /dev/nvme0n1p1 rw\n\
         32 21 0:6 /nvme0n1 /var/lib/kubelet/raw rw - devtmpfs udev rw\n\
         33 21 0:6 /nvme0n10 /var/lib/kubelet/other rw - devtmpfs udev rw\n",
    );
    host.write("sys/fs/btrfs/features/raid56", "0\n");
    host.write("sys/fs/btrfs/5e5c2a/devices/nvme0n1/dev", "259:7\n");
    host.write("sys/fs/btrfs/6f6d3b/devices/sdb/dev", "8:16\n");
    let users = devices.users(&node).await.unwrap();
    assert_eq!(
        users,
        [
            "dm-3 is stacked on nvme0n1",
            "nvme0n1 is a mounted btrfs",
            "nvme0n1 is bound to /var/lib/kubelet/raw",
            "nvme0n1 is mounted at /var/lib/kubelet/a\\040b",
            "nvme0n1p1 is mounted at /mnt",
        ]
    );
    std::fs::remove_file(host.path("proc/self/mountinfo")).unwrap();
    assert!(devices.users(&node).await.is_err(), "unknown is not unused");
}
