//! What a fresh Debian machine needs before the workspace builds and the lab boots.

use std::process::Command;

use anyhow::{Context, bail};

/// Debian packages the host needs: libudev to link the helper, QEMU and mmdebstrap for the lab's guest.
const HOST_PACKAGES: &[&str] = &["libudev-dev", "pkg-config", "qemu-system-x86", "mmdebstrap"];

/// Installs the missing host packages, with `sudo` when not root.
pub fn host_packages() -> anyhow::Result<()> {
    let missing: Vec<&str> = HOST_PACKAGES.iter().copied().filter(|name| !installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    apt_get(&["update"])?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(missing);
    apt_get(&arguments)
}

fn installed(name: &str) -> bool {
    Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", name])
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

fn apt_get(arguments: &[&str]) -> anyhow::Result<()> {
    let root =
        Command::new("id").arg("-u").output().context("asking for the uid with id(1)")?.stdout == b"0\n";
    let mut command = if root {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("apt-get");
        sudo
    };
    let status = command.env("DEBIAN_FRONTEND", "noninteractive").args(arguments).status().context(
        "starting apt-get; on another distribution install libudev, pkg-config, QEMU and mmdebstrap by hand",
    )?;
    if !status.success() {
        bail!("apt-get {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}
