//! Who is let in: publish grants, unpublish revokes, and nobody else is touched.

use tns_csi::volume::node_id::NodeId;
use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::csi::v1::controller_server::Controller as _;
use tns_csi_proto::csi::v1::volume_capability::access_mode::Mode;
use tonic::{Code, Request};
use truenas_sim::When;
use uuid::Uuid;

use crate::rig::{
    PROTOCOLS, Process, Rig, block, mount, node, publish_request, request, shared, shared_request, single,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_export_lets_nobody_in() {
    let rig = Rig::start().await;
    for protocol in PROTOCOLS {
        rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap();
        rig.assert_nobody_let_in();
        rig.controller.delete("tank/pvc-1").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t6_a_volume_for_one_node_never_gets_a_second() {
    let rig = Rig::start().await;
    for protocol in PROTOCOLS {
        let volume = rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap();
        rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
        for capability in [single(), mount("", Mode::SingleNodeWriter), shared(protocol)] {
            let refused = rig.controller.publish_as(&volume, &node("b", 2), capability).await.unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition);
            assert!(refused.message().contains("node a "), "{refused}");
        }
        assert!(rig.lets_in(protocol, 1) && !rig.lets_in(protocol, 2));
        rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
        rig.controller.publish(&volume, &node("b", 2)).await.unwrap();
        assert!(rig.lets_in(protocol, 2) && !rig.lets_in(protocol, 1));
        // The unpublish of the first node comes again, late.
        rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
        assert!(rig.lets_in(protocol, 2), "a late unpublish of another node does not touch this one");
        rig.controller.unpublish("tank/pvc-1", &node("b", 2)).await.unwrap();
        rig.controller.delete("tank/pvc-1").await.unwrap();
    }
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn several_nodes_share_what_may_be_shared() {
    let rig = Rig::start().await;
    for protocol in PROTOCOLS {
        let volume = rig.controller.create(shared_request("pvc-1", protocol)).await.unwrap();
        for (name, last) in [("a", 1), ("b", 2), ("c", 3)] {
            rig.controller.publish_as(&volume, &node(name, last), shared(protocol)).await.unwrap();
        }
        assert!((1..=3).all(|last| rig.lets_in(protocol, last)));
        rig.controller.unpublish("tank/pvc-1", &node("b", 2)).await.unwrap();
        assert!(rig.lets_in(protocol, 1) && !rig.lets_in(protocol, 2) && rig.lets_in(protocol, 3));
        rig.controller.unpublish("tank/pvc-1", "").await.unwrap();
        rig.assert_nobody_let_in();
        rig.controller.delete("tank/pvc-1").await.unwrap();
    }
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_come_at_once_are_all_let_in() {
    let rig = Rig::start().await;
    for protocol in PROTOCOLS {
        let volume = rig.controller.create(shared_request("pvc-1", protocol)).await.unwrap();
        let nodes: Vec<String> = (1..=12).map(|n| node(&format!("n{n}"), n)).collect();
        let all = nodes.iter().map(|n| rig.controller.publish_as(&volume, n, shared(protocol)));
        for published in futures_util::future::join_all(all).await {
            published.unwrap();
        }
        assert!((1..=12).all(|last| rig.lets_in(protocol, last)));
        let all = nodes.iter().map(|n| rig.controller.unpublish("tank/pvc-1", n));
        for unpublished in futures_util::future::join_all(all).await {
            unpublished.unwrap();
        }
        rig.assert_nobody_let_in();
        rig.controller.delete("tank/pvc-1").await.unwrap();
    }
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_wait_behind_a_publish_are_let_in_together() {
    let rig = Rig::start().await;
    let volume = rig.controller.create(shared_request("pvc-1", "nfs")).await.unwrap();
    let control = rig.control();
    control.reset_stats();
    control.hold("sharing.nfs.update", When::Before);
    let start = |name: &str, last| {
        let request = publish_request(&volume, &node(name, last), shared("nfs"));
        rig.controller.spawn(|s| async move { s.controller_publish_volume(Request::new(request)).await })
    };
    let first = start("a", 1);
    control.wait_held("sharing.nfs.update", When::Before, 1).await;
    let rest: Vec<_> = (2..=9).map(|last| start(&format!("n{last}"), last)).collect();
    // Once this other call is answered, those before it have been queued.
    rig.controller.list(0, "").await.unwrap();
    control.release("*");
    first.await.unwrap().unwrap();
    for call in rest {
        call.await.unwrap().unwrap();
    }
    assert!((1..=9).all(|last| rig.lets_in("nfs", last)));
    let updates = control.stats().methods["sharing.nfs.update"];
    assert!(updates <= 4, "{updates} updates for nine nodes");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controller_processes_lose_no_node_of_each_other() {
    let rig = Rig::start().await;
    let second = Process::start(&rig.appliance, None).await;
    for protocol in PROTOCOLS {
        let volume = rig.controller.create(shared_request("pvc-1", protocol)).await.unwrap();
        for round in 0..5_u8 {
            let (a, b) = (node("a", 2 * round + 1), node("b", 2 * round + 2));
            let (one, two) = tokio::join!(
                rig.controller.publish_as(&volume, &a, shared(protocol)),
                second.publish_as(&volume, &b, shared(protocol))
            );
            one.unwrap();
            two.unwrap();
            assert!(
                rig.lets_in(protocol, 2 * round + 1) && rig.lets_in(protocol, 2 * round + 2),
                "{protocol} {round}"
            );
            let (one, two) =
                tokio::join!(rig.controller.unpublish("tank/pvc-1", &a), second.unpublish("tank/pvc-1", &b));
            one.unwrap();
            two.unwrap();
            rig.controller.unpublish("tank/pvc-1", "").await.unwrap();
            rig.assert_nobody_let_in();
        }
        rig.controller.delete("tank/pvc-1").await.unwrap();
    }
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_changed_since_is_taken_back_as_it_was() {
    let rig = Rig::start().await;
    for protocol in PROTOCOLS {
        let volume = rig.controller.create(shared_request("pvc-1", protocol)).await.unwrap();
        rig.controller.publish_as(&volume, &node("a", 1), shared(protocol)).await.unwrap();
        rig.controller.publish_as(&volume, &node("b", 2), shared(protocol)).await.unwrap();
        rig.controller.unpublish("tank/pvc-1", &node("a", 9)).await.unwrap();
        assert!(!rig.lets_in(protocol, 1) && rig.lets_in(protocol, 2));
        // Published anew under another identity, the former one goes.
        rig.controller.publish_as(&volume, &node("b", 8), shared(protocol)).await.unwrap();
        assert!(!rig.lets_in(protocol, 2) && rig.lets_in(protocol, 8));
        rig.controller.unpublish("tank/pvc-1", &node("b", 8)).await.unwrap();
        rig.assert_nobody_let_in();
        rig.controller.delete("tank/pvc-1").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_node_with_another_capability_is_a_conflict() {
    let rig = Rig::start().await;
    let volume = rig.controller.create(shared_request("pvc-1", "nvmeof")).await.unwrap();
    let (a, many) = (node("a", 1), block(Mode::MultiNodeMultiWriter));
    rig.controller.publish_as(&volume, &a, many.clone()).await.unwrap();
    for other in [block(Mode::SingleNodeWriter), single()] {
        let refused = rig.controller.publish_as(&volume, &a, other).await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists);
    }
    rig.controller.publish_as(&volume, &a, many).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_was_lost_is_made_again_although_the_record_stands() {
    let rig = Rig::start().await;
    for protocol in PROTOCOLS {
        let volume = rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap();
        let grant = match protocol {
            "nfs" => "sharing.nfs.update",
            "iscsi" => "iscsi.target.update",
            "smb" => "sharing.smb.update",
            _ => "nvmet.host_subsys.create",
        };
        let error = serde_json::json!({"errno": 14, "reason": "on purpose"});
        let fail = serde_json::json!({"command": "fail", "method": grant, "times": 1, "when": "before", "error": error});
        rig.control().json(fail).await.unwrap();
        let failed = rig.controller.publish(&volume, &node("a", 1)).await.unwrap_err();
        assert_eq!(failed.code(), Code::Unavailable, "half granted is not final: {failed}");
        rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
        assert!(rig.lets_in(protocol, 1));
        rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
        rig.controller.delete("tank/pvc-1").await.unwrap();
    }
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_node_is_not_found_and_nothing_to_unpublish() {
    let rig = Rig::start().await;
    let volume = rig.controller.create(request("pvc-1", "nfs", 1)).await.unwrap();
    let unknown = rig.controller.publish(&volume, "fake-node").await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    rig.controller.unpublish("tank/pvc-1", "fake-node").await.unwrap();
    rig.controller.unpublish("tank/none", &node("a", 1)).await.unwrap();
    rig.controller.unpublish("fake-volume", &node("a", 1)).await.unwrap();
    let gone = csi::Volume { volume_id: "tank/none".to_owned(), ..volume };
    assert_eq!(rig.controller.publish(&gone, &node("a", 1)).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(rig.rows("nvmet.host"), Vec::<serde_json::Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_goes_ahead_of_waiting_creates() {
    let rig = Rig::start().await;
    let volume = rig.controller.create(request("pvc-1", "nfs", 1)).await.unwrap();
    rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
    let control = rig.control();
    control.hold("pool.dataset.create", When::Before);
    let creates: Vec<_> = (0..20)
        .map(|n| {
            let request = request(&format!("many-{n}"), "nfs", 1);
            rig.controller.spawn(|s| async move { s.create_volume(Request::new(request)).await })
        })
        .collect();
    control.wait_held("pool.dataset.create", When::Before, 8).await;
    rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
    rig.assert_nobody_let_in();
    control.release("*");
    for create in creates {
        create.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_went_missing_is_made_again_at_publish() {
    let rig = Rig::start().await;
    for protocol in PROTOCOLS {
        let volume = rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap();
        // The appliance removes exports before it finds a dataset busy.
        let busy = |on: bool| serde_json::json!({"command": "busy", "dataset": "tank/pvc-1", "busy": on});
        rig.control().json(busy(true)).await.unwrap();
        let refused = rig.controller.delete("tank/pvc-1").await.unwrap_err();
        assert_eq!(refused.code(), Code::Aborted, "{refused}");
        assert_eq!(rig.datasets(), ["tank/pvc-1"]);
        rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
        assert!(rig.lets_in(protocol, 1));
        rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
        rig.control().json(busy(false)).await.unwrap();
        rig.controller.delete("tank/pvc-1").await.unwrap();
    }
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_several_addresses_is_let_in_by_all() {
    let rig = Rig::start().await;
    let volume = rig.controller.create(request("pvc-1", "nfs", 1)).await.unwrap();
    let addresses = ["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
    let id = NodeId::new("a", Uuid::from_u128(7), addresses, None).unwrap().to_string();
    rig.controller.publish(&volume, &id).await.unwrap();
    assert_eq!(rig.rows("sharing.nfs")[0]["hosts"], serde_json::json!(["10.0.0.7", "fd00::7"]));
    rig.controller.unpublish("tank/pvc-1", &id).await.unwrap();
    rig.assert_nobody_let_in();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_link_that_was_lost_while_others_keep_access_is_made_again() {
    let rig = Rig::start().await;
    let volume = rig.controller.create(shared_request("pvc-1", "nvmeof")).await.unwrap();
    for (name, last) in [("a", 1), ("b", 2)] {
        rig.controller.publish_as(&volume, &node(name, last), shared("nvmeof")).await.unwrap();
    }
    // What a controller leaves that is killed between dropping the port link and making it again.
    let client = rig.client();
    let calls = client.calls(truenas::Lane::Ordinary, tokio::time::Instant::now() + crate::rig::DEADLINE);
    let link = calls.nvmet_port_subsys_query(&[]).await.unwrap().remove(0);
    calls.nvmet_port_subsys_delete(link.id).await.unwrap();
    rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
    assert!(rig.lets_in("nvmeof", 2) && !rig.lets_in("nvmeof", 1));
}
