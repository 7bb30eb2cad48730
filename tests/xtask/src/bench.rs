//! `cargo xtask bench`: the project's figures beside their targets, measured on the binaries as shipped.

use std::process::{Command, ExitCode};

use anyhow::Context;

use crate::artifacts::{self, Artifacts, Profile};
use crate::lab::{GuestArguments, in_guest, words};
use crate::setup;

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Leave the guest out: only calls, latency, memory and start, which need no real mounts
    #[arg(long)]
    host_only: bool,
    #[command(flatten)]
    guest: GuestArguments,
}

/// Builds with optimisation and prints two tables: what is measured on this machine, then what needs the guest.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    setup::host_packages()?;
    let artifacts = artifacts::build(Profile::Release)?;
    let mut measured = on_host(&artifacts)?;
    if !arguments.host_only {
        let parts = setup::lab_parts()?;
        let command = words(&["/lab/bin/lab", "bench"], &[]);
        measured &= in_guest(&parts, &artifacts, &arguments.guest, &command)? == 0;
    }
    Ok(if measured { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The part that needs no guest; tells whether every figure could be measured.
fn on_host(artifacts: &Artifacts) -> anyhow::Result<bool> {
    println!("== figures on this machine");
    let mut bench = Command::new(artifacts.bin.join("bench"));
    bench.arg("--bin-dir").arg(&artifacts.bin).arg("--logs").arg(artifacts.logs.join("host"));
    let status = bench.status().context("starting the bench")?;
    Ok(status.success())
}
