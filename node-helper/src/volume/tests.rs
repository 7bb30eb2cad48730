//! The flows on a host with real mounts and file systems.

use std::fs;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt, symlink};
use std::path::Path;

use rustix::mount::MountAttrFlags;
use tns_csi_proto::helper::v1 as api;
use tonic::Code;

use super::testing::{MIB, SIZE, TestHost, on_host, text, volume};
use crate::device::testing::identity;
use crate::ledger::{Formatting, Intent};
use crate::mount::Detached;

fn code<T: std::fmt::Debug>(outcome: Result<T, tonic::Status>) -> (Code, String) {
    let status = outcome.expect_err("refused");
    (status.code(), status.message().to_owned())
}

fn filesystem(kind: &str) -> Option<api::stage_volume_request::Access> {
    let access = api::FilesystemAccess { fs_type: kind.to_owned(), ..Default::default() };
    Some(api::stage_volume_request::Access::Filesystem(access))
}

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
fn peer_t3_what_is_not_proven_blank_is_never_formatted() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.scribble(1, 40_000, b"somebody's data");
        let before = fs::read(host.disk(1)).unwrap();
        let (found, words) = code(host.stage(host.stage_request(1)).await);
        assert_eq!(found, Code::FailedPrecondition, "{words}");
        assert_eq!(fs::read(host.disk(1)).unwrap(), before, "nothing was written");
        assert_eq!(host.connected(), 0, "a refused stage leaves no connection");
        assert!(host.list().await.is_empty());

        // Another file system than the one asked for.
        host.create(2);
        host.stage(host.stage_request(2)).await.unwrap();
        host.unstage(2).await.unwrap();
        let request = api::StageVolumeRequest { access: filesystem("xfs"), ..host.stage_request(2) };
        let (found, words) = code(host.stage(request).await);
        assert!(found == Code::FailedPrecondition && words.contains("ext4"), "{words}");

        // A clone, a device of another size, a read-only stage.
        host.create(3);
        let never = api::StageVolumeRequest { never_format: true, ..host.stage_request(3) };
        assert!(code(host.stage(never).await).1.contains("never be formatted"));
        let smaller = api::StageVolumeRequest { capacity_bytes: SIZE / 2, ..host.stage_request(3) };
        assert!(code(host.stage(smaller).await).1.contains("should have"));
        let larger = api::StageVolumeRequest { capacity_bytes: SIZE * 2, ..host.stage_request(3) };
        assert!(code(host.stage(larger).await).1.contains("at least"));
        let readonly = api::StageVolumeRequest { readonly: true, ..host.stage_request(3) };
        assert!(code(host.stage(readonly).await).1.contains("read-only"));
        assert!(fs::read(host.disk(3)).unwrap().iter().all(|byte| *byte == 0), "nothing was written");
    });
}

#[test]
fn a_helper_killed_in_the_middle_of_mkfs_formats_again_and_nobody_else_does() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        // What an interrupted mkfs leaves: some structures, no superblock.
        host.scribble(1, 64 * 1024, &[0xa5; 8192]);
        assert_eq!(code(host.stage(host.stage_request(1)).await).0, Code::FailedPrecondition, "another node");

        host.create(2);
        host.stage(host.stage_request(2)).await.unwrap();
        host.edit_record(2, |record| {
            let record = record.as_mut().unwrap();
            record.intent = Intent::Staging;
            record.formatting = Some(Formatting {
                identity: record.identity().unwrap().clone(),
                size: SIZE,
                fs_type: "ext4".to_owned(),
            });
        });
        rustix::mount::unmount(host.path("stage2"), rustix::mount::UnmountFlags::empty()).unwrap();
        host.scribble(2, 0, &vec![0; 32 * 1024]);
        host.scribble(2, 64 * 1024, &[0xa5; 8192]);
        // kubelet unstages what it gave up; the marker survives that.
        host.unstage(2).await.unwrap();
        assert!(host.list().await.is_empty());
        assert_eq!(host.stage(host.stage_request(2)).await.unwrap(), "formatted and mounted");
        host.edit_record(2, |record| {
            assert!(record.as_ref().unwrap().formatting.is_none(), "gone with the good mount")
        });
    });
}

#[test]
fn a_complete_file_system_is_not_formatted_again_although_the_marker_stands() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.stage(host.stage_request(1)).await.unwrap();
        fs::write(host.path("stage1/data"), "kept").unwrap();
        host.unstage(1).await.unwrap();
        host.stage(host.stage_request(1)).await.unwrap();
        rustix::mount::unmount(host.path("stage1"), rustix::mount::UnmountFlags::empty()).unwrap();
        host.edit_record(1, |record| {
            let record = record.as_mut().unwrap();
            record.intent = Intent::Staging;
            let identity = record.identity().unwrap().clone();
            record.formatting = Some(Formatting { identity, size: SIZE, fs_type: "ext4".to_owned() });
        });
        assert_eq!(host.stage(host.stage_request(1)).await.unwrap(), "mounted");
        assert_eq!(fs::read_to_string(host.path("stage1/data")).unwrap(), "kept");
    });
}

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
fn c6_pod_sees_local_dir_a_mount_that_is_gone_is_not_bound() {
    // kubernetes#117513: a publish on an unmounted staging path gave the pod a local directory.
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.stage(host.stage_request(1)).await.unwrap();
        rustix::mount::unmount(host.path("stage1"), rustix::mount::UnmountFlags::empty()).unwrap();
        let (found, words) = code(host.publish(host.publish_request(1, &host.path("pod-a"))).await);
        assert!(found == Code::FailedPrecondition && words.contains("staged again"), "{words}");
        assert_eq!(host.stage(host.stage_request(1)).await.unwrap(), "mounted");
    });
}

#[test]
fn wrong_places_are_refused_before_any_effect() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        let invalid = |outcome| assert_eq!(code(outcome).0, Code::InvalidArgument);
        let stage_at =
            |path: &str| api::StageVolumeRequest { staging_path: path.to_owned(), ..host.stage_request(1) };
        invalid(host.stage(stage_at("/etc")).await);
        invalid(host.stage(stage_at(&text(&host.path("absent")))).await);
        symlink("/tmp", host.path("link")).unwrap();
        invalid(host.stage(stage_at(&text(&host.path("link")))).await);
        invalid(host.stage(stage_at(&text(&host.path("link/x")))).await);
        fs::create_dir_all(host.path("full/data")).unwrap();
        invalid(host.stage(stage_at(&text(&host.path("full")))).await);
        assert_eq!((host.connects(), host.list().await.len()), (0, 0), "nothing was begun");

        host.stage(host.stage_request(1)).await.unwrap();
        host.create(2);
        invalid(
            host.stage(api::StageVolumeRequest {
                staging_path: text(&host.path("stage1")),
                ..host.stage_request(2)
            })
            .await,
        );
        invalid(host.publish(host.publish_request(1, &host.path("full"))).await);
        invalid(host.publish(host.publish_request(1, &host.path("link"))).await);
        invalid(host.publish(host.publish_request(1, &host.path("missing/x"))).await);
        fs::create_dir(host.path("busy")).unwrap();
        rustix::mount::mount("none", host.path("busy"), "tmpfs", rustix::mount::MountFlags::empty(), None)
            .unwrap();
        invalid(host.publish(host.publish_request(1, &host.path("busy"))).await);
        assert_eq!(host.mounts_at(&host.path("busy")), 1);
    });
}

#[test]
fn what_is_not_this_volumes_is_left_alone() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.create(2);
        host.stage(host.stage_request(1)).await.unwrap();
        host.stage(host.stage_request(2)).await.unwrap();
        host.publish(host.publish_request(2, &host.path("pod"))).await.unwrap();
        for path in [host.path("pod"), host.path("stage2"), host.path("nowhere"), "/etc".into(), "/".into()] {
            assert_eq!(host.unpublish(1, &path).await.unwrap(), "not published there", "{}", path.display());
        }
        assert_eq!(host.mounts_at(&host.path("pod")), 1);
        // Data under a target whose mount was taken away by somebody is not removed (peer T2).
        host.publish(host.publish_request(1, &host.path("own"))).await.unwrap();
        rustix::mount::unmount(host.path("own"), rustix::mount::UnmountFlags::empty()).unwrap();
        fs::write(host.path("own/data"), "x").unwrap();
        assert_eq!(code(host.unpublish(1, &host.path("own")).await).0, Code::FailedPrecondition);
        assert!(host.path("own/data").exists());
        // A mount at the staging path that the ledger does not know.
        host.edit_record(2, |record| *record = None);
        let (found, words) = code(host.unstage(2).await);
        assert!(found == Code::FailedPrecondition && words.contains("no record"), "{words}");
        assert_eq!(host.mounts_at(&host.path("stage2")), 1);
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
fn a_mkfs_that_outlived_the_helper_keeps_its_device() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        let exclusive = nix::fcntl::OFlag::O_EXCL.bits();
        let mkfs = fs::OpenOptions::new().write(true).custom_flags(exclusive).open(host.disk(1)).unwrap();
        let (found, words) = code(host.stage(host.stage_request(1)).await);
        assert!(found == Code::FailedPrecondition && words.contains("in use"), "{words}");
        assert_eq!(host.connected(), 1, "its session stays");
        drop(mkfs);
        assert_eq!(host.stage(host.stage_request(1)).await.unwrap(), "formatted and mounted");
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
fn a_path_where_the_volume_is_not_is_not_found() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.stage(host.stage_request(1)).await.unwrap();
        for path in [host.path("nowhere"), "relative".into(), "/etc".into()] {
            assert_eq!(code(host.stats(1, &path).await).0, Code::NotFound, "{}", path.display());
            assert_eq!(code(host.expand(1, &path, 0).await).0, Code::NotFound, "{}", path.display());
        }
        assert_eq!(code(host.stats(2, &host.path("stage1")).await).0, Code::NotFound);
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

#[test]
fn a_mkfs_that_wrote_nothing_leaves_no_marker() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        let access = api::FilesystemAccess {
            mkfs_options: vec!["-O".to_owned(), "no_such_thing".to_owned()],
            ..Default::default()
        };
        let access = Some(api::stage_volume_request::Access::Filesystem(access));
        let request = api::StageVolumeRequest { access, ..host.stage_request(1) };
        assert!(code(host.stage(request).await).1.contains("no_such_thing"));
        assert_eq!(host.connected(), 0);
        host.edit_record(1, |record| assert_eq!(*record, None));
    });
}

#[test]
fn a_record_with_targets_is_not_given_another_source() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.create(2);
        host.stage(host.stage_request(1)).await.unwrap();
        host.publish(host.publish_request(1, &host.path("pod"))).await.unwrap();
        rustix::mount::unmount(host.path("stage1"), rustix::mount::UnmountFlags::empty()).unwrap();
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

#[test]
fn nothing_is_mounted_over_another_mount() {
    on_host(async |host: &mut TestHost| {
        fs::create_dir(host.path("pod")).unwrap();
        let tmpfs = || Detached::file_system("tmpfs", "none", &[], None, MountAttrFlags::empty()).unwrap();
        tmpfs().attach(&host.place("pod")).unwrap();
        let error = tmpfs().attach(&host.place("pod")).unwrap_err();
        assert_eq!(error.errno.raw_os_error(), Some(nix::errno::Errno::EBUSY as i32), "{error}");
        assert_eq!(host.mounts_at(&host.path("pod")), 1);
    });
}

/// A share of a server on which nobody listens.
fn smb_request(host: &TestHost, password: &str) -> api::StageVolumeRequest {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let smb = api::SmbSource {
        portal: Some(api::Portal { address: "127.0.0.1".to_owned(), port: u32::from(port) }),
        share: "pvc-1".to_owned(),
        username: "k8s".to_owned(),
        password: password.to_owned(),
        domain: String::new(),
    };
    api::StageVolumeRequest {
        source: Some(api::Source { protocol: Some(api::source::Protocol::Smb(smb)) }),
        capacity_bytes: 0,
        ..host.stage_request(1)
    }
}

#[test]
fn an_smb_server_that_cannot_be_used_leaves_no_mount_and_no_password() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        let (found, words) = code(host.stage(smb_request(host, "geheim,\"'")).await);
        assert_eq!(found, Code::Unavailable, "{words}");
        assert!(words.contains("SMB server does not accept") && !words.contains("geheim"), "{words}");
        host.edit_record(1, |record| {
            let shown = serde_json::to_string(record).unwrap();
            assert!(!shown.contains("geheim"), "{shown}");
        });
        assert_eq!(host.mounts_at(&host.path("stage1")), 0);
    });
}

#[test]
fn smb_options_with_credentials_are_refused_without_their_value() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        for flag in ["password=geheim", "credentials=geheim", "ip=geheim"] {
            let mut request = smb_request(host, "secret");
            if let Some(api::stage_volume_request::Access::Filesystem(access)) = &mut request.access {
                access.mount_flags = vec![flag.to_owned()];
            }
            let (found, words) = code(host.stage(request).await);
            assert_eq!(found, Code::InvalidArgument, "{words}");
            assert!(!words.contains("geheim"), "{words}");
        }
    });
}

fn for_group(mut request: api::StageVolumeRequest, group: u32) -> api::StageVolumeRequest {
    if let Some(api::stage_volume_request::Access::Filesystem(access)) = &mut request.access {
        access.group = Some(group);
    }
    request
}

fn group_of(path: &Path) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt;
    let found = path.symlink_metadata().unwrap();
    (found.gid(), found.mode() & 0o7777)
}

#[test]
fn a_volume_belongs_to_the_group_of_its_pod_and_is_walked_once() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.stage(for_group(host.stage_request(1), 2000)).await.unwrap();
        assert_eq!(group_of(&host.path("stage1")), (2000, 0o2775));
        let file = host.path("stage1/data");
        fs::write(&file, "x").unwrap();
        std::os::unix::fs::chown(&file, Some(1000), Some(9)).unwrap();
        let publish = |group| api::PublishVolumeRequest {
            group: Some(group),
            ..host.publish_request(1, &host.path("pod"))
        };
        host.publish(publish(2000)).await.unwrap();
        assert_eq!(host.stage(for_group(host.stage_request(1), 2000)).await.unwrap(), "already staged");
        assert_eq!(group_of(&file).0, 9, "a root that matches spares the walk");

        // Another pod with another group: not while the first one is there.
        let other = |group| api::PublishVolumeRequest {
            group: Some(group),
            ..host.publish_request(1, &host.path("other"))
        };
        let (found, words) = code(host.publish(other(3000)).await);
        assert!(
            found == Code::FailedPrecondition && words.contains("2000") && words.contains("3000"),
            "{words}"
        );
        let (found, words) = code(host.stage(for_group(host.stage_request(1), 3000)).await);
        assert!(found == Code::AlreadyExists && words.contains("3000"), "{words}");
        assert_eq!(group_of(&host.path("stage1")).0, 2000);
        host.unpublish(1, &host.path("pod")).await.unwrap();
        host.publish(other(3000)).await.unwrap();
        assert_eq!(group_of(&host.path("stage1")), (3000, 0o2775));
        assert_eq!(group_of(&file), (3000, 0o664));
        host.unpublish(1, &host.path("other")).await.unwrap();
        host.unstage(1).await.unwrap();
    });
}

#[test]
fn a_pod_that_only_reads_does_not_take_the_volume_for_its_group() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.stage(for_group(host.stage_request(1), 2000)).await.unwrap();
        let publish = |group, readonly, target| api::PublishVolumeRequest {
            group: Some(group),
            readonly,
            ..host.publish_request(1, &host.path(target))
        };
        for _ in 0..2 {
            host.publish(publish(3000, true, "reader")).await.unwrap();
            assert_eq!(group_of(&host.path("stage1")), (2000, 0o2775));
        }
        host.publish(publish(2000, false, "writer")).await.unwrap();
        host.unpublish(1, &host.path("writer")).await.unwrap();
        host.unpublish(1, &host.path("reader")).await.unwrap();
        host.unstage(1).await.unwrap();
    });
}

#[test]
fn a_volume_that_is_read_only_keeps_its_groups() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.stage(host.stage_request(1)).await.unwrap();
        host.unstage(1).await.unwrap();
        let request = api::StageVolumeRequest { readonly: true, ..for_group(host.stage_request(1), 2000) };
        host.stage(request).await.unwrap();
        assert_eq!(group_of(&host.path("stage1")).0, 0);
        for (group, target, readonly) in [(2000, "pod", true), (3000, "other", true), (4000, "third", false)]
        {
            let publish = api::PublishVolumeRequest {
                group: Some(group),
                readonly,
                ..host.publish_request(1, &host.path(target))
            };
            host.publish(publish).await.unwrap();
        }
        let again = api::StageVolumeRequest { readonly: true, ..for_group(host.stage_request(1), 3000) };
        assert_eq!(host.stage(again).await.unwrap(), "already staged");
        assert_eq!(group_of(&host.path("stage1")).0, 0);
        for target in ["pod", "other", "third"] {
            host.unpublish(1, &host.path(target)).await.unwrap();
        }
        host.unstage(1).await.unwrap();
    });
}

#[test]
fn a_raw_block_device_has_no_group() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.stage(host.block_request(1)).await.unwrap();
        let publish = api::PublishVolumeRequest {
            block: true,
            group: Some(2000),
            ..host.publish_request(1, &host.path("pod"))
        };
        assert_eq!(code(host.publish(publish).await).0, Code::InvalidArgument);
        host.unstage(1).await.unwrap();
    });
}
