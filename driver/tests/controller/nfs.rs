//! Parameters of NFS exports: given the class, what the appliance holds afterwards.

use serde_json::{Value, json};
use tonic::Code;

use crate::rig::{Rig, node, request};

#[tokio::test(flavor = "multi_thread")]
async fn each_parameter_is_seen_in_the_export() {
    let root = json!("root");
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [(&'a str, Value)]);
    let cases: &[Case<'_>] = &[
        (&[], &[("maproot_user", root.clone()), ("maproot_group", root), ("hosts", json!(["192.0.2.1"]))]),
        (
            &[("nfs.networks", "10.244.0.0/16,fd00::/8")],
            &[("networks", json!(["10.244.0.0/16", "fd00::/8"])), ("hosts", json!([]))],
        ),
        (&[("nfs.hosts", "10.0.0.9, 10.0.0.8")], &[("hosts", json!(["10.0.0.9", "10.0.0.8"]))]),
        (&[("nfs.rootSquash", "true")], &[("maproot_user", Value::Null), ("maproot_group", Value::Null)]),
        (
            &[("nfs.maprootUser", "nobody"), ("nfs.maprootGroup", "nogroup")],
            &[("maproot_user", json!("nobody")), ("maproot_group", json!("nogroup"))],
        ),
        (
            &[("nfs.mapallUser", "nobody"), ("nfs.mapallGroup", "nogroup")],
            &[
                ("mapall_user", json!("nobody")),
                ("mapall_group", json!("nogroup")),
                ("maproot_user", Value::Null),
            ],
        ),
        (&[("nfs.shareComment", "team a")], &[("comment", json!("team a [tns-csi tank/pvc-1]"))]),
        (
            &[("shareCommentTemplate", "of {{ .PVName }}")],
            &[("comment", json!("of pvc-1 [tns-csi tank/pvc-1]"))],
        ),
        (&[("path", "/mnt/tank/exports")], &[("path", json!("/mnt/tank/pvc-1"))]),
        (&[("shareMapallUser", "nobody")], &[("mapall_user", json!("nobody"))]),
        (&[("nfs.security", "sys")], &[("security", json!(["SYS"]))]),
    ];
    let rig = Rig::start().await;
    for (given, held) in cases {
        let mut wanted = request("pvc-1", "nfs", 1);
        wanted.parameters.extend(given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        rig.controller.create(wanted).await.unwrap_or_else(|refused| panic!("{given:?}: {refused}"));
        let export = rig.rows("sharing.nfs").remove(0);
        for (field, value) in *held {
            assert_eq!(export.get(*field).unwrap_or(&Value::Null), value, "{given:?} {field}: {export}");
        }
        rig.controller.delete("tank/pvc-1").await.unwrap();
        rig.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_class_opened_neither_publish_nor_unpublish_changes_and_health_says_so() {
    let rig = Rig::start().await;
    for (key, value) in [("nfs.networks", "10.0.0.0/8"), ("nfs.hosts", "10.0.0.9")] {
        let mut wanted = request("pvc-1", "nfs", 1);
        wanted.parameters.insert(key.to_owned(), value.to_owned());
        let volume = rig.controller.create(wanted).await.unwrap();
        let before = rig.rows("sharing.nfs");
        rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
        assert_eq!(rig.rows("sharing.nfs"), before);
        let (abnormal, words) = rig.controller.condition("tank/pvc-1").await.unwrap();
        assert!(!abnormal && words.contains("NotFenced"), "{words}");
        rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
        assert_eq!(rig.rows("sharing.nfs"), before);
        rig.controller.delete("tank/pvc-1").await.unwrap();
    }
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_values_are_refused_before_any_effect() {
    let rig = Rig::start().await;
    for (key, value) in [
        ("nfs.networks", "10.0.0.1/8"),
        ("nfs.networks", "10.0.0.0/8,10.1.0.0/16"),
        ("nfs.hosts", "a b"),
        ("nfs.maprootGroup", "wheel"),
        ("nfs.rootSquash", "yes"),
        ("nfs.security", "none"),
        ("nfs.shareComment", "[tns-csi tank/other]"),
        ("nfs.shareComment", "{{ .PVCName }}"),
        ("smbCredentialsSecret", "smb"),
    ] {
        let mut wanted = request("pvc-1", "nfs", 1);
        wanted.parameters.insert(key.to_owned(), value.to_owned());
        let refused = rig.controller.create(wanted).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{key}={value}");
        assert!(refused.message().contains(key), "{refused}");
    }
    rig.assert_empty();
}
