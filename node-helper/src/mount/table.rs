//! The one reader of the kernel's mountinfo file.
//!
//! The kernel escapes space, tab, newline and backslash as octal in paths and sources (`fs/proc_namespace.c`); here
//! they are plain again. Names that are not UTF-8 stay visible with replacement characters: such a mount is never
//! ours, but must not hide the others.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use procfs::process::{MountInfo, MountOptFields};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::device::DeviceNumber;
use crate::filesystem::FsType;

/// Suffix the kernel gives to a path whose directory entry is gone.
const DELETED: &str = "//deleted";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Mount id.
    pub id: i32,
    /// Id of the mount it is attached to.
    pub parent: i32,
    /// `st_dev` of its files: the device of ext4 and xfs, an anonymous number (major 0) for NFS and tmpfs. Of
    /// btrfs the superblock's, see [`MountTable::read_below`].
    pub device: DeviceNumber,
    /// What of the file system is mounted: a path in it, `/` for the whole.
    pub root: String,
    /// Where, seen from this process's root.
    pub point: PathBuf,
    /// Type of the file system as the kernel calls it.
    pub fs_type: String,
    /// Source as it was given at mounting.
    pub source: String,
    /// Whether the mount is read-only.
    pub read_only: bool,
    /// Whether the file system is read-only.
    pub superblock_read_only: bool,
    /// Peer group to which mounts below it propagate.
    pub shared: Option<u32>,
    /// Peer group from which mounts come.
    pub master: Option<u32>,
    /// Per-mount options (`noexec`, `noatime`, …).
    pub options: HashMap<String, Option<String>>,
}

impl Mount {
    /// In words, for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{} of type {} at {}", self.source, self.fs_type, self.point.display())
    }

    /// Whether what was bound here has lost its directory entry (a device node that is gone).
    #[must_use]
    pub fn root_is_deleted(&self) -> bool {
        self.root.ends_with(DELETED)
    }
}

/// All mounts of this process's namespace at one moment.
#[derive(Debug, Clone, Default)]
pub struct MountTable(Vec<Mount>);

impl MountTable {
    /// Reads the table of this process (of this thread, where a thread has a namespace of its own).
    ///
    /// # Errors
    /// When it cannot be read, or a line is not what proc(5) describes: an unreadable table is never an empty one.
    pub fn read() -> io::Result<Self> {
        Self::parse(&std::fs::read("/proc/thread-self/mountinfo")?)
    }

    /// Reads the table as [`MountTable::read`], and asks btrfs mounts below `root` for their `st_dev`: the table shows
    /// the number of their superblock, which no file of theirs has. What another mount covers cannot be asked.
    ///
    /// # Errors
    /// As [`MountTable::read`].
    pub fn read_below(root: &Path) -> io::Result<Self> {
        let mut table = Self::read()?;
        for mount in &mut table.0 {
            if mount.fs_type == FsType::Btrfs.name()
                && mount.point.starts_with(root)
                && let Some(number) = shown_at(&mount.point, mount.id)
            {
                mount.device = number;
            }
        }
        Ok(table)
    }

    /// Reads the table of process 1, where the permissions allow.
    ///
    /// # Errors
    /// As [`MountTable::read`].
    pub fn read_of_init() -> io::Result<Self> {
        Self::parse(&std::fs::read("/proc/1/mountinfo")?)
    }

    /// Parses the text of a mountinfo file.
    ///
    /// # Errors
    /// `InvalidData` naming the line.
    pub fn parse(text: &[u8]) -> io::Result<Self> {
        text.split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| {
                let line = String::from_utf8_lossy(line);
                parse_line(&line).ok_or_else(|| {
                    let fault = format!("line of the mount table cannot be read: {line:?}");
                    io::Error::new(io::ErrorKind::InvalidData, fault)
                })
            })
            .collect::<io::Result<Vec<_>>>()
            .map(Self)
    }

    /// Every mount.
    pub fn iter(&self) -> std::slice::Iter<'_, Mount> {
        self.0.iter()
    }

    /// The mount that is seen at `point`: of several at one point the one on top.
    #[must_use]
    pub fn top(&self, point: &Path) -> Option<&Mount> {
        let here: Vec<&Mount> = self.0.iter().filter(|mount| mount.point == point).collect();
        here.iter().rev().find(|mount| here.iter().all(|other| other.parent != mount.id)).copied()
    }

    /// The mount in which `path` lies.
    #[must_use]
    pub fn containing(&self, path: &Path) -> Option<&Mount> {
        path.ancestors().find_map(|ancestor| self.top(ancestor))
    }

    /// Mounts whose files have this `st_dev`.
    pub fn of_device(&self, device: DeviceNumber) -> impl Iterator<Item = &Mount> {
        self.0.iter().filter(move |mount| mount.device == device)
    }
}

/// `st_dev` of the root of the mount with this id, when it is the one seen at `point`. Asks no device.
fn shown_at(point: &Path, id: i32) -> Option<DeviceNumber> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let status = statx(CWD, point, flags, StatxFlags::TYPE | StatxFlags::MNT_ID).ok()?;
    let same = u64::try_from(id).is_ok_and(|id| id == status.stx_mnt_id);
    same.then_some(DeviceNumber { major: status.stx_dev_major, minor: status.stx_dev_minor })
}

fn parse_line(line: &str) -> Option<Mount> {
    let info = MountInfo::from_line(line).ok()?;
    let (major, minor) = info.majmin.split_once(':')?;
    let device = DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? };
    let group = |wanted: fn(&MountOptFields) -> Option<u32>| info.opt_fields.iter().find_map(wanted);
    Some(Mount {
        id: info.mnt_id,
        parent: info.pid,
        device,
        root: unescape(&info.root).to_string_lossy().into_owned(),
        point: PathBuf::from(unescape(info.mount_point.to_str()?)),
        fs_type: unescape(&info.fs_type).to_string_lossy().into_owned(),
        source: info
            .mount_source
            .as_deref()
            .map_or_else(String::new, |s| unescape(s).to_string_lossy().into_owned()),
        read_only: info.mount_options.contains_key("ro"),
        superblock_read_only: info.super_options.contains_key("ro"),
        shared: group(|field| if let MountOptFields::Shared(id) = field { Some(*id) } else { None }),
        master: group(|field| if let MountOptFields::Master(id) = field { Some(*id) } else { None }),
        options: info.mount_options,
    })
}

/// Turns `\ooo` back into the byte; a backslash that starts no such escape stays.
fn unescape(text: &str) -> OsString {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) = (*first, tail) {
            plain.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
            rest = after;
        } else {
            plain.push(*first);
            rest = tail;
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &str = "\
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
40 22 259:3 / /var/lib/kubelet/stage\\040dir rw,noatime shared:7 master:3 - xfs /dev/nvme1n1 rw
41 22 0:52 / /mnt/nas ro,relatime - nfs4 nas:/mnt/tank/a\\134b ro,vers=4.2
42 40 259:4 / /var/lib/kubelet/stage\\040dir rw - ext4 /dev/nvme2n1 ro
43 22 0:5 /nvme9n1//deleted /pub rw - devtmpfs udev rw
";

    #[test]
    fn escapes_are_decoded_and_fields_found() {
        let table = MountTable::parse(TABLE.as_bytes()).expect("a table");
        let nas = table.top(Path::new("/mnt/nas")).expect("mounted");
        assert_eq!(nas.source, "nas:/mnt/tank/a\\b");
        assert!(nas.read_only && nas.superblock_read_only);
        assert_eq!(table.iter().next().and_then(|mount| mount.shared), Some(1));
        assert!(table.top(Path::new("/pub")).expect("mounted").root_is_deleted());
    }

    #[test]
    fn the_mount_on_top_is_the_one_seen() {
        let table = MountTable::parse(TABLE.as_bytes()).expect("a table");
        let top = table.top(Path::new("/var/lib/kubelet/stage dir")).expect("mounted");
        assert_eq!((top.id, top.device.minor, top.superblock_read_only, top.read_only), (42, 4, true, false));
        let inside = table.containing(Path::new("/var/lib/kubelet/stage dir/x/y")).expect("inside");
        assert_eq!(inside.id, 42);
        assert_eq!(table.containing(Path::new("/home")).expect("in the root").id, 22);
    }

    #[test]
    fn t2_an_unreadable_table_is_an_error_and_never_empty() {
        assert!(MountTable::parse(b"22 1 259:1 / /\n").is_err());
        assert!(MountTable::parse(b"22 1 x:1 / / rw - ext4 a rw\n").is_err());
    }

    #[test]
    fn names_that_are_not_text_do_not_hide_the_others() {
        let mut text = b"50 22 0:60 / /mnt/\xff\xfe rw - tmpfs t rw\n".to_vec();
        text.extend_from_slice(TABLE.as_bytes());
        assert_eq!(MountTable::parse(&text).expect("a table").iter().count(), 6);
    }

    #[test]
    fn the_table_of_this_process_is_read() {
        let table = MountTable::read().expect("a table");
        assert!(table.top(Path::new("/proc")).is_some());
    }

    proptest! {
        #[test]
        fn any_line_is_parsed_without_panic(line in "[0-9: /\\\\a-z,=-]{0,80}") {
            let _ = MountTable::parse(line.as_bytes());
        }

        #[test]
        fn unescaping_reverses_the_kernels_escaping(name in "[ \\t\\n\\\\#a-z0-9]{0,24}") {
            let escaped: String = name.chars().map(|c| match c {
                ' ' | '\t' | '\n' | '\\' | '#' => format!("\\{:03o}", c as u32),
                other => other.to_string(),
            }).collect();
            prop_assert_eq!(unescape(&escaped), OsString::from(name));
        }
    }
}
