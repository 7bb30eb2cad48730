//! ControllerGetVolume: what is wrong with a volume is told, and nothing is changed.

use serde_json::json;
use tonic::Code;

use crate::rig::{DEADLINE, PROTOCOLS, Rig, node, request};

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_export_is_gone_is_abnormal_until_it_is_back() {
    let rig = Rig::start().await;
    for protocol in PROTOCOLS {
        rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap();
        let (_, before) = rig.controller.condition("tank/pvc-1").await.unwrap();
        assert!(!before.contains("Missing"), "{protocol}: {before}");
        // The appliance removes exports before it finds a dataset busy.
        let busy = |on: bool| json!({"command": "busy", "dataset": "tank/pvc-1", "busy": on});
        rig.control().json(busy(true)).await.unwrap();
        rig.controller.delete("tank/pvc-1").await.unwrap_err();
        rig.control().json(busy(false)).await.unwrap();
        let (abnormal, words) = rig.controller.condition("tank/pvc-1").await.unwrap();
        assert!(
            abnormal && words.contains("INACCESSIBLE") && words.contains("Missing"),
            "{protocol}: {words}"
        );
        rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap();
        assert_eq!(rig.controller.condition("tank/pvc-1").await.unwrap().1, before);
        rig.controller.delete("tank/pvc-1").await.unwrap();
        let gone = rig.controller.condition("tank/pvc-1").await.unwrap_err();
        assert_eq!(gone.code(), Code::NotFound);
    }
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_share_is_abnormal() {
    let rig = Rig::start().await;
    for protocol in ["nfs", "smb"] {
        rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap();
        let client = rig.client();
        let calls = client.calls(truenas::Lane::Ordinary, tokio::time::Instant::now() + DEADLINE);
        let id = rig.rows(&format!("sharing.{protocol}"))[0]["id"].clone();
        let method = if protocol == "nfs" { "sharing.nfs.update" } else { "sharing.smb.update" };
        calls.call::<_, serde_json::Value>(method, &(id, json!({"enabled": false}))).await.unwrap();
        let (abnormal, words) = rig.controller.condition("tank/pvc-1").await.unwrap();
        assert!(abnormal && words.contains("ShareDisabled"), "{words}");
        rig.controller.delete("tank/pvc-1").await.unwrap();
    }
    rig.assert_empty();
}

/// What a listing says of each volume's condition, by id.
async fn listed(rig: &Rig) -> Vec<(String, bool, String)> {
    let entries = rig.controller.list(0, "").await.unwrap().entries;
    let told = |entry: tns_csi_proto::csi::v1::list_volumes_response::Entry| {
        let condition = entry.status.unwrap().volume_condition.unwrap();
        (entry.volume.unwrap().volume_id, condition.abnormal, condition.message)
    };
    entries.into_iter().map(told).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_tells_the_same_condition_as_a_look_at_one_volume() {
    let rig = Rig::start().await;
    for protocol in PROTOCOLS {
        for name in ["whole", "broken"] {
            rig.controller.create(request(&format!("{protocol}-{name}"), protocol, 1)).await.unwrap();
        }
        // The appliance removes exports before it finds a dataset busy.
        let volume = format!("tank/{protocol}-broken");
        rig.control().json(json!({"command": "busy", "dataset": volume})).await.unwrap();
        rig.controller.delete(&volume).await.unwrap_err();
    }
    let listed = listed(&rig).await;
    assert_eq!(listed.len(), 2 * PROTOCOLS.len());
    for (id, abnormal, words) in listed {
        assert_eq!(abnormal, id.ends_with("broken"), "{id}: {words}");
        assert_eq!((abnormal, words), rig.controller.condition(&id).await.unwrap(), "{id}");
    }
    rig.assert_schemas();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_dataset_is_abnormal_and_not_published() {
    let rig = Rig::start().await;
    let secret = |protocol: &str| {
        let mut request = request(&format!("pvc-{protocol}"), protocol, 1);
        request.parameters.insert("encryption".to_owned(), "true".to_owned());
        request.secrets.insert("encryptionPassphrase".to_owned(), "correct horse".to_owned());
        request
    };
    for protocol in PROTOCOLS {
        let volume = rig.controller.create(secret(protocol)).await.unwrap();
        let id = volume.volume_id.clone();
        assert!(!rig.controller.condition(&id).await.unwrap().0);
        let lock = |locked: bool| json!({"command": "lock", "dataset": id, "locked": locked});
        rig.control().json(lock(true)).await.unwrap();
        let (abnormal, words) = rig.controller.condition(&id).await.unwrap();
        assert!(abnormal && words.contains("DatasetLocked") && words.contains("Unlock"), "{words}");
        assert!(listed(&rig).await.iter().any(|(listed, abnormal, _)| *listed == id && *abnormal));
        let refused = rig.controller.publish(&volume, &node("a", 1)).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("locked"), "{}", refused.message());
        rig.control().json(lock(false)).await.unwrap();
        assert!(!rig.controller.condition(&id).await.unwrap().0);
        rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
    }
    rig.assert_schemas();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_leaves_out_what_a_look_at_one_volume_does_not_know() {
    let rig = Rig::start().await;
    rig.controller.create(request("pvc-1", "nfs", 1)).await.unwrap();
    let marked = |name: &str, kind: &str, more: serde_json::Value| {
        let mut properties =
            json!({"tns-csi:managed_by": "tns-csi", "tns-csi:volume_id": name, "tns-csi:protocol": "nfs"});
        properties.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let volsize = if kind == "VOLUME" { json!({"volsize": "1073741824"}) } else { json!({}) };
        json!({"name": name, "kind": kind, "properties": volsize, "user_properties": properties})
    };
    let datasets = [
        marked("tank/newer", "FILESYSTEM", json!({"tns-csi:schema_version": "2"})),
        marked("tank/copy", "FILESYSTEM", json!({"tns-csi:detached_snapshot": "true"})),
        marked("tank/strange", "FILESYSTEM", json!({"tns-csi:protocol": "fibre"})),
        marked("tank/unfit", "VOLUME", json!({})),
    ];
    rig.seed(json!({"datasets": datasets})).await;
    let listed: Vec<String> = listed(&rig).await.into_iter().map(|(id, ..)| id).collect();
    assert_eq!(listed, ["tank/pvc-1"]);
    for other in ["tank/newer", "tank/copy", "tank/strange", "tank/unfit"] {
        assert_eq!(rig.controller.condition(other).await.unwrap_err().code(), Code::NotFound, "{other}");
    }
}
