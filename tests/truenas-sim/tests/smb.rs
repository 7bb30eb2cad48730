//! SMB shares: what is served, what is refused and in which words.
// Helpers of tests may stop at the first surprise as the tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Client, assert_schemas_kept, finding, start};
use serde_json::{Value, json};
use truenas_sim::Appliance;

/// An appliance with the datasets `tank/a` and `tank/b` whose SMB service runs.
async fn serving() -> (Appliance, Client) {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    for name in ["tank/a", "tank/b"] {
        client.ok("pool.dataset.create", json!([{"name": name, "share_type": "SMB"}])).await;
    }
    // Jobs answer when they have ended.
    client.ok("core.set_options", json!([{"legacy_jobs": false}])).await;
    client.ok("service.control", json!(["START", "cifs"])).await;
    (appliance, client)
}

#[tokio::test]
async fn a_share_is_made_changed_and_removed_and_the_server_follows() {
    let (appliance, mut client) = serving().await;
    let made = client
        .ok(
            "sharing.smb.create",
            json!([{"name": "pvc-a", "path": "/mnt/tank/a", "comment": "a volume", "readonly": true,
                "purpose": "DEFAULT_SHARE", "options": {"hostsallow": ["192.0.2.1"], "hostsdeny": ["ALL"]}}]),
        )
        .await;
    assert_eq!(
        made["options"],
        json!({"aapl_name_mangling": false, "hostsallow": ["192.0.2.1"], "hostsdeny": ["ALL"]})
    );
    let (running, shares) = appliance.memory().unwrap().shares();
    assert!(running, "service.control has started it");
    assert_eq!((shares[0].name.as_str(), shares[0].read_only), ("pvc-a", true));
    assert_eq!(
        (&shares[0].hosts_allow[..], &shares[0].hosts_deny[..]),
        (&["192.0.2.1".to_owned()][..], &["ALL".to_owned()][..])
    );

    let update = json!([made["id"], {"purpose": "DEFAULT_SHARE", "options": {"hostsallow": ["192.0.2.2"]}, "readonly": false}]);
    let changed = client.ok("sharing.smb.update", update).await;
    assert_eq!(changed["options"]["hostsdeny"], json!([]), "given options replace all earlier ones");
    let (_, shares) = appliance.memory().unwrap().shares();
    assert_eq!((shares[0].hosts_allow[0].as_str(), shares[0].read_only), ("192.0.2.2", false));

    client.ok("sharing.smb.update", json!([made["id"], {"enabled": false}])).await;
    assert!(appliance.memory().unwrap().shares().1.is_empty(), "a disabled share is not served");
    assert_eq!(client.ok("sharing.smb.delete", json!([made["id"]])).await, true);
    let gone = client.err("sharing.smb.get_instance", json!([made["id"]])).await;
    assert_eq!(finding(&gone).2, 2);
    client.ok("service.control", json!(["STOP", "cifs"])).await;
    assert!(!appliance.memory().unwrap().shares().0);
    assert_schemas_kept(&appliance);
}

#[tokio::test]
async fn every_purpose_gets_its_own_options() {
    let (appliance, mut client) = serving().await;
    for (purpose, option, value) in [
        ("DEFAULT_SHARE", "aapl_name_mangling", json!(false)),
        ("LEGACY_SHARE", "guestok", json!(false)),
        ("MULTIPROTOCOL_SHARE", "hostsallow", json!([])),
        ("TIME_LOCKED_SHARE", "grace_period", json!(900)),
        ("PRIVATE_DATASETS_SHARE", "auto_quota", json!(0)),
    ] {
        let share = json!([{"name": purpose, "path": "/mnt/tank/a", "purpose": purpose}]);
        let made = client.ok("sharing.smb.create", share).await;
        assert_eq!(made["options"][option], value, "{purpose}");
        assert_eq!(made["options"].get("purpose"), None);
    }
    let legacy =
        client.ok("sharing.smb.query", json!([[["purpose", "=", "LEGACY_SHARE"]], {"get": true}])).await;
    assert!(legacy["options"]["vuid"].is_string(), "a volume uuid is generated");
    let turned = client.ok("sharing.smb.update", json!([legacy["id"], {"purpose": "DEFAULT_SHARE"}])).await;
    assert_eq!(turned["options"].get("guestok"), None, "a new purpose takes its own defaults");
    let external = json!([{"name": "far", "path": "EXTERNAL", "purpose": "EXTERNAL_SHARE",
        "options": {"remote_path": ["server\\share"]}}]);
    client.ok("sharing.smb.create", external).await;
    assert_eq!(appliance.memory().unwrap().shares().1.len(), 5, "an external share is not served here");
    assert_schemas_kept(&appliance);
}

async fn refused(client: &mut Client, share: Value) -> (Option<String>, String, i64) {
    let error = client.err("sharing.smb.create", json!([share])).await;
    let (attribute, message, errno) = finding(&error);
    (attribute.map(str::to_owned), message.to_owned(), errno)
}

#[tokio::test]
async fn each_rule_refuses_in_the_appliance_s_words() {
    let (_appliance, mut client) = serving().await;
    client.ok("sharing.smb.create", json!([{"name": "Taken", "path": "/mnt/tank/a"}])).await;
    let long = "x".repeat(81);
    let named = |name: &str| json!({"name": name, "path": "/mnt/tank/b"});
    let at = |path: &str| json!({"name": "b", "path": path});
    let with = |purpose: &str, options: Value| json!({"name": "b", "path": "/mnt/tank/b", "purpose": purpose, "options": options});
    for (share, attribute, message) in [
        (
            named("tAKEN"),
            "sharingsmb_create.name",
            "Share names are case-insensitive and must be unique".to_owned(),
        ),
        (named(""), "data.name", "Value error, Share name must contain at least one character".into()),
        (
            named(&long),
            "data.name",
            format!("Value error, {long}: share name must not exceed 80 characters in length"),
        ),
        (named("Global"), "data.name", "Value error, Global: share name is reserved.".into()),
        (named("homes"), "data.name", "Value error, homes: share name is reserved.".into()),
        (named("printers"), "data.name", "Value error, printers: share name is reserved.".into()),
        (
            named("a/b"),
            "data.name",
            "Value error, a/b: share name contains the following invalid characters: /".into(),
        ),
        (
            named("a\u{85}"),
            "data.name",
            "Value error, a\u{85}: share name contains unicode control characters".into(),
        ),
        (at("/etc"), "sharingsmb_create.path", "The path must reside within a pool mount point".into()),
        (at("/mnt/tank/none"), "sharingsmb_create.path", "Path does not exist.".into()),
        (
            at("EXTERNAL"),
            "sharingsmb_create.path",
            "External paths may only be set for shares with an EXTERNAL_SHARE purpose".into(),
        ),
        (
            with("EXTERNAL_SHARE", json!({"remote_path": ["s\\t"]})),
            "sharingsmb_create.path",
            "/mnt/tank/b: Path must be set to \"EXTERNAL\"".into(),
        ),
        (
            with("VEEAM_REPOSITORY_SHARE", json!({})),
            "sharingsmb_create.purpose",
            "Veeam repository shares require a TrueNAS enterprise license.".into(),
        ),
        (
            with("LEGACY_SHARE", json!({"vuid": "no"})),
            "sharingsmb_create.options.vuid",
            "Invalid UUID".into(),
        ),
        (
            with("LEGACY_SHARE", json!({"auxsmbconf": "read only"})),
            "sharingsmb_create.options.auxsmbconf",
            "Auxiliary parameters must be in the format of \"key = value\": read only".into(),
        ),
        (
            json!({"name": "b", "path": "/mnt/tank/b", "audit": {"enable": true}}),
            "sharingsmb_create.audit.enable",
            "Watch list or ignore list is required to enable auditing for an SMB share.".into(),
        ),
        (
            with("TIME_LOCKED_SHARE", json!({"grace_period": 1})),
            "data.options.TIME_LOCKED_SHARE.grace_period",
            "Input should be greater than or equal to 60".into(),
        ),
    ] {
        let found = refused(&mut client, share.clone()).await;
        assert_eq!(found, (Some(attribute.to_owned()), message, 22), "{share}");
    }
    let timemachine = refused(&mut client, with("TIMEMACHINE_SHARE", json!({}))).await;
    assert!(
        timemachine.1.starts_with("Apple SMB2/3 protocol extension support is required"),
        "{timemachine:?}"
    );
}

#[tokio::test]
async fn a_deleted_dataset_takes_its_enabled_shares_along() {
    let (appliance, mut client) = serving().await;
    client.ok("sharing.smb.create", json!([{"name": "a", "path": "/mnt/tank/a"}])).await;
    client.ok("sharing.smb.create", json!([{"name": "off", "path": "/mnt/tank/a", "enabled": false}])).await;
    client.ok("sharing.smb.create", json!([{"name": "b", "path": "/mnt/tank/b"}])).await;
    client.ok("pool.dataset.delete", json!(["tank/a"])).await;
    let left = client.ok("sharing.smb.query", json!([[], {"select": ["name"]}])).await;
    assert_eq!(left, json!([{"name": "off"}, {"name": "b"}]), "a disabled one stays behind");
    assert_eq!(appliance.memory().unwrap().shares().1.len(), 1);
}

#[tokio::test]
async fn the_share_type_chooses_the_dataset_s_names_and_acls() {
    let (_appliance, mut client) = serving().await;
    let shown = client.ok("pool.dataset.get_instance", json!(["tank/a"])).await;
    for (property, value) in
        [("casesensitivity", "INSENSITIVE"), ("acltype", "NFSV4"), ("aclmode", "RESTRICTED")]
    {
        assert_eq!(shown[property]["value"], value, "{property}");
    }
}
