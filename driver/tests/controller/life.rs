//! The life of a volume, and of several at once.

use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::csi::v1::controller_server::Controller as _;
use tns_csi_proto::csi::v1::volume_capability::access_mode::Mode;
use tonic::{Code, Request};
use truenas_sim::When;

use crate::rig::{
    GIB, PROTOCOLS, Rig, SERVER, block, mount, node, parameters, request, shared_request, single,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_lives_from_create_to_delete() {
    let rig = Rig::start().await;
    for protocol in PROTOCOLS {
        let volume = rig.controller.create(request("pvc-1", protocol, 2)).await.unwrap();
        assert_eq!((volume.volume_id.as_str(), volume.capacity_bytes), ("tank/pvc-1", 2 * GIB));
        rig.assert_one_volume(protocol);
        let context = rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
        assert_eq!(context["protocol"], protocol);
        if protocol == "nfs" {
            assert_eq!(
                (context["portal"].as_str(), context["export"].as_str()),
                ("127.0.0.1:2049", "/mnt/tank/pvc-1")
            );
        } else if protocol == "smb" {
            assert_eq!(context["portal"], "127.0.0.1:445");
            assert_eq!(rig.rows("sharing.smb")[0]["name"], context["share"].as_str());
        } else {
            assert_eq!(
                (context["capacityBytes"].as_str(), context["neverFormat"].as_str()),
                ("2147483648", "false")
            );
        }
        if protocol == "nvmeof" {
            assert_eq!(context["portals"], "127.0.0.1:4420");
            assert_eq!(rig.rows("nvmet.namespace")[0]["device_uuid"], context["namespaceUUID"].as_str());
        }
        if protocol == "iscsi" {
            let (target, extent) = (&rig.rows("iscsi.target")[0], &rig.rows("iscsi.extent")[0]);
            assert_eq!((context["portals"].as_str(), context["lun"].as_str()), ("127.0.0.1:3260", "0"));
            assert!(
                context["iqn"].ends_with(&format!(":{}", target["name"].as_str().unwrap())),
                "{context:?}"
            );
            assert_eq!(context["serial"], extent["serial"].as_str().unwrap());
            assert_eq!(format!("0x{}", context["naa"]), extent["naa"].as_str().unwrap());
        }
        assert!(rig.lets_in(protocol, 1));
        let grown = rig.controller.expand("tank/pvc-1", 3 * GIB).await.unwrap();
        assert_eq!(
            (grown.capacity_bytes, grown.node_expansion_required),
            (3 * GIB, !["nfs", "smb"].contains(&protocol))
        );
        let still = rig.controller.delete("tank/pvc-1").await.unwrap_err();
        assert_eq!(still.code(), Code::FailedPrecondition);
        assert!(still.message().contains("published to a"), "{still}");
        rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
        rig.assert_one_volume(protocol);
        rig.controller.delete("tank/pvc-1").await.unwrap();
        rig.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_may_be_repeated() {
    let mut rig = Rig::start().await;
    for protocol in PROTOCOLS {
        let mut contexts = Vec::new();
        let mut volumes = Vec::new();
        for round in 0..3 {
            volumes.push(rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap());
            if round == 1 {
                rig.replace_controller().await;
            }
        }
        assert!(volumes.windows(2).all(|w| w[0] == w[1]), "{volumes:?}");
        for _ in 0..3 {
            contexts.push(rig.controller.publish(&volumes[0], &node("a", 1)).await.unwrap());
        }
        assert!(contexts.windows(2).all(|w| w[0] == w[1]), "{contexts:?}");
        for bytes in [2 * GIB, 2 * GIB, GIB] {
            let size = rig.controller.expand("tank/pvc-1", bytes).await.unwrap().capacity_bytes;
            assert_eq!(size, 2 * GIB, "a smaller request lowers nothing");
        }
        let after = rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap();
        assert_eq!(after.capacity_bytes, 2 * GIB, "the request is the same although the volume has grown");
        for _ in 0..3 {
            rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
        }
        rig.assert_one_volume(protocol);
        for _ in 0..3 {
            rig.controller.delete("tank/pvc-1").await.unwrap();
        }
        rig.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t15_capacity_follows_expansion() {
    let rig = Rig::start().await;
    for protocol in PROTOCOLS {
        rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap();
        rig.controller.expand("tank/pvc-1", 5 * GIB).await.unwrap();
        let listed = rig.controller.list(0, "").await.unwrap();
        assert_eq!(listed.entries[0].volume.as_ref().unwrap().capacity_bytes, 5 * GIB);
        assert_eq!(
            rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap().capacity_bytes,
            5 * GIB
        );
        rig.controller.delete("tank/pvc-1").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_joins_while_it_runs_and_a_conflicting_one_is_aborted() {
    let rig = Rig::start().await;
    let control = rig.control();
    control.hold("pool.dataset.create", When::After);
    let start = |request: csi::CreateVolumeRequest| {
        rig.controller.spawn(|s| async move { s.create_volume(Request::new(request)).await })
    };
    let first = start(request("pvc-1", "nfs", 1));
    control.wait_held("pool.dataset.create", When::After, 1).await;
    let second = start(request("pvc-1", "nfs", 1));
    let other = rig.controller.create(request("pvc-1", "nfs", 2)).await.unwrap_err();
    assert_eq!(other.code(), Code::Aborted);
    assert_eq!(rig.controller.delete("tank/pvc-1").await.unwrap_err().code(), Code::Aborted);
    control.release("*");
    let (a, b) = (first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert_eq!(a.into_inner(), b.into_inner());
    assert_eq!(control.stats().methods["pool.dataset.create"], 1);
    rig.assert_one_volume("nfs");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_when_its_caller_gives_up() {
    let rig = Rig::start().await;
    let control = rig.control();
    control.hold("pool.dataset.create", When::Before);
    let mut impatient = Request::new(request("pvc-1", "nvmeof", 1));
    impatient.set_timeout(std::time::Duration::from_millis(100));
    let answer = rig.controller.spawn(|s| async move { s.create_volume(impatient).await });
    assert_eq!(answer.await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    control.release("*");
    let volume = rig.controller.create(request("pvc-1", "nvmeof", 1)).await.unwrap();
    assert_eq!(volume.volume_id, "tank/pvc-1");
    assert_eq!(
        control.stats().methods["pool.dataset.create"],
        1,
        "the second call joined the work of the first"
    );
    rig.assert_one_volume("nvmeof");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_volumes_at_once_are_all_made_and_all_removed() {
    let rig = Rig::start().await;
    let names: Vec<String> = (0..24).map(|n| format!("pvc-{n}")).collect();
    let made =
        names.iter().enumerate().map(|(n, name)| rig.controller.create(request(name, PROTOCOLS[n % 3], 1)));
    for volume in futures_util::future::join_all(made).await {
        volume.unwrap();
    }
    assert_eq!(rig.controller.list(0, "").await.unwrap().entries.len(), 24);
    let ids: Vec<String> = names.iter().map(|n| format!("tank/{n}")).collect();
    for deleted in futures_util::future::join_all(ids.iter().map(|id| rig.controller.delete(id))).await {
        deleted.unwrap();
    }
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_claims_never_share_a_dataset() {
    let rig = Rig::start().await;
    let names = ["data", "data-old", "Data", "data old", "data/old", "data\u{a0}old", "data--old"];
    let mut ids = std::collections::BTreeSet::new();
    for name in names {
        ids.insert(rig.controller.create(request(name, "nfs", 1)).await.unwrap().volume_id);
    }
    assert_eq!(ids.len(), names.len(), "{ids:?}");
    assert_eq!(rig.rows("sharing.nfs").len(), names.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_a_name_that_begins_like_another_is_another_volume() {
    let rig = Rig::start().await;
    rig.controller.create(request("data-old", "nfs", 1)).await.unwrap();
    let data = rig.controller.create(request("data", "nfs", 1)).await.unwrap();
    assert_eq!(data.volume_id, "tank/data");
    rig.controller.delete("tank/data").await.unwrap();
    assert_eq!(rig.datasets(), ["tank/data-old"]);
    assert_eq!(rig.rows("sharing.nfs").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_csi_name_makes_a_volume() {
    let rig = Rig::start().await;
    let names =
        ["ü".repeat(64), "x".repeat(128), "...".to_owned(), "ix-apps".to_owned(), "数据卷".to_owned()];
    for name in &names {
        let volume = rig.controller.create(request(name, "nvmeof", 1)).await.unwrap();
        assert!(volume.volume_id.len() <= 128);
        assert_eq!(volume, rig.controller.create(request(name, "nvmeof", 1)).await.unwrap());
    }
    assert_eq!(rig.datasets().len(), names.len());
    assert_eq!(rig.rows("nvmet.subsys").len(), names.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_have_pages_and_only_our_volumes() {
    let mut rig = Rig::start().await;
    rig.seed(serde_json::json!({"datasets": [
        {"name": "tank/foreign"},
        {"name": "tank/copy", "user_properties": {"tns-csi:managed_by": "tns-csi", "tns-csi:volume_id": "tank/pvc-0"}},
    ]}))
    .await;
    for n in 0..5 {
        rig.controller.create(request(&format!("pvc-{n}"), PROTOCOLS[n % 4], 1)).await.unwrap();
    }
    rig.replace_controller().await;
    let control = rig.control();
    control.reset_stats();
    let mut ids = Vec::new();
    let mut token = String::new();
    loop {
        let page = rig.controller.list(2, &token).await.unwrap();
        ids.extend(page.entries.into_iter().map(|e| e.volume.unwrap().volume_id));
        if page.next_token.is_empty() {
            break;
        }
        token = page.next_token;
    }
    assert_eq!(ids, ["tank/pvc-0", "tank/pvc-1", "tank/pvc-2", "tank/pvc-3", "tank/pvc-4"]);
    let asked: Vec<(String, u64)> =
        control.stats().methods.into_iter().filter(|(method, _)| method.ends_with(".query")).collect();
    let once = ["iscsi.extent", "iscsi.target", "iscsi.targetextent", "nvmet.namespace", "nvmet.subsys"];
    let once = once.into_iter().chain(["pool.dataset"]);
    let mut expected: Vec<(String, u64)> = once.map(|of| (format!("{of}.query"), 1)).collect();
    // Each protocol looks at its service.
    expected.push(("service.query".to_owned(), 4));
    expected.extend(["sharing.nfs.query", "sharing.smb.query"].map(|method| (method.to_owned(), 1)));
    assert_eq!(asked, expected, "one query of each kind per listing and none per further page");
    assert_eq!(rig.controller.list(0, "nonsense").await.unwrap_err().code(), Code::Aborted);
    assert_eq!(rig.controller.list(-1, "").await.unwrap_err().code(), Code::InvalidArgument);
    rig.assert_schemas();
}

#[tokio::test(flavor = "multi_thread")]
async fn capacity_is_what_the_parent_can_take() {
    let rig = Rig::start().await;
    let whole = rig.controller.capacity(Default::default()).await.unwrap();
    assert!(whole > 0);
    rig.seed(
        serde_json::json!({"datasets": [{"name": "tank/small", "properties": {"quota": "5368709120"}}]}),
    )
    .await;
    let small = rig.controller.capacity(parameters("nfs", &[("parentDataset", "small")])).await.unwrap();
    assert!(small > 0 && small <= 5 * GIB, "{small}");
    assert_eq!(rig.controller.capacity(parameters("nfs", &[("parentDataset", "none")])).await.unwrap(), 0);
    let bad = rig.controller.capacity(parameters("nfs", &[("colour", "red")])).await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
    rig.assert_schemas();
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_are_confirmed_or_denied_with_words() {
    let rig = Rig::start().await;
    rig.controller.create(request("pvc-1", "nvmeof", 1)).await.unwrap();
    let yes = rig
        .controller
        .validate("tank/pvc-1", vec![single(), block(Mode::MultiNodeMultiWriter)])
        .await
        .unwrap();
    assert_eq!(yes.confirmed.unwrap().volume_capabilities.len(), 2);
    let no =
        rig.controller.validate("tank/pvc-1", vec![mount("", Mode::MultiNodeMultiWriter)]).await.unwrap();
    assert!(no.confirmed.is_none() && no.message.contains("MULTI_NODE_MULTI_WRITER"), "{}", no.message);
    let unknown = rig.controller.validate("tank/pvc-2", vec![single()]).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_says_where_volumes_live_and_whether_they_stay() {
    let rig = Rig::start().await;
    rig.seed(serde_json::json!({"datasets": [{"name": "tank/k8s/east"}]})).await;
    let mut wanted = shared_request("pvc-1", "nfs");
    wanted.parameters = parameters(
        "nfs",
        &[
            ("parentDataset", "k8s/east"),
            ("deleteStrategy", "retain"),
            ("port", "2050"),
            ("csi.storage.k8s.io/pvc/name", "data"),
        ],
    );
    let volume = rig.controller.create(wanted).await.unwrap();
    assert_eq!(volume.volume_id, "tank/k8s/east/pvc-1");
    let context = rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
    assert_eq!(context["portal"], format!("{SERVER}:2050"));
    rig.controller.unpublish(&volume.volume_id, "").await.unwrap();
    rig.controller.delete(&volume.volume_id).await.unwrap();
    assert!(rig.datasets().contains(&volume.volume_id), "retained");
    assert_eq!(rig.rows("sharing.nfs").len(), 1);
}
