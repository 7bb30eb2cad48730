//! Resident memory of the driver's programs, at rest and after work.

use anyhow::{Context, anyhow};
use harness::orchestrator::{GIB, Orchestrator};
use harness::process::Process;
use tns_csi_proto::csi::v1::NodeGetInfoRequest;
use tokio::task::JoinSet;

use crate::chain::Chain;
use crate::protocol::PROTOCOLS;
use crate::table::Table;

/// One MiB in bytes.
pub const MIB: u64 = 1 << 20;
/// Bounds in bytes.
const CONTROLLER: u64 = 15 * MIB;
const NODE: u64 = 10 * MIB;
const HELPER: u64 = 10 * MIB;
/// Operations at once, as many as ordinary calls may be in flight at the appliance.
const AT_ONCE: u32 = 8;

/// Adds the rows of programs that were started, reached what they serve, and wait.
pub fn at_rest(chain: &Chain, table: &mut Table) {
    add(table, "controller", Ok(&chain.controller), CONTROLLER);
    add(table, "node agent", Ok(&chain.node), NODE);
    add(table, "node-helper", chain.helper(), HELPER);
}

/// Creates and deletes volumes of every protocol, asks the node agent as often, and adds the rows.
pub async fn after_work(chain: &mut Chain, volumes: u32, table: &mut Table) {
    let controller = create_and_delete(&chain.orchestrator, volumes).await;
    let name = format!("controller, {volumes} creates and deletes");
    add(table, &name, controller.map(|()| &chain.controller), CONTROLLER);
    let node = ask_node(chain, volumes).await;
    let (agent, helper) = match node {
        Ok(()) => (Ok(&chain.node), chain.helper()),
        Err(error) => (Err(anyhow!("{error:#}")), Err(error)),
    };
    add(table, &format!("node agent, {volumes} calls"), agent, NODE);
    add(table, &format!("node-helper, {volumes} calls"), helper, HELPER);
}

fn add(table: &mut Table, name: &str, process: anyhow::Result<&Process>, bound: u64) {
    let target = mebibytes(bound);
    match process.and_then(|process| process.status()?.resident()) {
        Ok(bytes) => table.row(name, mebibytes(bytes), target, bytes <= bound, None),
        Err(error) => table.missing(name, target, &error),
    }
}

async fn create_and_delete(orchestrator: &Orchestrator, volumes: u32) -> anyhow::Result<()> {
    let mut workers = JoinSet::new();
    for worker in 0..AT_ONCE {
        let orchestrator = orchestrator.clone();
        workers.spawn(async move {
            let numbers = (worker..volumes).step_by(AT_ONCE as usize);
            for (number, protocol) in numbers.zip(PROTOCOLS.iter().cycle()) {
                let name = format!("bench-memory-{number}");
                let volume = orchestrator.create(&name, &protocol.class(), GIB).await;
                let volume = volume.with_context(|| format!("CreateVolume {name}"))?;
                orchestrator.delete(&volume).await.with_context(|| format!("DeleteVolume {name}"))?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.context("a worker ended badly")??;
    }
    Ok(())
}

/// Calls that the node agent passes to the helper.
async fn ask_node(chain: &Chain, calls: u32) -> anyhow::Result<()> {
    chain.helper()?;
    chain.node_csi.probed(crate::chain::CONNECT).await.context("the node agent")?;
    for _ in 0..calls {
        chain.node_csi.node.clone().node_get_info(NodeGetInfoRequest {}).await.context("NodeGetInfo")?;
    }
    Ok(())
}

/// A size for the table.
pub fn mebibytes(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss)]
    let mebibytes = bytes as f64 / MIB as f64;
    format!("{mebibytes:.1} MiB")
}
