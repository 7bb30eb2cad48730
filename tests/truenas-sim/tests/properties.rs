//! Every property that a dataset can be given, the rules between them, and encryption.
// Helpers of tests may stop at the first surprise as the tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Client, assert_schemas_kept, finding, start};
use serde_json::{Value, json};

const GIB: u64 = 1 << 30;
const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn each_property_of_a_file_system_is_set_shown_and_changed() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    for (index, (field, given, raw, changed)) in [
        ("compression", json!("GZIP-9"), "gzip-9", json!("ZSTD-19")),
        ("compression", json!("ZSTD-FAST-1000"), "zstd-fast-1000", json!("OFF")),
        ("deduplication", json!("VERIFY"), "verify", json!("OFF")),
        ("atime", json!("ON"), "on", json!("OFF")),
        ("sync", json!("ALWAYS"), "always", json!("DISABLED")),
        ("checksum", json!("BLAKE3"), "blake3", json!("ON")),
        ("recordsize", json!("1M"), "1048576", json!("16K")),
        ("copies", json!(2), "2", json!(3)),
        ("snapdir", json!("VISIBLE"), "visible", json!("HIDDEN")),
        ("readonly", json!("ON"), "on", json!("OFF")),
        ("exec", json!("OFF"), "off", json!("ON")),
        ("acltype", json!("OFF"), "off", json!("POSIX")),
        ("quota", json!(2 * GIB), "2147483648", json!(3 * GIB)),
        ("refquota", json!(2 * GIB), "2147483648", json!(null)),
        ("reservation", json!(GIB), "1073741824", json!(0)),
        ("refreservation", json!(GIB), "1073741824", json!(0)),
        ("special_small_block_size", json!(65536), "65536", json!(0)),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("tank/p{index}");
        let made = client.ok("pool.dataset.create", json!([{"name": name, field: given}])).await;
        assert_eq!(made[field]["rawvalue"], raw, "{field}");
        assert_eq!(made[field]["source"], "LOCAL", "{field}");
        client.ok("pool.dataset.update", json!([name, {field: changed}])).await;
    }
    assert_schemas_kept(&appliance);
}

#[tokio::test]
async fn each_property_of_a_zvol_is_set_and_shown() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    for (index, (field, given, raw)) in [
        ("volblocksize", json!("64K"), "65536"),
        ("volblocksize", json!("512"), "512"),
        ("compression", json!("LZ4"), "lz4"),
        ("deduplication", json!("ON"), "on"),
        ("sync", json!("DISABLED"), "disabled"),
        ("copies", json!(3), "3"),
        ("readonly", json!("ON"), "on"),
    ]
    .into_iter()
    .enumerate()
    {
        let zvol = json!([{"name": format!("tank/v{index}"), "type": "VOLUME", "volsize": GIB, "sparse": true, field: given}]);
        let made = client.ok("pool.dataset.create", zvol).await;
        assert_eq!(made[field]["rawvalue"], raw, "{field}");
        assert_eq!(made["refreservation"]["parsed"], Value::Null, "a sparse zvol reserves nothing");
    }
    let thick = json!([{"name": "tank/thick", "type": "VOLUME", "volsize": GIB}]);
    assert_eq!(client.ok("pool.dataset.create", thick).await["refreservation"]["parsed"], GIB);
    assert_schemas_kept(&appliance);
}

#[tokio::test]
async fn a_share_type_rules_over_the_fields_it_presets() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    for (share_type, casesensitivity, aclmode) in [
        ("SMB", "INSENSITIVE", "RESTRICTED"),
        ("NFS", "SENSITIVE", "PASSTHROUGH"),
        ("MULTIPROTOCOL", "SENSITIVE", "PASSTHROUGH"),
        ("APPS", "SENSITIVE", "PASSTHROUGH"),
    ] {
        let dataset =
            json!([{"name": format!("tank/{share_type}"), "share_type": share_type, "acltype": "POSIX"}]);
        let made = client.ok("pool.dataset.create", dataset).await;
        assert_eq!(made["casesensitivity"]["value"], casesensitivity, "{share_type}");
        assert_eq!(
            (&made["acltype"]["value"], &made["aclmode"]["value"]),
            (&json!("NFSV4"), &json!(aclmode))
        );
    }
    let zvol = json!([{"name": "tank/v", "type": "VOLUME", "volsize": GIB, "share_type": "SMB"}]);
    let refused = client.err("pool.dataset.create", zvol).await;
    assert_eq!(
        finding(&refused),
        (Some("pool_dataset_create.aclmode"), "This field is not valid for VOLUME", 22)
    );
}

#[tokio::test]
async fn fields_that_do_not_fit_together_are_refused() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    client.ok("pool.dataset.create", json!([{"name": "tank/nfs4", "share_type": "NFS"}])).await;
    let posix = "Must be set to DISCARD when acltype is POSIX or OFF";
    let nfsv4 = "DISCARD aclmode may not be set for NFSv4 acl type";
    for (dataset, field, message) in [
        (json!({"name": "tank/x", "acltype": "POSIX", "aclmode": "PASSTHROUGH"}), "aclmode", posix),
        (json!({"name": "tank/x", "acltype": "OFF", "aclmode": "RESTRICTED"}), "aclmode", posix),
        (json!({"name": "tank/x", "aclmode": "RESTRICTED"}), "aclmode", posix),
        (json!({"name": "tank/nfs4/x", "acltype": "POSIX"}), "aclmode", posix),
        (json!({"name": "tank/x", "acltype": "NFSV4", "aclmode": "DISCARD"}), "aclmode", nfsv4),
        (json!({"name": "tank/x", "acltype": "NFSV4"}), "aclmode", nfsv4),
        (json!({"name": "tank/nfs4/x", "aclmode": "DISCARD"}), "aclmode", nfsv4),
        (json!({"name": "tank/x", "recordsize": "3K"}), "recordsize", "'3K' is an invalid recordsize."),
        (
            json!({"name": "tank/x", "special_small_block_size": 1 << 25}),
            "special_small_block_size",
            "This field must be from zero to 16M",
        ),
    ] {
        let refused = client.err("pool.dataset.create", json!([dataset])).await;
        let at = format!("pool_dataset_create.{field}");
        assert_eq!(finding(&refused), (Some(at.as_str()), message, 22), "{dataset}");
    }
    let refused = client.err("pool.dataset.create", json!([{"name": "tank/x", "copies": 4}])).await;
    assert_eq!(refused["data"]["error"], 14, "ZFS itself refuses a fourth copy");
    let changed = client.err("pool.dataset.update", json!(["tank/nfs4", {"aclmode": "DISCARD"}])).await;
    assert_eq!(finding(&changed), (Some("pool_dataset_update.aclmode"), nfsv4, 22));
    let changed = client
        .ok("pool.dataset.update", json!(["tank/nfs4", {"acltype": "POSIX", "aclmode": "DISCARD"}]))
        .await;
    assert_eq!(
        (&changed["acltype"]["value"], &changed["aclmode"]["value"]),
        (&json!("POSIX"), &json!("DISCARD"))
    );
}

fn encrypted(name: &str, options: Value) -> Value {
    json!([{"name": name, "encryption": true, "inherit_encryption": false, "encryption_options": options}])
}

#[tokio::test]
async fn an_encrypted_dataset_is_its_own_root_and_its_children_follow() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    let made =
        client.ok("pool.dataset.create", encrypted("tank/e", json!({"passphrase": "correct horse"}))).await;
    assert_eq!(
        (&made["encrypted"], &made["locked"], &made["key_loaded"]),
        (&json!(true), &json!(false), &json!(true))
    );
    assert_eq!(
        (&made["encryption_root"], &made["key_format"]["value"]),
        (&json!("tank/e"), &json!("PASSPHRASE"))
    );
    assert_eq!(made["encryption_algorithm"]["value"], "AES-256-GCM");
    assert_eq!(made["pbkdf2iters"]["rawvalue"], "350000");
    assert!(!made.to_string().contains("correct horse"));
    let child = client.ok("pool.dataset.create", json!([{"name": "tank/e/child"}])).await;
    assert_eq!((&child["encrypted"], &child["encryption_root"]), (&json!(true), &json!("tank/e")));

    for (name, options) in [
        ("tank/k", json!({"key": HEX, "algorithm": "AES-128-CCM"})),
        ("tank/g", json!({"generate_key": true})),
    ] {
        let made = client.ok("pool.dataset.create", encrypted(name, options)).await;
        assert_eq!(made["key_format"]["value"], "HEX", "{name}");
    }
    let shown = client.ok("pool.dataset.get_instance", json!(["tank/k"])).await;
    assert_eq!(shown["encryption_algorithm"]["value"], "AES-128-CCM");
    let zvol = json!([{"name": "tank/z", "type": "VOLUME", "volsize": GIB, "encryption": true, "inherit_encryption": false,
        "encryption_options": {"generate_key": true}}]);
    assert_eq!(client.ok("pool.dataset.create", zvol).await["encrypted"], true);
    assert_schemas_kept(&appliance);
}

#[tokio::test]
async fn a_clone_of_an_encrypted_dataset_is_encrypted_and_stays_so_when_promoted() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    client.ok("pool.dataset.create", encrypted("tank/e", json!({"key": HEX}))).await;
    client.ok("pool.snapshot.create", json!([{"dataset": "tank/e", "name": "s"}])).await;
    client.ok("pool.snapshot.clone", json!([{"snapshot": "tank/e@s", "dataset_dst": "tank/c"}])).await;
    for promoted in [false, true] {
        if promoted {
            client.ok("pool.dataset.promote", json!(["tank/c"])).await;
        }
        for name in ["tank/e", "tank/c"] {
            let shown = client.ok("pool.dataset.get_instance", json!([name])).await;
            assert_eq!(shown["encrypted"], true, "{name}, promoted: {promoted}");
        }
    }
}

#[tokio::test]
async fn each_rule_of_encryption_refuses() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    client.ok("pool.dataset.create", encrypted("tank/pass", json!({"passphrase": "correct horse"}))).await;
    let both = json!([{"name": "tank/x", "encryption": true, "encryption_options": {"generate_key": true}}]);
    let plain = json!([{"name": "tank/pass/x", "inherit_encryption": false}]);
    let passphrase = "Must be disabled when dataset is to be encrypted with passphrase.";
    for (params, field, message) in [
        (both, "inherit_encryption", "Must be disabled when encryption is enabled."),
        (
            encrypted("tank/x", json!({})),
            "encryption_options.key",
            "Please provide a key or select generate_key to automatically generate a key when passphrase is not provided.",
        ),
        (
            encrypted("tank/x", json!({"key": HEX, "generate_key": true})),
            "encryption_options.key",
            "Only one of key, generate_key must be provided.",
        ),
        (
            encrypted("tank/x", json!({"key": HEX, "passphrase": "correct horse"})),
            "encryption_options.key",
            passphrase,
        ),
        (
            encrypted("tank/x", json!({"generate_key": true, "passphrase": "correct horse"})),
            "encryption_options.generate_key",
            passphrase,
        ),
        (
            encrypted("tank/x", json!({"key": "z".repeat(64)})),
            "encryption_options.key",
            "Please provide a valid key of 64 hexadecimal digits.",
        ),
        (
            plain,
            "encryption",
            "Cannot create an unencrypted dataset within an encrypted dataset (tank/pass).",
        ),
        (
            encrypted("tank/pass/x", json!({"generate_key": true})),
            "encryption",
            "Passphrase encrypted datasets cannot have children encrypted with a key.",
        ),
    ] {
        let refused = client.err("pool.dataset.create", params).await;
        let at = format!("pool_dataset_create.{field}");
        assert_eq!(finding(&refused), (Some(at.as_str()), message, 22));
    }
    for (options, part) in [
        (json!({"passphrase": "short"}), "passphrase"),
        (json!({"key": "abc"}), "key"),
        (json!({"passphrase": "correct horse", "pbkdf2iters": 99_999}), "pbkdf2iters"),
        (json!({"generate_key": true, "algorithm": "ROT13"}), "algorithm"),
    ] {
        let refused = client.err("pool.dataset.create", encrypted("tank/x", options)).await;
        let (attribute, _, errno) = finding(&refused);
        assert!(attribute.unwrap().contains(&format!("encryption_options.{part}")), "{attribute:?}");
        assert_eq!(errno, 22);
    }
}

#[tokio::test]
async fn owner_and_mode_of_a_directory_are_set_by_jobs_and_shown() {
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    for (name, kind) in [("tank/a", "GENERIC"), ("tank/b", "SMB")] {
        client.ok("pool.dataset.create", json!([{"name": name, "share_type": kind}])).await;
    }
    // Jobs answer when they have ended.
    client.ok("core.set_options", json!([{"legacy_jobs": false}])).await;
    let (a, b) = ("/mnt/tank/a", "/mnt/tank/b");
    let first = client.ok("filesystem.stat", json!([a])).await;
    assert_eq!((&first["mode"], &first["uid"], &first["acl"]), (&json!(0o40755), &json!(0), &json!(false)));
    client.ok("filesystem.setperm", json!([{"path": a, "mode": "770", "uid": 568, "group": "root"}])).await;
    let set = client.ok("filesystem.stat", json!([a])).await;
    assert_eq!((&set["mode"], &set["uid"], &set["gid"]), (&json!(0o40770), &json!(568), &json!(0)));
    // An access list goes only when that is said.
    assert_eq!(client.ok("filesystem.stat", json!([b])).await["acl"], true);
    let refused = client.err("filesystem.setperm", json!([{"path": b, "mode": "0770"}])).await;
    assert!(refused.to_string().contains("stripacl"), "{refused}");
    client.ok("filesystem.chown", json!([{"path": b, "uid": 568}])).await;
    assert_eq!(client.ok("filesystem.stat", json!([b])).await["acl"], true);
    let strip = json!([{"path": b, "mode": "0770", "options": {"stripacl": true}}]);
    client.ok("filesystem.setperm", strip).await;
    let stripped = client.ok("filesystem.stat", json!([b])).await;
    assert_eq!((&stripped["acl"], &stripped["uid"]), (&json!(false), &json!(568)));
    for bad in [
        json!({"path": a, "mode": "0890"}),
        json!({"path": a, "user": "no such user"}),
        json!({"path": "/etc", "uid": 1}),
        json!({"path": "/mnt/tank/none", "uid": 1}),
    ] {
        client.err("filesystem.setperm", json!([bad])).await;
    }
    client.err("filesystem.stat", json!(["/mnt/tank/none"])).await;
    assert_schemas_kept(&appliance);
}
