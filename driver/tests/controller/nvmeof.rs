//! What an NVMe-oF class asks for, on the appliance and in what the node gets.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tns_csi::protocol::nvmeof::dhchap::KIND;
use tns_csi::volume::node_id::NodeId;
use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::identity::{authenticated_host_nqn, host_nqn};
use tns_csi_proto::sealed::{Context, PrivateKey};
use tonic::Code;
use uuid::Uuid;

use crate::rig::{Rig, node, parameters, request, shared, shared_request};

const ID: &str = "tank/pvc-1";

/// A node whose helper has a key.
struct Sealed {
    key: PrivateKey,
    host: Uuid,
    id: String,
}

impl Sealed {
    fn new(name: &str, last: u8) -> Self {
        let (key, host) = (PrivateKey::generate(), Uuid::from_u128(u128::from(last)));
        let id = NodeId::new(name, host, [[10, 0, 0, last].into()], Some(key.public_key())).unwrap();
        Sealed { key, host, id: id.to_string() }
    }

    /// What this node's helper reads out of a publish context.
    fn open(&self, context: &BTreeMap<String, String>) -> Option<String> {
        let sealed = URL_SAFE_NO_PAD.decode(context.get("sealedDHCHAP")?).unwrap();
        let about = Context { kind: KIND, volume: ID, host: self.host };
        let text = self.key.open(&about, &sealed).ok()?;
        Some(String::from_utf8(text.to_vec()).unwrap())
    }
}

fn class(more: &[(&str, &str)]) -> csi::CreateVolumeRequest {
    csi::CreateVolumeRequest { parameters: parameters("nvmeof", more), ..request("pvc-1", "nvmeof", 1) }
}

fn shared_class(more: &[(&str, &str)]) -> csi::CreateVolumeRequest {
    csi::CreateVolumeRequest { parameters: parameters("nvmeof", more), ..shared_request("pvc-1", "nvmeof") }
}

fn host(rig: &Rig, nqn: &str) -> Option<Value> {
    rig.rows("nvmet.host").into_iter().find(|h| h["hostnqn"] == nqn)
}

/// Keys of the appliance's row as the helper reads them.
fn keys_of(row: &Value) -> String {
    let host = row["dhchap_key"].as_str().unwrap();
    match row["dhchap_ctrl_key"].as_str() {
        Some(controller) => format!("{host}\n{controller}"),
        None => host.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_queues_reach_the_node_and_a_port_is_found_by_its_id() {
    let rig = Rig::start().await;
    let port = rig.rows("nvmet.port").first().map(|p| p["id"].to_string()).unwrap();
    let volume = rig
        .controller
        .create(class(&[
            ("transport", "tcp"),
            ("portID", &port),
            ("subsystemNQN", "nqn.2011-06.com.truenas:uuid:ignored"),
            ("nvmeof.nr-io-queues", "4"),
            ("nvmeof.queue-size", "64"),
        ]))
        .await
        .unwrap();
    let context = rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
    assert_eq!((context["ioQueues"].as_str(), context["queueSize"].as_str()), ("4", "64"));
    assert!(!context["subsystemNQN"].contains("ignored"), "each volume has its own subsystem");
    assert!(!context.contains_key("sealedDHCHAP"));
    rig.controller.unpublish(ID, &node("a", 1)).await.unwrap();
    rig.controller.delete(ID).await.unwrap();
    let refused = rig.controller.create(class(&[("portID", "4711")])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("4711"), "{refused}");
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn authentication_makes_keys_that_only_the_nodes_helper_reads() {
    let rig = Rig::start().await;
    for (proof, hash, group) in [("one-way", "SHA-256", None), ("mutual", "SHA-512", Some("2048-BIT"))] {
        let mut more = vec![("nvmeof.dhchap", proof), ("nvmeof.dhchapHash", hash)];
        more.extend(group.map(|g| ("nvmeof.dhchapDHGroup", g)));
        let volume = rig.controller.create(class(&more)).await.unwrap();
        let (a, other) = (Sealed::new("a", 1), Sealed::new("a", 1));
        let context = rig.controller.publish(&volume, &a.id).await.unwrap();
        let nqn = authenticated_host_nqn(&a.host, ID);
        let row = host(&rig, &nqn).expect("the appliance knows the host");
        assert_eq!(a.open(&context).as_deref(), Some(keys_of(&row).as_str()));
        assert_eq!(other.open(&context), None);
        assert_eq!((row["dhchap_hash"].as_str(), row["dhchap_dhgroup"].as_str()), (Some(hash), group));
        assert_eq!(row["dhchap_ctrl_key"].is_string(), proof == "mutual");
        assert!(host(&rig, &host_nqn(&a.host)).is_none(), "the host's own name gets no row and no key");
        let secret = row["dhchap_key"].as_str().unwrap().to_owned();
        assert!(!context.values().any(|v| v.contains(&secret)));
        let again = rig.controller.publish(&volume, &a.id).await.unwrap();
        assert_eq!(again, context, "a repeated publish gives the same answer and the same keys");
        assert_eq!(host(&rig, &nqn), Some(row));
        rig.controller.unpublish(ID, &a.id).await.unwrap();
        assert!(host(&rig, &nqn).is_none(), "the keys go with the access");
        rig.assert_nobody_let_in();
        let fresh = rig.controller.publish(&volume, &a.id).await.unwrap();
        assert_ne!(a.open(&fresh).unwrap(), secret);
        rig.controller.unpublish(ID, "").await.unwrap();
        rig.controller.delete(ID).await.unwrap();
        assert_eq!(rig.rows("nvmet.host"), Vec::<Value>::new());
    }
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_published_together_get_a_context_each() {
    let rig = Rig::start().await;
    let volume = rig.controller.create(shared_class(&[("nvmeof.dhchap", "mutual")])).await.unwrap();
    let nodes: Vec<Sealed> = (1..=6).map(|n| Sealed::new(&format!("n{n}"), n)).collect();
    let all = nodes.iter().map(|n| rig.controller.publish_as(&volume, &n.id, shared("nvmeof")));
    let contexts: Vec<_> =
        futures_util::future::join_all(all).await.into_iter().map(Result::unwrap).collect();
    for (n, node) in nodes.iter().enumerate() {
        let row = host(&rig, &authenticated_host_nqn(&node.host, ID)).unwrap();
        for (m, context) in contexts.iter().enumerate() {
            let opened = node.open(context);
            assert_eq!(opened, (n == m).then(|| keys_of(&row)), "node {n} with the context of node {m}");
        }
    }
    rig.controller.unpublish(ID, &nodes[0].id).await.unwrap();
    assert!(host(&rig, &authenticated_host_nqn(&nodes[0].host, ID)).is_none());
    assert!(host(&rig, &authenticated_host_nqn(&nodes[1].host, ID)).is_some());
    rig.controller.unpublish(ID, "").await.unwrap();
    rig.assert_nobody_let_in();
    assert_eq!(rig.rows("nvmet.host"), Vec::<Value>::new());
    rig.controller.delete(ID).await.unwrap();
    rig.assert_empty();
}

/// Keys stand with the host at the appliance: those of one volume must not become another one's.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_volume_of_a_node_leaves_the_firsts_keys_alone() {
    let rig = Rig::start().await;
    let a = Sealed::new("a", 1);
    let first = rig.controller.create(class(&[("nvmeof.dhchap", "one-way")])).await.unwrap();
    let second = csi::CreateVolumeRequest { name: "pvc-2".into(), ..class(&[("nvmeof.dhchap", "one-way")]) };
    let second = rig.controller.create(second).await.unwrap();
    let plain = rig.controller.create(request("pvc-3", "nvmeof", 1)).await.unwrap();
    rig.controller.publish(&plain, &a.id).await.unwrap();
    rig.controller.publish(&first, &a.id).await.unwrap();
    let before = host(&rig, &authenticated_host_nqn(&a.host, ID)).unwrap();
    rig.controller.publish(&second, &a.id).await.unwrap();
    rig.controller.unpublish("tank/pvc-2", &a.id).await.unwrap();
    assert_eq!(host(&rig, &authenticated_host_nqn(&a.host, ID)), Some(before));
    let own = host(&rig, &host_nqn(&a.host)).unwrap();
    assert_eq!(own["dhchap_key"], json!(null), "volumes without authentication stay reachable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_helper_lost_its_key_gets_new_ones() {
    let rig = Rig::start().await;
    let (then, now) = (Sealed::new("a", 1), Sealed::new("a", 1));
    let volume = rig.controller.create(class(&[("nvmeof.dhchap", "one-way")])).await.unwrap();
    rig.controller.publish(&volume, &then.id).await.unwrap();
    let context = rig.controller.publish(&volume, &now.id).await.unwrap();
    let row = host(&rig, &authenticated_host_nqn(&now.host, ID)).unwrap();
    assert_eq!((now.open(&context), then.open(&context)), (Some(keys_of(&row)), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_key_is_refused_before_any_effect() {
    let rig = Rig::start().await;
    let volume = rig.controller.create(class(&[("nvmeof.dhchap", "one-way")])).await.unwrap();
    let refused = rig.controller.publish(&volume, &node("a", 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("node-helper"), "{refused}");
    rig.assert_nobody_let_in();
    assert_eq!(rig.rows("nvmet.host"), Vec::<Value>::new());
}
