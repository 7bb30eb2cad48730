//! Which device a volume is on.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;

use tns_csi_proto::helper::v1 as api;
use tonic::Code;

use super::code;
use crate::device::testing::identity;
use crate::volume::testing::{TestHost, on_host, text, volume};

#[test]
fn a_device_that_came_back_under_another_number_is_staged_anew_and_never_bound() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        let (old, new) = (host.path("pod-a"), host.path("pod-b"));
        host.stage(host.stage_request(1)).await.unwrap();
        host.publish(host.publish_request(1, &old)).await.unwrap();
        fs::write(old.join("data"), "kept").unwrap();
        rustix::fs::syncfs(fs::File::open(&old).unwrap()).unwrap();
        host.die_and_return(1);

        let health = host.stats(1, &old).await.unwrap().health;
        assert_eq!(health[0].reason, "DeviceReplaced");
        let (found, words) = code(host.publish(host.publish_request(1, &new)).await);
        assert!(found == Code::FailedPrecondition && words.contains("dead"), "{words}");
        assert!(!new.exists());

        assert_eq!(host.stage(host.stage_request(1)).await.unwrap(), "mounted");
        assert_eq!(host.mounts_at(&host.path("stage1")), 1);
        assert_eq!(host.publish(host.publish_request(1, &new)).await.unwrap(), "published");
        assert_eq!(fs::read_to_string(new.join("data")).unwrap(), "kept");
        // The dead bind of the first pod is replaced when its target is published again.
        assert_eq!(host.publish(host.publish_request(1, &old)).await.unwrap(), "published");
        assert_eq!(host.mounts_at(&old), 1);
        for target in [&old, &new] {
            host.unpublish(1, target).await.unwrap();
        }
        host.unstage(1).await.unwrap();
    });
}

#[test]
fn a_session_is_never_ended_under_a_file_system_that_lives_elsewhere() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.stage(host.stage_request(1)).await.unwrap();
        // As a mount in another namespace: the file system lives although it is mounted nowhere here.
        let held = fs::File::open(host.path("stage1")).unwrap();
        assert_eq!(code(host.unstage(1).await).0, Code::FailedPrecondition, "in use");
        drop(held);
        let tree = rustix::mount::open_tree(
            rustix::fs::CWD,
            host.path("stage1"),
            rustix::mount::OpenTreeFlags::OPEN_TREE_CLONE,
        )
        .unwrap();
        let (found, words) = code(host.unstage(1).await);
        assert!(found == Code::FailedPrecondition && words.contains("in use"), "{words}");
        assert_eq!(host.connected(), 1);
        drop(tree);
        host.unstage(1).await.unwrap();
        assert_eq!(host.connected(), 0);
    });
}

#[test]
fn a_number_that_went_over_to_another_device_is_not_used() {
    // mayastor#1777: kernel names and numbers are given again.
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.stage(host.block_request(1)).await.unwrap();
        let node = host.devices().find(&identity(1)).await.unwrap().unwrap();
        drop(host.devices().pin(&node).await.unwrap());
        host.recycle(1, 2);
        assert!(node.open().is_ok(), "number and size alone are still right");
        let error = host.devices().pin(&node).await.unwrap_err();
        assert!(error.to_string().contains("another device"), "{error}");
    });
}

#[test]
fn a_device_is_never_two_volumes() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.create(2);
        host.stage(host.stage_request(1)).await.unwrap();
        for other in [host.block_request(1), host.stage_request(1)] {
            let other = api::StageVolumeRequest {
                volume_id: volume(2),
                staging_path: text(&host.path("stage2")),
                ..other
            };
            let (found, words) = code(host.stage(other).await);
            assert!(found == Code::FailedPrecondition && words.contains(&volume(1)), "{words}");
        }
        assert_eq!((host.connected(), host.list().await.len()), (1, 1));
        fs::write(host.path("stage1/data"), "x").unwrap();
        host.unstage(1).await.unwrap();
    });
}

#[test]
fn a_raw_device_that_a_pod_mounted_for_itself_keeps_its_session() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.stage(host.block_request(1)).await.unwrap();
        let exclusive = nix::fcntl::OFlag::O_EXCL.bits();
        let held = fs::OpenOptions::new().read(true).custom_flags(exclusive).open(host.disk(1)).unwrap();
        let (found, words) = code(host.unstage(1).await);
        assert!(found == Code::FailedPrecondition && words.contains("in use"), "{words}");
        assert_eq!(host.connected(), 1);
        drop(held);
        assert_eq!(host.unstage(1).await.unwrap(), "disconnected");
    });
}
