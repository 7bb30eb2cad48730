//! Each parameter about the dataset: given the class, what the appliance holds afterwards.

use std::time::Instant;

use serde_json::{Value, json};
use tns_csi_proto::csi::v1 as csi;
use tonic::Code;
use truenas::Lane;
use truenas_sim::{Config, Version, When};

use crate::rig::{DEADLINE, GIB, Rig, request, single, smb_hosts};

const HEX: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";
const PHRASE: &str = "a phrase nobody prints";

fn class(name: &str, protocol: &str, more: &[(&str, &str)]) -> csi::CreateVolumeRequest {
    let mut request = request(name, protocol, 1);
    request.parameters.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    request
}

fn claim(mut request: csi::CreateVolumeRequest, namespace: &str, name: &str) -> csi::CreateVolumeRequest {
    for (key, value) in [("pvc/name", name), ("pvc/namespace", namespace)] {
        request.parameters.insert(format!("csi.storage.k8s.io/{key}"), value.to_owned());
    }
    request
}

fn secret(mut request: csi::CreateVolumeRequest, pairs: &[(&str, &str)]) -> csi::CreateVolumeRequest {
    request.secrets.extend(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    request
}

/// The dataset as `pool.dataset.query` shows it.
async fn dataset(rig: &Rig, name: &str) -> Value {
    let calls = rig.client().calls(Lane::Ordinary, (Instant::now() + DEADLINE).into());
    let rows: Vec<Value> = calls.call("pool.dataset.query", &json!([[["id", "=", name]], {}])).await.unwrap();
    rows.into_iter().next().unwrap_or_else(|| panic!("no dataset {name}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_zfs_parameter_is_held_by_the_appliance_afterwards() {
    let rig = Rig::start().await;
    let both = [
        ("zfs.compression", "off", "compression", "off"),
        ("zfs.compression", "lz4", "compression", "lz4"),
        ("zfs.compression", "gzip-6", "compression", "gzip"),
        ("zfs.compression", "gzip-9", "compression", "gzip-9"),
        ("zfs.compression", "zstd-19", "compression", "zstd-19"),
        ("zfs.compression", "zle", "compression", "zle"),
        ("zfs.compression", "lzjb", "compression", "lzjb"),
        ("compression", "ZSTD", "compression", "zstd"),
        ("zfs.dedup", "on", "deduplication", "on"),
        ("zfs.dedup", "sha256", "deduplication", "on"),
        ("zfs.dedup", "verify", "deduplication", "verify"),
        ("deduplication", "true", "deduplication", "on"),
        ("zfs.sync", "always", "sync", "always"),
        ("sync", "DISABLED", "sync", "disabled"),
        ("zfs.copies", "2", "copies", "2"),
    ];
    let file = [
        ("zfs.readonly", "on", "readonly", "on"),
        ("zfs.atime", "off", "atime", "off"),
        ("zfs.exec", "off", "exec", "off"),
        ("zfs.recordsize", "512", "recordsize", "512"),
        ("zfs.recordsize", "1M", "recordsize", "1048576"),
        ("zfs.snapdir", "visible", "snapdir", "visible"),
        ("zfs.acltype", "nfsv4", "acltype", "nfsv4"),
        ("zfs.acltype", "off", "aclmode", "discard"),
        ("zfs.casesensitivity", "insensitive", "casesensitivity", "insensitive"),
        ("datasetEnableReservation", "true", "refreservation", "1073741824"),
        ("datasetEnableQuotas", "true", "refquota", "1073741824"),
    ];
    let block = [
        ("zfs.volblocksize", "512", "volblocksize", "512"),
        ("zfs.volblocksize", "128K", "volblocksize", "131072"),
        ("volblocksize", "8k", "volblocksize", "8192"),
        ("zfs.sparse", "true", "refreservation", "0"),
        ("zfs.sparse", "false", "refreservation", "1073741824"),
        ("zvolEnableReservation", "true", "refreservation", "1073741824"),
    ];
    let cases = [("nfs", &both[..]), ("nvmeof", &both), ("nfs", &file), ("nvmeof", &block)];
    for (protocol, rows) in cases {
        for (key, value, field, raw) in rows {
            let volume = rig.controller.create(class("pvc-1", protocol, &[(key, value)])).await;
            let volume = volume.unwrap_or_else(|why| panic!("{protocol} {key}={value}: {why}"));
            let held = dataset(&rig, "tank/pvc-1").await;
            let shown = held[*field]["rawvalue"].as_str().unwrap_or("0");
            assert_eq!(shown.to_lowercase(), *raw, "{protocol} {key}={value}");
            rig.controller.create(class("pvc-1", protocol, &[(key, value)])).await.expect("a replay");
            rig.controller.delete(&volume.volume_id).await.unwrap();
        }
    }
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_zfs_or_the_appliance_cannot_do_is_refused_with_what_is_valid() {
    let rig = Rig::start().await;
    for (protocol, pairs, words) in [
        ("nfs", &[("zfs.compress", "lz4")][..], "zfs.compression"),
        ("nfs", &[("zfs.compression", "best")], "lz4"),
        ("nfs", &[("zfs.volblocksize", "16K")], "zfs.recordsize"),
        ("nvmeof", &[("zfs.recordsize", "16K")], "zfs.volblocksize"),
        ("nfs", &[("zfs.acltype", "posix"), ("zfs.aclmode", "restricted")], "discard"),
        ("nfs", &[("zfs.casesensitivity", "mixed")], "insensitive"),
        ("nfs", &[("sync", "always"), ("zfs.sync", "standard")], "two spellings"),
        ("nvmeof", &[("zfs.readonly", "on")], "volumeMode Block"),
        ("nfs", &[("encryptionAlgorithm", "AES-256-GCM")], "encryption: \"true\""),
        ("nfs", &[("encryption", "true"), ("encryptionAlgorithm", "DES")], "AES-128-CCM"),
        ("nfs", &[("encryption", "true")], "encryptionPassphrase"),
        ("nfs", &[("nameTemplate", "{{ .PVCName")], "at character 1"),
        ("nfs", &[("nameTemplate", "{{ .PVCName }}")], "--extra-create-metadata"),
        ("nfs", &[("nameTemplate", "{{ .Claim }}")], ".PVCNamespace"),
        ("nfs", &[("nameTemplate", "///")], "no letter or digit"),
    ] {
        let refused = rig.controller.create(class("pvc-1", protocol, pairs)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{pairs:?}: {refused}");
        assert!(refused.message().contains(words), "{words:?} is not in {refused}");
    }
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thick_zvol_needs_room_and_a_thin_one_does_not() {
    let rig = Rig::start().await;
    let sized = |thick: &str| {
        let mut request = class("pvc-1", "nvmeof", &[("zfs.sparse", thick)]);
        request.capacity_range.as_mut().unwrap().required_bytes = 900 * GIB;
        request
    };
    let refused = rig.controller.create(sized("false")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    rig.assert_empty();
    rig.controller.create(sized("true")).await.unwrap();
    let thick = class("x", "nvmeof", &[("zfs.sparse", "false")]).parameters;
    let thin = class("x", "nvmeof", &[]).parameters;
    let (thick, thin) =
        (rig.controller.capacity(thick).await.unwrap(), rig.controller.capacity(thin).await.unwrap());
    assert!(thick <= thin / 5 * 4 + 4, "{thick} of {thin}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_is_rounded_up_to_whole_blocks_inside_the_limit() {
    let rig = Rig::start().await;
    let sized = |required, limit| {
        let mut request = class("pvc-1", "nvmeof", &[("zfs.volblocksize", "64K")]);
        request.capacity_range = Some(csi::CapacityRange { required_bytes: required, limit_bytes: limit });
        request
    };
    let refused = rig.controller.create(sized(GIB + 1, GIB + 2)).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let volume = rig.controller.create(sized(GIB + 1, 2 * GIB)).await.unwrap();
    assert_eq!(volume.capacity_bytes, GIB + 65536);
    let grown = rig.controller.expand(&volume.volume_id, 2 * GIB + 1).await.unwrap();
    assert_eq!(grown.capacity_bytes, 2 * GIB + 65536);
}

/// tns-csi keeps the size of creation in its metadata.
#[tokio::test(flavor = "multi_thread")]
async fn the_recorded_size_and_the_reservation_follow_expansion() {
    let rig = Rig::start().await;
    for (protocol, key, value, size) in [
        ("nfs", "datasetEnableReservation", "true", "refquota"),
        ("nvmeof", "zfs.sparse", "false", "volsize"),
    ] {
        let volume = rig.controller.create(class("pvc-1", protocol, &[(key, value)])).await.unwrap();
        rig.controller.expand(&volume.volume_id, 3 * GIB).await.unwrap();
        let held = dataset(&rig, "tank/pvc-1").await;
        let bytes = (3 * GIB).to_string();
        assert_eq!(held[size]["rawvalue"], bytes.as_str(), "{protocol}");
        assert_eq!(held["refreservation"]["rawvalue"], bytes.as_str(), "{protocol}");
        assert_eq!(
            held["user_properties"]["tns-csi:capacity_bytes"]["rawvalue"],
            bytes.as_str(),
            "{protocol}"
        );
        rig.controller.delete(&volume.volume_id).await.unwrap();
    }
    rig.assert_empty();
}

/// tns-csi did not hand the hexadecimal key on for iSCSI; the way is the same for every protocol here.
#[tokio::test(flavor = "multi_thread")]
async fn t14_encryption_takes_each_source_of_its_key_on_every_protocol() {
    let rig = Rig::start().await;
    let on = ("encryption", "true");
    let generate = ("encryptionGenerateKey", "true");
    for protocol in ["nfs", "nvmeof"] {
        let plain = class("pvc-1", protocol, &[on]);
        for (request, source, algorithm) in [
            (class("pvc-1", protocol, &[on, generate]), "generated", "AES-256-GCM"),
            (secret(plain.clone(), &[("encryptionPassphrase", PHRASE)]), "passphrase", "AES-256-GCM"),
            (secret(plain, &[("encryptionKey", HEX)]), "key", "AES-256-GCM"),
            (
                class("pvc-1", protocol, &[on, generate, ("encryptionAlgorithm", "AES-128-CCM")]),
                "generated",
                "AES-128-CCM",
            ),
        ] {
            let volume = rig.controller.create(request.clone()).await.unwrap();
            let held = dataset(&rig, "tank/pvc-1").await;
            assert_eq!(held["encrypted"], true, "{protocol} {source}");
            assert_eq!(held["encryption_root"], "tank/pvc-1", "{protocol} {source}");
            let shown = held["encryption_algorithm"]["rawvalue"].as_str().unwrap_or_default();
            assert!(shown.eq_ignore_ascii_case(algorithm), "{protocol} {source}: {shown}");
            let kept = &held["user_properties"]["tns-csi:request.v1.encryption_key"]["rawvalue"];
            assert_eq!(kept, source);
            let all = format!("{held} {volume:?}");
            assert!(!all.contains(PHRASE) && !all.contains(HEX), "a key is readable: {all}");
            rig.controller.create(request).await.expect("a replay");
            rig.controller.delete(&volume.volume_id).await.unwrap();
        }
    }
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_key_is_named_and_never_shown() {
    let rig = Rig::start().await;
    let on = |pairs: &[(&str, &str)]| secret(class("pvc-1", "nfs", &[("encryption", "true")]), pairs);
    let short = "hunter2";
    for (request, words) in [
        (on(&[("encryptionPassphrase", short)]), "encryptionPassphrase"),
        (on(&[("encryptionKey", short)]), "encryptionKey"),
        (on(&[("encryptionKey", HEX), ("encryptionPassphrase", PHRASE)]), "keep one"),
        (secret(class("pvc-1", "nfs", &[]), &[("encryptionKey", HEX)]), "encryption: \"true\""),
    ] {
        let refused = rig.controller.create(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(words), "{refused}");
        for value in [short, HEX, PHRASE] {
            assert!(!refused.message().contains(value), "{refused}");
        }
    }
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn truenas_26_has_no_choice_of_algorithm_and_says_so() {
    let rig = Rig::with(Config { version: Version::V26, ..Config::default() }).await;
    let class = |algorithm| {
        let more =
            [("encryption", "true"), ("encryptionGenerateKey", "true"), ("encryptionAlgorithm", algorithm)];
        class("pvc-1", "nfs", &more)
    };
    let refused = rig.controller.create(class("AES-192-GCM")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("no choice of encryptionAlgorithm"), "{refused}");
    rig.controller.create(class("AES-256-GCM")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_comments_come_from_the_class() {
    let rig = Rig::start().await;
    let template = ("nameTemplate", "{{ .PVCNamespace }}-{{ .PVCName }}");
    let comment = ("commentTemplate", "of {{ .PVName }}");
    let asked = claim(class("pvc-1", "nfs", &[template, comment]), "team", "data");
    let volume = rig.controller.create(asked.clone()).await.unwrap();
    assert_eq!(volume.volume_id, "tank/team-data");
    let held = dataset(&rig, "tank/team-data").await;
    assert!(held.to_string().contains("of pvc-1"), "{held}");
    assert_eq!(rig.controller.create(asked).await.unwrap().volume_id, volume.volume_id);
    let prefixed = class("pvc-2", "nvmeof", &[("namePrefix", "east-"), ("nameSuffix", "-db")]);
    assert_eq!(rig.controller.create(prefixed).await.unwrap().volume_id, "tank/east-pvc-2-db");
    rig.assert_schemas();
}

/// tns-csi took a volume by the beginning of its name.
#[tokio::test(flavor = "multi_thread")]
async fn t1_two_claims_never_get_one_dataset() {
    let rig = Rig::start().await;
    let by_claim = [("nameTemplate", "{{ .PVCName }}")];
    let of = |pv: &str, namespace: &str, name: &str| claim(class(pv, "nfs", &by_claim), namespace, name);
    let first = rig.controller.create(of("pvc-1", "a", "data")).await.unwrap();
    for (pv, namespace) in [("pvc-2", "b"), ("pvc-3", "a")] {
        let refused = rig.controller.create(of(pv, namespace, "data")).await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
        assert!(refused.message().contains("pvc-1"), "{refused}");
    }
    let other = rig.controller.create(of("pvc-4", "a", "data-2")).await.unwrap();
    assert_ne!(first.volume_id, other.volume_id);
    assert_eq!(rig.datasets().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_dataset_under_a_templates_name_stays_as_it_is() {
    let rig = Rig::start().await;
    rig.seed(json!({"datasets": [{"name": "tank/data", "properties": {"refquota": "1073741824"}}]})).await;
    let before = dataset(&rig, "tank/data").await;
    let asked = claim(class("pvc-1", "nfs", &[("nameTemplate", "{{ .PVCName }}")]), "a", "data");
    assert_eq!(asked.volume_capabilities, [single()]);
    let refused = rig.controller.create(asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    assert_eq!(dataset(&rig, "tank/data").await["user_properties"], before["user_properties"]);
    assert_eq!(rig.rows("sharing.nfs"), Vec::<Value>::new());
}

async fn root_of(rig: &Rig, path: &str) -> Value {
    let calls = rig.client().calls(Lane::Ordinary, (Instant::now() + DEADLINE).into());
    calls.call("filesystem.stat", &(path,)).await.unwrap()
}

fn called(rig: &Rig, method: &str) -> u64 {
    rig.control().stats().methods.get(method).copied().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn owner_and_mode_of_the_root_directory_are_those_of_the_class() {
    let (mode, user, group) = ("datasetPermissionsMode", "datasetPermissionsUser", "datasetPermissionsGroup");
    for version in [Version::V25_04, Version::V25_10, Version::V26] {
        let rig = Rig::with(Config { version, ..Config::default() }).await;
        for protocol in ["nfs", "smb"] {
            for (given, (bits, uid, gid)) in [
                (&[][..], (0o755, 0, 0)),
                (&[(mode, "0770")], (0o770, 0, 0)),
                (&[(user, "568"), (group, "569")], (0o755, 568, 569)),
                (&[(user, "nobody")], (0o755, 65534, 0)),
                (&[(mode, "0775"), (user, "0"), (group, "1000")], (0o775, 0, 1000)),
            ] {
                let volume = rig.controller.create(class("pvc-1", protocol, given)).await;
                let volume = volume.unwrap_or_else(|why| panic!("{version:?} {protocol} {given:?}: {why}"));
                let root = root_of(&rig, "/mnt/tank/pvc-1").await;
                let held =
                    (root["mode"].as_u64().unwrap() & 0o7777, root["uid"].clone(), root["gid"].clone());
                assert_eq!(held, (bits, json!(uid), json!(gid)), "{version:?} {protocol} {given:?}");
                // Without a mode TrueNAS's access list of an SMB volume stays.
                let list = protocol == "smb" && !given.iter().any(|(key, _)| *key == mode);
                assert_eq!(root["acl"], list, "{version:?} {protocol} {given:?}");
                rig.assert_nobody_let_in();
                rig.controller.delete(&volume.volume_id).await.unwrap();
            }
        }
        rig.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_class_that_asks_for_an_owner_or_a_mode_pays_for_it() {
    let rig = Rig::start().await;
    rig.control().reset_stats();
    rig.controller.create(class("pvc-1", "nfs", &[])).await.unwrap();
    assert_eq!(rig.control().stats().calls, 2, "{:?}", rig.control().stats().methods);
    rig.controller.create(class("pvc-2", "nfs", &[("datasetPermissionsMode", "0770")])).await.unwrap();
    assert_eq!((called(&rig, "filesystem.setperm"), called(&rig, "filesystem.stat")), (1, 0));
    // The session is subscribed to jobs now; left are the job and a look at it.
    rig.control().reset_stats();
    rig.controller.create(class("pvc-3", "nfs", &[("datasetPermissionsUser", "568")])).await.unwrap();
    let stats = rig.control().stats();
    assert!(stats.calls <= 4, "{:?}", stats.methods);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_the_appliance_does_not_know_leaves_nothing_behind() {
    let rig = Rig::start().await;
    for (protocol, key, value) in [
        ("nfs", "datasetPermissionsUser", "nosuchuser"),
        ("smb", "datasetPermissionsGroup", "nosuchgroup"),
        ("nfs", "datasetPermissionsMode", "rwx"),
        ("nfs", "datasetPermissionsUser", "-1"),
        ("nvmeof", "datasetPermissionsMode", "0770"),
    ] {
        let refused = rig.controller.create(class("pvc-1", protocol, &[(key, value)])).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{key}={value}: {refused}");
        rig.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_change_of_owner_is_finished_before_anybody_is_let_in() {
    let asked =
        || class("pvc-1", "nfs", &[("datasetPermissionsMode", "0770"), ("datasetPermissionsUser", "568")]);
    for when in [When::Before, When::After] {
        let mut rig = Rig::start().await;
        rig.control().hold("filesystem.setperm", when);
        let _cut = rig.controller.spawn(move |s| async move {
            use tns_csi_proto::csi::v1::controller_server::Controller as _;
            s.create_volume(tonic::Request::new(asked())).await
        });
        let control = rig.control();
        control.wait_held("filesystem.setperm", when, 1).await;
        assert_eq!(rig.rows("sharing.nfs"), Vec::<Value>::new(), "shared before the owner is right");
        rig.replace_controller_dead(|| control.release("*")).await;
        rig.controller.create(asked()).await.unwrap();
        let root = root_of(&rig, "/mnt/tank/pvc-1").await;
        assert_eq!((&root["mode"], &root["uid"]), (&json!(0o40770), &json!(568)), "{when:?}");
        rig.assert_one_volume("nfs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_about_the_owner_is_looked_up() {
    for when in [When::Before, When::After] {
        let rig = Rig::start().await;
        rig.control().drop_at("filesystem.setperm", 1, when);
        rig.controller.create(class("pvc-1", "smb", &[("datasetPermissionsMode", "0770")])).await.unwrap();
        assert_eq!(root_of(&rig, "/mnt/tank/pvc-1").await["mode"], json!(0o40770), "{when:?}");
        rig.assert_one_volume("smb");
        assert_eq!(smb_hosts(&rig.rows("sharing.smb")[0]), ["192.0.2.1"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_volumes_users_made_of_its_root_stays_when_the_request_is_repeated() {
    let rig = Rig::start().await;
    let asked = || class("pvc-1", "nfs", &[("datasetPermissionsMode", "0770")]);
    let volume = rig.controller.create(asked()).await.unwrap();
    let calls = rig.client().calls(Lane::Ordinary, (Instant::now() + DEADLINE).into());
    let users = truenas::calls::Permissions { mode: Some(0o700), ..Default::default() };
    calls.filesystem_set_permissions("/mnt/tank/pvc-1", &users).await.unwrap();
    rig.controller.create(asked()).await.unwrap();
    // The export is made again at publish; the directory is not touched.
    let export = rig.rows("sharing.nfs")[0]["id"].as_i64().unwrap();
    calls.nfs_share_delete(export).await.unwrap();
    rig.controller.publish(&volume, &crate::rig::node("a", 1)).await.unwrap();
    assert_eq!(root_of(&rig, "/mnt/tank/pvc-1").await["mode"], json!(0o40700));
}

#[tokio::test(flavor = "multi_thread")]
async fn user_properties_of_the_class_stand_on_the_dataset() {
    let rig = Rig::start().await;
    let given = [
        ("datasetProperties.com.example:owner", "{{ .PVCNamespace }}/{{ .PVCName }}"),
        ("datasetProperties.backup:tier", "gold"),
    ];
    for protocol in ["nfs", "nvmeof"] {
        let asked = claim(class("pvc-1", protocol, &given), "team", "data");
        rig.control().reset_stats();
        let volume = rig.controller.create(asked.clone()).await.unwrap();
        assert_eq!(called(&rig, "pool.dataset.update"), 0, "they come with the creation");
        let held = dataset(&rig, "tank/pvc-1").await;
        assert_eq!(held["user_properties"]["com.example:owner"]["rawvalue"], "team/data");
        assert_eq!(held["user_properties"]["backup:tier"]["rawvalue"], "gold");
        rig.controller.create(asked).await.expect("a replay");
        let other = claim(class("pvc-1", protocol, &given[..1]), "team", "data");
        let refused = rig.controller.create(other).await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists);
        assert!(refused.message().contains("backup:tier"), "{refused}");
        rig.controller.delete(&volume.volume_id).await.unwrap();
    }
    for (key, words) in [
        ("datasetProperties.compression", "zfs.compression"),
        ("datasetProperties.tns-csi:managed_by", "reserved"),
        ("datasetProperties.a b:c", "no user property"),
    ] {
        let refused = rig.controller.create(class("pvc-1", "nfs", &[(key, "x")])).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{key}");
        assert!(refused.message().contains(words), "{refused}");
    }
    rig.assert_empty();
}
