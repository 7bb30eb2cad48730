//! Nothing of others is changed or deleted, whatever it is called and whatever it carries.

use serde_json::json;
use tonic::Code;

use crate::rig::{GIB, PROTOCOLS, Process, Rig, node, request};

#[tokio::test(flavor = "multi_thread")]
async fn t8_a_foreign_dataset_in_the_way_is_never_stamped_or_deleted() {
    let rig = Rig::start().await;
    let marked = json!({"tns-csi:managed_by": "tns-csi", "tns-csi:volume_id": "tank/other", "tns-csi:protocol": "nfs"});
    rig.seed(json!({"datasets": [
        {"name": "tank/files"},
        {"name": "tank/disk", "kind": "VOLUME", "properties": {"volsize": "1073741824"}},
        {"name": "tank/copy", "user_properties": marked},
        {"name": "tank/other-driver", "user_properties": {"democratic-csi:managed_resource": "true"}},
    ]}))
    .await;
    let before = rig.control().stats().methods.get("pool.dataset.update").copied();
    for protocol in PROTOCOLS {
        let refused = ["files", "disk", "copy", "other-driver"].map(|name| {
            let create = rig.controller.create(request(name, protocol, 1));
            async move { (name, create.await.unwrap_err()) }
        });
        for (name, refused) in futures_util::future::join_all(refused).await {
            let id = format!("tank/{name}");
            assert_eq!(refused.code(), Code::AlreadyExists, "{name}: {refused}");
            assert!(refused.message().contains(&id), "{refused}");
            assert_eq!(
                refused.message().contains("made by democratic-csi"),
                name == "other-driver",
                "{refused}"
            );
            assert_eq!(rig.controller.delete(&id).await.unwrap_err().code(), Code::FailedPrecondition);
            assert_eq!(rig.controller.expand(&id, 2 * GIB).await.unwrap_err().code(), Code::NotFound);
        }
    }
    assert_eq!(rig.datasets().len(), 4);
    assert_eq!(rig.control().stats().methods.get("pool.dataset.update").copied(), before);
    assert_eq!(
        rig.rows("nvmet.subsys"),
        Vec::<serde_json::Value>::new(),
        "what was made beside them is gone"
    );
    assert_eq!(rig.rows("iscsi.target"), Vec::<serde_json::Value>::new());
    assert_eq!(rig.rows("sharing.nfs"), Vec::<serde_json::Value>::new());
    assert_eq!(rig.rows("sharing.smb"), Vec::<serde_json::Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_the_way_makes_no_volume_and_is_not_taken_for_one() {
    let rig = Rig::start().await;
    rig.seed(json!({"directories": ["/mnt/tank/pvc-1"]})).await;
    for protocol in PROTOCOLS {
        let refused = rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Internal, "{refused}");
        assert!(refused.message().contains("/mnt/tank/pvc-1"), "{refused}");
        rig.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_with_a_snapshot_or_a_child_keeps_its_export() {
    let rig = Rig::start().await;
    for protocol in PROTOCOLS {
        let volume = rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap();
        rig.seed(json!({"snapshots": ["tank/pvc-1@keep"]})).await;
        let refused = rig.controller.delete("tank/pvc-1").await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("1 snapshot"), "{refused}");
        rig.assert_one_volume(protocol);
        rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
        assert!(rig.lets_in(protocol, 1), "the export works");
        rig.controller.unpublish("tank/pvc-1", "").await.unwrap();
        assert_eq!(
            rig.control().stats().methods.get("pool.dataset.delete"),
            None,
            "refused before any effect"
        );
        rig.appliance.control().reset_stats();
        without_snapshot(&rig).await;
    }
    let volume = rig.controller.create(request("parent", "nfs", 1)).await.unwrap();
    rig.seed(json!({"datasets": [{"name": "tank/parent/child"}]})).await;
    let refused = rig.controller.delete("tank/parent").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("tank/parent/child"), "{refused}");
    rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
    assert!(rig.lets_in("nfs", 1));
}

/// The administrator removes the snapshot; then the volume goes.
async fn without_snapshot(rig: &Rig) {
    let client = rig.client();
    let calls = client.calls(truenas::Lane::Ordinary, tokio::time::Instant::now() + crate::rig::DEADLINE);
    calls.call::<_, serde_json::Value>("pool.snapshot.delete", &("tank/pvc-1@keep",)).await.unwrap();
    rig.controller.delete("tank/pvc-1").await.unwrap();
    rig.assert_empty();
    rig.control().reset_stats();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_somebody_shares_keeps_both_exports() {
    let rig = Rig::start().await;
    let foreign = [
        (
            "sharing.nfs",
            json!({"path": "/mnt/tank/pvc-1/sub", "hosts": ["10.9.9.9"], "networks": [], "comment": "mine", "enabled": true}),
        ),
        ("sharing.smb", json!({"path": "/mnt/tank/pvc-1", "name": "mine", "enabled": true, "comment": ""})),
    ];
    let volume = rig.controller.create(request("pvc-1", "nfs", 1)).await.unwrap();
    rig.controller.create(request("pvc-10", "nfs", 1)).await.unwrap();
    for (table, row) in foreign {
        rig.seed(json!({"rows": {table: [row]}})).await;
        let refused = rig.controller.delete("tank/pvc-1").await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("/mnt/tank/pvc-1"), "{refused}");
    }
    assert_eq!((rig.rows("sharing.nfs").len(), rig.rows("sharing.smb").len()), (3, 1));
    rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
    assert!(rig.lets_in("nfs", 1));
    // The neighbour whose name begins alike has no such shares.
    rig.controller.delete("tank/pvc-10").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zvol_that_somebody_serves_is_not_torn_down() {
    let rig = Rig::start().await;
    rig.controller.create(request("pvc-1", "nvmeof", 1)).await.unwrap();
    let client = rig.client();
    let calls = client.calls(truenas::Lane::Ordinary, tokio::time::Instant::now() + crate::rig::DEADLINE);
    let ours = calls.nvmet_namespace_query(&[]).await.unwrap().remove(0);
    calls.nvmet_namespace_delete(ours.id).await.unwrap();
    let theirs = calls.nvmet_subsys_create("theirs", None).await.unwrap();
    calls.nvmet_namespace_create(theirs.id, "tank/pvc-1").await.unwrap();
    let refused = rig.controller.delete("tank/pvc-1").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("theirs"), "{refused}");
    assert_eq!(rig.rows("nvmet.namespace").len(), 1);
    assert_eq!(rig.datasets(), ["tank/pvc-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clusters_volume_is_foreign() {
    let rig = Rig::start().await;
    let east = Process::start(&rig.appliance, Some("east")).await;
    let west = Process::start(&rig.appliance, Some("west")).await;
    for protocol in PROTOCOLS {
        let volume = east.create(request("pvc-1", protocol, 1)).await.unwrap();
        east.publish(&volume, &node("a", 1)).await.unwrap();
        // Whatever protocol the other cluster asks for, and however often.
        for asked in PROTOCOLS.into_iter().chain([protocol]) {
            let refused = west.create(request("pvc-1", asked, 1)).await.unwrap_err();
            assert_eq!(refused.code(), Code::AlreadyExists, "{protocol} and {asked}");
            assert!(
                rig.lets_in(protocol, 1),
                "the export of {protocol} is as it was after a create of {asked}"
            );
        }
        assert_eq!(west.delete("tank/pvc-1").await.unwrap_err().code(), Code::FailedPrecondition);
        assert_eq!(west.publish(&volume, &node("b", 2)).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(west.expand("tank/pvc-1", 2 * GIB).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(west.list(0, "").await.unwrap().entries.len(), 0);
        assert_eq!(east.list(0, "").await.unwrap().entries.len(), 1);
        assert!(rig.lets_in(protocol, 1) && !rig.lets_in(protocol, 2));
        if protocol == "iscsi" {
            assert_eq!(rig.initiators_let_in(), [crate::rig::initiator(1)]);
        }
        east.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
        rig.assert_one_volume(protocol);
        east.delete("tank/pvc-1").await.unwrap();
        rig.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_tns_csi_is_taken_over_at_its_first_publish() {
    let rig = Rig::start().await;
    let legacy = json!({
        "tns-csi:managed_by": "tns-csi", "tns-csi:csi_volume_name": "pvc-old", "tns-csi:protocol": "nfs",
        "tns-csi:capacity_bytes": "1073741824", "tns-csi:nfs_share_path": "/mnt/tank/pvc-old", "tns-csi:nfs_share_id": "1",
    });
    rig.seed(json!({
        "datasets": [
            {"name": "tank/pvc-old", "properties": {"refquota": "1073741824"}, "user_properties": legacy},
            {"name": "tank/pvc-old/pvc-old"},
        ],
        "rows": {"sharing.nfs": [{"path": "/mnt/tank/pvc-old", "hosts": [], "networks": [], "comment": "", "enabled": true}]},
    }))
    .await;
    let volume = tns_csi_proto::csi::v1::Volume {
        volume_id: "tank/pvc-old".to_owned(),
        volume_context: crate::rig::parameters("nfs", &[]),
        ..Default::default()
    };
    let context = rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
    assert_eq!(context["export"], "/mnt/tank/pvc-old");
    // The export was open and other pods may be on it: it stays as it is.
    assert_eq!(rig.rows("sharing.nfs")[0]["hosts"], json!([]));
    let listed = rig.controller.list(0, "").await.unwrap();
    let ids: Vec<String> = listed.entries.into_iter().map(|e| e.volume.unwrap().volume_id).collect();
    assert_eq!(ids, ["tank/pvc-old"], "the child that inherits the marker is no volume");
    let child = rig.controller.delete("tank/pvc-old/pvc-old").await.unwrap_err();
    assert_eq!(child.code(), Code::FailedPrecondition, "{child}");
    rig.controller.unpublish("tank/pvc-old", &node("a", 1)).await.unwrap();
    assert_eq!(
        rig.controller.delete("tank/pvc-old").await.unwrap_err().code(),
        Code::FailedPrecondition,
        "child"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_id_is_found_by_its_name() {
    let rig = Rig::start().await;
    let legacy = json!({
        "tns-csi:managed_by": "tns-csi", "tns-csi:csi_volume_name": "pvc-old", "tns-csi:protocol": "nfs",
    });
    rig.seed(json!({"datasets": [
        {"name": "tank/k8s/pvc-old", "properties": {"refquota": "1073741824"}, "user_properties": legacy},
    ]}))
    .await;
    assert_eq!(rig.controller.expand("pvc-old", 2 * GIB).await.unwrap().capacity_bytes, 2 * GIB);
    rig.controller.delete("pvc-old").await.unwrap();
    assert_eq!(rig.datasets(), ["tank/k8s"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn t4_c5_no_clone_is_ever_destroyed() {
    let rig = Rig::start().await;
    rig.controller.create(request("source", "nfs", 1)).await.unwrap();
    rig.seed(json!({"snapshots": ["tank/source@s"]})).await;
    let client = rig.client();
    let calls = client.calls(truenas::Lane::Ordinary, tokio::time::Instant::now() + crate::rig::DEADLINE);
    let clone = json!({"snapshot": "tank/source@s", "dataset_dst": "tank/clone"});
    calls.call::<_, serde_json::Value>("pool.snapshot.clone", &(clone,)).await.unwrap();
    for _ in 0..2 {
        let refused = rig.controller.delete("tank/source").await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        // A create for the clone's name neither takes it over nor removes it.
        let refused = rig.controller.create(request("clone", "nfs", 1)).await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists);
    }
    assert_eq!(rig.datasets(), ["tank/clone", "tank/source"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn o3_a_volume_found_without_its_export_gets_one() {
    let rig = Rig::start().await;
    for (protocol, table) in [
        ("nfs", "sharing.nfs"),
        ("smb", "sharing.smb"),
        ("iscsi", "iscsi.extent"),
        ("nvmeof", "nvmet.namespace"),
    ] {
        rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap();
        let busy = |on: bool| json!({"command": "busy", "dataset": "tank/pvc-1", "busy": on});
        rig.control().json(busy(true)).await.unwrap();
        rig.controller.delete("tank/pvc-1").await.unwrap_err();
        rig.control().json(busy(false)).await.unwrap();
        assert_eq!(rig.rows(table).len(), 0, "the appliance has removed the export");
        rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap();
        rig.assert_one_volume(protocol);
        rig.controller.delete("tank/pvc-1").await.unwrap();
        rig.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_that_26_calls_done_is_not_believed() {
    let rig = Rig::start().await;
    rig.control().json(json!({"command": "profile", "busy_delete_returns_true": true})).await.unwrap();
    rig.control().json(json!({"command": "busy", "dataset": "tank/pvc-1"})).await.unwrap();
    for protocol in PROTOCOLS {
        rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap();
        let refused = rig.controller.delete("tank/pvc-1").await.unwrap_err();
        assert_eq!(refused.code(), Code::Aborted, "{refused}");
        rig.control().json(json!({"command": "busy", "dataset": "tank/pvc-1", "busy": false})).await.unwrap();
        rig.controller.delete("tank/pvc-1").await.unwrap();
        rig.assert_empty();
        rig.control().json(json!({"command": "busy", "dataset": "tank/pvc-1"})).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_another_schema_and_a_snapshots_copy_are_left_alone() {
    let rig = Rig::start().await;
    let marked = |name: &str, key: &str, value: &str| {
        let mut properties = json!({"tns-csi:managed_by": "tns-csi", "tns-csi:protocol": "nfs"});
        properties["tns-csi:volume_id"] = format!("tank/{name}").into();
        properties[key] = value.into();
        json!({"name": format!("tank/{name}"), "user_properties": properties})
    };
    rig.seed(json!({"datasets": [
        marked("newer", "tns-csi:schema_version", "2"),
        marked("garbled", "tns-csi:schema_version", "one"),
        marked("copy", "tns-csi:detached_snapshot", "true"),
    ]}))
    .await;
    for (name, words) in [("newer", "schema version 2"), ("garbled", "schema_version"), ("copy", "snapshot")]
    {
        let refused = rig.controller.create(request(name, "nfs", 1)).await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists, "{name}: {refused}");
        assert!(refused.message().contains(words), "{refused}");
        let kept = rig.controller.delete(&format!("tank/{name}")).await.unwrap_err();
        assert_eq!(kept.code(), Code::FailedPrecondition, "{kept}");
    }
    assert_eq!(rig.datasets().len(), 3);
}
