//! What a fresh Debian machine needs before the workspace builds and the lab boots.

use std::process::Command;

use anyhow::{Context, bail};

use crate::boot::Virtme;
use crate::cache::Cache;
use crate::guest_root::GuestRoot;
use crate::progress::step;

/// Debian packages the host needs: libudev to link the helper; QEMU, mmdebstrap (with Debian's keys), mke2fs and what vng
/// calls (modprobe) for the lab's guest.
const HOST_PACKAGES: &[&str] = &[
    "libudev-dev",
    "pkg-config",
    "qemu-system-x86",
    "mmdebstrap",
    "e2fsprogs",
    "debian-archive-keyring",
    "kmod",
    "xz-utils",
];

/// Options of `cargo xtask setup`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only what compiling needs: no guest
    #[arg(long)]
    build_only: bool,
}

/// What the lab boots: its tool and its root.
pub struct LabParts {
    /// virtme-ng, ready to run.
    pub virtme: Virtme,
    /// The guest's root.
    pub root: GuestRoot,
}

/// Sets up everything that is missing.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    host_packages()?;
    if !arguments.build_only {
        let parts = lab_parts()?;
        println!("guest root {}", parts.root.directory.display());
    }
    Ok(())
}

/// Makes sure of host packages, virtme-ng and the guest's root. Quick when they are there.
pub fn lab_parts() -> anyhow::Result<LabParts> {
    host_packages()?;
    let cache = Cache::open()?;
    let virtme = Virtme::install(&cache)?;
    let root = GuestRoot::build(&cache)?;
    Ok(LabParts { virtme, root })
}

/// Installs the missing host packages, with `sudo` when not root.
pub fn host_packages() -> anyhow::Result<()> {
    let mut missing: Vec<&str> = HOST_PACKAGES.iter().copied().filter(|name| !installed(name)).collect();
    // Debian splits venv from python3; another Python on PATH may bring it along.
    if !succeeds(Command::new("python3").args(["-c", "import venv, ensurepip"])) {
        missing.push("python3-venv");
    }
    if missing.is_empty() {
        return Ok(());
    }
    step(&format!("installing {}", missing.join(" ")), || {
        apt_get(&["update"])?;
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        arguments.extend(missing);
        apt_get(&arguments)
    })
}

/// A command that runs as root: itself when we are root, else through sudo.
pub fn privileged(program: &str) -> anyhow::Result<Command> {
    let uid = Command::new("id").arg("-u").output().context("asking for the uid with id(1)")?;
    if uid.stdout == b"0\n" {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    Ok(command)
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn installed(name: &str) -> bool {
    Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", name])
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

fn apt_get(arguments: &[&str]) -> anyhow::Result<()> {
    // sudo clears the environment, so the variable travels in its arguments.
    let mut command = privileged("env")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(arguments);
    let status = command.status().context(
        "starting apt-get; on another distribution install libudev, pkg-config, QEMU, mmdebstrap and e2fsprogs by hand",
    )?;
    if !status.success() {
        bail!("apt-get {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}
