//! Many volumes and many operations at once: what a listing costs, and how near the driver comes to what the appliance
//! could do.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use harness::control::Figures;
use harness::orchestrator::{Class, GIB, Orchestrator, Volume};
use serde_json::{Value, json};
use tns_csi_proto::csi::v1::ListVolumesRequest;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::chain::Chain;
use crate::memory::{MIB, mebibytes};
use crate::protocol::{POOL, PROTOCOLS};
use crate::table::Table;

/// Volumes of ours in the listing.
const OURS: u32 = 10_000;
/// Datasets of others around them.
const FOREIGN: u32 = 50_000;
/// Datasets that one control command makes.
const BATCH: u32 = 1_000;
/// Entries of a page.
const PAGE: i32 = 1_000;
/// Bound of the controller's resident memory after the listing, in bytes.
const LISTED: u64 = 40 * MIB;

/// Operations at once: half of them creates, the others publishes and expansions of volumes that are there.
const AT_ONCE: u32 = 500;
/// Ordinary calls that the driver has in flight at the appliance. Publishes have two more, so a run may reach more than all
/// of what these allow.
const IN_FLIGHT: u32 = 8;
/// Part of the appliance's own throughput that has to be reached.
const THROUGHPUT: f64 = 0.9;

/// Adds the rows of a listing of many volumes. The appliance is left with them.
pub async fn listing(chain: &Chain, table: &mut Table) {
    let name = format!("ListVolumes, {OURS} of {} datasets", OURS + FOREIGN);
    let target = "1 query of datasets for all pages, 1 of each other kind".to_owned();
    match list(chain).await {
        Ok((figures, took)) => {
            let listed = figures.methods.get("pool.dataset.query").copied().unwrap_or_default();
            let measured = format!(
                "{listed} of datasets, {} of exports and services, {:.1} s",
                figures.calls - listed,
                took.as_secs_f64()
            );
            // Beside the datasets: the exports, for the volumes' condition, and the service.
            table.row(&name, measured, target, listed == 1 && figures.calls <= 3, None);
        }
        Err(error) => table.missing(&name, target, &error),
    }
    let name = "controller after the listing";
    match chain.controller.status().and_then(|status| status.resident()) {
        Ok(bytes) => table.row(name, mebibytes(bytes), mebibytes(LISTED), bytes <= LISTED, None),
        Err(error) => table.missing(name, mebibytes(LISTED), &error),
    }
}

async fn list(chain: &Chain) -> anyhow::Result<(Figures, Duration)> {
    seed(chain, FOREIGN, |number| json!({"name": format!("{POOL}/other-{number}")})).await?;
    seed(chain, OURS, |number| {
        let id = format!("{POOL}/pvc-listed-{number}");
        json!({"name": id, "properties": {"refquota": GIB.to_string()}, "user_properties": {
            "tns-csi:managed_by": "tns-csi", "tns-csi:volume_id": id, "tns-csi:protocol": "nfs",
            "tns-csi:csi_volume_name": format!("pvc-listed-{number}"), "tns-csi:capacity_bytes": GIB.to_string(),
            "tns-csi:cluster_id": "bench",
        }})
    })
    .await?;
    let share = |number: u32| {
        json!({"path": format!("/mnt/{POOL}/pvc-listed-{number}"), "hosts": ["192.0.2.1"], "networks": [],
            "comment": format!("[tns-csi {POOL}/pvc-listed-{number}]"), "enabled": true})
    };
    let shares: Vec<Value> = (0..OURS).map(share).collect();
    chain
        .control
        .send(json!({"command": "seed", "rows": {"sharing.nfs": shares}}))
        .await
        .context("seeding exports")?;
    chain.control.reset_figures().await?;
    let begun = Instant::now();
    let (mut listed, mut token) = (0_usize, String::new());
    loop {
        let request = ListVolumesRequest { max_entries: PAGE, starting_token: token };
        let page = chain.orchestrator.controller().list_volumes(request).await.context("ListVolumes")?;
        let page = page.into_inner();
        listed += page.entries.len();
        token = page.next_token;
        if token.is_empty() {
            break;
        }
    }
    let took = begun.elapsed();
    ensure!(u32::try_from(listed) == Ok(OURS), "{listed} volumes were listed");
    Ok((chain.control.figures().await?, took))
}

async fn seed(chain: &Chain, count: u32, dataset: impl Fn(u32) -> Value) -> anyhow::Result<()> {
    for first in (0..count).step_by(BATCH as usize) {
        let datasets: Vec<Value> = (first..(first + BATCH).min(count)).map(&dataset).collect();
        chain.control.send(json!({"command": "seed", "datasets": datasets})).await.context("seeding")?;
    }
    Ok(())
}

/// Adds the rows of many operations at once, of all protocols.
pub async fn concurrency(chain: &Chain, table: &mut Table) {
    let name = format!("{AT_ONCE} operations at once");
    let target = format!("{:.0} % of the appliance's own", THROUGHPUT * 100.0);
    match at_once(chain).await {
        Ok(run) => {
            table.row(
                &format!("{name}, throughput"),
                format!("{:.0} %, {:.1} s", run.throughput * 100.0, run.took.as_secs_f64()),
                target,
                run.throughput >= THROUGHPUT,
                None,
            );
            // A publish that waits behind all creates would take as long as the whole run.
            let bound = run.took / 2;
            table.row(
                &format!("{name}, slowest publish"),
                format!("{:.1} s", run.slowest_publish.as_secs_f64()),
                format!("{:.1} s, half of the whole", bound.as_secs_f64()),
                run.slowest_publish <= bound,
                None,
            );
        }
        Err(error) => table.missing(&name, target, &error),
    }
}

struct Run {
    took: Duration,
    throughput: f64,
    slowest_publish: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Create,
    Publish,
    Expand,
}

async fn at_once(chain: &Chain) -> anyhow::Result<Run> {
    let there = prepare(&chain.orchestrator).await?;
    chain.control.reset_figures().await?;
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for (number, class) in (0..AT_ONCE / 2).zip(classes().into_iter().cycle()) {
        let orchestrator = chain.orchestrator.clone();
        running.spawn(async move {
            let made = orchestrator.create(&format!("bench-create-{number}"), &class, GIB).await;
            (Kind::Create, begun.elapsed(), made.map(Some))
        });
    }
    for (number, volume) in there.iter().cloned().enumerate() {
        let orchestrator = chain.orchestrator.clone();
        running.spawn(async move {
            if number % 2 == 0 {
                let done = orchestrator.attach(&volume, &node(0)).await;
                (Kind::Publish, begun.elapsed(), done.map(|_| None))
            } else {
                let done = orchestrator.expand(&volume, 2 * GIB).await;
                (Kind::Expand, begun.elapsed(), done.map(|_| None))
            }
        });
    }
    let mut slowest_publish = Duration::ZERO;
    let mut made = there;
    while let Some(ended) = running.join_next().await {
        let (kind, after, answer) = ended.context("an operation ended badly")?;
        match answer {
            Ok(volume) => made.extend(volume),
            Err(status) => bail!("refused: {:?} {}", status.code(), status.message()),
        }
        if kind == Kind::Publish {
            slowest_publish = slowest_publish.max(after);
        }
    }
    let took = begun.elapsed();
    let figures = chain.control.figures().await?;
    let ideal = Duration::from_micros(figures.served_us) / IN_FLIGHT;
    for volume in &made {
        chain.orchestrator.detach(volume, &node(0)).await.context("ControllerUnpublishVolume")?;
        chain.orchestrator.delete(volume).await.context("DeleteVolume")?;
    }
    Ok(Run { took, throughput: ideal.as_secs_f64() / took.as_secs_f64(), slowest_publish })
}

fn classes() -> Vec<Class> {
    PROTOCOLS.iter().map(crate::protocol::Protocol::class).collect()
}

/// Volumes to be published and expanded.
async fn prepare(orchestrator: &Orchestrator) -> anyhow::Result<Vec<Volume>> {
    let mut running = JoinSet::new();
    for (number, class) in (0..AT_ONCE / 2).zip(classes().into_iter().cycle()) {
        let orchestrator = orchestrator.clone();
        running
            .spawn(async move { orchestrator.create(&format!("bench-there-{number}"), &class, GIB).await });
    }
    let mut there = Vec::new();
    while let Some(made) = running.join_next().await {
        there.push(made.context("a creation ended badly")?.context("CreateVolume")?);
    }
    Ok(there)
}

/// A node id in the node agent's text form.
fn node(number: u128) -> String {
    format!("bench-{number};{};127.0.0.1", Uuid::from_u128(0x5eed + number).simple())
}
