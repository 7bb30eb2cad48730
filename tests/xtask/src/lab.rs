//! `cargo xtask lab`: boots the guest with the project's programs and runs something in it.

use std::process::ExitCode;
use std::time::Duration;

use crate::artifacts::{self, Artifacts, Profile};
use crate::boot::Boot;
use crate::setup::{self, LabParts};

/// Options of `cargo xtask lab`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask lab                              every scenario\n  \
    cargo xtask lab --scenario nfs-life          one scenario\n  \
    cargo xtask lab -- zfs list                  any command, with pool, kernel targets and udev up\n  \
    cargo xtask lab --bare -- uname -a           any command in a guest that was not prepared")]
pub struct Arguments {
    /// Run only this scenario (can be given again); `cargo xtask lab -- lab list` prints them
    #[arg(long = "scenario", value_name = "NAME", conflicts_with = "command")]
    scenarios: Vec<String>,
    /// Run the command in a guest that was not prepared, with the programs as last built
    #[arg(long, requires = "command")]
    bare: bool,
    /// Compile as shipped
    #[arg(long)]
    release: bool,
    #[command(flatten)]
    guest: GuestArguments,
    /// Program and arguments to run in the guest instead of the scenarios
    #[arg(last = true)]
    command: Vec<String>,
}

/// What every task that boots the guest can set.
#[derive(Debug, clap::Args)]
pub struct GuestArguments {
    /// Memory of the guest in GiB
    #[arg(long, value_name = "GIB", default_value_t = 5)]
    pub memory: u32,
    /// Minutes after which the guest is ended
    #[arg(long, value_name = "MINUTES", default_value_t = 120)]
    pub minutes: u64,
}

/// Boots and runs.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let parts = setup::lab_parts()?;
    let profile = if arguments.release { Profile::Release } else { Profile::Debug };
    let artifacts = if arguments.bare { artifacts::last_built(profile)? } else { artifacts::build(profile)? };
    let command = if arguments.command.is_empty() {
        words(&["/lab/bin/lab", "run"], &arguments.scenarios)
    } else if arguments.bare {
        arguments.command.clone()
    } else {
        words(&["/lab/bin/lab", "exec", "--"], &arguments.command)
    };
    let status = in_guest(&parts, &artifacts, &arguments.guest, &command)?;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}

/// Boots the guest, runs `command` in it and returns its exit status.
pub fn in_guest(
    parts: &LabParts,
    artifacts: &Artifacts,
    guest: &GuestArguments,
    command: &[String],
) -> anyhow::Result<i32> {
    in_guest_with(parts, artifacts, guest, command, |_| ())
}

/// As [`in_guest`]; `hear` is given each line of output as well.
pub fn in_guest_with(
    parts: &LabParts,
    artifacts: &Artifacts,
    guest: &GuestArguments,
    command: &[String],
    hear: impl FnMut(&str),
) -> anyhow::Result<i32> {
    let boot = Boot {
        virtme: &parts.virtme,
        root: &parts.root,
        bin: &artifacts.bin,
        logs: &artifacts.logs,
        memory_gib: guest.memory,
        deadline: Duration::from_secs(guest.minutes.saturating_mul(60)),
    };
    boot.run(command, hear)
}

/// A command line of fixed words and more.
pub fn words(first: &[&str], more: &[String]) -> Vec<String> {
    first.iter().map(|word| (*word).to_owned()).chain(more.iter().cloned()).collect()
}
