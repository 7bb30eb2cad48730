//! ControllerGetVolume: what is wrong with a volume is told, and nothing is changed.

use serde_json::json;
use tonic::Code;

use crate::rig::{DEADLINE, PROTOCOLS, Rig, request};

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
