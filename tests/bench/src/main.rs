//! `bench`: the project's figures beside their targets, measured on the real binaries on this machine: the controller
//! against the stand-in appliance, the node agent and the helper at rest.
//!
//! The rule it keeps: a figure over its target is printed as it is and fails nothing; only a figure that could not be
//! measured makes the status 1.

mod chain;
mod cost;
mod memory;
mod protocol;
mod scale;
mod start;
mod table;
mod timing;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;

use crate::chain::Chain;
use crate::protocol::PROTOCOLS;
use crate::table::Table;

/// Measures calls, latency, memory and start of the driver's programs and prints each figure beside its target.
///
/// It starts truenas-sim (memory backend), the controller, node-helper and the node agent from --bin-dir in a temporary
/// directory, and ends them. Build them with optimisation first: `cargo xtask bench` does. The node-helper starts only
/// as root; without it, its rows (and the status) say that they were not measured. Status 0: everything was measured,
/// whether or not a figure is over its target.
#[derive(Debug, Parser)]
#[command(name = "bench", version, max_term_width = 110)]
struct Arguments {
    /// Directory of truenas-sim, tns-csi and node-helper
    #[arg(long, value_name = "DIR")]
    bin_dir: PathBuf,
    /// Directory for the programs' logs; by default they go with the temporary directory
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// Delay of every call at the appliance, in milliseconds
    #[arg(long, value_name = "N", default_value_t = 50)]
    latency_ms: u64,
    /// How often each duration is measured
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Volumes created and deleted before memory is measured again
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    volumes: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let bin = arguments.bin_dir.canonicalize();
    let bin = bin.with_context(|| format!("the programs' directory {}", arguments.bin_dir.display()))?;
    let work = tempfile::tempdir().context("making a temporary directory")?;
    let logs = arguments.logs.clone().unwrap_or_else(|| work.path().join("logs"));
    fs::create_dir_all(&logs).with_context(|| format!("making {}", logs.display()))?;
    let latency = Duration::from_millis(arguments.latency_ms);

    let mut table = Table::default();
    let mut chain = Chain::start(&bin, work.path(), &logs).await?;
    table.heading("Resident memory at rest");
    memory::at_rest(&chain, &mut table);
    table.heading("Time from start to ready");
    start::measure(&mut chain, arguments.runs, &mut table).await;
    for protocol in PROTOCOLS {
        table.heading(&format!("{}: calls / sequential hops at the appliance", protocol.title));
        chain.control.latency(latency).await?;
        cost::measure(&chain, protocol, &mut table).await;
        table.heading(&format!("{}: duration with {} ms injected", protocol.title, arguments.latency_ms));
        timing::measure(&chain, protocol, arguments.runs, &mut table).await;
    }
    table.heading("Resident memory after work");
    chain.control.latency(Duration::ZERO).await?;
    memory::after_work(&mut chain, arguments.volumes, &mut table).await;
    table.heading(&format!("Many at once, with {} ms injected", arguments.latency_ms));
    chain.control.latency(latency).await?;
    scale::concurrency(&chain, &mut table).await;
    table.heading("Many volumes");
    chain.control.latency(Duration::ZERO).await?;
    scale::listing(&chain, &mut table).await;
    chain.stop().await?;

    println!("{}", surroundings(&bin));
    for note in &chain.notes {
        println!("{note}");
    }
    print!("{table}");
    Ok(if table.complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What may blur the figures.
fn surroundings(bin: &std::path::Path) -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    format!("programs in {}, {cpus} CPUs, load {load}", bin.display())
}
