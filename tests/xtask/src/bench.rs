//! `cargo xtask bench`: the project's figures beside their targets, measured on the binaries as shipped.

use std::process::ExitCode;

use crate::artifacts::{self, Profile};
use crate::lab::{GuestArguments, in_guest, words};
use crate::setup;

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    guest: GuestArguments,
}

/// Builds with optimisation, boots the guest and prints the table.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let parts = setup::lab_parts()?;
    let artifacts = artifacts::build(Profile::Release)?;
    let status = in_guest(&parts, &artifacts, &arguments.guest, &words(&["/lab/bin/lab", "bench"], &[]))?;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}
