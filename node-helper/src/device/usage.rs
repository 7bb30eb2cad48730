//! Who uses a device: mounts, raw-block binds, swap, stacked devices.

use std::collections::BTreeSet;
use std::path::Path;

use procfs::FromRead;
use procfs::process::MountInfos;

use super::sysfs::{attribute, names};
use super::{DeviceError, DeviceNumber, HostRoot};

/// The users of a device and of its partitions, in words. Mount points are as the kernel writes them (`\040` for a
/// blank): they are for reading only. Devices named in `apart_from` may be stacked on it.
pub(super) fn users(
    host: &HostRoot,
    name: &str,
    number: DeviceNumber,
    apart_from: &[String],
) -> Result<Vec<String>, DeviceError> {
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
    let btrfs = btrfs_devices(host)?;
    let swaps = attribute(&host.proc("swaps"))?.unwrap_or_default();
    let mut users = BTreeSet::new();
    for (name, number, directory) in &members {
        let holders = names(&directory.join("holders"))?;
        for holder in holders.iter().filter(|holder| !apart_from.contains(holder)) {
            users.insert(format!("{holder} is stacked on {name}"));
        }
        for mount in &mounts.0 {
            if mount.majmin.parse() == Ok(*number) {
                users.insert(format!("{name} is mounted at {}", mount.mount_point.display()));
            } else if is_at(mount, name, *number) {
                users.insert(format!("{name} is bound to {}", mount.mount_point.display()));
            }
        }
        if btrfs.contains(number) {
            users.insert(format!("{name} is a mounted btrfs"));
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

/// Whether a device itself, or its node, is mounted or bound somewhere in this mount namespace (a btrfs: anywhere).
pub(super) fn is_mounted(host: &HostRoot, name: &str, number: DeviceNumber) -> Result<bool, DeviceError> {
    let mounted = mounts(host)?.0.iter().any(|mount| is_at(mount, name, number));
    Ok(mounted || btrfs_devices(host)?.contains(&number))
}

/// Devices of every mounted btrfs, as sysfs shows them: the mount table has an anonymous number for it.
fn btrfs_devices(host: &HostRoot) -> Result<BTreeSet<DeviceNumber>, DeviceError> {
    let all = host.sys("fs/btrfs");
    let mut numbers = BTreeSet::new();
    for id in names(&all)? {
        let devices = all.join(id).join("devices");
        for device in names(&devices)? {
            // A device that died leaves a link to nothing.
            let number = attribute(&devices.join(device).join("dev"))?;
            numbers.extend(number.and_then(|text| text.parse::<DeviceNumber>().ok()));
        }
    }
    Ok(numbers)
}

fn is_at(mount: &procfs::process::MountInfo, name: &str, number: DeviceNumber) -> bool {
    // A raw-block volume is its node bound out of the device file system.
    let bound = mount.fs_type == "devtmpfs" && Path::new(&mount.root) == Path::new("/").join(name);
    bound || mount.majmin.parse() == Ok(number)
}

fn mounts(host: &HostRoot) -> Result<MountInfos, DeviceError> {
    let path = host.proc("self/mountinfo");
    let unreadable = |source| DeviceError::Unreadable { path: path.clone(), source };
    let bytes = std::fs::read(&path).map_err(unreadable)?;
    MountInfos::from_read(bytes.as_slice()).map_err(|error| unreadable(std::io::Error::other(error)))
}
