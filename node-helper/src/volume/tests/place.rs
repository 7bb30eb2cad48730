//! Where something is mounted.

use std::fs;
use std::os::unix::fs::symlink;

use rustix::mount::MountAttrFlags;
use tns_csi_proto::helper::v1 as api;
use tonic::Code;

use super::code;
use crate::mount::Detached;
use crate::volume::testing::{TestHost, on_host, text};

#[test]
fn c6_pod_sees_local_dir_a_mount_that_is_gone_is_not_bound() {
    // kubernetes#117513: a publish on an unmounted staging path gave the pod a local directory.
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.stage(host.stage_request(1)).await.unwrap();
        host.unmount("stage1");
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
        host.unmount("own");
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
