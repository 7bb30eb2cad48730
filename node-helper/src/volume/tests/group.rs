//! The group of a pod.

use std::fs;
use std::path::Path;

use tns_csi_proto::helper::v1 as api;
use tonic::Code;

use super::code;
use crate::volume::testing::{TestHost, on_host};

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
