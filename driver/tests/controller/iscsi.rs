//! What is particular to iSCSI: portals, initiator groups, credentials, extents, and what others do to them.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::csi::v1::controller_server::Controller as _;
use tonic::{Code, Request, Status};
use truenas::Lane;

use crate::rig::{
    DEADLINE, Process, Rig, initiator, node, publish_request, request, shared, shared_request, single,
};

const SECRET: &str = "geheim-geheim";

fn class(more: &[(&str, &str)]) -> csi::CreateVolumeRequest {
    let mut wanted = request("pvc-1", "iscsi", 1);
    wanted.parameters.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    wanted
}

async fn publish_with(
    process: &Process,
    volume: &csi::Volume,
    node: &str,
    secrets: &[(&str, &str)],
) -> Result<BTreeMap<String, String>, Status> {
    let mut request = publish_request(volume, node, single());
    request.secrets = secrets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let answer =
        process.spawn(|s| async move { s.controller_publish_volume(Request::new(request)).await }).await;
    answer.unwrap().map(|a| a.into_inner().publish_context)
}

/// What an administrator does at the appliance.
async fn administrator<T: serde::de::DeserializeOwned>(rig: &Rig, method: &'static str, params: Value) -> T {
    let client = rig.client();
    let calls = client.calls(Lane::Ordinary, tokio::time::Instant::now() + DEADLINE);
    calls.call(method, &params).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_class_says_of_the_extent_is_what_the_appliance_holds() {
    let rig = Rig::start().await;
    for (parameter, value, field, expected) in [
        ("iscsi.blocksize", "4096", "blocksize", json!(4096)),
        ("iscsi.insecureTpc", "true", "insecure_tpc", json!(true)),
        ("iscsi.insecureTpc", "false", "insecure_tpc", json!(false)),
        ("iscsi.xen", "true", "xen", json!(true)),
        ("iscsi.disablePhysicalBlocksize", "true", "pblocksize", json!(true)),
        ("iscsi.rpm", "7200", "rpm", json!("7200")),
        ("iscsi.availThreshold", "80", "avail_threshold", json!(80)),
        ("iscsi.comment", "team a", "comment", json!("team a [tns-csi tank/pvc-1]")),
    ] {
        rig.controller.create(class(&[(parameter, value)])).await.unwrap();
        assert_eq!(rig.rows("iscsi.extent")[0][field], expected, "{parameter}");
        rig.controller.delete("tank/pvc-1").await.unwrap();
    }
    rig.controller.create(class(&[])).await.unwrap();
    let extent = &rig.rows("iscsi.extent")[0];
    assert_eq!(
        (&extent["insecure_tpc"], &extent["blocksize"], &extent["ro"]),
        (&json!(false), &json!(512), &json!(false))
    );
    rig.controller.delete("tank/pvc-1").await.unwrap();
    rig.controller.create(class(&[("iscsi.networks", "10.0.0.0/8")])).await.unwrap();
    assert_eq!(rig.rows("iscsi.target")[0]["auth_networks"], json!(["10.0.0.0/8"]));
    rig.controller.delete("tank/pvc-1").await.unwrap();
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn o6_portal_and_base_name_are_the_appliances() {
    let rig = Rig::start().await;
    let invalid = |refused: Status, words: &str| {
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(words), "{refused}");
    };
    let mut elsewhere = class(&[]);
    elsewhere.parameters.insert("server".to_owned(), "192.0.2.77".to_owned());
    invalid(rig.controller.create(elsewhere).await.unwrap_err(), "127.0.0.1:3260");
    invalid(rig.controller.create(class(&[("port", "3261")])).await.unwrap_err(), "127.0.0.1:3260");
    invalid(rig.controller.create(class(&[("portalId", "99")])).await.unwrap_err(), "portalId");
    invalid(rig.controller.create(class(&[("initiatorId", "99")])).await.unwrap_err(), "initiatorId");
    let base = class(&[("iscsi.iqnBase", "iqn.2020-01.org.example")]);
    invalid(rig.controller.create(base).await.unwrap_err(), "iscsi.iqnBase");
    rig.assert_empty();
    let global: Value = administrator(&rig, "iscsi.global.config", json!([])).await;
    let base = global["basename"].as_str().unwrap();
    let volume = rig.controller.create(class(&[("iscsi.iqnBase", base)])).await.unwrap();
    let context = rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
    assert!(context["iqn"].starts_with(&format!("{base}:pvc-1-")), "{context:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_portals_stand_side_by_side_in_the_order_of_the_class() {
    let rig = Rig::start().await;
    let second = json!({"listen": [{"ip": "127.0.0.2", "port": 3260}], "tag": 2, "comment": ""});
    rig.seed(json!({"rows": {"iscsi.portal": [second]}})).await;
    let volume = rig.controller.create(class(&[("iscsi.portals", "127.0.0.2")])).await.unwrap();
    let context = rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
    assert_eq!(context["portals"], "127.0.0.1:3260,127.0.0.2:3260");
    let groups = rig.rows("iscsi.target")[0]["groups"].as_array().unwrap().clone();
    assert_eq!(groups.len(), 2, "one group per portal");
    assert_eq!(groups[0]["initiator"], groups[1]["initiator"]);
    rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
    rig.controller.delete("tank/pvc-1").await.unwrap();
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_granted_nodes_are_named() {
    let rig = Rig::start().await;
    let volume = rig.controller.create(shared_request("pvc-1", "iscsi")).await.unwrap();
    for last in 1..=3 {
        rig.controller.publish_as(&volume, &node(&format!("n{last}"), last), shared("iscsi")).await.unwrap();
    }
    assert_eq!(rig.initiators_let_in(), [initiator(1), initiator(2), initiator(3)]);
    let comment = rig.rows("iscsi.initiator")[0]["comment"].clone();
    assert!(comment.as_str().unwrap().starts_with("[tns-csi tank/pvc-1] "), "{comment}");
    rig.controller.unpublish("tank/pvc-1", &node("n2", 2)).await.unwrap();
    assert_eq!(rig.initiators_let_in(), [initiator(1), initiator(3)]);
    rig.controller.unpublish("tank/pvc-1", &node("n1", 1)).await.unwrap();
    rig.controller.unpublish("tank/pvc-1", &node("n3", 3)).await.unwrap();
    rig.assert_nobody_let_in();
    assert_eq!(rig.rows("iscsi.initiator"), Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_initiator_group_that_somebody_deleted_does_not_leave_the_target_open() {
    let rig = Rig::start().await;
    let volume = rig.controller.create(shared_request("pvc-1", "iscsi")).await.unwrap();
    let delete_group = async || {
        let id = rig.rows("iscsi.initiator")[0]["id"].clone();
        let _: Value = administrator(&rig, "iscsi.initiator.delete", json!([id])).await;
        assert_eq!(rig.rows("iscsi.target")[0]["groups"][0]["initiator"], Value::Null, "everyone");
    };
    rig.controller.publish_as(&volume, &node("a", 1), shared("iscsi")).await.unwrap();
    delete_group().await;
    rig.controller.publish_as(&volume, &node("b", 2), shared("iscsi")).await.unwrap();
    assert_eq!(rig.initiators_let_in().len(), 2, "both nodes and nobody else");
    delete_group().await;
    rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
    assert_eq!(rig.initiators_let_in(), [initiator(2)]);
    delete_group().await;
    rig.controller.unpublish("tank/pvc-1", &node("b", 2)).await.unwrap();
    rig.assert_nobody_let_in();
    rig.controller.delete("tank/pvc-1").await.unwrap();
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_that_opens_its_targets_grants_and_revokes_nothing() {
    let rig = Rig::start().await;
    let admins = json!({"initiators": ["iqn.1993-08.org.debian:admin"], "comment": "mine"});
    let row: Value = administrator(&rig, "iscsi.initiator.create", json!([admins])).await;
    let id = row["id"].to_string();
    for (parameter, value) in
        [("iscsi.initiators", "iqn.1993-08.org.debian:admin"), ("initiatorId", id.as_str())]
    {
        let volume = rig.controller.create(class(&[(parameter, value)])).await.unwrap();
        rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
        rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
        assert_eq!(rig.initiators_let_in(), ["iqn.1993-08.org.debian:admin"], "{parameter}");
        rig.controller.delete("tank/pvc-1").await.unwrap();
        assert_eq!(rig.rows("iscsi.initiator").len(), 1, "the administrator's group stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn o5_each_volume_has_its_own_credentials_and_they_go_with_the_last_node() {
    let rig = Rig::start().await;
    let second = Process::start(&rig.appliance, None).await;
    let one_way = [("chapUser", "k8s"), ("chapSecret", SECRET)];
    let mutual = [
        ("chapUser", "k8s"),
        ("chapSecret", SECRET),
        ("chapPeerUser", "nas"),
        ("chapPeerSecret", "andres-geheim"),
    ];
    for (secrets, method, asked) in [(&one_way[..], "CHAP", "chap"), (&mutual[..], "CHAP_MUTUAL", "mutual")] {
        let volume = rig.controller.create(class(&[("iscsi.authMethod", asked)])).await.unwrap();
        let context = publish_with(&rig.controller, &volume, &node("a", 1), secrets).await.unwrap();
        assert!(!format!("{context:?}").contains("geheim"), "{context:?}");
        let again = publish_with(&second, &volume, &node("a", 1), secrets).await.unwrap();
        assert_eq!(context, again);
        let rows = rig.rows("iscsi.auth");
        assert_eq!(rows.len(), 1, "one row for the volume");
        let group = rig.rows("iscsi.target")[0]["groups"][0].clone();
        assert_eq!((&group["authmethod"], &group["auth"]), (&json!(method), &rows[0]["tag"]));
        rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
        assert_eq!(rig.rows("iscsi.auth"), Vec::<Value>::new());
        rig.controller.delete("tank/pvc-1").await.unwrap();
        rig.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn o5_two_processes_and_foreign_credentials_make_no_mess() {
    let rig = Rig::start().await;
    let second = Process::start(&rig.appliance, None).await;
    let secrets = [("chapUser", "k8s"), ("chapSecret", SECRET)];
    let volume = rig.controller.create(class(&[])).await.unwrap();
    publish_with(&rig.controller, &volume, &node("a", 1), &secrets).await.unwrap();
    let tag = rig.rows("iscsi.auth")[0]["tag"].clone();
    rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
    // Somebody has the volume's tag.
    let theirs = json!({"tag": tag, "user": "theirs", "secret": "their-secret1"});
    let _: Value = administrator(&rig, "iscsi.auth.create", json!([theirs])).await;
    let a = node("a", 1);
    for _ in 0..5 {
        let (one, two) = tokio::join!(
            publish_with(&rig.controller, &volume, &a, &secrets),
            publish_with(&second, &volume, &a, &secrets)
        );
        one.unwrap();
        two.unwrap();
        let used = rig.rows("iscsi.target")[0]["groups"][0]["auth"].clone();
        let rows = rig.rows("iscsi.auth");
        let users: Vec<&Value> = rows.iter().filter(|r| r["tag"] == used).map(|r| &r["user"]).collect();
        assert_eq!(users, [&json!("k8s")]);
        rig.controller.unpublish("tank/pvc-1", "").await.unwrap();
        assert_eq!(rig.rows("iscsi.auth").len(), 1, "theirs stays");
    }
    assert_eq!(rig.rows("iscsi.auth")[0]["user"], "theirs");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_are_missing_or_malformed_are_named_and_never_shown() {
    let rig = Rig::start().await;
    let volume = rig.controller.create(class(&[("iscsi.authMethod", "mutual")])).await.unwrap();
    for (secrets, key, code) in [
        (vec![], "chapUser", Code::FailedPrecondition),
        (vec![("chapUser", "k8s")], "chapSecret", Code::InvalidArgument),
        (vec![("chapUser", "k8s"), ("chapSecret", "geheim")], "chapSecret", Code::InvalidArgument),
        (vec![("chapUser", "k8s"), ("chapSecret", SECRET)], "chapPeerUser", Code::FailedPrecondition),
    ] {
        let refused = publish_with(&rig.controller, &volume, &node("a", 1), &secrets).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(key) && !refused.message().contains("geheim"), "{refused}");
        rig.assert_one_volume("iscsi");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_put_on_the_zvol_stops_a_delete_before_any_effect() {
    let rig = Rig::start().await;
    for known in [true, false] {
        rig.controller.create(class(&[])).await.unwrap();
        let (target, extent) =
            (rig.rows("iscsi.target")[0]["id"].clone(), rig.rows("iscsi.extent")[0]["id"].clone());
        // Somebody makes our extent a unit of a target of theirs.
        let mapping = rig.rows("iscsi.targetextent")[0]["id"].clone();
        let _: Value = administrator(&rig, "iscsi.targetextent.delete", json!([mapping])).await;
        let theirs: Value = administrator(&rig, "iscsi.target.create", json!([{"name": "theirs"}])).await;
        let unit = json!([{"target": theirs["id"], "extent": extent, "lunid": 3}]);
        let _: Value = administrator(&rig, "iscsi.targetextent.create", unit).await;
        let process = Process::start(&rig.appliance, None).await;
        let controller = if known { &rig.controller } else { &process };
        let refused = controller.delete("tank/pvc-1").await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("theirs"), "{refused}");
        assert_eq!(rig.datasets(), ["tank/pvc-1"]);
        assert_eq!(rig.rows("iscsi.targetextent").len(), 1);
        // An extent of theirs on our zvol.
        let _: Value = administrator(&rig, "iscsi.extent.delete", json!([extent])).await;
        let foreign = json!([{"name": "their-extent", "type": "DISK", "disk": "zvol/tank/pvc-1"}]);
        let foreign: Value = administrator(&rig, "iscsi.extent.create", foreign).await;
        let refused = controller.delete("tank/pvc-1").await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("their-extent"), "{refused}");
        let _: Value = administrator(&rig, "iscsi.extent.delete", json!([foreign["id"]])).await;
        let _: Value = administrator(&rig, "iscsi.target.delete", json!([theirs["id"]])).await;
        let _ = target;
        controller.delete("tank/pvc-1").await.unwrap();
        rig.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_to_which_somebody_added_a_unit_stays_for_them() {
    let rig = Rig::start().await;
    rig.seed(json!({"datasets": [{"name": "tank/theirs", "kind": "VOLUME", "properties": {"volsize": "1073741824"}}]})).await;
    rig.controller.create(class(&[])).await.unwrap();
    let target = rig.rows("iscsi.target")[0]["id"].clone();
    let extent = json!([{"name": "their-extent", "type": "DISK", "disk": "zvol/tank/theirs"}]);
    let extent: Value = administrator(&rig, "iscsi.extent.create", extent).await;
    let unit = json!([{"target": target, "extent": extent["id"], "lunid": 1}]);
    let _: Value = administrator(&rig, "iscsi.targetextent.create", unit).await;
    rig.controller.delete("tank/pvc-1").await.unwrap();
    assert_eq!(rig.datasets(), ["tank/theirs"]);
    assert_eq!((rig.rows("iscsi.target").len(), rig.rows("iscsi.extent").len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn t9_a_delete_whose_zvol_is_gone_still_removes_target_groups_and_credentials() {
    let rig = Rig::start().await;
    let secrets = [("chapUser", "k8s"), ("chapSecret", SECRET)];
    let volume = rig.controller.create(class(&[])).await.unwrap();
    publish_with(&rig.controller, &volume, &node("a", 1), &secrets).await.unwrap();
    let name = rig.rows("iscsi.target")[0]["name"].clone();
    let (group, auth) = (rig.rows("iscsi.initiator")[0].clone(), rig.rows("iscsi.auth")[0].clone());
    rig.controller.unpublish("tank/pvc-1", "").await.unwrap();
    rig.controller.delete("tank/pvc-1").await.unwrap();
    rig.assert_empty();
    let target: Value = administrator(&rig, "iscsi.target.create", json!([{"name": name}])).await;
    let initiators = json!({"initiators": group["initiators"], "comment": group["comment"]});
    let group: Value = administrator(&rig, "iscsi.initiator.create", json!([initiators])).await;
    let auth = json!({"tag": auth["tag"], "user": "k8s", "secret": SECRET});
    let _: Value = administrator(&rig, "iscsi.auth.create", json!([auth])).await;
    let portal = rig.rows("iscsi.portal")[0]["id"].clone();
    let groups = json!({"groups": [{"portal": portal, "initiator": group["id"]}]});
    let _: Value = administrator(&rig, "iscsi.target.update", json!([target["id"], groups])).await;
    rig.controller.delete("tank/pvc-1").await.unwrap();
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_fails_again_and_again_leaves_one_initiator_group() {
    let rig = Rig::start().await;
    let volume = rig.controller.create(class(&[])).await.unwrap();
    for method in ["iscsi.initiator.create", "iscsi.target.update"] {
        let error = json!({"errno": 202, "reason": "[ESERVICESTARTFAILURE] reload failed"});
        let fail = json!({"command": "fail", "method": method, "when": "after", "times": 3, "error": error});
        rig.control().json(fail).await.unwrap();
        for _ in 0..4 {
            let _ = rig.controller.publish(&volume, &node("a", 1)).await;
        }
        rig.control().clear();
        rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
        assert_eq!(rig.initiators_let_in(), [initiator(1)]);
        assert_eq!(rig.rows("iscsi.initiator").len(), 1, "{method}");
        rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
        rig.assert_nobody_let_in();
    }
    rig.controller.delete("tank/pvc-1").await.unwrap();
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_of_tns_csi_is_served_and_stays_as_its_administrator_set_it_up() {
    let rig = Rig::start().await;
    let global: Value = administrator(&rig, "iscsi.global.config", json!([])).await;
    let iqn = format!("{}:pvc-old", global["basename"].as_str().unwrap());
    let properties = json!({
        "tns-csi:managed_by": "tns-csi", "tns-csi:csi_volume_name": "pvc-old", "tns-csi:protocol": "iscsi",
        "tns-csi:iscsi_iqn": iqn, "tns-csi:iscsi_target_id": "1", "tns-csi:iscsi_extent_id": "1",
    });
    let dataset = json!({
        "name": "tank/pvc-old", "kind": "VOLUME", "properties": {"volsize": "1073741824"},
        "user_properties": properties,
    });
    rig.seed(json!({"datasets": [dataset]})).await;
    let admins = json!([{"initiators": ["iqn.1993-08.org.debian:admin"], "comment": "all nodes"}]);
    let row: Value = administrator(&rig, "iscsi.initiator.create", admins).await;
    let portal = rig.rows("iscsi.portal")[0]["id"].clone();
    let target = json!([{"name": "pvc-old", "groups": [{"portal": portal, "initiator": row["id"]}]}]);
    let target: Value = administrator(&rig, "iscsi.target.create", target).await;
    let extent = json!([{"name": "pvc-old", "type": "DISK", "disk": "zvol/tank/pvc-old"}]);
    let extent: Value = administrator(&rig, "iscsi.extent.create", extent).await;
    let unit = json!([{"target": target["id"], "extent": extent["id"], "lunid": 0}]);
    let _: Value = administrator(&rig, "iscsi.targetextent.create", unit).await;
    let volume = csi::Volume {
        volume_id: "tank/pvc-old".to_owned(),
        volume_context: crate::rig::parameters("iscsi", &[]),
        ..Default::default()
    };
    let context = rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
    assert_eq!(
        (context["iqn"].as_str(), context["serial"].as_str()),
        (iqn.as_str(), extent["serial"].as_str().unwrap())
    );
    rig.controller.unpublish("tank/pvc-old", &node("a", 1)).await.unwrap();
    assert_eq!(rig.initiators_let_in(), ["iqn.1993-08.org.debian:admin"]);
    assert_eq!(
        (rig.rows("iscsi.target").len(), rig.rows("iscsi.extent").len()),
        (1, 1),
        "no second one was made"
    );
    rig.controller.delete("tank/pvc-old").await.unwrap();
    assert_eq!(rig.datasets(), Vec::<String>::new());
    assert_eq!((rig.rows("iscsi.target").len(), rig.rows("iscsi.extent").len()), (0, 0));
    assert_eq!(rig.rows("iscsi.initiator").len(), 1, "the administrator's group stays");
}

/// A node logs in: the appliance shows its session.
async fn log_in(rig: &Rig, iqn: &str, last: u8) {
    let session =
        json!({"initiator": initiator(last), "initiator_addr": format!("10.0.0.{last}"), "target": iqn});
    rig.seed(json!({"rows": {"iscsi.session": [session]}})).await;
}

async fn sessions(rig: &Rig) -> Vec<Value> {
    administrator(rig, "iscsi.global.sessions", json!([])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn t11_a_session_that_a_node_left_behind_ends_with_the_last_unpublish() {
    let rig = Rig::start().await;
    let volume = rig.controller.create(class(&[])).await.unwrap();
    let context = rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
    log_in(&rig, &context["iqn"], 1).await;
    rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
    assert_eq!(sessions(&rig).await, Vec::<Value>::new());
    rig.assert_one_volume("iscsi");
    // The same with an unpublish that was cut short after it had closed the target.
    log_in(&rig, &context["iqn"], 1).await;
    rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
    assert_eq!(sessions(&rig).await, Vec::<Value>::new());
    let again = rig.controller.publish(&volume, &node("b", 2)).await.unwrap();
    assert_eq!(again, context, "the same unit under the same name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_session_is_not_cut_where_others_keep_theirs() {
    let rig = Rig::start().await;
    let volume = rig.controller.create(shared_request("pvc-1", "iscsi")).await.unwrap();
    let mut iqn = String::new();
    for last in 1..=2 {
        let id = node(&format!("n{last}"), last);
        iqn = rig.controller.publish_as(&volume, &id, shared("iscsi")).await.unwrap()["iqn"].clone();
        log_in(&rig, &iqn, last).await;
    }
    rig.controller.unpublish("tank/pvc-1", &node("n1", 1)).await.unwrap();
    assert_eq!(rig.initiators_let_in(), [initiator(2)], "it cannot log in again");
    assert_eq!(sessions(&rig).await.len(), 2, "the other one's session lives");
    rig.controller.unpublish("tank/pvc-1", &node("n2", 2)).await.unwrap();
    assert_eq!(sessions(&rig).await, Vec::<Value>::new());
    assert!(!iqn.is_empty());
}
