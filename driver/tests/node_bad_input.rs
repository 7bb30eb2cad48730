//! What bad input to the node agent gets: the code, the words, and no effect.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod node_support;

use std::collections::BTreeMap;

use node_support::{Stand, VOLUME, block, mount, nfs_context, nvme_context};
use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::csi::v1::volume_capability::access_mode::Mode;
use tonic::Code;

/// What is wrong, how a good request gets so, the code it is answered with and a word of the message.
type Bad<R> = (&'static str, fn(&mut R), Code, &'static str);

fn mounts_by_group() -> csi::VolumeCapability {
    let mut capability = mount("", Mode::SingleNodeWriter);
    if let Some(csi::volume_capability::AccessType::Mount(mount)) = &mut capability.access_type {
        mount.volume_mount_group = "staff".to_owned();
    }
    capability
}

#[tokio::test]
async fn bad_input_to_stage_is_refused_before_the_helper_hears_of_it() {
    const INVALID: Code = Code::InvalidArgument;
    let mut stand = Stand::start().await;
    let good = csi::NodeStageVolumeRequest {
        volume_id: VOLUME.to_owned(),
        publish_context: nvme_context(),
        staging_target_path: stand.staging(VOLUME),
        volume_capability: Some(mount("", Mode::SingleNodeWriter)),
        ..Default::default()
    };
    let cases: [Bad<csi::NodeStageVolumeRequest>; 17] = [
        ("no id", |r| r.volume_id.clear(), INVALID, "volume_id is missing"),
        ("no path", |r| r.staging_target_path.clear(), INVALID, "staging_target_path is missing"),
        ("no capability", |r| r.volume_capability = None, INVALID, "volume_capability is missing"),
        ("no mode", |r| r.volume_capability = Some(mount("", Mode::Unknown)), INVALID, "access_mode"),
        (
            "no access type",
            |r| r.volume_capability.iter_mut().for_each(|c| c.access_type = None),
            INVALID,
            "access_type",
        ),
        ("no context", |r| r.publish_context.clear(), INVALID, "publish_context is missing"),
        (
            "foreign context",
            |r| r.publish_context = BTreeMap::from([("nfs".to_owned(), "x".to_owned())]),
            INVALID,
            "protocol",
        ),
        ("lost key", |r| drop(r.publish_context.remove("neverFormat")), INVALID, "neverFormat"),
        (
            "malformed key",
            |r| drop(r.publish_context.insert("portals".to_owned(), "nas".to_owned())),
            INVALID,
            "portals",
        ),
        (
            "block on NFS",
            |r| {
                r.publish_context = nfs_context();
                r.volume_capability = Some(block(Mode::SingleNodeWriter));
            },
            INVALID,
            "nfs",
        ),
        (
            "RWX file system on a device",
            |r| r.volume_capability = Some(mount("", Mode::MultiNodeMultiWriter)),
            INVALID,
            "MULTI_NODE_MULTI_WRITER",
        ),
        (
            "unknown file system",
            |r| r.volume_capability = Some(mount("ntfs", Mode::SingleNodeWriter)),
            INVALID,
            "ntfs",
        ),
        ("mount group", |r| r.volume_capability = Some(mounts_by_group()), INVALID, "volume_mount_group"),
        ("relative path", |r| r.staging_target_path = "some/path".to_owned(), INVALID, "not absolute"),
        (
            "path over 4 KiB",
            |r| r.staging_target_path = format!("/{}", "x".repeat(4096)),
            INVALID,
            "4097 bytes",
        ),
        ("path with NUL", |r| r.staging_target_path.push('\0'), INVALID, "NUL"),
        ("id over 128 bytes", |r| r.volume_id = "x".repeat(129), Code::NotFound, "129 bytes"),
    ];
    for (what, spoil, code, word) in cases {
        let mut request = good.clone();
        spoil(&mut request);
        let status = stand.node.node_stage_volume(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{what}: {}", status.message());
        assert!(status.message().contains(word), "{what}: {}", status.message());
        assert!(status.details().is_empty(), "{what}: CSI wants empty details");
    }
    assert_eq!(stand.helper.received(), []);
}

#[tokio::test]
async fn bad_input_to_publish_is_refused_before_the_helper_hears_of_it() {
    const INVALID: Code = Code::InvalidArgument;
    let mut stand = Stand::start().await;
    let good = csi::NodePublishVolumeRequest {
        volume_id: VOLUME.to_owned(),
        publish_context: nfs_context(),
        staging_target_path: stand.staging(VOLUME),
        target_path: stand.target("pod-1"),
        volume_capability: Some(mount("", Mode::SingleNodeWriter)),
        ..Default::default()
    };
    let cases: [Bad<csi::NodePublishVolumeRequest>; 9] = [
        ("no id", |r| r.volume_id.clear(), INVALID, "volume_id is missing"),
        ("no target", |r| r.target_path.clear(), INVALID, "target_path is missing"),
        ("no capability", |r| r.volume_capability = None, INVALID, "volume_capability is missing"),
        (
            "no staging path",
            |r| r.staging_target_path.clear(),
            Code::FailedPrecondition,
            "staging_target_path",
        ),
        ("relative target", |r| r.target_path = "t".to_owned(), INVALID, "target_path"),
        ("target with NUL", |r| r.target_path.push('\0'), INVALID, "NUL"),
        ("target over 4 KiB", |r| r.target_path.push_str(&"x".repeat(4096)), INVALID, "at most 4096"),
        ("block on NFS", |r| r.volume_capability = Some(block(Mode::SingleNodeWriter)), INVALID, "nfs"),
        ("id over 128 bytes", |r| r.volume_id = "x".repeat(129), Code::NotFound, "129 bytes"),
    ];
    for (what, spoil, code, word) in cases {
        let mut request = good.clone();
        spoil(&mut request);
        let status = stand.node.node_publish_volume(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{what}: {}", status.message());
        assert!(status.message().contains(word), "{what}: {}", status.message());
    }
    assert_eq!(stand.helper.received(), []);
}

#[tokio::test]
async fn a_path_that_is_not_kubelets_is_refused_with_the_helpers_words() {
    let mut stand = Stand::start().await;
    let staging = stand.staging(VOLUME);
    let capability = mount("", Mode::SingleNodeWriter);
    let outside = stand.stage(nfs_context(), capability.clone(), "/etc").await.unwrap_err();
    assert_eq!(outside.code(), Code::InvalidArgument);
    assert!(outside.message().contains("kubelet root"), "{}", outside.message());
    stand.stage(nfs_context(), capability.clone(), &staging).await.unwrap();
    let shape = format!("{}/plugins_registry/x", stand.kubelet().display());
    let status = stand.publish(nfs_context(), capability, &staging, &shape, false).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn what_is_asked_about_and_is_not_there_is_not_found() {
    let mut stand = Stand::start().await;
    let device = stand.device_staging("pvc-1");
    stand.stage(nvme_context(), block(Mode::SingleNodeWriter), &device).await.unwrap();
    let long = "x".repeat(5000);
    for (id, path, code) in [
        ("", device.as_str(), Code::InvalidArgument),
        (VOLUME, "", Code::InvalidArgument),
        ("unknown", &device, Code::NotFound),
        (VOLUME, "some/path", Code::NotFound),
        (VOLUME, &long, Code::NotFound),
        (VOLUME, "/proc", Code::NotFound),
        (&long, &device, Code::NotFound),
    ] {
        assert_eq!(stand.stats(id, path).await.unwrap_err().code(), code, "stats of {id:.9} at {path:.9}");
        assert_eq!(
            stand.expand(id, path, 0).await.unwrap_err().code(),
            code,
            "expand of {id:.9} at {path:.9}"
        );
    }
    assert_eq!(stand.expand(VOLUME, &device, -1).await.unwrap_err().code(), Code::InvalidArgument);
    let stats = stand.stats(VOLUME, &device).await.unwrap();
    assert_eq!(stats.usage.len(), 1, "raw block has a total and no inodes");
}

#[tokio::test]
async fn undoing_what_was_never_done_is_a_success_and_touches_nothing() {
    let mut stand = Stand::start().await;
    let precious = stand.target("precious");
    std::fs::create_dir(&precious).unwrap();
    let (long_id, long_path) = ("x".repeat(500), "x".repeat(9000));
    for id in ["unknown", &long_id] {
        for path in [precious.as_str(), "some/path", "/etc", &long_path] {
            stand.unpublish(id, path).await.unwrap();
            stand.unstage(id, path).await.unwrap();
        }
    }
    assert!(std::path::Path::new(&precious).is_dir());
    for (id, path) in [("", precious.as_str()), (VOLUME, "")] {
        assert_eq!(stand.unpublish(id, path).await.unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(stand.unstage(id, path).await.unwrap_err().code(), Code::InvalidArgument);
    }
}
