//! The client against the stand-in appliance: every typed call, and what faults leave behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use truenas::calls::{
    DatasetCreate, DatasetKind, DatasetUpdate, DhChapKeys, FilesystemCreate, Filter, NfsShareCreate,
    NfsShareUpdate, NvmetPortCreate, NvmetTransport, PropertyChange, Query, ServiceState, UserProperty,
    VolumeCreate,
};
use truenas::{ApiKey, CallError, Calls, Client, ConnectionState, Lane, LoginRefusal, Options, Unknown};
use truenas_sim::{Appliance, Config, Version};

const GIB: u64 = 1 << 30;

async fn appliance() -> Appliance {
    Appliance::start(Config::default()).await.unwrap()
}

fn options(appliance: &Appliance) -> Options {
    let key = ApiKey::new(appliance.api_key()).unwrap();
    let mut options = Options::new(appliance.url().parse().unwrap(), key);
    options.ca_file = Some(appliance.ca_file().to_owned());
    options.reconnect.first = Duration::from_millis(20);
    options
}

fn calls(client: &Client) -> Calls {
    client.calls(Lane::Ordinary, Instant::now() + Duration::from_secs(30))
}

async fn control(appliance: &Appliance, command: Value) {
    appliance.control().json(command).await.unwrap();
}

async fn until(client: &Client, fits: impl FnMut(&ConnectionState) -> bool) -> ConnectionState {
    let mut states = client.watch();
    timeout(Duration::from_secs(30), states.wait_for(fits))
        .await
        .expect("the state never came")
        .unwrap()
        .clone()
}

/// No request and no answer broke the appliance's schemas (checked when their directory is given).
fn schemas_hold(appliance: &Appliance) {
    let stats = appliance.control().stats();
    if !stats.schemas_checked {
        eprintln!(
            "requests and answers were not checked: TNS_CSI_SIM_SCHEMAS names no directory with schemas"
        );
    }
    assert!(stats.schema_violations.is_empty(), "{:#?}", stats.schema_violations);
}

fn filesystem(name: &str) -> DatasetCreate {
    let mut create =
        DatasetCreate::filesystem(name, FilesystemCreate { refquota: Some(GIB), ..Default::default() });
    create.user_properties = vec![
        UserProperty::new("tns-csi:managed_by", "tns-csi"),
        UserProperty::new("tns-csi:volume_id", name),
    ];
    create.comments = Some("a volume".into());
    create
}

fn volume(name: &str) -> DatasetCreate {
    let fields = VolumeCreate { volsize: GIB, sparse: true, force_size: true, ..Default::default() };
    let mut create = DatasetCreate::volume(name, fields);
    create.user_properties = vec![UserProperty::new("tns-csi:managed_by", "tns-csi")];
    create
}

#[tokio::test]
async fn an_nfs_volume_lives_and_dies() {
    let appliance = appliance().await;
    let client = Client::new(options(&appliance)).unwrap();
    let calls = calls(&client);
    let name = format!("{}/pvc-1", appliance.pool());
    let path = format!("/mnt/{name}");

    calls.ping().await.unwrap();
    assert!(!calls.system_info().await.unwrap().version.is_empty());
    assert!(calls.pools_query(&[]).await.unwrap().iter().any(|p| p.name == appliance.pool() && p.healthy));
    let services = calls.services_query(&[Filter::eq("service", "nfs")]).await.unwrap();
    assert!(matches!(services[0].state, ServiceState::Running | ServiceState::Stopped));

    assert_eq!(calls.dataset_read(&name).await.unwrap(), None);
    let created = calls.dataset_create(&filesystem(&name)).await.unwrap();
    let read = calls.dataset_read(&name).await.unwrap().unwrap();
    for dataset in [&created, &read] {
        assert_eq!((dataset.name.as_str(), dataset.kind), (name.as_str(), DatasetKind::Filesystem));
        assert_eq!(dataset.refquota, Some(GIB));
        assert_eq!(dataset.user_property("tns-csi:volume_id"), Some(name.as_str()));
    }
    assert!(read.available.is_some());
    let error = calls.dataset_create(&filesystem(&name)).await.unwrap_err();
    assert!(error.refused().unwrap().is_exists(), "{error}");

    let listed = calls
        .datasets_query(
            &[Filter::eq("user_properties.tns-csi:managed_by.rawvalue", "tns-csi")],
            Query::default(),
        )
        .await
        .unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].name.as_str(), listed[0].refquota), (name.as_str(), Some(GIB)));

    let update = DatasetUpdate {
        refquota: Some(2 * GIB),
        user_properties_update: vec![
            PropertyChange::Set(UserProperty::new("tns-csi:node.x", "1")),
            PropertyChange::Remove("tns-csi:volume_id".into()),
        ],
        ..Default::default()
    };
    let updated = calls.dataset_update(&name, &update).await.unwrap();
    assert_eq!((updated.refquota, updated.user_property("tns-csi:node.x")), (Some(2 * GIB), Some("1")));
    assert_eq!(updated.user_property("tns-csi:volume_id"), None);

    assert_eq!(calls.nfs_shares_at(&path).await.unwrap(), []);
    let share = NfsShareCreate {
        path: path.clone(),
        comment: "c".into(),
        networks: Vec::new(),
        hosts: vec!["192.0.2.1".into()],
        ro: false,
        maproot_user: Some("root".into()),
        maproot_group: Some("root".into()),
        mapall_user: None,
        mapall_group: None,
        security: Vec::new(),
        enabled: true,
    };
    let share = calls.nfs_share_create(&share).await.unwrap();
    assert_eq!((share.hosts.as_slice(), share.enabled), (["192.0.2.1".to_owned()].as_slice(), true));
    let update = NfsShareUpdate { hosts: Some(vec!["192.0.2.7".into()]), ..Default::default() };
    assert_eq!(calls.nfs_share_update(share.id, &update).await.unwrap().hosts, ["192.0.2.7"]);
    assert_eq!(calls.nfs_shares_at(&path).await.unwrap().len(), 1);
    assert_eq!(calls.smb_shares_at(&path).await.unwrap(), []);
    calls.nfs_share_delete(share.id).await.unwrap();
    assert!(calls.nfs_share_delete(share.id).await.unwrap_err().is_not_found());

    assert_eq!(calls.snapshot_count(&name).await, Ok(0));
    assert_eq!(calls.snapshots_of(&name).await.unwrap(), []);
    control(&appliance, json!({"command": "seed", "snapshots": [format!("{name}@s")]})).await;
    assert_eq!(calls.snapshot_count(&name).await, Ok(1));
    assert_eq!(calls.snapshots_of(&name).await.unwrap()[0].snapshot_name, "s");
    let error = calls.dataset_delete(&name).await.unwrap_err();
    assert!(error.refused().is_some(), "{error}");
    assert!(calls.dataset_read(&name).await.unwrap().is_some());
    let options = json!({});
    calls.call::<_, Value>("pool.snapshot.delete", &(format!("{name}@s"), options)).await.unwrap();
    calls.dataset_delete(&name).await.unwrap();
    assert!(calls.dataset_delete(&name).await.unwrap_err().is_not_found());
    assert!(calls.dataset_update(&name, &DatasetUpdate::default()).await.unwrap_err().is_not_found());
    schemas_hold(&appliance);
}

#[tokio::test]
async fn an_nvme_volume_lives_and_dies() {
    let appliance = appliance().await;
    let client = Client::new(options(&appliance)).unwrap();
    let calls = calls(&client);
    let name = format!("{}/pvc-2", appliance.pool());
    let host_nqn = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555";

    assert!(calls.nvmet_global_config().await.unwrap().basenqn.starts_with("nqn."));
    assert_eq!(calls.dataset_create(&volume(&name)).await.unwrap().volsize, Some(GIB));
    let subsys = calls.nvmet_subsys_create("pvc-2", None).await.unwrap();
    assert!(!subsys.allow_any_host && subsys.subnqn.is_some());
    assert_eq!(calls.nvmet_subsys_query(&[Filter::eq("name", "pvc-2")]).await.unwrap()[0].id, subsys.id);
    // The device of a new zvol appears late.
    let namespace = loop {
        match calls.nvmet_namespace_create(subsys.id, &name).await {
            Ok(namespace) => break namespace,
            Err(CallError::Refused(e)) if e.is_device_missing() => assert!(Instant::now() < calls.deadline()),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(namespace.device_path, format!("zvol/{name}"));
    assert!(!namespace.device_uuid.is_empty() && namespace.enabled);
    assert!(!calls.nvmet_namespace_enable(namespace.id, false).await.unwrap().enabled);
    let found =
        calls.nvmet_namespace_query(&[Filter::eq("device_path", format!("zvol/{name}"))]).await.unwrap();
    assert_eq!((found.len(), found[0].subsys.id), (1, subsys.id));

    let host = calls.nvmet_host_create(host_nqn, &DhChapKeys::default()).await.unwrap();
    assert_eq!(
        calls.nvmet_host_query(&[Filter::eq("hostnqn", host_nqn)]).await.unwrap(),
        std::slice::from_ref(&host)
    );
    let grant = calls.nvmet_host_subsys_create(host.id, subsys.id).await.unwrap();
    let again = calls.nvmet_host_subsys_create(host.id, subsys.id).await.unwrap_err();
    assert!(again.refused().unwrap().is_exists(), "{again}");
    assert_eq!(
        calls.nvmet_host_subsys_query(&[Filter::eq("subsys.id", subsys.id)]).await.unwrap(),
        std::slice::from_ref(&grant)
    );
    let port = NvmetPortCreate {
        addr_trtype: NvmetTransport::Tcp,
        addr_traddr: "127.0.0.1".into(),
        addr_trsvcid: 4420,
        enabled: true,
    };
    let port = calls.nvmet_port_create(&port).await.unwrap();
    assert_eq!(port.addr_trsvcid, Some(4420));
    assert!(calls.nvmet_port_query(&[]).await.unwrap().contains(&port));
    let link = calls.nvmet_port_subsys_create(port.id, subsys.id).await.unwrap();
    assert_eq!(
        calls.nvmet_port_subsys_query(&[Filter::eq("subsys.id", subsys.id)]).await.unwrap(),
        std::slice::from_ref(&link)
    );
    calls.nvmet_sessions(&[]).await.unwrap();

    calls.nvmet_port_subsys_delete(link.id).await.unwrap();
    calls.nvmet_host_subsys_delete(grant.id).await.unwrap();
    assert!(calls.nvmet_host_subsys_delete(grant.id).await.unwrap_err().is_not_found());
    calls.nvmet_namespace_delete(namespace.id).await.unwrap();
    calls.nvmet_subsys_delete(subsys.id).await.unwrap();
    calls.nvmet_host_delete(host.id).await.unwrap();
    calls.nvmet_port_delete(port.id).await.unwrap();
    calls.dataset_delete(&name).await.unwrap();
    assert_eq!(calls.dataset_read(&name).await.unwrap(), None);
    schemas_hold(&appliance);
}

#[tokio::test]
async fn refusals_say_what_the_caller_needs_to_know() {
    let appliance = appliance().await;
    let client = Client::new(options(&appliance)).unwrap();
    let calls = calls(&client);
    let pool = appliance.pool();
    let refused = |result: Result<_, CallError>| match result {
        Err(CallError::Refused(error)) => *error,
        Err(other) => panic!("{other}"),
        Ok(()) => panic!("accepted"),
    };
    let orphan = refused(calls.dataset_create(&filesystem(&format!("{pool}/none/a"))).await.map(drop));
    assert!(orphan.is_parent_missing() && !orphan.is_not_found(), "{orphan}");
    let mut small = filesystem(&format!("{pool}/a"));
    small.kind =
        truenas::calls::CreateKind::Filesystem(FilesystemCreate { refquota: Some(1), ..Default::default() });
    assert!(refused(calls.dataset_create(&small).await.map(drop)).mentions("refquota"));
    let fields = VolumeCreate { volsize: 1 << 50, sparse: true, ..Default::default() };
    let huge =
        refused(calls.dataset_create(&DatasetCreate::volume(format!("{pool}/a"), fields)).await.map(drop));
    assert!(huge.is_no_space(), "{huge}");
    control(&appliance, json!({"command": "pool_full", "full": true})).await;
    let full = refused(calls.dataset_create(&filesystem(&format!("{pool}/a"))).await.map(drop));
    assert!(full.is_no_space(), "{full}");
    let missing = refused(calls.call::<_, Value>("no.such.method", &[0; 0]).await.map(drop));
    assert!(missing.is_method_missing(), "{missing}");
}

#[tokio::test]
async fn a_connection_dropped_before_or_after_the_effect_leaves_the_outcome_unknown() {
    let appliance = appliance().await;
    let client = Client::new(options(&appliance)).unwrap();
    for (when, exists) in [("before", false), ("after", true)] {
        let calls = calls(&client);
        let name = format!("{}/{when}", appliance.pool());
        control(&appliance, json!({"command": "drop", "method": "pool.dataset.create", "when": when})).await;
        let error = calls.dataset_create(&filesystem(&name)).await.unwrap_err();
        assert!(
            matches!(error, CallError::OutcomeUnknown { why: Unknown::ConnectionLost(_), .. }),
            "{error}"
        );
        assert_eq!(calls.dataset_read(&name).await.unwrap().is_some(), exists, "reading back decides");
    }
    let stats = appliance.control().stats();
    assert_eq!(stats.methods["pool.dataset.create"], 2, "no creation was repeated");
    assert_eq!(client.counters().reconnects, 2);
}

#[tokio::test]
async fn calls_wait_out_a_restart() {
    let appliance = appliance().await;
    let client = Client::new(options(&appliance)).unwrap();
    until(&client, ConnectionState::is_connected).await;
    control(&appliance, json!({"command": "restart", "down_ms": 300})).await;
    calls(&client)
        .ping()
        .await
        .or_else(|e| if matches!(e, CallError::OutcomeUnknown { .. }) { Ok(()) } else { Err(e) })
        .unwrap();
    calls(&client).ping().await.unwrap();
}

#[tokio::test]
async fn a_wrong_key_is_sent_twice_at_most() {
    let appliance = appliance().await;
    let mut wrong = options(&appliance);
    wrong.api_key = ApiKey::new("1-wrongwrongwrongwrongwrongwrongwrongwrongwrongwrongwrong").unwrap();
    let client = Client::new(wrong).unwrap();
    let state = until(&client, |s| matches!(s, ConnectionState::LoginRefused { .. })).await;
    assert_eq!(state, ConnectionState::LoginRefused { why: LoginRefusal::WrongKeyOrUser });
    for _ in 0..50 {
        assert!(matches!(calls(&client).ping().await, Err(CallError::NotSent { .. })));
    }
    let methods = appliance.control().stats().methods;
    let logins = |m: &str| methods.get(m).copied().unwrap_or_default();
    assert_eq!((logins("auth.login_ex"), logins("auth.login_with_api_key")), (1, 1));
}

/// Each profile of the stand-in is recognised, and the typed calls speak its names.
#[tokio::test]
async fn every_version_is_read_and_written_in_its_own_words() {
    for version in Version::ALL {
        let appliance = Appliance::start(Config { version, ..Config::default() }).await.unwrap();
        let client = Client::new(options(&appliance)).unwrap();
        let calls = calls(&client);
        let features = calls.features().await.unwrap();
        assert_eq!(features.nvmeof, version != Version::V25_04);
        assert_eq!(features.encryption_algorithm, version != Version::V26);
        let mut create = DatasetCreate::filesystem(
            "tank/a",
            FilesystemCreate { refquota: Some(GIB), ..FilesystemCreate::default() },
        );
        create.user_properties.push(UserProperty::new("tns-csi:volume_id", "tank/a"));
        calls.dataset_create(&create).await.unwrap();
        calls
            .dataset_create(&DatasetCreate::filesystem("tank/a/b", FilesystemCreate::default()))
            .await
            .unwrap();
        calls
            .dataset_create(&DatasetCreate::filesystem("tank/ab", FilesystemCreate::default()))
            .await
            .unwrap();
        let read = calls.dataset_read("tank/a").await.unwrap().unwrap();
        assert_eq!((read.refquota, read.user_property("tns-csi:volume_id")), (Some(GIB), Some("tank/a")));
        assert_eq!(calls.dataset_read("tank/none").await.unwrap(), None);
        assert_eq!(calls.dataset_read_tree("tank/a").await.unwrap().len(), 2, "{version:?}");
        assert_eq!(calls.snapshots_of("tank/a").await.unwrap(), []);
        assert_eq!(calls.snapshot_count("tank/a").await.unwrap(), 0);
        assert!(calls.dataset_delete("tank/none").await.unwrap_err().is_not_found());
        calls.dataset_delete("tank/ab").await.unwrap();
        assert_eq!(calls.dataset_read("tank/ab").await.unwrap(), None);
        if version == Version::V25_04 {
            assert_eq!(calls.nvmet_subsys_query(&[]).await.unwrap(), []);
        }
        schemas_hold(&appliance);
    }
}
