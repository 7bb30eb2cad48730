//! Connections dropped and controllers killed at every call of every operation, then the request repeated: one volume or
//! none, never an orphan.

use std::pin::Pin;

use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::csi::v1::controller_server::Controller as _;
use tonic::{Code, Request, Status};
use truenas_sim::When;

use crate::rig::{GIB, PROTOCOLS, Process, Rig, node, publish_request, request, single};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    Create,
    Publish,
    Expand,
    Unpublish,
    Delete,
}

/// Connections that are dropped on one controller before the next takes over.
const LOGINS: usize = 5;

const OPERATIONS: [Operation; 5] =
    [Operation::Create, Operation::Publish, Operation::Expand, Operation::Unpublish, Operation::Delete];

fn volume(protocol: &str) -> csi::Volume {
    csi::Volume {
        volume_id: "tank/pvc-1".to_owned(),
        volume_context: crate::rig::parameters(protocol, &[])
            .into_iter()
            .filter(|(k, _)| k != "pool")
            .collect(),
        ..Default::default()
    }
}

impl Operation {
    fn start(self, process: &Process, protocol: &str) -> tokio::task::JoinHandle<Result<(), Status>> {
        let protocol = protocol.to_owned();
        process.spawn(move |s| {
            let work: Pin<Box<dyn Future<Output = Result<(), Status>> + Send>> = Box::pin(async move {
                let volume = volume(&protocol);
                let volume_id = volume.volume_id.clone();
                match self {
                    Operation::Create => {
                        s.create_volume(Request::new(request("pvc-1", &protocol, 1))).await.map(|_| ())
                    }
                    Operation::Publish => {
                        let request = publish_request(&volume, &node("a", 1), single());
                        s.controller_publish_volume(Request::new(request)).await.map(|_| ())
                    }
                    Operation::Expand => {
                        let range = Some(csi::CapacityRange { required_bytes: 2 * GIB, limit_bytes: 0 });
                        let request = csi::ControllerExpandVolumeRequest {
                            volume_id,
                            capacity_range: range,
                            ..Default::default()
                        };
                        s.controller_expand_volume(Request::new(request)).await.map(|_| ())
                    }
                    Operation::Unpublish => {
                        let request = csi::ControllerUnpublishVolumeRequest {
                            volume_id,
                            node_id: node("a", 1),
                            ..Default::default()
                        };
                        s.controller_unpublish_volume(Request::new(request)).await.map(|_| ())
                    }
                    Operation::Delete => {
                        let request = csi::DeleteVolumeRequest { volume_id, ..Default::default() };
                        s.delete_volume(Request::new(request)).await.map(|_| ())
                    }
                }
            });
            work
        })
    }

    /// What the appliance holds once the operation is done.
    fn assert_done(self, rig: &Rig, protocol: &str) {
        match self {
            Operation::Create | Operation::Unpublish => rig.assert_one_volume(protocol),
            Operation::Publish => {
                assert_eq!(rig.datasets(), ["tank/pvc-1"]);
                assert!(rig.lets_in(protocol, 1));
            }
            Operation::Expand => assert_eq!(rig.datasets(), ["tank/pvc-1"]),
            Operation::Delete => rig.assert_empty(),
        }
    }

    /// The methods that a good run of it calls.
    async fn methods(self, rig: &Rig, protocol: &str) -> Vec<String> {
        let control = rig.control();
        control.reset_stats();
        self.start(&rig.controller, protocol).await.unwrap().unwrap();
        let methods = control.stats().methods.into_keys();
        methods
            .filter(|m| !m.starts_with("core.") && !m.starts_with("auth.") && !m.starts_with("system."))
            .collect()
    }

    /// Brings the appliance from nothing to where this operation begins.
    async fn prepare(self, rig: &Rig, protocol: &str) {
        let before: &[Operation] = match self {
            Operation::Create => &[],
            Operation::Publish | Operation::Expand | Operation::Delete => &[Operation::Create],
            Operation::Unpublish => &[Operation::Create, Operation::Publish],
        };
        for operation in before {
            operation.start(&rig.controller, protocol).await.unwrap().unwrap();
        }
    }
}

/// Brings the appliance back to nothing.
async fn clean(rig: &Rig, protocol: &str) {
    for operation in [Operation::Unpublish, Operation::Delete] {
        operation.start(&rig.controller, protocol).await.unwrap().unwrap();
    }
    rig.assert_empty();
}

async fn each_point(rig: &Rig) -> Vec<(&'static str, Operation, String, When)> {
    let mut points = Vec::new();
    for protocol in PROTOCOLS {
        for operation in OPERATIONS {
            operation.prepare(rig, protocol).await;
            for method in operation.methods(rig, protocol).await {
                for when in [When::Before, When::After] {
                    points.push((protocol, operation, method.clone(), when));
                }
            }
            clean(rig, protocol).await;
        }
    }
    points
}

/// Begins the operation and kills the controller when it stands at the call (or, where it knows the answer already,
/// after its end).
async fn kill_at(rig: &mut Rig, operation: Operation, protocol: &str, method: &str, when: When) {
    let control = rig.control();
    control.hold(method, when);
    let lost = operation.start(&rig.controller, protocol);
    tokio::select! {
        () = control.wait_held(method, when, 1) => {}
        ended = lost => ended.unwrap().unwrap(),
    }
    rig.replace_controller_dead(|| control.release("*")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_dropped_at_any_call_leaves_one_volume_or_none() {
    let mut rig = Rig::start().await;
    let points = each_point(&rig).await;
    assert!(points.len() > 60, "{}", points.len());
    for (n, (protocol, operation, method, when)) in points.into_iter().enumerate() {
        // The client spares the appliance more than a few logins per minute; a new one begins to count anew.
        if n % LOGINS == 0 {
            rig.replace_controller().await;
        }
        operation.prepare(&rig, protocol).await;
        rig.control().drop_at(&method, 1, when);
        let answer = operation.start(&rig.controller, protocol).await.unwrap();
        assert!(answer.is_ok(), "{protocol} {operation:?} dropped {when:?} {method}: {answer:?}");
        operation.assert_done(&rig, protocol);
        operation.start(&rig.controller, protocol).await.unwrap().unwrap();
        operation.assert_done(&rig, protocol);
        rig.control().clear();
        clean(&rig, protocol).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t9_a_controller_killed_at_any_call_leaves_nothing_that_a_repeated_request_does_not_put_right() {
    let mut rig = Rig::start().await;
    for (protocol, operation, method, when) in each_point(&rig).await {
        operation.prepare(&rig, protocol).await;
        kill_at(&mut rig, operation, protocol, &method, when).await;
        let answer = operation.start(&rig.controller, protocol).await.unwrap();
        assert!(answer.is_ok(), "{protocol} {operation:?} killed {when:?} {method}: {answer:?}");
        operation.assert_done(&rig, protocol);
        clean(&rig, protocol).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_is_given_up_for_good_leaves_nothing_behind_its_delete() {
    let mut rig = Rig::start().await;
    for (protocol, operation, method, when) in each_point(&rig).await {
        if operation != Operation::Create {
            continue;
        }
        kill_at(&mut rig, operation, protocol, &method, when).await;
        Operation::Delete.start(&rig.controller, protocol).await.unwrap().unwrap();
        rig.assert_empty();
    }
}

/// Waits until the controller has read the dataset of a volume, and lets it go on.
async fn until_read(rig: &Rig, work: impl Future<Output = ()>) {
    let control = rig.control();
    control.hold(READ, When::After);
    work.await;
    control.wait_held(READ, When::After, 1).await;
    control.release(READ);
}

/// Begins a creation and stops it where the appliance shows the dataset and not yet its properties.
async fn halfway(rig: &Rig, protocol: &str) -> tokio::task::JoinHandle<Result<(), Status>> {
    rig.control().hold(CREATE, When::Halfway);
    let running = Operation::Create.start(&rig.controller, protocol);
    rig.control().wait_held(CREATE, When::Halfway, 1).await;
    running
}

const CREATE: &str = "pool.dataset.create";
/// The method by which one dataset is read.
const READ: &str = "zfs.resource.query";

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_in_the_making_is_not_taken_for_a_foreign_dataset_after_a_lost_connection() {
    let rig = Rig::start().await;
    for protocol in PROTOCOLS {
        let running = halfway(&rig, protocol).await;
        until_read(&rig, async { rig.control().disconnect() }).await;
        rig.control().release(CREATE);
        let answer = running.await.unwrap();
        assert!(answer.is_ok(), "{protocol}: {answer:?}");
        rig.assert_one_volume(protocol);
        clean(&rig, protocol).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_in_the_making_is_not_taken_for_a_foreign_dataset_by_the_next_controller() {
    let mut rig = Rig::start().await;
    for protocol in PROTOCOLS {
        drop(halfway(&rig, protocol).await);
        rig.replace_controller_dead(|| ()).await;
        let mut running = None;
        until_read(&rig, async { running = Some(Operation::Create.start(&rig.controller, protocol)) }).await;
        rig.control().release(CREATE);
        let answer = running.unwrap().await.unwrap();
        assert!(answer.is_ok(), "{protocol}: {answer:?}");
        rig.assert_one_volume(protocol);
        clean(&rig, protocol).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_stays_unanswered_is_not_ended_by_a_final_answer() {
    let rig = Rig::start().await;
    for protocol in PROTOCOLS {
        let mut running = halfway(&rig, protocol).await;
        rig.control().disconnect();
        // However often the request is repeated meanwhile.
        for _ in 0..2 {
            let answer = running.await.unwrap().unwrap_err();
            assert_eq!(answer.code(), Code::Unavailable, "{protocol}: {answer}");
            assert!(answer.message().contains("tank/pvc-1"), "{answer}");
            running = Operation::Create.start(&rig.controller, protocol);
        }
        assert_eq!(running.await.unwrap().unwrap_err().code(), Code::Unavailable);
        rig.control().release(CREATE);
        Operation::Create.start(&rig.controller, protocol).await.unwrap().unwrap();
        rig.assert_one_volume(protocol);
        clean(&rig, protocol).await;
    }
}
