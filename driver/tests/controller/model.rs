//! Random lives of many volumes with kills, dropped connections and duplicates, held against a model: at the end the
//! appliance holds exactly what the model says, and what is not ours is untouched.
//!
//! `TNS_CSI_MODEL_SEED` repeats a run, `TNS_CSI_MODEL_STEPS` sets the number of operations.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::csi::v1::controller_server::Controller as _;
use tonic::{Code, Request, Status};
use truenas_sim::{Config, Version, When};
use uuid::Uuid;

use crate::rig::{
    GIB, PROTOCOLS, Process, Rig, initiator, node, parameters, publish_request, shared, single, smb_hosts,
};

/// Operations of one run.
const STEPS: usize = 10_000;
/// Claims that come and go, each with one protocol and one way of use.
const CLAIMS: u8 = 16;
/// Nodes of the cluster.
const NODES: u8 = 4;
/// Dropped connections after which a client would spare the appliance further logins.
const DROPS: usize = 4;
/// How often a request is repeated whose answer is not final.
const ATTEMPTS: usize = 10;
/// Calls that something can happen at.
const METHODS: [&str; 6] =
    ["pool.dataset.*", "sharing.*", "nvmet.*", "iscsi.*", "zfs.resource.*", "pool.dataset.update"];

/// One claim.
#[derive(Clone, Debug)]
struct Claim {
    name: String,
    protocol: &'static str,
    several: bool,
}

/// What the model knows of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Volume {
    made_gib: i64,
    gib: i64,
    nodes: BTreeSet<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Create(i64),
    Publish(u8),
    Expand(i64),
    Unpublish(u8),
    Delete,
}

#[derive(Clone, Copy, Debug)]
enum Trouble {
    None,
    Twice,
    Drop(&'static str, u64, When),
    Kill(&'static str, When),
}

impl Claim {
    fn of(number: u8, protocols: &'static [&'static str]) -> Claim {
        let protocol = protocols[usize::from(number) % protocols.len()];
        Claim {
            name: format!("pvc-{number}"),
            protocol,
            several: usize::from(number) / protocols.len() % 2 == 1,
        }
    }

    fn dataset(&self) -> String {
        format!("tank/{}", self.name)
    }

    fn capability(&self) -> csi::VolumeCapability {
        if self.several { shared(self.protocol) } else { single() }
    }

    fn volume(&self) -> csi::Volume {
        let context = parameters(self.protocol, &[]).into_iter().filter(|(key, _)| key != "pool").collect();
        csi::Volume { volume_id: self.dataset(), volume_context: context, ..Default::default() }
    }

    fn start(&self, process: &Process, operation: Operation) -> tokio::task::JoinHandle<Result<(), Status>> {
        let claim = self.clone();
        let range = |gib: i64| Some(csi::CapacityRange { required_bytes: gib * GIB, limit_bytes: 0 });
        process.spawn(move |s| async move {
            let volume = claim.volume();
            let volume_id = volume.volume_id.clone();
            match operation {
                Operation::Create(gib) => {
                    let request = csi::CreateVolumeRequest {
                        name: claim.name.clone(),
                        capacity_range: range(gib),
                        volume_capabilities: vec![claim.capability()],
                        parameters: parameters(claim.protocol, &[]),
                        ..Default::default()
                    };
                    s.create_volume(Request::new(request)).await.map(drop)
                }
                Operation::Publish(last) => {
                    let request = publish_request(&volume, &node_id(last), claim.capability());
                    s.controller_publish_volume(Request::new(request)).await.map(drop)
                }
                Operation::Expand(gib) => {
                    let request = csi::ControllerExpandVolumeRequest {
                        volume_id,
                        capacity_range: range(gib),
                        ..Default::default()
                    };
                    s.controller_expand_volume(Request::new(request)).await.map(drop)
                }
                Operation::Unpublish(last) => {
                    let request = csi::ControllerUnpublishVolumeRequest {
                        volume_id,
                        node_id: node_id(last),
                        ..Default::default()
                    };
                    s.controller_unpublish_volume(Request::new(request)).await.map(drop)
                }
                Operation::Delete => {
                    let request = csi::DeleteVolumeRequest { volume_id, ..Default::default() };
                    s.delete_volume(Request::new(request)).await.map(drop)
                }
            }
        })
    }
}

fn node_id(last: u8) -> String {
    node(&format!("node-{last}"), last)
}

/// What an operation must answer, and the volume afterwards.
fn expected(claim: &Claim, volume: Option<&Volume>, operation: Operation) -> (Code, Option<Volume>) {
    let same = volume.cloned();
    match (operation, volume) {
        (Operation::Create(gib), None) => {
            (Code::Ok, Some(Volume { made_gib: gib, gib, nodes: BTreeSet::new() }))
        }
        (Operation::Create(gib), Some(there)) => {
            (if gib == there.made_gib { Code::Ok } else { Code::AlreadyExists }, same)
        }
        (Operation::Publish(_) | Operation::Expand(_), None) => (Code::NotFound, None),
        (Operation::Publish(last), Some(there)) => {
            let others = there.nodes.iter().any(|n| *n != last);
            if others && !claim.several {
                return (Code::FailedPrecondition, same);
            }
            let mut after = there.clone();
            after.nodes.insert(last);
            (Code::Ok, Some(after))
        }
        (Operation::Expand(gib), Some(there)) => {
            (Code::Ok, Some(Volume { gib: gib.max(there.gib), ..there.clone() }))
        }
        (Operation::Unpublish(_), None) | (Operation::Delete, None) => (Code::Ok, None),
        (Operation::Unpublish(last), Some(there)) => {
            let mut after = there.clone();
            after.nodes.remove(&last);
            (Code::Ok, Some(after))
        }
        (Operation::Delete, Some(there)) if there.nodes.is_empty() => (Code::Ok, None),
        (Operation::Delete, Some(_)) => (Code::FailedPrecondition, same),
    }
}

fn random_operation(rng: &mut StdRng) -> Operation {
    match rng.random_range(0..10) {
        0..=2 => Operation::Create(rng.random_range(1..=2)),
        3..=5 => Operation::Publish(rng.random_range(1..=NODES)),
        6 => Operation::Expand(rng.random_range(1..=4)),
        7..=8 => Operation::Unpublish(rng.random_range(1..=NODES)),
        _ => Operation::Delete,
    }
}

fn random_trouble(rng: &mut StdRng) -> Trouble {
    let when = if rng.random() { When::Before } else { When::After };
    let method = METHODS.choose(rng).copied().unwrap_or("*");
    match rng.random_range(0..100) {
        0..=2 => Trouble::Drop(method, rng.random_range(1..=3), when),
        3..=4 => Trouble::Kill(method, when),
        5..=9 => Trouble::Twice,
        _ => Trouble::None,
    }
}

/// One run of random operations.
struct Run {
    rig: Rig,
    protocols: &'static [&'static str],
    rng: StdRng,
    volumes: BTreeMap<String, Volume>,
    drops: usize,
}

impl Run {
    async fn step(&mut self, step: usize) {
        let claim = Claim::of(self.rng.random_range(0..CLAIMS), self.protocols);
        let operation = random_operation(&mut self.rng);
        let trouble = random_trouble(&mut self.rng);
        let (code, after) = expected(&claim, self.volumes.get(&claim.name), operation);
        let answer = self.carry_out(&claim, operation, trouble).await;
        let found = answer.as_ref().err().map_or(Code::Ok, Status::code);
        assert_eq!(
            found,
            code,
            "step {step}: {operation:?} of {claim:?} in {:?} with {trouble:?}: {answer:?}",
            self.volumes.get(&claim.name)
        );
        match after {
            Some(volume) => self.volumes.insert(claim.name, volume),
            None => self.volumes.remove(&claim.name),
        };
    }

    /// Carries an operation out as an orchestrator does: what was cut short is asked for again.
    async fn carry_out(
        &mut self,
        claim: &Claim,
        operation: Operation,
        trouble: Trouble,
    ) -> Result<(), Status> {
        match trouble {
            Trouble::None => {}
            Trouble::Twice => {
                let other = claim.start(&self.rig.controller, operation);
                let this = claim.start(&self.rig.controller, operation).await.unwrap();
                let other = other.await.unwrap();
                assert_eq!(this.is_ok(), other.is_ok(), "{operation:?} twice: {this:?} and {other:?}");
            }
            Trouble::Drop(method, call, when) => {
                self.drops += 1;
                if self.drops.is_multiple_of(DROPS) {
                    self.rig.replace_controller().await;
                }
                self.rig.control().drop_at(method, call, when);
                // Any answer will do; the next one counts.
                drop(claim.start(&self.rig.controller, operation).await.unwrap());
                self.rig.control().clear();
            }
            Trouble::Kill(method, when) => {
                let control = self.rig.control();
                control.hold(method, when);
                let lost = claim.start(&self.rig.controller, operation);
                tokio::select! {
                    () = control.wait_held(method, when, 1) => {}
                    _ended = lost => {}
                }
                self.rig.replace_controller_dead(|| control.release("*")).await;
            }
        }
        for _ in 0..ATTEMPTS {
            let answer = claim.start(&self.rig.controller, operation).await.unwrap();
            match &answer {
                // Not final (CSI 1.12, "Error Scheme"): asked for again once the session is back.
                Err(status) if matches!(status.code(), Code::Unavailable | Code::Aborted) => {
                    self.rig.controller.connected().await;
                }
                _ => return answer,
            }
        }
        claim.start(&self.rig.controller, operation).await.unwrap()
    }

    /// The appliance holds what the model says, all of it and nothing else.
    fn compare(&self, foreign: &[String]) {
        let mut datasets: BTreeSet<String> = foreign.iter().cloned().collect();
        datasets.extend(self.volumes.keys().map(|name| format!("tank/{name}")));
        assert_eq!(self.rig.datasets().into_iter().collect::<BTreeSet<_>>(), datasets);
        let grants = grants(&self.rig);
        for number in 0..CLAIMS {
            let claim = Claim::of(number, self.protocols);
            let wanted = self.volumes.get(&claim.name).map(|volume| volume.nodes.clone());
            assert_eq!(grants.get(&claim.dataset()).cloned(), wanted, "who is let in to {claim:?}");
        }
        assert_eq!(grants.len(), self.volumes.len(), "exports without a volume: {grants:?}");
        self.rig.assert_schemas();
    }
}

/// Who is let in, by the dataset of each of our exports, as the appliance's rows say.
fn grants(rig: &Rig) -> BTreeMap<String, BTreeSet<u8>> {
    let mut grants = BTreeMap::new();
    for share in rig.rows("sharing.nfs").iter().filter(|share| is_ours(&share["comment"])) {
        grants.insert(dataset_of(&share["path"]), addresses(&share["hosts"]));
    }
    for share in rig.rows("sharing.smb").iter().filter(|share| is_ours(&share["comment"])) {
        let hosts = smb_hosts(share).into_iter();
        let hosts = hosts.filter_map(|host| host.strip_prefix("10.0.0.")?.parse().ok());
        grants.insert(dataset_of(&share["path"]), hosts.collect());
        assert_eq!(share["enabled"], true, "{share}");
    }
    grants.append(&mut iscsi_grants(rig));
    let hosts = rig.rows("nvmet.host");
    let links = rig.rows("nvmet.host_subsys");
    let ports = rig.rows("nvmet.port_subsys");
    for namespace in rig.rows("nvmet.namespace").iter().filter(|n| !is_foreign(n)) {
        let subsys = &namespace["subsys_id"];
        let of_subsystem = |link: &&Value| link["subsys_id"] == *subsys;
        let admitted: BTreeSet<u8> = links
            .iter()
            .filter(of_subsystem)
            .filter_map(|link| hosts.iter().find(|host| host["id"] == link["host_id"]))
            .filter_map(|host| (1..=NODES).find(|last| host["hostnqn"] == nqn(*last).as_str()))
            .collect();
        assert_eq!(ports.iter().any(|link| of_subsystem(&link)), !admitted.is_empty(), "{namespace}");
        let zvol = namespace["device_path"].as_str().unwrap().trim_start_matches("zvol/").to_owned();
        grants.insert(zvol, admitted);
    }
    grants
}

/// The same for iSCSI. Targets and initiator groups that serve nothing are failures of their own.
fn iscsi_grants(rig: &Rig) -> BTreeMap<String, BTreeSet<u8>> {
    let (targets, groups) = (rig.rows("iscsi.target"), rig.rows("iscsi.initiator"));
    let units = rig.rows("iscsi.targetextent");
    let mut grants = BTreeMap::new();
    for extent in rig.rows("iscsi.extent").iter().filter(|extent| is_ours(&extent["comment"])) {
        let unit = units.iter().find(|u| u["extent"] == extent["id"]).unwrap_or_else(|| panic!("{extent}"));
        let target = targets.iter().find(|t| t["id"] == unit["target"]).unwrap();
        let mut admitted = BTreeSet::new();
        for group in target["groups"].as_array().unwrap() {
            let names = groups.iter().find(|g| g["id"] == group["initiator"]);
            let names = names.unwrap_or_else(|| panic!("everyone is let in: {target}"));
            let names = names["initiators"].as_array().unwrap();
            assert!(!names.is_empty(), "everyone is let in: {target}");
            admitted.extend(
                names.iter().map(|name| (1..=NODES).find(|last| *name == initiator(*last).as_str()).unwrap()),
            );
        }
        grants.insert(extent["path"].as_str().unwrap().trim_start_matches("zvol/").to_owned(), admitted);
    }
    assert_eq!(targets.len(), grants.len(), "targets without a volume: {targets:?}");
    for group in groups.iter().filter(|group| is_ours(&group["comment"])) {
        let of =
            |dataset: &String| group["comment"].as_str().unwrap().contains(&format!("[tns-csi {dataset}]"));
        assert!(grants.keys().any(of), "an initiator group without a volume: {group}");
    }
    grants
}

fn nqn(last: u8) -> String {
    tns_csi_proto::identity::host_nqn(&Uuid::from_u128(u128::from(last)))
}

fn is_ours(comment: &Value) -> bool {
    comment.as_str().is_some_and(|comment| comment.contains("[tns-csi "))
}

fn is_foreign(namespace: &Value) -> bool {
    namespace["device_path"] == "zvol/tank/foreign-zvol"
}

fn dataset_of(path: &Value) -> String {
    path.as_str().unwrap().trim_start_matches("/mnt/").to_owned()
}

fn addresses(hosts: &Value) -> BTreeSet<u8> {
    let hosts = hosts.as_array().unwrap().iter().filter_map(Value::as_str);
    hosts.filter_map(|host| host.strip_prefix("10.0.0.")?.parse().ok()).collect()
}

/// What somebody else has on the appliance.
async fn foreign(rig: &Rig) -> (Vec<String>, Vec<Value>) {
    rig.seed(json!({
        "datasets": [{"name": "tank/foreign"}, {"name": "tank/foreign-zvol", "kind": "VOLUME", "properties": {"volsize": "1073741824"}}],
        "rows": {"sharing.nfs": [{"path": "/mnt/tank/foreign", "hosts": ["10.0.0.1"], "networks": [],
            "comment": "since 2019", "enabled": true}]},
    }))
    .await;
    (vec!["tank/foreign".to_owned(), "tank/foreign-zvol".to_owned()], foreign_rows(rig))
}

fn foreign_rows(rig: &Rig) -> Vec<Value> {
    rig.rows("sharing.nfs").into_iter().filter(|share| !is_ours(&share["comment"])).collect()
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

async fn run(version: Version, protocols: &'static [&'static str]) {
    let seed = number_from("TNS_CSI_MODEL_SEED").unwrap_or_else(rand::random);
    let steps = number_from("TNS_CSI_MODEL_STEPS").map_or(STEPS, |n| usize::try_from(n).unwrap());
    println!("{steps} operations for TrueNAS {version:?} with TNS_CSI_MODEL_SEED={seed}");
    let rig = Rig::with(Config { version, ..Config::default() }).await;
    let (datasets, rows) = foreign(&rig).await;
    let mut run =
        Run { rig, protocols, rng: StdRng::seed_from_u64(seed), volumes: BTreeMap::new(), drops: 0 };
    for step in 0..steps {
        run.step(step).await;
        if step % 500 == 499 {
            run.compare(&datasets);
        }
    }
    run.compare(&datasets);
    assert_eq!(foreign_rows(&run.rig), rows, "what is not ours is untouched");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_ten_thousand_operations_25_04_holds_what_the_model_says() {
    // NVMe-oF came with 25.10.
    run(Version::V25_04, &["nfs", "smb", "iscsi"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_ten_thousand_operations_25_10_holds_what_the_model_says() {
    run(Version::V25_10, &PROTOCOLS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_ten_thousand_operations_26_holds_what_the_model_says() {
    run(Version::V26, &PROTOCOLS).await;
}
