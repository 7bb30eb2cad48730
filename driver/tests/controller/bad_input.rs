//! What bad input gets: the right code, words that name it, and no effect.

use std::time::Duration;

use tns_csi::csi::controller::{ControllerOptions, Service};
use tns_csi::volume::topology::Topology;
use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::csi::v1::controller_server::Controller as _;
use tns_csi_proto::csi::v1::volume_capability::access_mode::Mode;
use tonic::{Code, Request, Status};
use truenas::{ApiKey, Client, Options};

use crate::rig::{
    DEADLINE, GIB, PROTOCOLS, Rig, block, mount, node, parameters, publish_request, request, single,
};

fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, words: &str) {
    let refused = answer.expect_err(words);
    assert_eq!(refused.code(), code, "{words}: {refused}");
    assert!(refused.message().contains(words), "{words:?} is not in {refused}");
    assert!(refused.details().is_empty(), "CSI wants no details");
}

#[tokio::test(flavor = "multi_thread")]
async fn create_refuses_what_cannot_be_before_any_effect() {
    let rig = Rig::start().await;
    let control = rig.control();
    // The first one reads the ports.
    rig.controller.create(request("first", "nvmeof", 1)).await.unwrap();
    rig.controller.delete("tank/first").await.unwrap();
    control.reset_stats();
    let with = |change: &dyn Fn(&mut csi::CreateVolumeRequest)| {
        let mut request = request("pvc-1", "nfs", 1);
        change(&mut request);
        request
    };
    let parameter = |key: &'static str, value: &'static str| {
        with(&|r| {
            r.parameters.insert(key.to_owned(), value.to_owned());
        })
    };
    let range = |required, limit| {
        with(&|r| {
            r.capacity_range = Some(csi::CapacityRange { required_bytes: required, limit_bytes: limit })
        })
    };
    let invalid = Code::InvalidArgument;
    let cases = [
        (with(&|r| r.name.clear()), invalid, "name is missing"),
        (with(&|r| r.name = "x".repeat(129)), invalid, "128"),
        (with(&|r| r.name = "a\u{7}b".to_owned()), invalid, "control"),
        (with(&|r| r.volume_capabilities.clear()), invalid, "volume_capabilities is missing"),
        (with(&|r| r.volume_capabilities[0].access_type = None), invalid, "access_type is missing"),
        (with(&|r| r.volume_capabilities[0].access_mode = None), invalid, "access_mode is missing"),
        (with(&|r| r.parameters.clear()), invalid, "\"protocol\" is missing"),
        (parameter("protocol", "ftp"), invalid, "nfs, smb, iscsi or nvmeof"),
        (parameter("colour", "red"), invalid, "parentDataset"),
        (parameter("fsType", "ext4"), invalid, "fsType"),
        (parameter("server", ""), invalid, "server"),
        (parameter("parentDataset", "no/such"), invalid, "tank/no/such"),
        (with(&|r| drop(r.parameters.remove("pool"))), invalid, "\"pool\" is missing"),
        (with(&|r| drop(r.parameters.remove("server"))), invalid, "\"server\" is missing"),
        (with(&|r| r.volume_capabilities = vec![block(Mode::SingleNodeWriter)]), invalid, "block device"),
        (with(&|r| r.volume_capabilities = vec![mount("xfs", Mode::SingleNodeWriter)]), invalid, "xfs"),
        (with(&|r| r.mutable_parameters = parameters("nfs", &[])), invalid, "mutable"),
        (with(&|r| r.volume_content_source = Some(Default::default())), invalid, "not built yet"),
        (range(-1, 0), invalid, "required_bytes"),
        (range(2 * GIB, GIB), Code::OutOfRange, "limit_bytes"),
        (range(1, 1 << 20), Code::OutOfRange, "1073741824"),
    ];
    for (request, code, words) in cases {
        assert_refused(rig.controller.create(request).await, code, words);
    }
    let mut shared = request("pvc-1", "nvmeof", 1);
    shared.volume_capabilities = vec![mount("", Mode::MultiNodeMultiWriter)];
    assert_refused(rig.controller.create(shared).await, invalid, "MULTI_NODE_MULTI_WRITER");
    let mut elsewhere = request("pvc-1", "nvmeof", 1);
    elsewhere.parameters.insert("port".to_owned(), "4421".to_owned());
    assert_refused(rig.controller.create(elsewhere).await, invalid, "127.0.0.1:4420");
    let mut deep = request("pvc-1", "nfs", 1);
    deep.parameters.insert("parentDataset".to_owned(), format!("a/{}", "d".repeat(120)));
    assert_refused(rig.controller.create(deep).await, invalid, "bytes");
    rig.assert_empty();
    let stats = control.stats();
    assert_eq!(
        stats.methods.get("pool.dataset.create"),
        Some(&1),
        "only the missing parent needs the appliance"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_name_with_another_request_is_a_conflict_that_names_the_difference() {
    let rig = Rig::start().await;
    for protocol in PROTOCOLS {
        rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap();
        let conflict = Code::AlreadyExists;
        assert_refused(rig.controller.create(request("pvc-1", protocol, 2)).await, conflict, "range");
        let mut port = request("pvc-1", protocol, 1);
        // Named, although it is the protocol's own.
        let own = match protocol {
            "nfs" => "2049",
            "iscsi" => "3260",
            _ => "4420",
        };
        port.parameters.insert("port".to_owned(), own.to_owned());
        assert_refused(rig.controller.create(port).await, conflict, "parameter port");
        let mut mode = request("pvc-1", protocol, 1);
        mode.volume_capabilities = vec![mount("", Mode::SingleNodeSingleWriter)];
        assert_refused(rig.controller.create(mode).await, conflict, "capabilities");
        let other = if protocol == "nfs" { "nvmeof" } else { "nfs" };
        assert_refused(
            rig.controller.create(request("pvc-1", other, 1)).await,
            conflict,
            "parameter protocol",
        );
        rig.assert_one_volume(protocol);
        rig.controller.delete("tank/pvc-1").await.unwrap();
        rig.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_calls_name_what_is_missing_and_what_does_not_exist() {
    let rig = Rig::start().await;
    let volume = rig.controller.create(request("pvc-1", "nfs", 1)).await.unwrap();
    let invalid = Code::InvalidArgument;
    assert_refused(rig.controller.delete("").await, invalid, "volume_id");
    for id in ["fake-vol-id", "tank/none", "other=tank/pvc-1", "a//b", "@", &"x".repeat(500)] {
        rig.controller.delete(id).await.unwrap();
        assert_refused(rig.controller.expand(id, GIB).await, Code::NotFound, "does not exist");
        assert_refused(rig.controller.validate(id, vec![single()]).await, Code::NotFound, "does not exist");
    }
    assert_refused(rig.controller.expand("", GIB).await, invalid, "volume_id");
    assert_refused(rig.controller.expand("tank/pvc-1", 0).await, invalid, "capacity_range");
    assert_refused(rig.controller.expand("tank/pvc-1", -1).await, invalid, "required_bytes");
    assert_refused(rig.controller.validate("", vec![single()]).await, invalid, "volume_id");
    assert_refused(rig.controller.validate("tank/pvc-1", vec![]).await, invalid, "volume_capabilities");
    assert_refused(rig.controller.unpublish("", "").await, invalid, "volume_id");
    let publish = |change: &dyn Fn(&mut csi::ControllerPublishVolumeRequest)| {
        let mut request = publish_request(&volume, &node("a", 1), single());
        change(&mut request);
        rig.controller.spawn(|s| async move { s.controller_publish_volume(Request::new(request)).await })
    };
    let cases = [
        (publish(&|r| r.volume_id.clear()), invalid, "volume_id"),
        (publish(&|r| r.node_id.clear()), invalid, "node_id"),
        (publish(&|r| r.volume_capability = None), invalid, "volume_capability"),
        (publish(&|r| r.volume_capability = Some(block(Mode::SingleNodeWriter))), invalid, "block device"),
        (publish(&|r| r.readonly = true), invalid, "readonly"),
        (publish(&|r| r.volume_id = "tank/none".to_owned()), Code::NotFound, "tank/none"),
        (publish(&|r| r.volume_id = "fake".to_owned()), Code::NotFound, "fake"),
        (publish(&|r| r.node_id = "fake".to_owned()), Code::NotFound, "fake"),
        (publish(&|r| r.node_id = "x".repeat(1000)), Code::NotFound, "1000 bytes"),
    ];
    for (call, code, words) in cases {
        assert_refused(call.await.unwrap(), code, words);
    }
    rig.assert_one_volume("nfs");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_not_built_say_so() {
    let rig = Rig::start().await;
    let snapshot =
        rig.controller.spawn(|s| async move { s.create_snapshot(Request::new(Default::default())).await });
    assert_refused(snapshot.await.unwrap(), Code::Unimplemented, "CreateSnapshot");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_is_told_and_leaves_nothing() {
    let rig = Rig::start().await;
    rig.control().json(serde_json::json!({"command": "pool_full", "full": true})).await.unwrap();
    for protocol in PROTOCOLS {
        let refused = rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{protocol}: {refused}");
        rig.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_completed_is_undone_before_a_final_answer() {
    let rig = Rig::start().await;
    for (protocol, method) in [
        ("nfs", "sharing.nfs.create"),
        ("smb", "sharing.smb.create"),
        ("iscsi", "iscsi.extent.create"),
        ("iscsi", "iscsi.targetextent.create"),
        ("nvmeof", "nvmet.namespace.create"),
    ] {
        let error = serde_json::json!({"errno": 14, "reason": "on purpose"});
        let fail = serde_json::json!({"command": "fail", "method": method, "times": 0, "when": "before", "error": error});
        rig.control().json(fail).await.unwrap();
        assert_refused(
            rig.controller.create(request("pvc-1", protocol, 1)).await,
            Code::Internal,
            "on purpose",
        );
        rig.assert_empty();
        rig.control().clear();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_comes_after_the_effect_is_looked_into() {
    let rig = Rig::start().await;
    for (protocol, methods) in [
        ("nfs", vec!["pool.dataset.create", "sharing.nfs.create"]),
        ("smb", vec!["pool.dataset.create", "sharing.smb.create"]),
        ("nvmeof", vec!["pool.dataset.create", "nvmet.subsys.create", "nvmet.namespace.create"]),
        (
            "iscsi",
            vec![
                "pool.dataset.create",
                "iscsi.target.create",
                "iscsi.extent.create",
                "iscsi.targetextent.create",
            ],
        ),
    ] {
        for method in methods {
            let error = serde_json::json!({"errno": 202, "reason": "[ESERVICESTARTFAILURE] reload failed"});
            let fail =
                serde_json::json!({"command": "fail", "method": method, "when": "after", "error": error});
            rig.control().json(fail).await.unwrap();
            rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap();
            rig.assert_one_volume(protocol);
            rig.controller.delete("tank/pvc-1").await.unwrap();
            rig.assert_empty();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_appliance_is_unavailable_and_a_wrong_key_is_no_login_storm() {
    let rig = Rig::start().await;
    let service = |url: String, key: &str, ca: &std::path::Path| {
        let mut options = Options::new(url.parse().unwrap(), ApiKey::new(key).unwrap());
        options.ca_file = Some(ca.to_owned());
        let client = Client::new(options).unwrap();
        let options = ControllerOptions {
            driver_name: "tns.csi.io".to_owned(),
            cluster_id: None,
            kubernetes: None,
            topology: Topology::default(),
            metrics: None,
        };
        Service::new(options, client)
    };
    let ask = |service: Service| async move {
        let mut wanted = Request::new(request("pvc-1", "nfs", 1));
        wanted.set_timeout(Duration::from_secs(2));
        tokio::time::timeout(DEADLINE, service.create_volume(wanted)).await.expect("an answer in time")
    };
    let ca = rig.appliance.ca_file();
    // A port on which nobody listens: bound once and let go.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nowhere = service(format!("wss://{free}/api/current"), rig.appliance.api_key(), ca);
    assert_refused(ask(nowhere).await, Code::Unavailable, "appliance");
    let wrong = service(rig.appliance.url(), "1-wrongwrongwrongwrong", ca);
    for _ in 0..10 {
        assert_refused(ask(wrong.clone()).await, Code::Unavailable, "login refused");
    }
    let logins: u64 = rig
        .control()
        .stats()
        .methods
        .iter()
        .filter(|(m, _)| m.starts_with("auth.login"))
        .map(|(_, n)| n)
        .sum();
    assert!(logins <= 3, "{logins} logins");
    rig.assert_empty();
}

/// The official driver read CHAP secrets and passphrases from the class, where everybody can read them.
#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_elsewhere_is_refused_with_the_place_and_never_shown() {
    let rig = Rig::start().await;
    let secret = "hunter2-hunter2";
    for (protocol, key, words) in [
        ("iscsi", "iscsi.chapUser", "chapUser"),
        ("iscsi", "iscsi.chapSecret", "chapSecret"),
        ("iscsi", "iscsi.chapPeerUser", "chapPeerUser"),
        ("iscsi", "iscsi.chapPeerSecret", "chapPeerSecret"),
        ("iscsi", "node-db.node.session.auth.password", "chapSecret"),
        ("nfs", "encryption.passphrase", "encryptionPassphrase"),
        ("nfs", "encryption.key", "encryptionKey"),
        ("nfs", "encryptionPassphrase", "provisioner-secret-name"),
        ("nfs", "encryption.pbkdf2iters", "rounds"),
        ("nvmeof", "nvmeof.dhchapKey", "nvmeof.dhchap"),
        ("nvmeof", "nvmeof.hostNQN", "NQN of its own"),
        ("nfs", "nfs.mountOptions", "mountOptions"),
        ("nfs", "snapshot.schedule", "Periodic Snapshot Tasks"),
        ("nfs", "snapshot.retention", "Periodic Snapshot Tasks"),
        ("smb", "smbCredentialsSecret", "node-stage-secret-name"),
        ("nfs", "detachedVolumesFromSnapshots", "cannot do that yet"),
    ] {
        let mut request = request("pvc-1", protocol, 1);
        request.parameters.insert(key.to_owned(), secret.to_owned());
        let refused = rig.controller.create(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{key}");
        assert!(refused.message().contains(key) && refused.message().contains(words), "{refused}");
        assert!(!refused.message().contains(secret), "{refused}");
    }
    rig.assert_empty();
}
