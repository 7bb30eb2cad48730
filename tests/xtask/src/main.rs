//! `cargo xtask`: the project's tasks, so that one command after a clone is enough for each of them.
//!
//! Rule: this package builds on a machine that has nothing but Rust (no libudev, no QEMU), because it is what
//! installs the rest. Every step says what it does and, when it ends, how long it took.

mod artifacts;
mod bench;
mod boot;
mod cache;
mod demo;
mod guest_root;
mod lab;
mod progress;
mod setup;
mod suites;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's tasks. The lab is a QEMU guest with its own Debian root; nothing but QEMU, mmdebstrap and libudev's
/// headers is installed on this machine.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install the host packages, virtme-ng and the guest's root (minutes the first time, seconds afterwards)
    Setup(setup::Arguments),
    /// Boot the guest and run lab scenarios or any command in it
    Lab(lab::Arguments),
    /// Show each protocol's volume life on real mounts, step by step
    Demo(demo::Arguments),
    /// Run every test: unit, integration, csi-sanity on the host and in the lab, lab scenarios
    Test(test::Arguments),
    /// Measure calls, times and memory beside their targets
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Setup(arguments) => setup::run(&arguments).map(|()| ExitCode::SUCCESS),
        Task::Lab(arguments) => lab::run(&arguments),
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
