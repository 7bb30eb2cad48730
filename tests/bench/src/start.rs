//! Time from start to ready of the two programs that every node runs.

use std::time::Duration;

use anyhow::{Context, anyhow};
use harness::process::Process;

use crate::chain::Chain;
use crate::table::Table;
use crate::timing::{median, milliseconds};

/// Longest time from start to `READY=1`.
const TARGET: Duration = Duration::from_millis(100);

/// Adds the rows; each program is stopped and started `runs` times and left running.
pub async fn measure(chain: &mut Chain, runs: u32, table: &mut Table) {
    let helper = match &mut chain.helper {
        Ok(helper) => restarts(helper, runs).await,
        Err(reason) => Err(anyhow!("node-helper does not start here: {reason}")),
    };
    add(table, "node-helper", runs, helper);
    let node = restarts(&mut chain.node, runs).await;
    add(table, "node agent", runs, node);
}

fn add(table: &mut Table, name: &str, runs: u32, measured: anyhow::Result<(Duration, Duration)>) {
    let name = format!("{name}, p50 of {runs}");
    let target = milliseconds(TARGET);
    match measured {
        Ok((p50, worst)) => {
            let measured = format!("{} (worst {})", milliseconds(p50), milliseconds(worst));
            table.row(&name, measured, target, p50 <= TARGET, None);
        }
        Err(error) => table.missing(&name, target, &error),
    }
}

/// Median and worst of the times from start to ready.
async fn restarts(process: &mut Process, runs: u32) -> anyhow::Result<(Duration, Duration)> {
    let mut took = Vec::new();
    for _ in 0..runs {
        process.stop().await?;
        process.restart().await?;
        took.push(process.ready_after);
    }
    let p50 = median(&mut took).context("nothing was timed")?;
    Ok((p50, took.last().copied().unwrap_or(p50)))
}
