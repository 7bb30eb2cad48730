//! `lab`: the program that runs inside the guest.
//!
//! It prepares the guest as an appliance and a node at once, starts the project's real programs, and acts as the CSI
//! sidecars and kubelet towards them.

mod appliance;
mod bench;
mod capabilities;
mod data;
mod demo;
mod guest;
mod kubelet;
mod lab;
mod logs;
mod relay;
mod scenario;
mod scenarios;

use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::scenario::Count;
use tokio::io::{AsyncBufReadExt, BufReader};

/// Scenarios, demo and figures in the lab's guest. `cargo xtask lab` boots the guest and runs this.
#[derive(Debug, Parser)]
#[command(name = "lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the scenarios
    List,
    /// Run scenarios, by default all
    Run {
        /// Their names
        names: Vec<String>,
    },
    /// csi-sanity against the real helper, then all scenarios
    Test,
    /// Show the life of a volume of each protocol
    Demo,
    /// Measure beside the targets
    Bench,
    /// Pass connections on to another socket; started by scenarios as another user
    #[command(hide = true)]
    Relay {
        /// Where to listen
        #[arg(long)]
        listen: std::path::PathBuf,
        /// Where to pass connections on to
        #[arg(long)]
        to: std::path::PathBuf,
    },
    /// Prepare the guest, then run a program in it
    Exec {
        /// The program and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    if matches!(command, Command::List) {
        scenario::list();
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Relay { listen, to } = &command {
        relay::run(listen, to).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let start = Instant::now();
    guest::must_be_the_guest()?;
    logs::collect_syslog()?;
    guest::prepare()?;
    println!("guest prepared in {:.1} s", start.elapsed().as_secs_f64());
    match command {
        Command::List | Command::Relay { .. } => Ok(ExitCode::SUCCESS),
        Command::Run { names } => Ok(close(scenario::run(&names).await?, start)),
        Command::Test => {
            let sanity = sanity().await?;
            let scenarios = scenario::run(&[]).await?;
            Ok(close(
                Count { passed: sanity.passed + scenarios.passed, failed: sanity.failed + scenarios.failed },
                start,
            ))
        }
        Command::Demo => {
            demo::run().await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Bench => Ok(if bench::run().await? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        Command::Exec { command } => exec(&command).await,
    }
}

/// csi-sanity by its own runner, which starts and ends the programs itself. Its output is passed on indented, so that
/// the only line of this program's output that counts tests is the last.
async fn sanity() -> anyhow::Result<Count> {
    let mut child = tokio::process::Command::new("/lab/bin/csi-conformance")
        .args(["--lab", "--bin-dir", "/lab/bin", "--log-dir", "/lab/logs/conformance"])
        .args(lab::schemas().into_iter().flat_map(|path| [Path::new("--schemas"), path]))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting csi-conformance")?;
    let output = child.stdout.take().context("csi-conformance has a standard output")?;
    let mut lines = BufReader::new(output).lines();
    let mut count = Count::default();
    while let Some(line) = lines.next_line().await.context("reading what csi-conformance prints")? {
        println!("  {line}");
        count = Count::parse(&line).unwrap_or(count);
    }
    let status = child.wait().await.context("waiting for csi-conformance")?;
    if !status.success() && count.failed == 0 {
        count.failed = 1;
    }
    Ok(count)
}

fn close(count: Count, start: Instant) -> ExitCode {
    println!("lab ended after {:.1} min", start.elapsed().as_secs_f64() / 60.0);
    println!("{} passed, {} failed", count.passed, count.failed);
    if count.failed == 0 && count.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn exec(command: &[String]) -> anyhow::Result<ExitCode> {
    let Some((program, arguments)) = command.split_first() else { return Ok(ExitCode::FAILURE) };
    let path = std::env::var("PATH").unwrap_or_default();
    let status = tokio::process::Command::new(program)
        .args(arguments)
        .env("PATH", format!("/lab/bin:{path}"))
        .status()
        .await
        .map_err(|error| anyhow::anyhow!("{program} cannot be started: {error}"))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
