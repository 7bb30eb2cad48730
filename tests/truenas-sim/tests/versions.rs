//! What differs between the releases that the stand-in behaves as, and high availability.
// Helpers of tests may stop at the first surprise as the tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Client, assert_schemas_kept, config, finding, get, start};
use serde_json::{Value, json};
use truenas_sim::{Appliance, Config, Version};

async fn of(version: Version) -> (Appliance, Client) {
    let appliance = Appliance::start(Config { version, ..config() }).await.unwrap();
    let client = Client::login(&appliance).await;
    (appliance, client)
}

#[tokio::test]
async fn each_version_lists_its_endpoints_and_names_itself() {
    for (version, newest, product) in [
        (Version::V25_04, "v25.04.2", "25.04.2.6"),
        (Version::V25_10, "v25.10.5", "25.10.6"),
        (Version::V26, "v26.0.0", "26.0.0"),
    ] {
        let (appliance, mut client) = of(version).await;
        let (status, body) = get(&appliance, "/api/versions").await;
        let listed: Vec<String> = serde_json::from_str(&body).unwrap();
        assert!(status.contains("200") && listed.last().is_some_and(|last| last == newest), "{body}");
        assert_eq!(client.ok("system.version_short", json!([])).await, product);
        assert_schemas_kept(&appliance);
    }
}

#[tokio::test]
async fn methods_exist_only_where_the_release_has_them() {
    let all = [Version::V25_04, Version::V25_10, Version::V26];
    for (method, params, has) in [
        ("nvmet.subsys.query", json!([]), [false, true, true]),
        ("pool.snapshot.query", json!([]), [false, true, true]),
        ("zfs.snapshot.query", json!([]), [true, false, false]),
        ("zfs.resource.query", json!([]), [false, true, true]),
        ("service.control", json!(["RELOAD", "nfs"]), [false, true, true]),
        ("service.reload", json!(["nfs"]), [true, true, false]),
    ] {
        for (version, has) in all.into_iter().zip(has) {
            let (_appliance, mut client) = of(version).await;
            let answer = client.call(method, params.clone()).await.unwrap();
            let absent = answer["error"]["code"] == -32601;
            assert_eq!(absent, !has, "{method} of {version:?}: {answer}");
        }
    }
}

#[tokio::test]
async fn t_25_04s_default_preset_overwrites_the_list_of_hosts() {
    let (appliance, mut client) = of(Version::V25_04).await;
    client.ok("pool.dataset.create", json!([{"name": "tank/a"}])).await;
    let share = |purpose: &str| json!({"name": "a", "path": "/mnt/tank/a", "purpose": purpose, "hostsallow": ["192.0.2.1"]});
    let made = client.ok("sharing.smb.create", json!([share("DEFAULT_SHARE")])).await;
    let served = || appliance.memory().unwrap().shares().1[0].hosts_allow.clone();
    assert_eq!(made["hostsallow"], json!(["192.0.2.1"]), "the row keeps what was asked for");
    assert!(served().is_empty(), "everyone is let in");
    client.ok("sharing.smb.update", json!([made["id"], share("NO_PRESET")])).await;
    assert_eq!(served(), ["192.0.2.1"]);
    assert_schemas_kept(&appliance);
}

#[tokio::test]
async fn t_25_04_has_flat_smb_shares_with_purposes_of_their_own() {
    let (appliance, mut client) = of(Version::V25_04).await;
    client.ok("pool.dataset.create", json!([{"name": "tank/a"}])).await;
    let share = json!([{"name": "a", "path": "/mnt/tank/a", "purpose": "NO_PRESET", "ro": true, "hostsallow": ["192.0.2.1"]}]);
    let made = client.ok("sharing.smb.create", share).await;
    assert_eq!((&made["ro"], &made["hostsallow"]), (&json!(true), &json!(["192.0.2.1"])));
    let (_, shares) = appliance.memory().unwrap().shares();
    assert!(shares[0].read_only && shares[0].hosts_allow == ["192.0.2.1"], "{shares:?}");
    client.err("sharing.smb.create", json!([{"name": "b", "path": "/mnt/tank/a", "options": {}}])).await;
    client
        .err("sharing.smb.create", json!([{"name": "b", "path": "/mnt/tank/a", "purpose": "LEGACY_SHARE"}]))
        .await;
    for (name, message, errno) in [
        ("A", "Share with this name already exists.", 17),
        ("global", "global is a reserved section name, please select another one", 22),
        ("", "Share name may not be an empty string.", 22),
        ("x:y", "Share name contains the following invalid characters: :", 22),
    ] {
        let refused = client.err("sharing.smb.create", json!([{"name": name, "path": "/mnt/tank/a"}])).await;
        assert_eq!(finding(&refused), (Some("sharingsmb_create.name"), message, errno));
    }
}

#[tokio::test]
async fn t_25_04_gives_job_ids_whatever_is_asked_and_volumes_live() {
    let (_appliance, mut client) = of(Version::V25_04).await;
    assert_eq!(client.ok("core.set_options", json!([{"legacy_jobs": false}])).await, Value::Null);
    let zvol = json!([{"name": "tank/v", "type": "VOLUME", "volsize": 1_u64 << 30, "sparse": true}]);
    client.ok("pool.dataset.create", zvol).await;
    client.ok("zfs.snapshot.create", json!([{"dataset": "tank/v", "name": "s"}])).await;
    client.ok("zfs.snapshot.clone", json!([{"snapshot": "tank/v@s", "dataset_dst": "tank/c"}])).await;
    let wrong = client.err("pool.dataset.create", json!([{"name": "tank/f", "volsize": 1_u64 << 30}])).await;
    assert_eq!(finding(&wrong).1, "This field is not valid for FILESYSTEM");
    assert_eq!(client.ok("service.start", json!(["nfs"])).await, true);
}

#[tokio::test]
async fn t_26_chooses_the_algorithm_itself_and_wants_more_rounds() {
    let (_appliance, mut client) = of(Version::V26).await;
    let with = |options: Value| {
        json!([{"name": "tank/e", "type": "FILESYSTEM", "encryption": true, "inherit_encryption": false,
            "encryption_options": options}])
    };
    for (options, field) in [
        (json!({"generate_key": true, "algorithm": "AES-256-GCM"}), "algorithm"),
        (json!({"passphrase": "correct horse", "pbkdf2iters": 1_299_999}), "pbkdf2iters"),
    ] {
        let refused = client.err("pool.dataset.create", with(options)).await;
        assert!(finding(&refused).0.unwrap().ends_with(field), "{refused}");
    }
    let made = client.ok("pool.dataset.create", with(json!({"passphrase": "correct horse"}))).await;
    assert_eq!(made["encryption_algorithm"]["value"], "AES-256-GCM");
    assert_eq!(made["pbkdf2iters"]["rawvalue"], "1300000");
}

#[tokio::test]
async fn t_26_refuses_snapshots_by_findings_and_destroys_clones() {
    let (_appliance, mut client) = of(Version::V26).await;
    client.ok("pool.dataset.create", json!([{"name": "tank/a", "type": "FILESYSTEM"}])).await;
    let snapshot = json!([{"dataset": "tank/a", "name": "s"}]);
    client.ok("pool.snapshot.create", snapshot.clone()).await;
    let again = client.err("pool.snapshot.create", snapshot).await;
    assert_eq!(finding(&again).2, 17);
    let missing = client.err("pool.snapshot.create", json!([{"dataset": "tank/no", "name": "s"}])).await;
    assert_eq!((&missing["code"], &missing["data"]["error"]), (&json!(-32001), &json!(22)));
    client.ok("pool.snapshot.clone", json!([{"snapshot": "tank/a@s", "dataset_dst": "tank/c"}])).await;
    assert_eq!(finding(&client.err("pool.snapshot.delete", json!(["tank/a@s"])).await).2, 16);
    assert_eq!(finding(&client.err("pool.dataset.promote", json!(["tank/a"])).await).2, 22);
    assert_eq!(finding(&client.err("pool.dataset.delete", json!(["tank/a"])).await).2, 39);
    client.ok("pool.dataset.delete", json!(["tank/a", {"recursive": true}])).await;
    let left = client.ok("pool.dataset.query", json!([[], {"select": ["id"]}])).await;
    assert_eq!(left, json!([{"id": "tank"}]), "the clone went too");
}

/// A call that still waits ends with its connection on 26, and goes on without it before.
#[tokio::test]
async fn calls_that_wait_are_given_up_with_the_connection_only_by_26() {
    for (version, made) in [(Version::V25_10, true), (Version::V26, false)] {
        let (appliance, mut client) = of(version).await;
        let control = appliance.control();
        control.json(json!({"command": "hold", "method": "pool.dataset.create"})).await.unwrap();
        client.send("pool.dataset.create", json!([{"name": "tank/a", "type": "FILESYSTEM"}])).await;
        let held = json!({"command": "wait_held", "method": "pool.dataset.create", "timeout_ms": 5000});
        control.json(held).await.unwrap();
        control.json(json!({"command": "disconnect"})).await.unwrap();
        assert!(client.next().await.is_none());
        let mut other = Client::login(&appliance).await;
        control.json(json!({"command": "release", "method": "*"})).await.unwrap();
        // What was given up before the release stays undone, however much is done after it.
        other.ok("pool.dataset.create", json!([{"name": "tank/b", "type": "FILESYSTEM"}])).await;
        let until = std::time::Instant::now() + common::DEADLINE;
        loop {
            let found = other.ok("pool.dataset.query", json!([[["id", "=", "tank/a"]]])).await != json!([]);
            assert!(made || !found, "{version:?} went on");
            if found == made {
                break;
            }
            assert!(std::time::Instant::now() < until, "{version:?} gave up");
        }
    }
}

#[tokio::test]
async fn a_standby_redirects_and_says_what_it_is() {
    let appliance = start().await;
    let control = appliance.control();
    let mut client = Client::login(&appliance).await;
    assert_eq!(client.ok("failover.status", json!([])).await, "SINGLE");
    let url = "wss://192.0.2.2/api/current";
    control
        .json(json!({"command": "ha", "status": "BACKUP", "licensed": true, "redirect": [url]}))
        .await
        .unwrap();
    assert_eq!(client.ok("failover.status", json!([])).await, "BACKUP");
    assert_eq!(client.ok("failover.licensed", json!([])).await, true);
    let mut other = Client::open(&appliance).await;
    let login = json!([{"mechanism": "API_KEY_PLAIN", "username": appliance.api_key_user(), "api_key": appliance.api_key()}]);
    let answer = other.ok("auth.login_ex", login).await;
    assert_eq!(answer, json!({"response_type": "REDIRECT", "urls": [url]}));
    assert_eq!(other.ok("auth.login_with_api_key", json!([appliance.api_key()])).await, false);
    control.json(json!({"command": "ha"})).await.unwrap();
    Client::login(&appliance).await;
    assert_schemas_kept(&appliance);
}

#[tokio::test]
async fn a_host_s_keys_are_judged_by_their_form() {
    let (appliance, mut client) = of(Version::V25_10).await;
    let host = |key: Value, ctrl: Value| {
        json!([{"hostnqn": "nqn.2024-01.io.example:h", "dhchap_key": key, "dhchap_ctrl_key": ctrl,
            "dhchap_hash": "SHA-384", "dhchap_dhgroup": "2048-BIT"}])
    };
    for bad in
        ["secret", "DHHC-1:04:AAAA:", "DHHC-1:01::", "DHHC-1:01:AAAA", "DHHC-1:01:%%%%:", "DHHC-1:01:AAAA:x"]
    {
        let refused = client.err("nvmet.host.create", host(json!(bad), Value::Null)).await;
        assert_eq!(finding(&refused).0, Some("nvmet_host_create.dhchap_key"), "{bad}");
        assert!(!refused.to_string().contains("%%%%"), "a key is never repeated");
    }
    let key = client.ok("nvmet.host.generate_key", json!(["SHA-384"])).await;
    let made = client.ok("nvmet.host.create", host(key.clone(), key.clone())).await;
    assert_eq!(made["dhchap_key"], key, "a full administrator sees it");
    let hosts = appliance.memory().unwrap().target().hosts;
    assert_eq!(
        (hosts[0].dhchap_hash.as_str(), hosts[0].dhchap_dhgroup.as_deref()),
        ("SHA-384", Some("2048-BIT"))
    );
    assert!(!format!("{hosts:?}").contains(key.as_str().unwrap()));
}
