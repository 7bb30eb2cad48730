//! The life of volumes as a driver lives it, and the refusals on its way.
// Helpers of tests may stop at the first surprise as the tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::time::Duration;

use common::{Client, assert_schemas_kept, config, finding, start};
use serde_json::json;
use truenas_sim::{Appliance, Config};

const GIB: u64 = 1 << 30;

#[tokio::test]
async fn an_nfs_volume_is_made_exported_grown_and_removed() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    let made = client
        .ok(
            "pool.dataset.create",
            json!([{"name": "tank/pvc-1", "type": "FILESYSTEM", "refquota": GIB, "comments": "a volume",
                "user_properties": [{"key": "tns-csi:managed_by", "value": "tns-csi"}]}]),
        )
        .await;
    assert_eq!(made["mountpoint"], "/mnt/tank/pvc-1");
    assert_eq!(made["refquota"]["parsed"], GIB);
    assert_eq!(made["user_properties"]["tns-csi:managed_by"]["rawvalue"], "tns-csi");
    assert_eq!(made["user_properties"]["comments"]["value"], "a volume");
    let share = client
        .ok("sharing.nfs.create", json!([{"path": "/mnt/tank/pvc-1", "hosts": ["192.0.2.1"], "maproot_user": "root", "maproot_group": "root"}]))
        .await;
    let (running, exports) = appliance.memory().unwrap().exports();
    assert!(running && exports.len() == 1 && exports[0].hosts == ["192.0.2.1"]);
    client.ok("sharing.nfs.update", json!([share["id"], {"hosts": ["10.0.0.1"]}])).await;
    let grown = client.ok("pool.dataset.update", json!(["tank/pvc-1", {"refquota": 2 * GIB}])).await;
    assert_eq!(grown["refquota"]["parsed"], 2 * GIB);
    assert_eq!(client.ok("pool.dataset.delete", json!(["tank/pvc-1"])).await, true);
    assert_eq!(client.ok("sharing.nfs.query", json!([])).await, json!([]), "the share goes with the dataset");
    assert_eq!(client.ok("zfs.resource.query", json!([{"paths": ["tank/pvc-1"]}])).await, json!([]));
    assert_schemas_kept(&appliance);
}

#[tokio::test]
async fn an_nvmeof_volume_is_made_exported_and_removed() {
    let port = Some("127.0.0.1:4420".parse().unwrap());
    let appliance = Appliance::start(Config { nvmet_port: port, ..config() }).await.unwrap();
    let mut client = Client::login(&appliance).await;
    let zvol =
        json!([{"name": "tank/pvc-2", "type": "VOLUME", "volsize": GIB, "sparse": true, "force_size": true}]);
    let made = client.ok("pool.dataset.create", zvol).await;
    assert_eq!((&made["volsize"]["parsed"], &made["mountpoint"]), (&json!(GIB), &json!(null)));
    let subsys = client.ok("nvmet.subsys.create", json!([{"name": "pvc-2"}])).await;
    let nqn = subsys["subnqn"].as_str().unwrap();
    assert!(nqn.starts_with("nqn.2011-06.com.truenas:uuid:") && nqn.ends_with(":pvc-2"), "{nqn}");
    let namespace = loop {
        let params =
            json!([{"device_type": "ZVOL", "device_path": "zvol/tank/pvc-2", "subsys_id": subsys["id"]}]);
        let answer = client.call("nvmet.namespace.create", params).await.unwrap();
        if answer.get("error").is_none() {
            break answer["result"].clone();
        }
        assert_eq!(finding(&answer["error"]).0, Some("nvmet_namespace_create.device_path"));
    };
    assert_eq!((&namespace["nsid"], &namespace["subsys"]["name"]), (&json!(1), &json!("pvc-2")));
    let port = client.ok("nvmet.port.query", json!([[["addr_trtype", "=", "TCP"]], {"get": true}])).await;
    let host_nqn = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555";
    let host = client.ok("nvmet.host.create", json!([{"hostnqn": host_nqn}])).await;
    client.ok("nvmet.host_subsys.create", json!([{"host_id": host["id"], "subsys_id": subsys["id"]}])).await;
    let again = client
        .err("nvmet.host_subsys.create", json!([{"host_id": host["id"], "subsys_id": subsys["id"]}]))
        .await;
    assert!(finding(&again).1.starts_with("This record already exists"));
    client.ok("nvmet.port_subsys.create", json!([{"port_id": port["id"], "subsys_id": subsys["id"]}])).await;
    let target = appliance.memory().unwrap().target();
    assert_eq!(target.subsystems[0].allowed_hosts, [host_nqn]);
    assert_eq!(target.ports[0].subsystems, [nqn]);
    let links = client.ok("nvmet.host_subsys.query", json!([[["subsys.id", "=", subsys["id"]]]])).await;
    assert_eq!(links[0]["host"]["hostnqn"], host_nqn);

    assert_eq!(client.err("nvmet.subsys.delete", json!([subsys["id"]])).await["data"]["error"], 16);
    client.ok("nvmet.subsys.delete", json!([subsys["id"], {"force": true}])).await;
    for table in ["nvmet.namespace", "nvmet.host_subsys", "nvmet.port_subsys"] {
        assert!(appliance.control().rows(table).is_empty(), "{table}");
    }
    client.ok("pool.dataset.delete", json!(["tank/pvc-2"])).await;
    assert_eq!(appliance.control().datasets(), ["tank"]);
    assert_schemas_kept(&appliance);
}

#[tokio::test]
async fn every_reading_method_answers_in_the_appliance_s_shape() {
    let appliance =
        Appliance::start(Config { nvmet_port: Some("127.0.0.1:4420".parse().unwrap()), ..config() })
            .await
            .unwrap();
    let mut client = Client::login(&appliance).await;
    let seed = json!({"command": "seed", "datasets": [{"name": "tank/a", "user_properties": {"x:y": "z"}},
        {"name": "tank/v", "kind": "VOLUME", "properties": {"volsize": "1073741824"}}], "snapshots": ["tank/a@s"]});
    appliance.control().json(seed).await.unwrap();
    client.ok("sharing.nfs.create", json!([{"path": "/mnt/tank/a"}])).await;
    client.ok("sharing.smb.create", json!([{"path": "/mnt/tank/a", "name": "a", "purpose": "DEFAULT_SHARE", "options": {"hostsallow": ["10.0.0.1"]}}])).await;
    client.ok("nvmet.subsys.create", json!([{"name": "v"}])).await;
    client.ok("nvmet.host.create", json!([{"hostnqn": "nqn.2024-01.io.example:host"}])).await;
    client.ok("nvmet.host_subsys.create", json!([{"host_id": 1, "subsys_id": 1}])).await;
    client.ok("nvmet.port_subsys.create", json!([{"port_id": 1, "subsys_id": 1}])).await;
    for method in [
        "auth.me",
        "auth.mechanism_choices",
        "core.ping",
        "core.get_jobs",
        "system.info",
        "system.version",
        "system.version_short",
        "system.ready",
        "system.state",
        "system.boot_id",
        "system.host_id",
        "system.product_type",
        "system.global.id",
        "pool.query",
        "pool.dataset.query",
        "pool.snapshot.query",
        "zfs.resource.query",
        "sharing.nfs.query",
        "sharing.smb.query",
        "smb.config",
        "service.query",
        "interface.query",
        "failover.status",
        "failover.licensed",
        "nfs.config",
        "nvmet.global.config",
        "nvmet.global.sessions",
        "nvmet.subsys.query",
        "nvmet.namespace.query",
        "nvmet.port.query",
        "nvmet.host.query",
        "nvmet.host_subsys.query",
        "nvmet.port_subsys.query",
        "nvmet.host.generate_key",
        "nvmet.host.dhchap_hash_choices",
        "nvmet.host.dhchap_dhgroup_choices",
    ] {
        client.ok(method, json!([])).await;
    }
    for (method, params) in [
        ("pool.get_instance", json!([1])),
        ("pool.dataset.get_instance", json!(["tank"])),
        ("pool.dataset.query", json!([[], {"extra": {"flat": false}}])),
        ("pool.dataset.query", json!([[], {"select": ["id", "used.parsed"], "order_by": ["-id"]}])),
        ("pool.dataset.recommended_zvol_blocksize", json!(["tank"])),
        ("pool.snapshot.get_instance", json!(["tank/a@s"])),
        ("pool.snapshot.hold", json!(["tank/a@s"])),
        ("pool.snapshot.query", json!([[["id", "=", "tank/a@s"]]])),
        ("pool.snapshot.release", json!(["tank/a@s"])),
        (
            "zfs.resource.query",
            json!([{"paths": ["tank"], "get_children": true, "nest_results": true, "get_user_properties": true}]),
        ),
        ("service.get_instance", json!([1])),
        ("service.started", json!(["nfs"])),
        ("filesystem.stat", json!(["/mnt/tank/a"])),
        ("nvmet.port.transport_address_choices", json!(["TCP"])),
        ("nvmet.subsys.query", json!([[], {"extra": {"verbose": true}}])),
        ("auth.logout", json!([])),
    ] {
        client.ok(method, params).await;
    }
    assert_schemas_kept(&appliance);
}

#[tokio::test]
async fn a_new_zvol_has_no_device_yet() {
    let appliance = start().await;
    appliance.control().json(json!({"command": "device_delay", "ms": 3_600_000})).await.unwrap();
    let mut client = Client::login(&appliance).await;
    client
        .ok(
            "pool.dataset.create",
            json!([{"name": "tank/z", "type": "VOLUME", "volsize": GIB, "sparse": true}]),
        )
        .await;
    client.ok("nvmet.subsys.create", json!([{"name": "z"}])).await;
    let namespace = json!([{"device_type": "ZVOL", "device_path": "zvol/tank/z", "subsys_id": 1}]);
    let error = client.err("nvmet.namespace.create", namespace).await;
    assert_eq!(
        finding(&error),
        (Some("nvmet_namespace_create.device_path"), "Device /dev/zvol/tank/z does not exist", 22)
    );
}

#[tokio::test]
async fn existing_and_impossible_datasets_are_refused_as_the_appliance_does() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    let seed = json!({"command": "seed", "directories": ["/mnt/tank/stray"],
        "datasets": [{"name": "tank/fs"}, {"name": "tank/vol", "kind": "VOLUME", "properties": {"volsize": "16384"}}]});
    appliance.control().json(seed).await.unwrap();
    let error = client.err("pool.dataset.create", json!([{"name": "tank/fs"}])).await;
    assert_eq!(finding(&error), (Some("pool_dataset_create.name"), "Path /mnt/tank/fs already exists", 22));
    let stray = json!([{"name": "tank/stray", "type": "VOLUME", "volsize": GIB, "sparse": true}]);
    assert_eq!(finding(&client.err("pool.dataset.create", stray).await).2, 22);
    let volume = json!([{"name": "tank/vol", "type": "VOLUME", "volsize": GIB, "sparse": true}]);
    let error = client.err("pool.dataset.create", volume).await;
    assert_eq!((&error["code"], &error["data"]["error"]), (&json!(-32001), &json!(14)));
    assert!(error["data"]["reason"].as_str().unwrap().starts_with("[EFAULT] Failed to create dataset"));
    for (name, words) in [
        ("tank/no/child", "Parent dataset (tank/no) does not exist."),
        ("nopool/x", "zpool (nopool) does not exist."),
        ("tank/vol/x", "tank/vol is a volume and cannot have children"),
    ] {
        let error = client.err("pool.dataset.create", json!([{"name": name}])).await;
        assert_eq!(finding(&error).1, words, "{name}");
    }
}

#[tokio::test]
async fn sizes_follow_the_appliance_s_rules() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    let tib = 1_u64 << 40;
    let create = |size: u64, force: bool, sparse: bool| json!([{"name": "tank/z", "type": "VOLUME", "volsize": size, "force_size": force, "sparse": sparse}]);
    let odd = client.err("pool.dataset.create", create(GIB + 1, false, true)).await;
    assert_eq!(finding(&odd).0, Some("pool_dataset_create.volsize"));
    let large = client.err("pool.dataset.create", create(tib, false, true)).await;
    assert!(finding(&large).1.contains("80%"), "sparse ones too: {large}");
    client.ok("pool.dataset.create", create(2 * tib, true, true)).await;
    let shrunk = client.err("pool.dataset.update", json!(["tank/z", {"volsize": GIB}])).await;
    assert!(finding(&shrunk).1.contains("cannot shrink a zvol"));
    client.ok("pool.dataset.update", json!(["tank/z", {"volsize": 2 * tib}])).await;
    client.ok("pool.dataset.delete", json!(["tank/z"])).await;
    let thick = client.err("pool.dataset.create", create(2 * tib, true, false)).await;
    assert_eq!(thick["data"]["error"], 14);
    assert!(thick["data"]["reason"].as_str().unwrap().contains("out of space"));
}

#[tokio::test]
async fn a_full_pool_shows_no_space_and_refuses() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    appliance.control().json(json!({"command": "pool_full", "full": true})).await.unwrap();
    assert_eq!(client.ok("pool.query", json!([[], {"get": true}])).await["free"], 0);
    let error = client.err("pool.dataset.create", json!([{"name": "tank/a"}])).await;
    assert!(error["data"]["reason"].as_str().unwrap().contains("out of space"), "{error}");
}

#[tokio::test]
async fn a_refused_delete_has_removed_the_enabled_exports_already() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    client.ok("pool.dataset.create", json!([{"name": "tank/a"}])).await;
    client.ok("sharing.nfs.create", json!([{"path": "/mnt/tank/a", "hosts": ["10.0.0.1"]}])).await;
    client
        .ok("sharing.nfs.create", json!([{"path": "/mnt/tank/a", "hosts": ["10.0.0.2"], "enabled": false}]))
        .await;
    client.ok("pool.snapshot.create", json!([{"dataset": "tank/a", "name": "s"}])).await;
    let error = client.err("pool.dataset.delete", json!(["tank/a"])).await;
    assert_eq!(error["data"]["error"], 14, "25.10 gives ZFS's text with errno 14: {error}");
    let left = client.ok("sharing.nfs.query", json!([])).await;
    assert_eq!(left.as_array().unwrap().len(), 1, "the disabled one stays behind");
    assert_eq!(left[0]["enabled"], false);
    client.ok("pool.dataset.create", json!([{"name": "tank/a/child"}])).await;
    assert_eq!(client.err("pool.dataset.delete", json!(["tank/a"])).await["data"]["error"], 39);
}

#[tokio::test]
async fn a_busy_dataset_is_refused_or_as_26_reported_deleted() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    let control = appliance.control();
    client.ok("pool.dataset.create", json!([{"name": "tank/a"}])).await;
    control.json(json!({"command": "busy", "dataset": "tank/a"})).await.unwrap();
    assert_eq!(client.err("pool.dataset.delete", json!(["tank/a"])).await["data"]["error"], 16);
    control.json(json!({"command": "profile", "busy_delete_returns_true": true})).await.unwrap();
    assert_eq!(client.ok("pool.dataset.delete", json!(["tank/a"])).await, true);
    assert!(control.datasets().contains(&"tank/a".to_owned()));
}

#[tokio::test]
async fn snapshots_clones_and_promotion_keep_zfs_s_rules() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    let marker = json!([{"key": "tns-csi:managed_by", "value": "tns-csi"}]);
    client.ok("pool.dataset.create", json!([{"name": "tank/a", "user_properties": marker}])).await;
    let snapshot = json!([{"dataset": "tank/a", "name": "s", "properties": {"tns-csi:x": "y"}}]);
    let made = client.ok("pool.snapshot.create", snapshot.clone()).await;
    assert_eq!(made["properties"]["tns-csi:x"]["value"], "y");
    assert_eq!(client.err("pool.snapshot.create", snapshot).await["data"]["error"], 17);
    assert_eq!(client.ok("pool.dataset.snapshot_count", json!(["tank/a"])).await, 1);
    client.ok("pool.snapshot.clone", json!([{"snapshot": "tank/a@s", "dataset_dst": "tank/b"}])).await;
    let clone = client.ok("pool.dataset.get_instance", json!(["tank/b"])).await;
    assert_eq!(clone["origin"]["rawvalue"], "tank/a@s");
    assert!(
        clone["user_properties"].get("tns-csi:managed_by").is_none(),
        "a clone has only its parent's: {clone}"
    );
    let error = client.err("pool.snapshot.delete", json!(["tank/a@s"])).await;
    assert_eq!(finding(&error).0, Some("options.defer"));
    assert!(finding(&error).1.contains("tank/b"));
    assert_eq!(
        client.err("pool.dataset.delete", json!(["tank/a", {"recursive": true}])).await["data"]["error"],
        14
    );
    client.ok("pool.dataset.promote", json!(["tank/b"])).await;
    assert_eq!(
        client.ok("pool.snapshot.query", json!([[["id", "=", "tank/b@s"]], {"select": ["id"]}])).await,
        json!([{"id": "tank/b@s"}])
    );
    assert_eq!(client.err("pool.dataset.promote", json!(["tank/b"])).await["data"]["error"], 74);
    client.ok("pool.snapshot.delete", json!(["tank/b@s", {"defer": true}])).await;
    assert_eq!(
        client.ok("pool.snapshot.query", json!([])).await.as_array().unwrap().len(),
        1,
        "waits for the clone"
    );
    client.ok("pool.dataset.delete", json!(["tank/a"])).await;
    assert_eq!(client.ok("pool.snapshot.query", json!([])).await, json!([]));
}

#[tokio::test]
async fn user_properties_are_inherited_and_shown_as_local() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    let marker = json!([{"key": "tns-csi:managed_by", "value": "tns-csi"}]);
    client.ok("pool.dataset.create", json!([{"name": "tank/p", "user_properties": marker}])).await;
    client.ok("pool.dataset.create", json!([{"name": "tank/p/child"}])).await;
    let filter =
        json!([[["user_properties.tns-csi:managed_by.rawvalue", "=", "tns-csi"]], {"select": ["id"]}]);
    assert_eq!(
        client.ok("pool.dataset.query", filter).await,
        json!([{"id": "tank/p"}, {"id": "tank/p/child"}])
    );
    let child = client.ok("pool.dataset.get_instance", json!(["tank/p/child"])).await;
    assert_eq!(child["user_properties"]["tns-csi:managed_by"]["source"], "LOCAL");
    let removal =
        json!(["tank/p", {"user_properties_update": [{"key": "tns-csi:managed_by", "remove": true}]}]);
    client.ok("pool.dataset.update", removal).await;
    let read = json!([{"paths": ["tank/p/child"], "properties": ["used"], "get_user_properties": true}]);
    assert_eq!(client.ok("zfs.resource.query", read).await[0]["user_properties"], json!({}));
}

#[tokio::test]
async fn counting_datasets_ignores_the_filter() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    client.ok("pool.dataset.create", json!([{"name": "tank/a"}])).await;
    let count = client.ok("pool.dataset.query", json!([[["id", "=", "tank/a"]], {"count": true}])).await;
    assert_eq!(count, 2);
}

#[tokio::test]
async fn shares_of_one_path_may_not_overlap() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    client.ok("pool.dataset.create", json!([{"name": "tank/a"}])).await;
    let share = |extra: serde_json::Value| {
        let mut share = json!({"path": "/mnt/tank/a"});
        share.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!([share])
    };
    client.ok("sharing.nfs.create", share(json!({"hosts": ["10.0.0.1"], "networks": ["10.1.0.0/16"]}))).await;
    for bad in [
        json!({"hosts": ["10.0.0.1"]}),
        json!({"networks": ["10.1.2.0/24"]}),
        json!({"hosts": ["a b"]}),
        json!({"networks": ["10.2.0.1/16"]}),
        json!({"maproot_group": "root"}),
        json!({"path": "/mnt/tank/none", "hosts": ["10.0.0.9"]}),
        json!({"path": "/etc", "hosts": ["10.0.0.9"]}),
    ] {
        client.err("sharing.nfs.create", share(bad)).await;
    }
    assert_eq!(appliance.control().rows("sharing.nfs").len(), 1);
}

#[tokio::test]
async fn the_state_survives_a_restart_of_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let config = || Config {
        state_dir: Some(dir.path().join("state")),
        tls_dir: Some(dir.path().join("tls")),
        api_key: Some("1-0123456789abcdef".into()),
        ..Config::default()
    };
    let first = Appliance::start(config()).await.unwrap();
    let mut client = Client::login(&first).await;
    client.ok("pool.dataset.create", json!([{"name": "tank/a"}])).await;
    client.ok("sharing.nfs.create", json!([{"path": "/mnt/tank/a", "hosts": ["10.0.0.1"]}])).await;
    drop(client);
    drop(first);
    let second = tokio::time::timeout(Duration::from_secs(10), async {
        // The journal is free when the last task of the first one has let go of it.
        loop {
            match Appliance::start(config()).await {
                Ok(appliance) => return appliance,
                Err(error) if error.to_string().contains("another process") => tokio::task::yield_now().await,
                Err(error) => panic!("{error:#}"),
            }
        }
    })
    .await
    .unwrap();
    let mut client = Client::login(&second).await;
    let share = client.ok("sharing.nfs.query", json!([[], {"get": true}])).await;
    assert_eq!(share["path"], "/mnt/tank/a");
    assert_eq!(second.memory().unwrap().exports().1.len(), 1, "what was exported is exported again");
    client.ok("sharing.nfs.delete", json!([share["id"]])).await;
    let next = client.ok("sharing.nfs.create", json!([{"path": "/mnt/tank/a", "hosts": ["10.0.0.1"]}])).await;
    assert_ne!(next["id"], share["id"], "an id is never given twice");
}
