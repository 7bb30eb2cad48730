//! Which device a mounted btrfs is on.
//!
//! Its files show an anonymous number, and the name in the mount table is what somebody called the device last. The
//! kernel's own answer is the file system's id (`BTRFS_IOC_FS_INFO`; a second mount with the same id on disk has another
//! one there) and the devices that sysfs shows for that id.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};
use uuid::Uuid;

use crate::device::DeviceNumber;

/// One directory per mounted file system (`fs/btrfs/sysfs.c`).
const SYSFS: &str = "/sys/fs/btrfs";

/// The one device of the file system whose root `root` refers to (it may be an `O_PATH` descriptor). Blocks.
///
/// # Errors
/// When it is no btrfs, or one of several devices, or the kernel does not tell.
pub fn device_of(root: impl AsFd) -> io::Result<DeviceNumber> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(root, c".", flags, Mode::empty())?;
    let found = node_helper_sys::btrfs::info(&root)?;
    if found.devices != 1 {
        return Err(io::Error::other(format!("the btrfs has {} devices; a volume is one", found.devices)));
    }
    let id = Uuid::from_bytes(found.id).hyphenated().to_string();
    only_device(&Path::new(SYSFS).join(id).join("devices"))
}

/// The number of the only device in a directory of links to devices.
fn only_device(directory: &Path) -> io::Result<DeviceNumber> {
    let fault = |what: String| io::Error::other(format!("{}: {what}", directory.display()));
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| fault(error.to_string()))? {
        let text = fs::read_to_string(entry?.path().join("dev")).map_err(|error| fault(error.to_string()))?;
        numbers.push(text.trim().parse().map_err(|error| fault(format!("{error}")))?);
    }
    match numbers.as_slice() {
        [number] => Ok(*number),
        several => Err(fault(format!("{} devices instead of one", several.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_device_is_an_answer() {
        let directory = tempfile::tempdir().unwrap();
        assert!(only_device(&directory.path().join("absent")).is_err());
        assert!(only_device(directory.path()).is_err());
        for (name, number) in [("nvme0n1", "259:4\n"), ("nvme1n1", "259:5\n")] {
            fs::create_dir(directory.path().join(name)).unwrap();
            fs::write(directory.path().join(name).join("dev"), number).unwrap();
            let found = only_device(directory.path());
            match name {
                "nvme0n1" => assert_eq!(found.unwrap(), DeviceNumber { major: 259, minor: 4 }),
                _ => assert!(found.unwrap_err().to_string().contains("2 devices")),
            }
        }
    }

    #[test]
    fn what_is_no_btrfs_is_an_error() {
        assert!(device_of(fs::File::open("/proc").unwrap()).is_err());
    }
}
