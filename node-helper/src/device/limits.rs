//! How large the requests to a device may be.
//!
//! A zvol behind the kernel's NVMe target announces an optimal I/O size of 32 MiB (ZFS: half of `DMU_MAX_ACCESS`), and
//! the kernel then sends requests of that size where the device names no limit of its own. The target over TCP refuses
//! more than 4 MiB ("failed to map data", seen with 6.12): large writes would fail with EIO, and a file system would
//! lose what it had accepted.

use std::io;

use super::nvme::namespaces;
use super::sysfs::attribute;
use super::{DeviceError, DeviceIdentity, HostRoot};

/// Largest request in KiB: the kernel's own default for a device without an optimal size
/// (`include/linux/blkdev.h`, `BLK_DEF_MAX_SECTORS_CAP`).
const LARGEST_KIB: u64 = 1280;

/// Limits the requests to a device and to each path behind it: what is small enough for the device can still be merged
/// on its way to a path. Smaller limits stay.
pub(super) fn limit_requests(host: &HostRoot, identity: &DeviceIdentity) -> Result<(), DeviceError> {
    let nvme = match identity {
        DeviceIdentity::Nvme(nvme) => nvme,
        // A SCSI target says how much it takes at once (VPD page 0xB0) and the kernel keeps to it.
        DeviceIdentity::Iscsi(_) => return Ok(()),
    };
    for namespace in namespaces(host)? {
        if !nvme.matches(&namespace.subsystem_nqn, namespace.uuid, namespace.nguid) {
            continue;
        }
        let path = host.sys("block").join(&namespace.name).join("queue/max_sectors_kb");
        let limit = attribute(&path)?.and_then(|text| text.parse::<u64>().ok());
        if limit.is_some_and(|limit| limit > LARGEST_KIB) {
            match std::fs::write(&path, LARGEST_KIB.to_string()) {
                // A path may vanish meanwhile; the next attach limits the one that takes its place.
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(DeviceError::Unlimited { path, source });
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{PretendHost, identity, nqn, uuid};
    use super::*;

    #[test]
    fn a_device_and_its_paths_get_the_limit_and_strangers_keep_theirs() {
        let host = PretendHost::new();
        for (subsystem, volume) in [(1, 1), (2, 2)] {
            host.controller(subsystem, &nqn(volume), "traddr=192.0.2.1,trsvcid=4420", "live", "h", "i");
            host.multipath(
                subsystem,
                subsystem,
                &nqn(volume),
                uuid(volume),
                1 << 30,
                &[(subsystem, "optimized")],
            );
        }
        for name in ["nvme1n1", "nvme1c1n1", "nvme2n1", "nvme2c2n1"] {
            host.write(&format!("sys/block/{name}/queue/max_sectors_kb"), "32768\n");
        }
        limit_requests(&host.root(), &identity(1)).unwrap();
        let limit = |name: &str| {
            std::fs::read_to_string(host.path(&format!("sys/block/{name}/queue/max_sectors_kb"))).unwrap()
        };
        assert_eq!(limit("nvme1n1"), "1280");
        assert_eq!(limit("nvme1c1n1"), "1280");
        assert_eq!(limit("nvme2n1"), "32768\n");
        host.write("sys/block/nvme1n1/queue/max_sectors_kb", "512\n");
        limit_requests(&host.root(), &identity(1)).unwrap();
        assert_eq!(limit("nvme1n1"), "512\n", "a smaller limit stays");
    }
}
