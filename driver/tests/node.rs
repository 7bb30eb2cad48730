//! The node agent on its CSI socket, against a node-helper that behaves.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod node_support;

use std::collections::BTreeMap;
use std::time::Duration;

use fake_helper::Received;
use node_support::{Stand, VOLUME, captured_logs, mount, nfs_context, nvme_context};
use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::csi::v1::volume_capability::access_mode::Mode;
use tns_csi_proto::helper::v1 as helper;
use tonic::{Code, Request, Status};

#[tokio::test]
async fn a_volume_lives_on_a_node() {
    let mut stand = Stand::start().await;
    let (staging, target) = (stand.staging(VOLUME), stand.target("pod-1"));
    let capability = mount("", Mode::SingleNodeMultiWriter);
    for _ in 0..2 {
        stand.stage(nvme_context(), capability.clone(), &staging).await.unwrap();
        stand.publish(nvme_context(), capability.clone(), &staging, &target, false).await.unwrap();
    }
    assert!(std::path::Path::new(&target).is_dir());

    let stats = stand.stats(VOLUME, &target).await.unwrap();
    assert_eq!(stats.usage.len(), 2, "bytes and inodes");
    assert_eq!(stats.usage[0].total, 1 << 30);
    assert!(!stats.volume_condition.unwrap().abnormal);
    assert_eq!(stand.expand(VOLUME, &target, 2 << 30).await.unwrap().capacity_bytes, 2 << 30);

    for _ in 0..2 {
        stand.unpublish(VOLUME, &target).await.unwrap();
        stand.unstage(VOLUME, &staging).await.unwrap();
    }
    assert!(!std::path::Path::new(&target).exists());
    assert!(std::path::Path::new(&staging).is_dir(), "the staging directory is the orchestrator's");
}

#[tokio::test]
async fn one_csi_call_is_one_helper_call_with_revision_and_time_limit() {
    let mut stand = Stand::start().await;
    let staging = stand.staging(VOLUME);
    let mut request = Request::new(csi::NodeStageVolumeRequest {
        volume_id: VOLUME.to_owned(),
        publish_context: nvme_context(),
        staging_target_path: staging,
        volume_capability: Some(mount("xfs", Mode::SingleNodeWriter)),
        ..Default::default()
    });
    request.set_timeout(Duration::from_secs(60));
    stand.node.node_stage_volume(request).await.unwrap();
    let received = stand.helper.received();
    let [Received::Stage(stage)] = received.as_slice() else { panic!("{received:?}") };
    assert_eq!(stage.min_revision, 1);
    assert!((50_000..60_000).contains(&stage.timeout_ms), "{}", stage.timeout_ms);
    assert_eq!((stage.capacity_bytes, stage.never_format), (1 << 30, false));
    let Some(helper::stage_volume_request::Access::Filesystem(fs)) = &stage.access else {
        panic!("{stage:?}")
    };
    assert_eq!(fs.fs_type, "xfs");
}

#[tokio::test]
async fn the_class_decides_the_file_system_when_the_capability_does_not() {
    let mut stand = Stand::start().await;
    let request = csi::NodeStageVolumeRequest {
        volume_id: VOLUME.to_owned(),
        publish_context: nvme_context(),
        staging_target_path: stand.staging(VOLUME),
        volume_capability: Some(mount("", Mode::SingleNodeWriter)),
        volume_context: BTreeMap::from([
            ("fsType".to_owned(), "xfs".to_owned()),
            ("mkfsOptions".to_owned(), " -m  reflink=0 ".to_owned()),
        ]),
        ..Default::default()
    };
    stand.node.node_stage_volume(request).await.unwrap();
    let received = stand.helper.received();
    let [Received::Stage(stage)] = received.as_slice() else { panic!("{received:?}") };
    let Some(helper::stage_volume_request::Access::Filesystem(fs)) = &stage.access else {
        panic!("{stage:?}")
    };
    assert_eq!(fs.fs_type, "xfs");
    assert_eq!(fs.mkfs_options, ["-m", "reflink=0"]);
}

#[tokio::test]
async fn an_smb_share_is_staged_with_the_secrets_user_and_another_user_is_already_exists() {
    let mut stand = Stand::start().await;
    let staging = stand.staging(VOLUME);
    let request = |user: &str, password: &str| csi::NodeStageVolumeRequest {
        volume_id: VOLUME.to_owned(),
        publish_context: smb_context(),
        staging_target_path: staging.clone(),
        volume_capability: Some(mount("", Mode::MultiNodeMultiWriter)),
        secrets: BTreeMap::from([
            ("username".to_owned(), user.to_owned()),
            ("password".to_owned(), password.to_owned()),
        ]),
        ..Default::default()
    };
    stand.node.node_stage_volume(request("k8s", "a,b\"c")).await.unwrap();
    stand.node.node_stage_volume(request("k8s", "changed")).await.unwrap();
    let other = stand.node.node_stage_volume(request("other", "a,b\"c")).await.unwrap_err();
    assert_eq!(other.code(), Code::AlreadyExists);
    assert!(!other.message().contains("a,b"), "{other:?}");
    let received = stand.helper.received();
    let Some(Received::Stage(stage)) = received.first() else { panic!("{received:?}") };
    let Some(helper::source::Protocol::Smb(smb)) = stage.source.clone().and_then(|s| s.protocol) else {
        panic!("{stage:?}")
    };
    assert_eq!((smb.username.as_str(), smb.password.as_str()), ("k8s", "a,b\"c"));
}

fn smb_context() -> BTreeMap<String, String> {
    BTreeMap::from([
        ("protocol".to_owned(), "smb".to_owned()),
        ("portal".to_owned(), "192.0.2.1:445".to_owned()),
        ("share".to_owned(), "pvc-1".to_owned()),
    ])
}

#[tokio::test]
async fn a_reader_is_staged_and_published_read_only() {
    let mut stand = Stand::start().await;
    let (staging, target) = (stand.staging(VOLUME), stand.target("pod-1"));
    let reader = mount("", Mode::MultiNodeReaderOnly);
    stand.stage(nfs_context(), reader.clone(), &staging).await.unwrap();
    stand.publish(nfs_context(), reader, &staging, &target, false).await.unwrap();
    let received = stand.helper.received();
    let [Received::Stage(stage), Received::Publish(publish)] = received.as_slice() else {
        panic!("{received:?}")
    };
    assert!(stage.readonly && publish.readonly);
}

#[tokio::test]
async fn the_second_target_follows_csis_table() {
    for (mode, second) in [
        (Mode::SingleNodeSingleWriter, Code::FailedPrecondition),
        (Mode::SingleNodeWriter, Code::FailedPrecondition),
        (Mode::SingleNodeMultiWriter, Code::Ok),
        (Mode::MultiNodeMultiWriter, Code::Ok),
    ] {
        let mut stand = Stand::start().await;
        let staging = stand.staging(VOLUME);
        let (first, other) = (stand.target("pod-1"), stand.target("pod-2"));
        stand.stage(nfs_context(), mount("", mode), &staging).await.unwrap();
        stand.publish(nfs_context(), mount("", mode), &staging, &first, false).await.unwrap();
        let got = stand.publish(nfs_context(), mount("", mode), &staging, &other, false).await;
        assert_eq!(got.map_or_else(|s| s.code(), |_| Code::Ok), second, "{mode:?}");
        let changed =
            stand.publish(nfs_context(), mount("", mode), &staging, &first, true).await.unwrap_err();
        assert_eq!(changed.code(), Code::AlreadyExists, "{mode:?}");
    }
}

#[tokio::test]
async fn a_volume_staged_otherwise_is_already_exists() {
    let mut stand = Stand::start().await;
    let staging = stand.staging(VOLUME);
    stand.stage(nvme_context(), mount("ext4", Mode::SingleNodeWriter), &staging).await.unwrap();
    let other =
        stand.stage(nvme_context(), mount("xfs", Mode::SingleNodeWriter), &staging).await.unwrap_err();
    assert_eq!(other.code(), Code::AlreadyExists);
}

#[tokio::test]
async fn publish_before_stage_is_failed_precondition() {
    let mut stand = Stand::start().await;
    let (staging, target) = (stand.staging(VOLUME), stand.target("pod-1"));
    let capability = mount("", Mode::SingleNodeWriter);
    let unstaged = stand.publish(nvme_context(), capability, &staging, &target, false).await.unwrap_err();
    assert_eq!(unstaged.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn the_helpers_code_and_words_pass_through() {
    let mut stand = Stand::start().await;
    for code in
        [Code::FailedPrecondition, Code::Aborted, Code::Internal, Code::DeadlineExceeded, Code::Unimplemented]
    {
        stand.helper.fail_next(Status::with_details(code, "the device holds xfs", vec![1, 2, 3].into()));
        let staging = stand.staging(VOLUME);
        let status =
            stand.stage(nvme_context(), mount("", Mode::SingleNodeWriter), &staging).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (code, "the device holds xfs"));
        assert!(status.details().is_empty());
    }
}

#[tokio::test]
async fn a_helper_older_than_the_request_needs_is_failed_precondition_naming_both_revisions() {
    let mut stand = Stand::start_with(|options| options.revision = 0).await;
    let staging = stand.staging(VOLUME);
    let status = stand.stage(nvme_context(), mount("", Mode::SingleNodeWriter), &staging).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("revision 1") && status.message().contains("revision 0"), "{status}");
    let info = stand.node.node_get_info(csi::NodeGetInfoRequest {}).await.unwrap_err();
    assert_eq!(info.code(), Code::FailedPrecondition);
}

/// A capability with a mount group.
fn for_group(id: &str) -> csi::VolumeCapability {
    let mut capability = mount("", Mode::SingleNodeMultiWriter);
    if let Some(csi::volume_capability::AccessType::Mount(mount)) = &mut capability.access_type {
        mount.volume_mount_group = id.to_owned();
    }
    capability
}

#[tokio::test]
async fn the_mount_group_reaches_the_helper_which_keeps_pods_of_other_groups_apart() {
    let mut stand = Stand::start().await;
    let (staging, target) = (stand.staging(VOLUME), stand.target("pod-1"));
    stand.stage(nvme_context(), for_group("2000"), &staging).await.unwrap();
    stand.publish(nvme_context(), for_group("2000"), &staging, &target, false).await.unwrap();
    let received = stand.helper.received();
    let [Received::Stage(stage), Received::Publish(publish)] = received.as_slice() else {
        panic!("{received:?}")
    };
    let Some(helper::stage_volume_request::Access::Filesystem(fs)) = &stage.access else {
        panic!("{stage:?}")
    };
    assert_eq!((fs.group, stage.min_revision), (Some(2000), 2));
    assert_eq!((publish.group, publish.min_revision), (Some(2000), 2));

    let (group, second) = (for_group("3000"), stand.target("pod-2"));
    let status = stand.publish(nvme_context(), group, &staging, &second, false).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("2000") && status.message().contains("3000"), "{status}");
    let status = stand.stage(nvme_context(), for_group("3000"), &staging).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    // A pod without a wish shares it.
    let none = mount("", Mode::SingleNodeMultiWriter);
    stand.publish(nvme_context(), none, &staging, &second, false).await.unwrap();
}

#[tokio::test]
async fn a_helper_that_knows_no_groups_refuses_one_and_serves_the_rest() {
    let mut stand = Stand::start_with(|options| options.revision = 1).await;
    let staging = stand.staging(VOLUME);
    let status = stand.stage(nvme_context(), for_group("2000"), &staging).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("revision 2"), "{status}");
    stand.stage(nvme_context(), mount("", Mode::SingleNodeMultiWriter), &staging).await.unwrap();
}

#[tokio::test]
async fn a_helper_of_the_next_release_serves_this_agent() {
    let mut stand = Stand::start_with(|options| options.revision = tns_csi_proto::HELPER_REVISION + 1).await;
    let staging = stand.staging(VOLUME);
    stand.stage(nvme_context(), mount("", Mode::SingleNodeWriter), &staging).await.unwrap();
}

/// tns-csi gave up after five tries at start and crash-looped (T12 in the survey of peers).
#[tokio::test]
async fn t12_an_absent_helper_is_unavailable_until_it_comes() {
    let mut stand = Stand::without_helper().await;
    let staging = stand.staging(VOLUME);
    let capability = mount("", Mode::SingleNodeWriter);
    let status = stand.stage(nvme_context(), capability.clone(), &staging).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let socket = stand.helper_socket();
    assert!(status.message().contains(socket.to_str().unwrap()), "{}", status.message());
    assert!(status.message().contains("--allow-uid"), "{}", status.message());
    assert_eq!(stand.probe().await.unwrap(), Some(false));

    let _running = fake_helper::start(stand.helper.clone(), socket).unwrap();
    stand.stage(nvme_context(), capability, &staging).await.unwrap();
    assert_eq!(stand.probe().await.unwrap(), Some(true));
}

#[tokio::test]
async fn a_helper_that_restarts_is_found_again_with_its_state() {
    let mut stand = Stand::start().await;
    let (staging, target) = (stand.staging(VOLUME), stand.target("pod-1"));
    let capability = mount("", Mode::SingleNodeWriter);
    stand.stage(nvme_context(), capability.clone(), &staging).await.unwrap();
    stand.restart_helper().await;
    stand.publish(nvme_context(), capability, &staging, &target, false).await.unwrap();
}

#[tokio::test]
async fn a_helper_that_hangs_is_deadline_exceeded_before_the_caller_gives_up() {
    let mut stand = Stand::without_helper().await;
    let _silent = tokio::net::UnixListener::bind(stand.helper_socket()).unwrap();
    let mut request = Request::new(csi::NodeGetVolumeStatsRequest {
        volume_id: VOLUME.to_owned(),
        volume_path: "/k".to_owned(),
        ..Default::default()
    });
    request.set_timeout(Duration::from_secs(2));
    let status = stand.node.node_get_volume_stats(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("has not answered"), "{}", status.message());
}

#[tokio::test]
async fn at_the_end_running_calls_finish_and_new_ones_are_unavailable() {
    let stand = Stand::without_helper().await;
    let silent = tokio::net::UnixListener::bind(stand.helper_socket()).unwrap();
    let mut node = stand.node.clone();
    let running = tokio::spawn(async move {
        let mut request = Request::new(csi::NodeGetInfoRequest {});
        request.set_timeout(Duration::from_secs(3));
        node.node_get_info(request).await
    });
    // The helper's socket being dialled shows that the call has arrived.
    let _connection = silent.accept().await.unwrap();
    stand.stop.cancel();
    let refused =
        stand.node.clone().node_get_capabilities(csi::NodeGetCapabilitiesRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let finished = running.await.unwrap().unwrap_err();
    assert_eq!(
        finished.code(),
        Code::DeadlineExceeded,
        "{}: cut off instead of finished",
        finished.message()
    );
    stand.served.await.unwrap().unwrap();
}

/// truenas-csi called a volume abnormal when it was more than half full (O10 in the survey of peers).
#[tokio::test]
async fn o10_only_findings_make_a_volume_abnormal() {
    let mut stand = Stand::start().await;
    let staging = stand.staging(VOLUME);
    stand.stage(nvme_context(), mount("", Mode::SingleNodeWriter), &staging).await.unwrap();
    assert!(!stand.stats(VOLUME, &staging).await.unwrap().volume_condition.unwrap().abnormal);
    let finding = helper::HealthEntry {
        status: helper::health_entry::Status::Degraded.into(),
        reason: "PathLost".to_owned(),
        message: "1 of 2 paths is gone".to_owned(),
    };
    stand.helper.set_health(VOLUME, vec![finding]);
    let condition = stand.stats(VOLUME, &staging).await.unwrap().volume_condition.unwrap();
    assert!(condition.abnormal);
    assert_eq!(condition.message, "PathLost: 1 of 2 paths is gone");
}

#[tokio::test]
async fn node_id_and_capabilities_are_what_kubernetes_needs() {
    let mut stand = Stand::start().await;
    let info = stand.node.node_get_info(csi::NodeGetInfoRequest {}).await.unwrap().into_inner();
    let id = tns_csi::volume::node_id::NodeId::parse(&info.node_id).unwrap();
    assert_eq!(id.name, "fake-node");
    stand.restart_helper().await;
    let again = stand.node.node_get_info(csi::NodeGetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(again.node_id, info.node_id, "a restart changes no identity");
    let plugin = stand.identity.get_plugin_capabilities(csi::GetPluginCapabilitiesRequest {}).await.unwrap();
    assert_eq!(plugin.into_inner().capabilities.len(), 2);
}

/// tns-csi dumped whole requests, secrets included, at log level 4 (T16 in the survey of peers).
#[test]
fn t16_secrets_are_never_logged() {
    let logs = captured_logs(async {
        let mut stand = Stand::start().await;
        let mut capability = mount("", Mode::SingleNodeWriter);
        if let Some(csi::volume_capability::AccessType::Mount(mount)) = &mut capability.access_type {
            mount.mount_flags = vec!["password=hunter2-flag".to_owned()];
        }
        let secrets = BTreeMap::from([
            ("username".to_owned(), "k8s".to_owned()),
            ("password".to_owned(), "hunter2-secret".to_owned()),
        ]);
        let smb = smb_context();
        let request = |publish_context: &BTreeMap<String, String>, secrets: &BTreeMap<String, String>| {
            csi::NodeStageVolumeRequest {
                volume_id: VOLUME.to_owned(),
                publish_context: publish_context.clone(),
                staging_target_path: "/k/staging".to_owned(),
                volume_capability: Some(capability.clone()),
                secrets: secrets.clone(),
                ..Default::default()
            }
        };
        // Passed on, refused for a half secret, and refused for the context: every path that could print one.
        let half = BTreeMap::from([("password".to_owned(), "hunter2-secret".to_owned())]);
        for (context, secrets) in [(&smb, &secrets), (&smb, &half), (&BTreeMap::new(), &secrets)] {
            let status = stand.node.node_stage_volume(request(context, secrets)).await.unwrap_err();
            assert!(!format!("{status:?}").contains("hunter2"), "{status:?}");
        }
    });
    assert!(
        logs.contains("NodeStageVolume") && logs.contains("[redacted]"),
        "the requests were logged:\n{logs}"
    );
    assert!(!logs.contains("hunter2"), "{logs}");
}

/// truenas-csi and others hold the appliance's key on every node (O11 in the survey of peers).
#[test]
fn o11_the_node_agent_takes_no_credential() {
    use clap::CommandFactory as _;
    let cli = tns_csi::cli::Cli::command();
    let node = cli.find_subcommand("node").unwrap();
    assert!(node.get_arguments().all(|flag| !flag.get_id().as_str().contains("key")));
}
