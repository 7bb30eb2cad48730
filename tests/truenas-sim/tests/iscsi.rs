//! iSCSI rows: what is accepted, what is refused with which words, and what goes with what.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise, in their helpers too"
)]

mod common;

use common::{Client, config, finding};
use serde_json::{Value, json};
use truenas_sim::{Appliance, Config};

const GIB: u64 = 1 << 30;

async fn start() -> (Appliance, Client) {
    let portal = Some("127.0.0.1:3260".parse().unwrap());
    let appliance = Appliance::start(Config { iscsi_portal: portal, ..config() }).await.unwrap();
    let client = Client::login(&appliance).await;
    (appliance, client)
}

async fn zvol(client: &mut Client, name: &str) {
    let create = json!([{"name": name, "type": "VOLUME", "volsize": GIB, "sparse": true}]);
    client.ok("pool.dataset.create", create).await;
}

/// A new zvol's device appears late, so an extent may have to be asked for again.
async fn extent(client: &mut Client, name: &str, zvol: &str) -> Value {
    loop {
        let create = json!([{"name": name, "disk": format!("zvol/{zvol}")}]);
        let answer = client.call("iscsi.extent.create", create).await.unwrap();
        match answer.get("error") {
            None => return answer["result"].clone(),
            Some(error) => assert!(finding(error).1.contains("does not exist"), "{error}"),
        }
    }
}

async fn id(client: &mut Client, method: &str, params: Value) -> i64 {
    client.ok(method, params).await["id"].as_i64().unwrap()
}

#[tokio::test]
async fn a_target_admits_whom_its_groups_name_and_goes_with_its_zvol() {
    let (appliance, mut client) = start().await;
    let portals = client.ok("iscsi.portal.query", json!([])).await;
    assert_eq!(portals[0]["listen"], json!([{"ip": "127.0.0.1", "port": 3260}]));
    zvol(&mut client, "tank/v").await;
    let target = id(&mut client, "iscsi.target.create", json!([{"name": "v", "groups": []}])).await;
    let extent = extent(&mut client, "v", "tank/v").await;
    assert_eq!(extent["naa"], format!("0x6001405{:0<25}", extent["serial"].as_str().unwrap()));
    let mapping = json!([{"target": target, "extent": extent["id"]}]);
    let mapping = client.ok("iscsi.targetextent.create", mapping).await;
    assert_eq!(mapping["lunid"], 0);
    assert!(appliance.memory().unwrap().iscsi().targets.is_empty(), "a target without groups is not served");

    let names = json!([{"initiators": ["iqn.2026-01.example:a"], "comment": "v"}]);
    let initiator = id(&mut client, "iscsi.initiator.create", names).await;
    let groups = json!([{"portal": portals[0]["id"], "initiator": initiator}]);
    client.ok("iscsi.target.update", json!([target, {"groups": groups}])).await;
    let served = appliance.memory().unwrap().iscsi();
    assert_eq!(served.targets[0].iqn, "iqn.2005-10.org.freenas.ctl:v");
    assert_eq!(served.targets[0].groups[0].initiators, ["iqn.2026-01.example:a"]);
    assert_eq!(served.targets[0].units[0].zvol, "tank/v");

    client.ok("pool.dataset.delete", json!(["tank/v"])).await;
    for namespace in ["iscsi.target", "iscsi.extent", "iscsi.targetextent"] {
        assert_eq!(client.ok(&format!("{namespace}.query"), json!([])).await, json!([]), "{namespace}");
    }
    assert_eq!(client.ok("iscsi.initiator.query", json!([])).await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_field() {
    let (_appliance, mut client) = start().await;
    zvol(&mut client, "tank/v").await;
    let made = extent(&mut client, "v", "tank/v").await;
    client.ok("iscsi.target.create", json!([{"name": "v", "groups": []}])).await;
    let refusals = [
        ("iscsi.target.create", json!([{"name": "V"}]), "iscsi_target_create.name", "lowercase"),
        ("iscsi.target.create", json!([{"name": "v"}]), "iscsi_target_create.name", "already exists"),
        (
            "iscsi.target.create",
            json!([{"name": "w", "groups": [{"portal": 99}]}]),
            "iscsi_target_create.groups.0.portal",
            "Invalid portal",
        ),
        (
            "iscsi.target.create",
            json!([{"name": "w", "groups": [{"portal": 1, "authmethod": "CHAP"}]}]),
            "iscsi_target_create.groups.0.auth",
            "required for CHAP",
        ),
        (
            "iscsi.extent.create",
            json!([{"name": "v", "disk": "zvol/tank/w"}]),
            "iscsi_extent_create.name",
            "unique",
        ),
        (
            "iscsi.extent.create",
            json!([{"name": "w", "disk": "zvol/tank/v"}]),
            "iscsi_extent_create.disk",
            "in use",
        ),
        (
            "iscsi.targetextent.create",
            json!([{"target": 99, "extent": made["id"]}]),
            "iscsi_targetextent_create.target",
            "does not exist",
        ),
        (
            "iscsi.auth.create",
            json!([{"tag": 1, "user": "u", "secret": "short"}]),
            "iscsi_auth_create.secret",
            "12 and 16",
        ),
    ];
    for (method, params, attribute, words) in refusals {
        let error = client.err(method, params.clone()).await;
        let (found, message, errno) = finding(&error);
        assert_eq!((found, errno), (Some(attribute), 22), "{method} {params}: {error}");
        assert!(message.contains(words), "{method} {params}: {message}");
    }
}

#[tokio::test]
async fn what_a_target_names_is_not_removed() {
    let (_appliance, mut client) = start().await;
    let names = json!([{"initiators": ["iqn.2026-01.example:a"]}]);
    let initiator = id(&mut client, "iscsi.initiator.create", names).await;
    let auth = json!([{"tag": 7, "user": "u", "secret": "0123456789ab"}]);
    let auth = id(&mut client, "iscsi.auth.create", auth).await;
    let groups = json!([{"portal": 1, "initiator": initiator, "authmethod": "CHAP", "auth": 7}]);
    let target = id(&mut client, "iscsi.target.create", json!([{"name": "v", "groups": groups}])).await;
    for (method, row) in [("iscsi.portal.delete", 1), ("iscsi.auth.delete", auth)] {
        assert_eq!(client.err(method, json!([row])).await["data"]["error"], 14, "{method}");
    }
    client.ok("iscsi.target.delete", json!([target])).await;
    for (method, row) in
        [("iscsi.portal.delete", 1), ("iscsi.initiator.delete", initiator), ("iscsi.auth.delete", auth)]
    {
        client.ok(method, json!([row])).await;
    }
}

#[tokio::test]
async fn a_target_whose_initiator_group_was_deleted_admits_everyone() {
    let (appliance, mut client) = start().await;
    let names = json!([{"initiators": ["iqn.2026-01.example:a"]}]);
    let initiator = id(&mut client, "iscsi.initiator.create", names).await;
    let groups = json!([{"portal": 1, "initiator": initiator}]);
    let target = id(&mut client, "iscsi.target.create", json!([{"name": "v", "groups": groups}])).await;
    let session = json!({"initiator": "iqn.2026-01.example:a", "initiator_addr": "10.0.0.1", "target": "iqn.2005-10.org.freenas.ctl:v"});
    appliance.control().json(json!({"command": "seed", "rows": {"iscsi.session": [session]}})).await.unwrap();
    client.ok("iscsi.initiator.delete", json!([initiator])).await;
    let targets = client.ok("iscsi.target.query", json!([])).await;
    assert_eq!(targets[0]["groups"][0]["initiator"], Value::Null);
    // A live session is a refusal, unless it shall end.
    assert_eq!(client.err("iscsi.target.delete", json!([target])).await["data"]["error"], 14);
    client.ok("iscsi.target.delete", json!([target, true])).await;
    assert_eq!(client.ok("iscsi.global.sessions", json!([])).await, json!([]));
}
