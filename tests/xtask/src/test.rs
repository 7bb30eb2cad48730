//! `cargo xtask test`: every test there is, with the minutes of each suite and one count over all.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::Context;

use crate::artifacts::{self, Artifacts, Profile};
use crate::lab::{GuestArguments, words};
use crate::setup::{self, LabParts};
use crate::suites::{Count, Suites};

/// Options of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Leave the guest out: only what runs unprivileged on this machine
    #[arg(long)]
    host_only: bool,
    #[command(flatten)]
    guest: GuestArguments,
}

/// Runs all suites; fails when one test failed.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    setup::host_packages()?;
    let mut suites = Suites::default();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["test", "--workspace", "--no-fail-fast"]);
    suite(&mut suites, "unit, property and integration tests", &mut cargo)?;
    let artifacts = artifacts::build(Profile::Debug)?;
    let mut sanity = Command::new(artifacts.bin.join("csi-conformance"));
    sanity.arg("--bin-dir").arg(&artifacts.bin).arg("--log-dir").arg(artifacts.logs.join("host"));
    suite(&mut suites, "csi-sanity on the host", &mut sanity)?;
    if !arguments.host_only {
        let parts = setup::lab_parts()?;
        in_guest(&mut suites, &parts, &artifacts, &arguments.guest)?;
    }
    Ok(if suites.close() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One boot for both suites of the guest: booting is the slow part.
fn in_guest(
    suites: &mut Suites,
    parts: &LabParts,
    artifacts: &Artifacts,
    guest: &GuestArguments,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut count = Count::default();
    let command = words(&["/lab/bin/lab", "test"], &[]);
    let status = crate::lab::in_guest_with(parts, artifacts, guest, &command, |line| count.add_line(line));
    // A crashed guest is a failed suite; the count over all still closes the run.
    if let Err(error) = &status {
        eprintln!("error: {error:#}");
    }
    suites.add("csi-sanity and scenarios in the lab", count.closed(matches!(status, Ok(0))), start.elapsed());
    Ok(())
}

/// Runs a program of the host as a suite: its output streams through, its reports are counted.
fn suite(suites: &mut Suites, name: &str, command: &mut Command) -> anyhow::Result<()> {
    println!("== {name}");
    let start = Instant::now();
    // What cannot run must fail here, not be skipped.
    command.env("TNS_CSI_NO_SKIP", "1");
    if let Some(schemas) = artifacts::schemas() {
        command.env("TNS_CSI_SIM_SCHEMAS", schemas);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
    let mut count = Count::default();
    let output = child.stdout.take().context("the suite has a standard output")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("reading the suite's output")?;
        count.add_line(&line);
        println!("{line}");
    }
    let status = child.wait().with_context(|| format!("waiting for {name}"))?;
    suites.add(name, count.closed(status.success()), start.elapsed());
    Ok(())
}
