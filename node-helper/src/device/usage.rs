//! Who uses a device: mounts, raw-block binds, swap, stacked devices.

use std::collections::BTreeSet;
use std::path::Path;

use procfs::FromRead;
use procfs::process::MountInfos;

use super::sysfs::{attribute, names};
use super::{DeviceError, DeviceNumber, HostRoot};

/// The users of a device and of its partitions, in words. Mount points are as the kernel writes them (`\040` for a
/// blank): they are for reading only.
pub(super) fn users(host: &HostRoot, name: &str, number: DeviceNumber) -> Result<Vec<String>, DeviceError> {
    let directory = host.sys("block").join(name);
    let mut members = vec![(name.to_owned(), number, directory.clone())];
    for partition in names(&directory)? {
        let path = directory.join(&partition);
        if path.join("partition").exists()
            && let Some(number) = attribute(&path.join("dev"))?.and_then(|text| text.parse().ok())
        {
            members.push((partition, number, path));
        }
    }
    let mounts = mounts(host)?;
    let swaps = attribute(&host.proc("swaps"))?.unwrap_or_default();
    let mut users = BTreeSet::new();
    for (name, number, directory) in &members {
        for holder in names(&directory.join("holders"))? {
            users.insert(format!("{holder} is stacked on {name}"));
        }
        for mount in &mounts.0 {
            let mounted = mount.majmin.parse() == Ok(*number);
            // A raw-block volume is its node bound out of the device file system.
            let bound = mount.fs_type == "devtmpfs" && Path::new(&mount.root) == Path::new("/").join(name);
            if mounted {
                users.insert(format!("{name} is mounted at {}", mount.mount_point.display()));
            } else if bound {
                users.insert(format!("{name} is bound to {}", mount.mount_point.display()));
            }
        }
        let node = host.dev(name);
        if swaps
            .lines()
            .any(|line| line.split_whitespace().next().is_some_and(|path| Path::new(path) == node))
        {
            users.insert(format!("{name} is swap"));
        }
    }
    Ok(users.into_iter().collect())
}

fn mounts(host: &HostRoot) -> Result<MountInfos, DeviceError> {
    let path = host.proc("self/mountinfo");
    let unreadable = |source| DeviceError::Unreadable { path: path.clone(), source };
    let bytes = std::fs::read(&path).map_err(unreadable)?;
    MountInfos::from_read(bytes.as_slice()).map_err(|error| unreadable(std::io::Error::other(error)))
}
