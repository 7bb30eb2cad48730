//! What differs between TrueNAS versions, seen at the wire.

use serde_json::json;

use super::{Peer, Site, calls, until};
use crate::calls::{DhChapKeys, Filter};
use crate::{CallError, Calls, Client, ConnectionState, Lane, LoginRefusal, NotSent, SystemVersion};

/// A client logged in to an appliance of this version.
async fn connected(version: &str) -> (Site, Client, Calls, Peer) {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.peer().await;
    log_in(&mut peer, version).await;
    peer.failover("SINGLE").await;
    until(&client, ConnectionState::is_connected).await;
    let calls = calls(&client, Lane::Ordinary, 60);
    (site, client, calls, peer)
}

async fn log_in(peer: &mut Peer, version: &str) {
    let options = peer.expect("core.set_options").await;
    let old = version.contains("25.04");
    peer.answer(&options, if old { json!(null) } else { json!({"legacy_jobs": true}) });
    let login = peer.expect("auth.login_ex").await;
    peer.answer(&login, json!({"response_type": "SUCCESS"}));
    let call = peer.expect("system.version").await;
    peer.answer(&call, json!(version));
}

const OLD: &str = "TrueNAS-SCALE-25.04.2.6";

#[tokio::test(start_paused = true)]
async fn an_appliance_before_25_04_is_refused_with_what_was_found() {
    let mut site = Site::new();
    let client = site.client();
    let mut peer = site.peer().await;
    log_in(&mut peer, "TrueNAS-SCALE-24.10.2").await;
    let state = until(&client, |s| matches!(s, ConnectionState::LoginRefused { .. })).await;
    let why = LoginRefusal::TooOld(SystemVersion::parse("TrueNAS-SCALE-24.10.2"));
    assert_eq!(state, ConnectionState::LoginRefused { why: why.clone() });
    let words = state.to_string();
    assert!(words.contains("24.10.2") && words.contains("25.04"), "{words}");
    let error = calls(&client, Lane::Fence, 60).ping().await.unwrap_err();
    assert_eq!(error, CallError::NotSent { method: "core.ping", why: NotSent::LoginRefused(why) });
    assert!(peer.is_over().await, "nothing was asked of it");
}

#[tokio::test(start_paused = true)]
async fn snapshots_are_read_under_the_name_of_the_version() {
    for (version, method) in [
        (OLD, "zfs.snapshot.query"),
        ("25.10.6", "pool.snapshot.query"),
        ("TrueNAS-26.0.0-RC.1", "pool.snapshot.query"),
    ] {
        let (_site, _client, calls, mut peer) = connected(version).await;
        let (rows, ()) = tokio::join!(calls.snapshots_of("tank/a"), async {
            let call = peer.expect(method).await;
            let row = |d: &str| json!({"id": format!("{d}@s"), "dataset": d, "snapshot_name": "s"});
            peer.answer(&call, json!([row("tank/a"), row("tank/ab")]));
        });
        assert_eq!(rows.unwrap().len(), 1, "{version}");
    }
}

#[tokio::test(start_paused = true)]
async fn on_25_04_a_dataset_is_read_from_the_list_by_its_exact_name() {
    let (_site, _client, calls, mut peer) = connected(OLD).await;
    let row = |id: &str| {
        json!({"id": id, "type": "VOLUME", "name": id, "pool": "tank",
               "volsize": {"parsed": 1 << 30, "rawvalue": "1073741824", "value": "1G"},
               "user_properties": {"tns-csi:volume_id": {"rawvalue": id, "value": id, "parsed": id}}})
    };
    let (read, ()) = tokio::join!(calls.dataset_read("tank/a"), async {
        let call = peer.expect("pool.dataset.query").await;
        assert_eq!(call.params[0], json!([["id", "in", ["tank/a"]]]));
        assert_eq!(call.params[1]["extra"]["retrieve_children"], json!(false));
        peer.answer(&call, json!([row("tank/a"), row("tank/ab")]));
    });
    let read = read.unwrap().unwrap();
    assert_eq!((read.name.as_str(), read.volsize), ("tank/a", Some(1 << 30)));
    let (tree, ()) = tokio::join!(calls.dataset_read_tree("tank/a"), async {
        let call = peer.expect("pool.dataset.query").await;
        peer.answer(&call, json!([row("tank/a"), row("tank/a/b"), row("tank/ab")]));
    });
    let names: Vec<String> = tree.unwrap().into_iter().map(|d| d.name).collect();
    assert_eq!(names, ["tank/a", "tank/a/b"]);
    let (none, ()) = tokio::join!(calls.dataset_read("tank/none"), async {
        let call = peer.expect("pool.dataset.query").await;
        peer.answer(&call, json!([]));
    });
    assert_eq!(none, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn on_25_04_nvme_of_holds_nothing_and_cannot_be_made() {
    let (_site, _client, calls, mut peer) = connected(OLD).await;
    let by_id = [Filter::eq("subsys.id", 1)];
    assert_eq!(calls.nvmet_subsys_query(&by_id).await, Ok(vec![]));
    assert_eq!(calls.nvmet_namespace_query(&by_id).await, Ok(vec![]));
    assert_eq!(calls.nvmet_host_subsys_query(&by_id).await, Ok(vec![]));
    assert_eq!(calls.nvmet_port_subsys_query(&by_id).await, Ok(vec![]));
    assert_eq!(calls.nvmet_port_query(&by_id).await, Ok(vec![]));
    for error in [
        calls.nvmet_subsys_create("x", None).await.unwrap_err(),
        calls.nvmet_host_create("nqn.x", &DhChapKeys::default()).await.unwrap_err(),
        calls.require_nvmeof().await.unwrap_err(),
    ] {
        assert!(matches!(error, CallError::NotSent { why: NotSent::Unsupported(_), .. }), "{error}");
        let words = error.to_string();
        assert!(words.contains("needs TrueNAS 25.10") && words.contains("25.04.2.6"), "{words}");
    }
    assert!(peer.is_quiet().await, "nothing of it was sent");
}

#[tokio::test(start_paused = true)]
async fn after_an_upgrade_the_next_session_speaks_as_the_new_version() {
    let (mut site, client, calls, peer) = connected(OLD).await;
    assert!(!calls.features().await.unwrap().nvmeof);
    peer.cut();
    let _peer = site.session().await;
    until(&client, ConnectionState::is_connected).await;
    assert!(calls.features().await.unwrap().nvmeof);
}
