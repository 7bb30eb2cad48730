//! The kernel's release, and what it can attach.

use std::path::Path;

/// The oldest series whose mount API has everything that is used here.
const LEAST: (u32, u32) = (5, 14);

/// The running kernel's release.
///
/// # Errors
/// When it cannot be read, or is older than 5.14.
pub fn check() -> anyhow::Result<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    match series(&release) {
        Some(series) if series >= LEAST => Ok(release),
        Some(_) => {
            anyhow::bail!("kernel {release} is too old: {}.{} is the oldest that serves", LEAST.0, LEAST.1)
        }
        None => anyhow::bail!("kernel release {release:?} does not begin with a version"),
    }
}

fn series(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Protocols that this host can attach at this moment, by the names of the helper's API.
#[must_use]
pub fn protocols() -> Vec<String> {
    let mut protocols = Vec::new();
    // Opening a context loads the module where there is one.
    for (protocol, kind) in [("nfs", crate::mount::nfs::FS_TYPE), ("smb", crate::mount::cifs::FS_TYPE)] {
        if rustix::mount::fsopen(kind, rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC).is_ok() {
            protocols.push(protocol.to_owned());
        }
    }
    if Path::new("/dev/nvme-fabrics").exists() {
        protocols.push("nvmeof".to_owned());
    }
    protocols
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_numbers() {
        assert_eq!(series("6.12.43+deb13-amd64"), Some((6, 12)));
        assert_eq!(series("5.4.0-1-generic"), Some((5, 4)));
        assert!(
            series("5.4.0") < Some(LEAST)
                && series("5.14") >= Some(LEAST)
                && series("10.0-rc1") >= Some(LEAST)
        );
        assert_eq!(series("linux"), None);
    }
}
