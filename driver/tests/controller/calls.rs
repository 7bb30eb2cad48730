//! How many calls an operation makes and how many of them wait for each other, counted at the appliance.

use std::time::Duration;

use truenas_sim::Stats;

use crate::rig::{GIB, PROTOCOLS, Rig, node, request};

/// Runs one operation with latency at the appliance, so that calls side by side overlap, and gives what was counted.
async fn counted<T>(rig: &Rig, operation: impl Future<Output = Result<T, tonic::Status>>) -> Stats {
    let control = rig.control();
    control.latency(Duration::from_millis(20));
    control.reset_stats();
    operation.await.map(|_| ()).unwrap();
    let stats = control.stats();
    control.latency(Duration::ZERO);
    stats
}

fn assert_plan(stats: &Stats, what: &str, calls: u64, hops: u64) {
    assert!(
        stats.calls <= calls && stats.hops <= hops,
        "{what}: {} calls in {} hops, allowed are {calls} in {hops}: {:?}",
        stats.calls,
        stats.hops,
        stats.methods
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_good_path_keeps_to_its_calls_and_hops() {
    let rig = Rig::start().await;
    for protocol in PROTOCOLS {
        // Static facts and the node are known once something like it was done before.
        let before = rig.controller.create(request("pvc-0", protocol, 1)).await.unwrap();
        rig.controller.publish(&before, &node("a", 1)).await.unwrap();
        let plan = |of_file: (u64, u64), of_iscsi: (u64, u64), of_nvmeof: (u64, u64)| match protocol {
            "nfs" | "smb" => of_file,
            "iscsi" => of_iscsi,
            _ => of_nvmeof,
        };
        let check = |stats: Stats, what: &str, (calls, hops): (u64, u64)| {
            assert_plan(&stats, &format!("{protocol} {what}"), calls, hops);
        };
        let create = counted(&rig, rig.controller.create(request("pvc-1", protocol, 1))).await;
        check(create, "create", plan((2, 2), (4, 3), (3, 2)));
        let volume = rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap();
        let id = volume.volume_id.clone();
        check(
            counted(&rig, rig.controller.publish(&volume, &node("a", 1))).await,
            "publish",
            plan((4, 2), (5, 3), (6, 2)),
        );
        check(counted(&rig, rig.controller.expand(&id, 2 * GIB)).await, "expand", (2, 2));
        check(
            counted(&rig, rig.controller.unpublish(&id, &node("a", 1))).await,
            "unpublish",
            // SMB: one more, because the share is disabled and enabled again to end what runs.
            if protocol == "smb" { (5, 3) } else { plan((4, 2), (6, 3), (7, 2)) },
        );
        let first = counted(&rig, rig.controller.publish(&volume, &node("b", 2))).await;
        check(first, "publish to a new node", plan((4, 2), (5, 3), (7, 3)));
        rig.controller.unpublish(&id, &node("b", 2)).await.unwrap();
        check(counted(&rig, rig.controller.delete(&id)).await, "delete", plan((6, 3), (6, 3), (6, 4)));
        assert!(!rig.datasets().contains(&id));
        rig.controller.unpublish(&before.volume_id, "").await.unwrap();
        rig.controller.delete(&before.volume_id).await.unwrap();
    }
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_recursive_and_no_service_restart_is_ever_sent() {
    let rig = Rig::start().await;
    for protocol in PROTOCOLS {
        let volume = rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap();
        rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
        rig.controller.unpublish(&volume.volume_id, &node("a", 1)).await.unwrap();
        rig.controller.delete(&volume.volume_id).await.unwrap();
    }
    let methods = rig.control().stats().methods;
    assert!(!methods.keys().any(|m| m.starts_with("service.")), "{methods:?}");
}
