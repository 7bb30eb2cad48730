//! Gives a mounted volume to a group, with the rules that kubelet has for a pod's `fsGroup` (`SetVolumeOwnership` in
//! `k8s.io/kubernetes/pkg/volume`): every file `g+rw`, every directory `g+rwx` with setgid, links only their group.
//!
//! What lies in a volume is a pod's, and it may change while it is walked. So nothing is ever reached by a path: each
//! name is opened in its opened directory, without following a link and without leaving the mount, and everything is
//! done to what was opened. The root is changed last, after all that is in it, and before the first change a root that
//! matches another group loses its setgid bit: as long as a walk was not finished, its root matches nobody, and the next
//! one begins again, for whichever group.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, NFS_SUPER_MAGIC, OFlags, ResolveFlags, StatxAttributes, StatxFlags,
    chmod, chownat, fstatfs, openat, openat2, statx,
};
use rustix::io::Errno;

/// What a directory gets: reading, writing and searching for the group, and that new files in it belong to the group.
const DIRECTORY: u32 = 0o2770;
/// What every other thing gets that is no link.
const FILE: u32 = 0o660;
/// That new files in a directory belong to its group. The root of a volume has it only when its walk is finished.
const SETGID: u32 = 0o2000;
/// Bits that a change of ownership may clear, and that are put back on directories.
const SPECIAL: u32 = 0o7000;
/// Bits that run a program as somebody else. What was seen of a file is old when it is changed, and its owner may have
/// changed since: none is ever set on a file.
const RUN_AS: u32 = 0o6000;
/// What ZFS shows its snapshots in, at the top of a dataset.
const SNAPSHOTS: &[u8] = b".zfs";
/// Most levels that are walked: each holds one descriptor of this process.
const MAX_DEPTH: usize = 256;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// The root had the group and its bits already: nothing in it was looked at.
    Before,
    /// So many things were looked at.
    Walked(u64),
}

/// Why a volume does not belong to the group in full.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The server or file system forbids the change.
    #[error("{name:?} cannot be given to the group: {errno}")]
    Refused {
        /// The last part of its path.
        name: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// It was not to go on after so many things.
    #[error("it was cut off after {0} files and directories")]
    CutOff(u64),
    /// More levels than are walked.
    #[error("directory {0:?} lies more than {MAX_DEPTH} levels deep")]
    TooDeep(String),
    /// Anything else.
    #[error("{step} {name:?}: {errno}")]
    Kernel {
        /// What was being done.
        step: &'static str,
        /// The last part of its path.
        name: String,
        /// What the kernel said.
        errno: Errno,
    },
}

impl GroupError {
    fn new(step: &'static str, name: &CStr, errno: Errno) -> Self {
        let name = shown(name);
        match errno {
            Errno::PERM | Errno::ACCESS => Self::Refused { name, errno },
            _ => Self::Kernel { step, name, errno },
        }
    }
}

fn shown(name: &CStr) -> String {
    name.to_string_lossy().chars().take(64).collect()
}

/// Gives the mount whose root `root` refers to (it may be an `O_PATH` descriptor) to `group`, as long as `go_on`, which
/// is asked for each thing in it. Blocks.
///
/// # Errors
/// [`GroupError`]; the root matches no group then, so that a repeated call, for this group or another, goes on.
pub fn give(root: impl AsFd, group: u32, mut go_on: impl FnMut() -> bool) -> Result<Given, GroupError> {
    const ROOT: &CStr = c"/";
    let root = root.as_fd();
    let top = Thing::look(root).map_err(|errno| GroupError::new("looking at", ROOT, errno))?;
    if top.matches(group) {
        return Ok(Given::Before);
    }
    let file_system = fstatfs(root).map_err(|errno| GroupError::new("looking at", ROOT, errno))?;
    let nfs = file_system.f_type == NFS_SUPER_MAGIC;
    let mut seen = 0;
    let first = list(root).map_err(|errno| GroupError::new("opening", ROOT, errno))?;
    if top.is_marked() {
        set_mode(root, top.mode & !SETGID).map_err(|errno| GroupError::new("changing", ROOT, errno))?;
    }
    let mut levels = vec![first];
    while let Some(directory) = levels.last_mut() {
        let Some(entry) = directory.read() else {
            levels.pop();
            continue;
        };
        let entry = match entry {
            Ok(entry) => entry,
            Err(errno) if levels.len() > 1 && is_gone(errno) => {
                levels.pop();
                continue;
            }
            Err(errno) => return Err(GroupError::new("listing a directory near", ROOT, errno)),
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if !go_on() {
            return Err(GroupError::CutOff(seen));
        }
        let parent = directory.fd().map_err(|errno| GroupError::new("opening", name, errno))?;
        let opened = match open(parent, name) {
            Ok(opened) => opened,
            // Gone since it was listed, or the root of another mount.
            Err(Errno::XDEV) => continue,
            Err(errno) if is_gone(errno) => continue,
            Err(errno) => return Err(GroupError::new("opening", name, errno)),
        };
        let thing = match Thing::look(opened.as_fd()) {
            Ok(thing) => thing,
            Err(errno) if is_gone(errno) => continue,
            Err(errno) => return Err(GroupError::new("looking at", name, errno)),
        };
        if nfs && thing.is_of_another_export(&top, name, levels.len()) {
            continue;
        }
        seen += 1;
        match thing.change(opened.as_fd(), group) {
            Ok(()) => {}
            // Nobody can change it, the pod neither: the rest of the volume is worth having.
            Err(Errno::PERM) if thing.fixed => {}
            // A part that is read-only by itself, as a snapshot that the pod made; of the whole volume its root tells.
            Err(Errno::ROFS) => {}
            Err(errno) if is_gone(errno) => continue,
            Err(errno) => return Err(GroupError::new("changing", name, errno)),
        }
        if thing.kind == FileType::Directory {
            if levels.len() >= MAX_DEPTH {
                return Err(GroupError::TooDeep(shown(name)));
            }
            match list(opened.as_fd()) {
                Ok(inner) => levels.push(inner),
                // Another mount came over it.
                Err(Errno::NOTDIR) => {}
                Err(errno) if is_gone(errno) => {}
                Err(errno) => return Err(GroupError::new("opening", name, errno)),
            }
        }
    }
    // What the pod could change meanwhile is changed from what is there now.
    let top = Thing::look(root).map_err(|errno| GroupError::new("looking at", ROOT, errno))?;
    top.change(root, group).map_err(|errno| GroupError::new("changing", ROOT, errno))?;
    Ok(Given::Walked(seen))
}

/// Opens a name as a reference: a link itself and not where it leads, nothing outside of the mount, no device.
fn open(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    openat2(parent, name, flags, Mode::empty(), resolve)
}

/// Opens a directory that was opened as a reference for listing it.
fn list(directory: BorrowedFd<'_>) -> rustix::io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Dir::new(openat(directory, c".", flags, Mode::empty())?)
}

/// Whether something that was listed is not there any more.
fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::STALE)
}

/// Sets the mode of what was opened as a reference: chmod(2) takes no `O_PATH` descriptor, but this name of it leads to
/// the very thing that was opened.
fn set_mode(opened: BorrowedFd<'_>, mode: u32) -> rustix::io::Result<()> {
    chmod(format!("/proc/self/fd/{}", opened.as_raw_fd()), Mode::from_raw_mode(mode))
}

/// What was opened.
struct Thing {
    kind: FileType,
    mode: u32,
    group: u32,
    /// Major and minor number of its file system.
    device: (u32, u32),
    /// Something is mounted here as soon as somebody enters it.
    automount: bool,
    /// It is immutable or only appended to.
    fixed: bool,
}

impl Thing {
    fn look(opened: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
        let status = statx(opened, c"", flags, StatxFlags::TYPE | StatxFlags::MODE | StatxFlags::GID)?;
        let mode = u32::from(status.stx_mode);
        let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
        Ok(Self {
            kind: FileType::from_raw_mode(mode),
            mode: mode & 0o7777,
            group: status.stx_gid,
            device: (status.stx_dev_major, status.stx_dev_minor),
            automount: status.stx_attributes.contains(StatxAttributes::AUTOMOUNT),
            fixed: status.stx_attributes.intersects(fixed),
        })
    }

    /// The bits it has to have; `None` for what has no bits of its own. Device nodes are left alone altogether: none of
    /// a pod's files decides what this host's devices are open for.
    fn bits(&self) -> Option<u32> {
        match self.kind {
            FileType::Directory => Some(DIRECTORY),
            FileType::Symlink | FileType::BlockDevice | FileType::CharacterDevice => None,
            _ => Some(FILE),
        }
    }

    /// Whether an entry of an NFS mount, `level` levels deep (1: in its root), is another export's: a dataset that is
    /// shared by itself, of which only a placeholder is seen until it is entered, or the snapshots. On other file systems
    /// none of this says so: each subvolume of btrfs has a device number of its own.
    fn is_of_another_export(&self, top: &Self, name: &CStr, level: usize) -> bool {
        let snapshots = level == 1 && self.kind == FileType::Directory && name.to_bytes() == SNAPSHOTS;
        self.automount || self.device != top.device || snapshots
    }

    /// Whether a root says that all in it belongs to its group, whichever that is.
    fn is_marked(&self) -> bool {
        self.matches(self.group)
    }

    fn matches(&self, group: u32) -> bool {
        self.group == group && self.bits().is_none_or(|bits| self.mode & bits == bits)
    }

    fn change(&self, opened: BorrowedFd<'_>, group: u32) -> rustix::io::Result<()> {
        if matches!(self.kind, FileType::BlockDevice | FileType::CharacterDevice) || self.matches(group) {
            return Ok(());
        }
        if self.group != group {
            chownat(opened, c"", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
        }
        let Some(bits) = self.bits() else { return Ok(()) };
        let directory = self.kind == FileType::Directory;
        let kept = if directory { self.mode } else { self.mode & !RUN_AS };
        let cleared = directory && self.group != group && self.mode & SPECIAL != 0;
        if self.mode & bits != bits || cleared {
            set_mode(opened, kept | bits)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    const GROUP: u32 = 4321;

    fn root_of(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    /// Whether this process may give files to any group, and why not.
    fn may_change() -> bool {
        let root = nix::unistd::geteuid().is_root();
        if !root {
            eprintln!("SKIPPED: giving files to a group of others needs root");
        }
        root
    }

    fn of(path: &Path) -> (u32, u32) {
        let found = path.symlink_metadata().unwrap();
        (found.gid(), found.mode() & 0o7777)
    }

    #[test]
    fn everything_gets_group_and_bits_and_links_are_not_followed() {
        if !may_change() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let (volume, outside) = (directory.path().join("volume"), directory.path().join("outside"));
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("host"), "x").unwrap();
        fs::write(volume.join("a/b/file"), "x").unwrap();
        fs::write(volume.join("program"), "x").unwrap();
        fs::set_permissions(volume.join("program"), fs::Permissions::from_mode(0o4711)).unwrap();
        fs::create_dir(volume.join("temporary")).unwrap();
        fs::set_permissions(volume.join("temporary"), fs::Permissions::from_mode(0o1755)).unwrap();
        symlink(&outside, volume.join("a/directory")).unwrap();
        symlink(outside.join("host"), volume.join("file")).unwrap();
        let before = (of(&outside), of(&outside.join("host")));
        let root = root_of(&volume);
        assert_eq!(give(&root, GROUP, || true).unwrap(), Given::Walked(7));
        assert_eq!(of(&volume), (GROUP, 0o2775));
        assert_eq!(of(&volume.join("a/b")), (GROUP, 0o2775));
        assert_eq!(of(&volume.join("a/b/file")), (GROUP, 0o664));
        assert_eq!(of(&volume.join("program")), (GROUP, 0o771), "nobody's program any more");
        assert_eq!(of(&volume.join("temporary")), (GROUP, 0o3775), "what is set on a directory stays set");
        assert_eq!(of(&volume.join("file")).0, GROUP, "the link itself");
        assert_eq!(before, (of(&outside), of(&outside.join("host"))));
    }

    #[test]
    fn a_root_that_matches_spares_the_walk() {
        if !may_change() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "x").unwrap();
        let root = root_of(directory.path());
        assert_eq!(give(&root, GROUP, || true).unwrap(), Given::Walked(1));
        std::os::unix::fs::chown(directory.path().join("file"), None, Some(GROUP + 1)).unwrap();
        assert_eq!(give(&root, GROUP, || true).unwrap(), Given::Before);
        assert_eq!(of(&directory.path().join("file")).0, GROUP + 1);
    }

    #[test]
    fn a_walk_that_was_cut_off_leaves_a_root_that_does_not_match_and_goes_on() {
        if !may_change() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "x").unwrap();
        let root = root_of(directory.path());
        let before = of(directory.path());
        assert!(matches!(give(&root, GROUP, || false), Err(GroupError::CutOff(0))));
        assert_eq!(of(directory.path()), before);
        assert_eq!(give(&root, GROUP, || true).unwrap(), Given::Walked(1));
    }

    #[test]
    fn a_takeover_that_was_cut_off_can_be_taken_back() {
        if !may_change() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let files: Vec<_> = (0..5).map(|number| directory.path().join(number.to_string())).collect();
        for file in &files {
            fs::write(file, "x").unwrap();
        }
        let groups = || files.iter().map(|file| of(file).0).collect::<Vec<_>>();
        let root = root_of(directory.path());
        assert_eq!(give(&root, GROUP, || true).unwrap(), Given::Walked(5));
        let mut left = 3;
        let cut = give(&root, GROUP + 1, || {
            left -= 1;
            left >= 0
        });
        assert!(matches!(cut, Err(GroupError::CutOff(3))), "{cut:?}");
        assert_eq!(groups().iter().filter(|group| **group == GROUP + 1).count(), 3);
        assert_eq!(of(directory.path()).1 & SETGID, 0, "the root matches nobody");
        assert_eq!(give(&root, GROUP, || true).unwrap(), Given::Walked(5));
        assert_eq!(groups(), [GROUP; 5]);
        assert_eq!(of(directory.path()).0, GROUP);
        assert_eq!(give(&root, GROUP, || true).unwrap(), Given::Before);
    }

    #[test]
    fn what_another_export_shows_in_an_nfs_mount_is_left_alone() {
        let thing = |device, automount| Thing {
            kind: FileType::Directory,
            mode: 0o755,
            group: 0,
            device: (0, device),
            automount,
            fixed: false,
        };
        let top = thing(7, false);
        let other = |found: Thing, name, level| found.is_of_another_export(&top, name, level);
        assert!(!other(thing(7, false), c"data", 1));
        assert!(other(thing(7, true), c"child", 2), "a placeholder");
        assert!(other(thing(8, false), c"child", 2), "entered by somebody");
        assert!(other(thing(7, false), c".zfs", 1));
        assert!(!other(thing(7, false), c".zfs", 2), "a pod's own");
    }

    #[test]
    fn a_tree_that_is_too_deep_is_refused_and_costs_no_more_descriptors() {
        if !may_change() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("d/".repeat(MAX_DEPTH))).unwrap();
        let root = root_of(directory.path());
        assert!(matches!(give(&root, GROUP, || true), Err(GroupError::TooDeep(_))));
        assert_ne!(of(directory.path()).0, GROUP);
    }

    /// A tree of somebody else's, given to a group by a thread without one capability; whether it came out right.
    fn given_without(capability: Option<caps::Capability>) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("directory");
        fs::create_dir(&inner).unwrap();
        std::os::unix::fs::chown(&inner, Some(1000), Some(9)).unwrap();
        let root = root_of(directory.path());
        let done = std::thread::spawn(move || {
            if let Some(capability) = capability {
                caps::drop(None, caps::CapSet::Effective, capability).unwrap();
            }
            give(&root, GROUP, || true).is_ok()
        });
        done.join().unwrap() && of(&inner) == (GROUP, 0o2775) && of(directory.path()).0 == GROUP
    }

    #[test]
    fn each_capability_that_is_kept_for_it_is_needed() {
        if !may_change() {
            return;
        }
        assert!(given_without(None));
        for capability in
            [caps::Capability::CAP_CHOWN, caps::Capability::CAP_FOWNER, caps::Capability::CAP_FSETID]
        {
            assert!(!given_without(Some(capability)), "{capability} is not needed");
        }
    }

    #[test]
    fn what_must_not_be_changed_is_told_from_what_failed() {
        assert!(matches!(GroupError::new("changing", c"x", Errno::PERM), GroupError::Refused { .. }));
        assert!(matches!(GroupError::new("changing", c"x", Errno::IO), GroupError::Kernel { .. }));
    }
}
