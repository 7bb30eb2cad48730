//! What is special to SMB shares.

use serde_json::json;
use tonic::Code;
use truenas_sim::When;

use crate::rig::{DEADLINE, Rig, node, request, shared, shared_request, smb_hosts};

#[tokio::test(flavor = "multi_thread")]
async fn the_last_unpublish_disconnects_and_the_share_is_served_again() {
    let rig = Rig::start().await;
    let volume = rig.controller.create(shared_request("pvc-1", "smb")).await.unwrap();
    for (name, last) in [("a", 1), ("b", 2)] {
        rig.controller.publish_as(&volume, &node(name, last), shared("smb")).await.unwrap();
    }
    let updates = || rig.control().stats().methods.get("sharing.smb.update").copied().unwrap_or(0);
    let before = updates();
    rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
    assert_eq!(updates(), before + 1, "the other node stays connected");
    rig.control().hold("sharing.smb.update", When::After);
    let id = volume.volume_id.clone();
    let unpublish = tns_csi_proto::csi::v1::ControllerUnpublishVolumeRequest {
        volume_id: id,
        node_id: node("b", 2),
        ..Default::default()
    };
    let last = rig.controller.spawn(|s| async move {
        use tns_csi_proto::csi::v1::controller_server::Controller as _;
        s.controller_unpublish_volume(tonic::Request::new(unpublish)).await
    });
    rig.control().wait_held("sharing.smb.update", When::After, 1).await;
    let share = rig.rows("sharing.smb").remove(0);
    assert_eq!((&share["enabled"], smb_hosts(&share)), (&json!(false), vec!["192.0.2.1"]), "{share}");
    rig.control().release("*");
    last.await.unwrap().unwrap();
    rig.assert_one_volume("smb");
    assert_eq!(rig.rows("sharing.smb")[0]["comment"], "[tns-csi tank/pvc-1]");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnection_that_was_cut_short_is_finished() {
    for by_publish in [false, true] {
        let mut rig = Rig::start().await;
        let volume = rig.controller.create(request("pvc-1", "smb", 1)).await.unwrap();
        rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
        rig.control().hold("sharing.smb.update", When::After);
        let unpublish = tns_csi_proto::csi::v1::ControllerUnpublishVolumeRequest {
            volume_id: volume.volume_id.clone(),
            node_id: node("a", 1),
            ..Default::default()
        };
        let _cut = rig.controller.spawn(|s| async move {
            use tns_csi_proto::csi::v1::controller_server::Controller as _;
            s.controller_unpublish_volume(tonic::Request::new(unpublish)).await
        });
        let control = rig.control();
        control.wait_held("sharing.smb.update", When::After, 1).await;
        rig.replace_controller_dead(|| control.release("*")).await;
        if by_publish {
            rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
            assert!(rig.lets_in("smb", 1));
        }
        rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
        rig.assert_one_volume("smb");
        rig.controller.delete("tank/pvc-1").await.unwrap();
        rig.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_an_administrator_disabled_stays_disabled() {
    let rig = Rig::start().await;
    let volume = rig.controller.create(request("pvc-1", "smb", 1)).await.unwrap();
    let client = rig.client();
    let calls = client.calls(truenas::Lane::Ordinary, tokio::time::Instant::now() + DEADLINE);
    let id = rig.rows("sharing.smb")[0]["id"].clone();
    let off = json!({"enabled": false});
    calls.call::<_, serde_json::Value>("sharing.smb.update", &(id, off)).await.unwrap();
    let refused = rig.controller.publish(&volume, &node("a", 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("disabled"), "{refused}");
    rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
    assert_eq!(rig.rows("sharing.smb")[0]["enabled"], false);
    rig.controller.delete("tank/pvc-1").await.unwrap();
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_share_with_the_volumes_name_is_not_touched() {
    let rig = Rig::start().await;
    rig.controller.create(request("pvc-1", "smb", 1)).await.unwrap();
    let name = rig.rows("sharing.smb")[0]["name"].as_str().unwrap().to_uppercase();
    rig.controller.delete("tank/pvc-1").await.unwrap();
    rig.seed(json!({"datasets": [{"name": "tank/files"}], "rows": {"sharing.smb": [
        {"path": "/mnt/tank/files", "name": name, "enabled": true, "comment": "", "purpose": "DEFAULT_SHARE",
            "options": {"hostsallow": [], "hostsdeny": [], "aapl_name_mangling": false}}
    ]}}))
    .await;
    let before = rig.rows("sharing.smb");
    rig.controller.create(request("pvc-1", "smb", 1)).await.unwrap_err();
    assert_eq!(rig.datasets(), ["tank/files"], "what was made is undone");
    assert_eq!(rig.rows("sharing.smb"), before);
}
