//! Volumes are made where the appliance is reached from, and say so.

use tns_csi::volume::topology::Topology;
use tns_csi_proto::csi::v1 as csi;
use tonic::Code;

use crate::rig::{Process, Rig, parameters, request};

fn place(zone: &str) -> csi::Topology {
    csi::Topology { segments: [("topology.kubernetes.io/zone".to_owned(), zone.to_owned())].into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_made_where_the_appliance_is_reached_and_nowhere_else() {
    let rig = Rig::start().await;
    let east = Topology::new(["topology.kubernetes.io/zone=east".parse().unwrap()]).unwrap();
    let controller = Process::placed(&rig.appliance, None, None, east).await;
    let wanted_in = |zones: &[&str]| {
        let requisite = zones.iter().map(|zone| place(zone)).collect();
        let mut request = request("pvc-1", "nfs", 1);
        request.accessibility_requirements =
            Some(csi::TopologyRequirement { requisite, preferred: Vec::new() });
        request
    };
    let refused = controller.create(wanted_in(&["west"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("zone=west") && refused.message().contains("zone=east"));
    rig.assert_empty();
    let volume = controller.create(wanted_in(&["west", "east"])).await.unwrap();
    assert_eq!(volume.accessible_topology, [place("east")]);
    let listed = controller.list(0, "").await.unwrap().entries.remove(0).volume.unwrap();
    assert_eq!(listed.accessible_topology, [place("east")]);

    let room = |zone: &str| {
        let request = csi::GetCapacityRequest {
            parameters: parameters("nfs", &[]),
            accessible_topology: Some(place(zone)),
            ..Default::default()
        };
        controller.capacity_of(request)
    };
    assert!(room("east").await.unwrap() > 0);
    assert_eq!(room("west").await.unwrap(), 0);
    rig.assert_schemas();
}
