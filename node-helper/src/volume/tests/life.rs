//! From stage to unstage.

use std::fs;
use std::os::unix::fs::{FileExt, FileTypeExt};

use tns_csi_proto::helper::v1 as api;
use tonic::Code;

use super::code;
use crate::ledger::Intent;
use crate::volume::testing::{MIB, SIZE, TestHost, on_host, text, volume};

#[test]
fn a_volume_lives_from_stage_to_unstage_and_its_data_comes_back() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        let (staged, target) = (host.path("stage1"), host.path("pod-a"));
        assert_eq!(host.stage(host.stage_request(1)).await.unwrap(), "formatted and mounted");
        assert_eq!(host.stage(host.stage_request(1)).await.unwrap(), "already staged");
        assert_eq!(host.publish(host.publish_request(1, &target)).await.unwrap(), "published");
        assert_eq!(host.publish(host.publish_request(1, &target)).await.unwrap(), "already published");
        fs::write(target.join("data"), "kept").unwrap();

        let stats = host.stats(1, &target).await.unwrap();
        let bytes = stats.bytes.unwrap();
        assert!(bytes.total > 20 * MIB && bytes.total <= SIZE && stats.health.is_empty(), "{bytes:?}");
        assert!(stats.inodes.unwrap().total > 0);
        let listed = host.list().await;
        assert_eq!((listed.len(), listed[0].volume_id.clone()), (1, volume(1)));
        assert_eq!(listed[0].target_paths, [text(&target)]);
        assert!(listed[0].health.is_empty(), "{listed:?}");

        let (found, words) = code(host.unstage(1).await);
        assert!(found == Code::FailedPrecondition && words.contains("still published"), "{words}");
        assert_eq!(host.unpublish(1, &target).await.unwrap(), "unpublished");
        assert!(!target.exists(), "the node that publish made is gone");
        assert_eq!(host.unpublish(1, &target).await.unwrap(), "not published there");
        assert_eq!(host.unstage(1).await.unwrap(), "unmounted and disconnected");
        assert_eq!((host.mounts_at(&staged), host.connected()), (0, 0));
        assert_eq!(host.unstage(1).await.unwrap(), "not staged");
        assert!(staged.exists(), "the staging directory is the orchestrator's");
        assert!(host.list().await.is_empty());

        assert_eq!(host.stage(host.stage_request(1)).await.unwrap(), "mounted");
        assert_eq!(fs::read_to_string(staged.join("data")).unwrap(), "kept");
    });
}

#[test]
fn a_read_only_publish_is_never_writable() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.stage(host.stage_request(1)).await.unwrap();
        let (writable, readonly) = (host.path("pod-a"), host.path("pod-b"));
        host.publish(host.publish_request(1, &writable)).await.unwrap();
        let request = api::PublishVolumeRequest { readonly: true, ..host.publish_request(1, &readonly) };
        host.publish(request.clone()).await.unwrap();
        fs::write(writable.join("data"), "x").unwrap();
        let error = fs::write(readonly.join("data"), "y").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::EROFS as i32));
        assert_eq!(host.publish(request).await.unwrap(), "already published");
        let (found, words) = code(host.publish(host.publish_request(1, &readonly)).await);
        assert!(found == Code::AlreadyExists && words.contains("ro"), "{words}");
    });
}

#[test]
fn an_exclusive_target_stays_the_only_one() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.stage(host.stage_request(1)).await.unwrap();
        let exclusive = |name: &str| api::PublishVolumeRequest {
            exclusive: true,
            ..host.publish_request(1, &host.path(name))
        };
        host.publish(exclusive("pod-a")).await.unwrap();
        assert_eq!(code(host.publish(exclusive("pod-b")).await).0, Code::FailedPrecondition);
        assert_eq!(
            code(host.publish(host.publish_request(1, &host.path("pod-b"))).await).0,
            Code::FailedPrecondition
        );
        host.unpublish(1, &host.path("pod-a")).await.unwrap();
        host.publish(exclusive("pod-b")).await.unwrap();
    });
}

#[test]
fn the_same_stage_twice_at_once_is_one_mount() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        let (first, second) =
            tokio::join!(host.stage(host.stage_request(1)), host.stage(host.stage_request(1)));
        assert_eq!(first.unwrap(), second.unwrap());
        assert_eq!((host.mounts_at(&host.path("stage1")), host.connects()), (1, 1));
        let other = api::StageVolumeRequest { readonly: true, ..host.stage_request(1) };
        let (found, words) = code(host.stage(other).await);
        assert!(found == Code::AlreadyExists && words.contains("ro"), "{words}");
    });
}

#[test]
fn a_helper_killed_after_the_mount_finds_it_again() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.stage(host.stage_request(1)).await.unwrap();
        host.edit_record(1, |record| {
            let record = record.as_mut().unwrap();
            record.intent = Intent::Staging;
        });
        assert_eq!(
            code(host.publish(host.publish_request(1, &host.path("pod-a"))).await).0,
            Code::FailedPrecondition
        );
        assert_eq!(host.stage(host.stage_request(1)).await.unwrap(), "already staged");
        assert_eq!(host.mounts_at(&host.path("stage1")), 1);
        host.publish(host.publish_request(1, &host.path("pod-a"))).await.unwrap();
    });
}

#[test]
fn a_grown_device_is_filled() {
    if !crate::sandbox::capabilities::missing().unwrap().is_empty() {
        eprintln!("SKIPPED: growing a mounted ext4 needs CAP_SYS_RESOURCE");
        return;
    }
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.stage(host.stage_request(1)).await.unwrap();
        let target = host.path("pod");
        host.publish(host.publish_request(1, &target)).await.unwrap();
        let before = host.stats(1, &target).await.unwrap().bytes.unwrap().total;
        host.enlarge(1, 3 * SIZE);
        let expanded = host.expand(1, &target, 3 * SIZE).await.unwrap();
        assert_eq!(expanded.capacity_bytes, 3 * SIZE, "{}", expanded.outcome);
        assert!(host.stats(1, &target).await.unwrap().bytes.unwrap().total > 2 * before);
        assert!(host.expand(1, &host.path("stage1"), 0).await.unwrap().outcome.contains("already"));
        // Grown while it was not staged.
        host.unpublish(1, &target).await.unwrap();
        host.unstage(1).await.unwrap();
        host.enlarge(1, 5 * SIZE);
        host.stage(host.stage_request(1)).await.unwrap();
        assert!(host.stats(1, &host.path("stage1")).await.unwrap().bytes.unwrap().total > 4 * before);
        // Cut off between the mount and the growth.
        host.enlarge(1, 7 * SIZE);
        host.announce_size(1);
        host.edit_record(1, |record| record.as_mut().unwrap().intent = Intent::Staging);
        assert_eq!(host.stage(host.stage_request(1)).await.unwrap(), "already staged");
        assert!(host.stats(1, &host.path("stage1")).await.unwrap().bytes.unwrap().total > 6 * before);
    });
}

#[test]
fn a_raw_block_volume_is_published_as_its_node() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        let target = host.path("device");
        let publish = |readonly| api::PublishVolumeRequest {
            block: true,
            readonly,
            ..host.publish_request(1, &target)
        };
        assert_eq!(host.stage(host.block_request(1)).await.unwrap(), "connected");
        assert_eq!(host.stage(host.block_request(1)).await.unwrap(), "already staged");
        assert_eq!(code(host.stage(host.stage_request(1)).await).0, Code::AlreadyExists);
        assert_eq!(host.publish(publish(false)).await.unwrap(), "published");
        assert_eq!(host.publish(publish(false)).await.unwrap(), "already published");
        assert!(target.metadata().unwrap().file_type().is_block_device());
        assert_eq!(host.stats(1, &target).await.unwrap().bytes.unwrap().total, SIZE);
        assert_eq!(host.list().await[0].target_paths, [text(&target)]);
        let other = api::PublishVolumeRequest { target_path: text(&host.path("other")), ..publish(true) };
        let (found, words) = code(host.publish(other.clone()).await);
        assert!(found == Code::FailedPrecondition && words.contains("for none"), "{words}");
        assert_eq!(host.unpublish(1, &target).await.unwrap(), "unpublished");
        assert!(!target.exists());

        host.publish(other).await.unwrap();
        let write =
            |path| fs::OpenOptions::new().write(true).open(path).and_then(|device| device.write_at(b"x", 0));
        assert!(write(host.path("other")).is_err(), "a read-only device takes no write");
        host.unpublish(1, &host.path("other")).await.unwrap();
        host.publish(publish(false)).await.unwrap();
        write(target.clone()).unwrap();
        host.unpublish(1, &target).await.unwrap();
        assert_eq!(host.unstage(1).await.unwrap(), "disconnected");
        assert_eq!(host.connected(), 0);
    });
}

#[test]
fn servers_outside_the_list_and_namespaces_that_are_not_there_leave_nothing() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        let with = |address: &str, n: u32| {
            let mut request = host.stage_request(1);
            if let Some(api::Source { protocol: Some(api::source::Protocol::Nvmeof(source)) }) =
                &mut request.source
            {
                source.portals[0].address = address.to_owned();
                source.namespace_uuid = crate::device::testing::uuid(n).to_string();
            }
            api::StageVolumeRequest { timeout_ms: 1500, ..request }
        };
        assert_eq!(code(host.stage(with("198.51.100.9", 1)).await).0, Code::PermissionDenied);
        assert_eq!((host.connects(), host.list().await.len()), (0, 0));
        // The subsystem is there, but holds another namespace: never taken for ours.
        let (found, words) = code(host.stage(with("192.0.2.7", 7)).await);
        assert_eq!(found, Code::DeadlineExceeded, "{words}");
        assert_eq!(host.mounts_at(&host.path("stage1")), 0);
    });
}

#[test]
fn a_record_with_targets_is_not_given_another_source() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.create(2);
        host.stage(host.stage_request(1)).await.unwrap();
        host.publish(host.publish_request(1, &host.path("pod"))).await.unwrap();
        host.unmount("stage1");
        for name in ["stage1", "stage2"] {
            let request = api::StageVolumeRequest {
                volume_id: volume(1),
                staging_path: text(&host.path(name)),
                ..host.stage_request(2)
            };
            let (found, words) = code(host.stage(request).await);
            assert!(found == Code::FailedPrecondition && words.contains("still published"), "{words}");
        }
        assert_eq!(host.unpublish(1, &host.path("pod")).await.unwrap(), "unpublished");
    });
}
