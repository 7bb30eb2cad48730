//! `cargo xtask demo`: each protocol's volume life on real mounts, as a readable account.

use std::process::ExitCode;

use crate::artifacts::{self, Profile};
use crate::lab::{GuestArguments, in_guest, words};
use crate::setup;

/// Options of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    guest: GuestArguments,
}

/// Sets everything up, boots the guest and shows the account.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let parts = setup::lab_parts()?;
    let artifacts = artifacts::build(Profile::Debug)?;
    let status = in_guest(&parts, &artifacts, &arguments.guest, &words(&["/lab/bin/lab", "demo"], &[]))?;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}
