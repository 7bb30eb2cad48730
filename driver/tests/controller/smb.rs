//! What is special to SMB shares.

use serde_json::{Value, json};
use tns_csi_proto::csi::v1 as csi;
use tonic::Code;
use truenas_sim::{Config, Version, When};

use crate::rig::{DEADLINE, Rig, node, request, shared, shared_request, smb_hosts};

fn class(more: &[(&str, &str)]) -> csi::CreateVolumeRequest {
    let mut request = request("pvc-1", "smb", 1);
    request.parameters.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn each_parameter_is_seen_in_the_share() {
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, Value);
    // The settings, and where 25.10 and 26 hold what, as JSON pointers.
    let cases: &[Case<'_>] = &[
        (&[], "/purpose", json!("DEFAULT_SHARE")),
        (&[("smb.purpose", "MULTIPROTOCOL_SHARE")], "/purpose", json!("MULTIPROTOCOL_SHARE")),
        (&[("smb.purpose", "MULTI_PROTOCOL_NFS")], "/purpose", json!("MULTIPROTOCOL_SHARE")),
        (&[("smb.purpose", "TIME_LOCKED_SHARE")], "/options/grace_period", json!(900)),
        (
            &[("smb.purpose", "TIME_LOCKED_SHARE"), ("smb.gracePeriod", "3600")],
            "/options/grace_period",
            json!(3600),
        ),
        (&[("smb.guest", "true")], "/purpose", json!("LEGACY_SHARE")),
        (&[("smb.guest", "true")], "/options/guestok", json!(true)),
        (&[("shareGuestOk", "true")], "/options/guestok", json!(true)),
        (&[("smb.recycleBin", "true")], "/options/recyclebin", json!(true)),
        (&[("smb.streams", "false")], "/options/streams", json!(false)),
        (&[("smb.durableHandles", "false")], "/options/durablehandle", json!(false)),
        (&[("smb.shadowCopies", "false")], "/options/shadowcopy", json!(false)),
        (&[("smb.appleNameMangling", "true")], "/options/aapl_name_mangling", json!(true)),
        (&[("smb.browsable", "false")], "/browsable", json!(false)),
        (&[("smb.accessBasedEnumeration", "true")], "/access_based_share_enumeration", json!(true)),
        (&[("smb.shareComment", "team a")], "/comment", json!("team a [tns-csi tank/pvc-1]")),
    ];
    for version in [Version::V25_10, Version::V26] {
        let rig = Rig::with(Config { version, ..Config::default() }).await;
        for (given, place, held) in cases {
            let volume = rig.controller.create(class(given)).await;
            let volume = volume.unwrap_or_else(|why| panic!("{version:?} {given:?}: {why}"));
            let share = rig.rows("sharing.smb").remove(0);
            assert_eq!(share.pointer(place), Some(held), "{version:?} {given:?}: {share}");
            rig.assert_nobody_let_in();
            // What the class set stays while nodes come and go.
            rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
            assert!(rig.lets_in("smb", 1));
            rig.controller.unpublish(&volume.volume_id, &node("a", 1)).await.unwrap();
            assert_eq!(rig.rows("sharing.smb").remove(0).pointer(place), Some(held), "{version:?} {given:?}");
            rig.assert_nobody_let_in();
            rig.controller.create(class(given)).await.expect("a replay");
            rig.controller.delete(&volume.volume_id).await.unwrap();
        }
        rig.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn truenas_25_04_is_told_in_its_presets_and_none_opens_the_share() {
    let rig = Rig::with(Config { version: Version::V25_04, ..Config::default() }).await;
    for (given, field, held) in [
        (&[][..], "purpose", json!("NO_PRESET")),
        (&[("smb.purpose", "DEFAULT_SHARE")], "purpose", json!("NO_PRESET")),
        (&[("smb.purpose", "LEGACY_SHARE")], "purpose", json!("NO_PRESET")),
        (&[("smb.purpose", "MULTIPROTOCOL_SHARE")], "purpose", json!("MULTI_PROTOCOL_NFS")),
        (&[("smb.purpose", "WORM_DROPBOX")], "purpose", json!("WORM_DROPBOX")),
        (&[("smb.guest", "true")], "guestok", json!(true)),
        (&[("smb.recycleBin", "true")], "recyclebin", json!(true)),
        (&[("smb.accessBasedEnumeration", "true")], "abe", json!(true)),
    ] {
        let volume = rig.controller.create(class(given)).await.unwrap();
        assert_eq!(rig.rows("sharing.smb")[0][field], held, "{given:?}");
        rig.assert_nobody_let_in();
        rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
        assert!(rig.lets_in("smb", 1));
        rig.controller.unpublish(&volume.volume_id, &node("a", 1)).await.unwrap();
        assert_eq!(rig.rows("sharing.smb")[0][field], held, "{given:?}");
        rig.assert_nobody_let_in();
        rig.controller.delete(&volume.volume_id).await.unwrap();
    }
    let refused = rig
        .controller
        .create(class(&[("smb.purpose", "TIME_LOCKED_SHARE"), ("smb.gracePeriod", "60")]))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("25.10") && refused.message().contains("25.04"), "{refused}");
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_share_cannot_have_is_refused_before_any_effect() {
    let rig = Rig::start().await;
    for (given, words) in [
        (&[("smb.purpose", "EXTERNAL_SHARE")][..], "MULTIPROTOCOL_SHARE"),
        (&[("smb.purpose", "DEFAULT_SHARE"), ("smb.guest", "true")], "LEGACY_SHARE"),
        (&[("smb.gracePeriod", "60")], "TIME_LOCKED_SHARE"),
        (&[("smb.guest", "yes")], "true or false"),
        (&[("smbCredentialsSecret", "smb")], "csi.storage.k8s.io/node-stage-secret-name"),
    ] {
        let refused = rig.controller.create(class(given)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{given:?}");
        assert!(refused.message().contains(words), "{refused}");
    }
    rig.assert_empty();
}

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

/// Shares that an earlier release made on 25.04 have a preset that lets everyone in, whatever their row says.
#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_ours_that_25_04s_preset_opened_is_seen_and_closed() {
    let rig = Rig::with(Config { version: Version::V25_04, ..Config::default() }).await;
    let volume = rig.controller.create(class(&[])).await.unwrap();
    let open = |row: Value| {
        json!([row["id"], {"path": row["path"], "name": row["name"], "comment": row["comment"],
        "hostsallow": row["hostsallow"], "purpose": "DEFAULT_SHARE"}])
    };
    for step in ["create", "publish", "unpublish"] {
        let client = rig.client();
        let calls = client.calls(truenas::Lane::Ordinary, tokio::time::Instant::now() + DEADLINE);
        let row = rig.rows("sharing.smb")[0].clone();
        calls.call::<_, Value>("sharing.smb.update", &open(row)).await.unwrap();
        assert!(rig.appliance.memory().unwrap().shares().1[0].hosts_allow.is_empty(), "everyone is let in");
        let (abnormal, words) = rig.controller.condition(&volume.volume_id).await.unwrap();
        assert!(abnormal && words.contains("ShareOpen"), "{words}");
        match step {
            "create" => drop(rig.controller.create(class(&[])).await.unwrap()),
            "publish" => drop(rig.controller.publish(&volume, &node("a", 1)).await.unwrap()),
            _ => rig.controller.unpublish(&volume.volume_id, &node("a", 1)).await.unwrap(),
        }
        assert!(!rig.appliance.memory().unwrap().shares().1[0].hosts_allow.is_empty(), "{step} left it open");
        assert_eq!(rig.rows("sharing.smb")[0]["purpose"], "NO_PRESET", "{step}");
    }
    rig.assert_nobody_let_in();
    rig.controller.delete(&volume.volume_id).await.unwrap();
    rig.assert_empty();
}
