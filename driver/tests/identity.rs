//! The Identity service, whatever the driver depends on.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

use std::time::Duration;

use tns_csi::csi::identity::{Dependency, Service};
use tns_csi::helper::Helper;
use tns_csi::observe::Metrics;
use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::csi::v1::identity_server::Identity as _;
use tonic::{Code, Request};
use truenas::{ApiKey, Client, ConnectionState, Options};
use truenas_sim::{Appliance, Config};

const WRONG_KEY: &str = "1-hunter2hunter2hunter2hunter2hunter2hunter2hunter2hunter2hunter2hu";

async fn client(appliance: &Appliance, key: &str) -> Client {
    let mut options = Options::new(appliance.url().parse().unwrap(), ApiKey::new(key).unwrap());
    options.ca_file = Some(appliance.ca_file().to_owned());
    options.user = Some(appliance.api_key_user().to_owned());
    let client = Client::new(options).unwrap();
    let mut state = client.watch();
    let settled = |s: &ConnectionState| s.is_connected() || matches!(s, ConnectionState::LoginRefused { .. });
    tokio::time::timeout(Duration::from_secs(30), state.wait_for(settled)).await.unwrap().unwrap();
    client
}

fn service(dependency: Dependency) -> Service {
    Service::new("tns.csi.io".to_owned(), dependency)
}

async fn probe(service: &Service) -> Result<Option<bool>, tonic::Status> {
    service.probe(Request::new(csi::ProbeRequest {})).await.map(|answer| answer.into_inner().ready)
}

#[tokio::test]
async fn a_connected_controller_is_ready_and_its_metrics_say_so() {
    let appliance = Appliance::start(Config::default()).await.unwrap();
    let client = client(&appliance, appliance.api_key()).await;
    assert_eq!(probe(&service(Dependency::Appliance(client.clone()))).await.unwrap(), Some(true));
    let metrics = Metrics::new().unwrap();
    metrics.watch_appliance(client).unwrap();
    let text = metrics.text().unwrap();
    assert!(text.contains("tns_websocket_connected 1"), "{text}");
}

#[tokio::test]
async fn a_refused_key_is_said_by_probe_without_the_key_and_without_more_logins() {
    let appliance = Appliance::start(Config::default()).await.unwrap();
    let client = client(&appliance, WRONG_KEY).await;
    let before = client.counters().logins_refused;
    let service = service(Dependency::Appliance(client.clone()));
    for _ in 0..50 {
        let status = probe(&service).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("API key"), "{}", status.message());
        assert!(!status.message().contains("hunter2"), "{}", status.message());
    }
    assert_eq!(client.counters().logins_refused, before, "a probe is no login");
}

#[tokio::test]
async fn only_a_driver_with_a_topology_says_that_volumes_are_tied_to_places() {
    use csi::plugin_capability::{Type, service::Type as Offered};
    let helper = Helper::new("unix:///nonexistent/helper.sock".parse().unwrap()).unwrap();
    for has_topology in [false, true] {
        let service = service(Dependency::Helper(helper.clone())).with_topology(has_topology);
        let request = Request::new(csi::GetPluginCapabilitiesRequest {});
        let all = service.get_plugin_capabilities(request).await.unwrap().into_inner().capabilities;
        let tied = |kind: &Type| matches!(kind, Type::Service(s) if s.r#type() == Offered::VolumeAccessibilityConstraints);
        assert_eq!(all.iter().any(|c| c.r#type.as_ref().is_some_and(tied)), has_topology);
    }
}

#[tokio::test]
async fn a_controller_without_appliance_is_not_ready_and_still_has_a_name() {
    // Port 9 (discard) of loopback: nobody answers.
    let mut options =
        Options::new("ws://127.0.0.1:9/api/current".parse().unwrap(), ApiKey::new(WRONG_KEY).unwrap());
    options.allow_plaintext_loopback = true;
    let controller = service(Dependency::Appliance(Client::new(options).unwrap()));
    let helper = Helper::new("unix:///nonexistent/helper.sock".parse().unwrap()).unwrap();
    let node = service(Dependency::Helper(helper));
    let mut capabilities = Vec::new();
    for service in [&controller, &node] {
        assert_eq!(probe(service).await.unwrap(), Some(false));
        let info = service.get_plugin_info(Request::new(csi::GetPluginInfoRequest {})).await.unwrap();
        assert_eq!(info.into_inner().name, "tns.csi.io");
        let answer = service
            .get_plugin_capabilities(Request::new(csi::GetPluginCapabilitiesRequest {}))
            .await
            .unwrap();
        capabilities.push(answer.into_inner().capabilities);
    }
    assert_eq!(capabilities[0], capabilities[1], "CSI wants the same from every instance");
}
