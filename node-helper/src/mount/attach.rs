//! Making a mount detached, attaching it to an opened place, and taking it away.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

use super::options::Parameter;
use crate::device::DeviceNumber;
use crate::paths::Place;

/// Longest text that is taken from a file system's context log, in bytes.
const MAX_LOG: usize = 2048;

/// Why a mount did not come about.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {errno}{}", if log.is_empty() { String::new() } else { format!(" ({log})") })]
pub struct MountError {
    /// What was being done.
    pub step: String,
    /// What the kernel answered.
    pub errno: io::Error,
    /// What the file system said about it (fsopen(2), "Message retrieval").
    pub log: String,
}

impl MountError {
    fn new(step: impl Into<String>, errno: Errno, log: String) -> Self {
        Self { step: step.into(), errno: errno.into(), log }
    }
}

/// A mount that is attached nowhere: it disappears when dropped.
#[derive(Debug)]
pub struct Detached(OwnedFd);

impl Detached {
    /// Mounts a file system: `fsopen`, `fsconfig`, `fsmount`. The value of `secret` is shown nowhere.
    ///
    /// # Errors
    /// With the file system's own words.
    pub fn file_system(
        kind: &str,
        source: &str,
        parameters: &[Parameter],
        secret: Option<(&str, &CStr)>,
        attributes: MountAttrFlags,
    ) -> Result<Self, MountError> {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| {
            let log = match errno {
                Errno::NODEV => format!("the kernel has no file system {kind}; load its module"),
                _ => String::new(),
            };
            MountError::new(format!("opening file system {kind}"), errno, log)
        })?;
        fsconfig_set_string(context.as_fd(), "source", source)
            .map_err(|errno| MountError::new("setting the source", errno, messages(&context)))?;
        for parameter in parameters {
            let key = parameter.key.as_str();
            let outcome = match &parameter.value {
                Some(value) => fsconfig_set_string(context.as_fd(), key, value.as_str()),
                None => fsconfig_set_flag(context.as_fd(), key),
            };
            outcome.map_err(|errno| {
                MountError::new(format!("setting mount option {parameter}"), errno, messages(&context))
            })?;
        }
        if let Some((key, value)) = secret {
            fsconfig_set_string(context.as_fd(), key, value).map_err(|errno| {
                MountError::new(format!("setting mount option {key}"), errno, messages(&context))
            })?;
        }
        fsconfig_create(context.as_fd())
            .map_err(|errno| MountError::new(format!("mounting {source}"), errno, messages(&context)))?;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map(Self)
            .map_err(|errno| MountError::new(format!("mounting {source}"), errno, messages(&context)))
    }

    /// Clones the mount (or the one node) that `original` refers to, with attributes added before it can be seen.
    ///
    /// # Errors
    /// Of `open_tree(2)` and `mount_setattr(2)`.
    pub fn clone_of(original: impl AsFd, add: MountAttrFlags, atime: bool) -> Result<Self, MountError> {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = open_tree(original.as_fd(), "", flags)
            .map_err(|errno| MountError::new("cloning the mount", errno, String::new()))?;
        if !add.is_empty() || atime {
            let clear = if atime { MountAttrFlags::MOUNT_ATTR__ATIME } else { MountAttrFlags::empty() };
            node_helper_sys::mount_setattr(tree.as_fd(), u64::from(add.bits()), u64::from(clear.bits()))
                .map_err(|errno| MountError {
                    step: "setting the bind's attributes".to_owned(),
                    errno,
                    log: String::new(),
                })?;
        }
        Ok(Self(tree))
    }

    /// `st_dev` of the mount's root.
    ///
    /// # Errors
    /// Of `statx(2)`.
    pub fn device(&self) -> io::Result<DeviceNumber> {
        device_of(&self.0)
    }

    /// Attaches the mount to what lies at `place` (an empty directory, or an empty file for a single node).
    ///
    /// # Errors
    /// Of opening the place or `move_mount(2)`, and `EBUSY` when something is mounted there already: it is never
    /// covered. The mount is gone then.
    pub fn attach(self, place: &Place) -> Result<(), MountError> {
        let opening = |errno| MountError {
            step: format!("opening {}", place.real().display()),
            errno,
            log: String::new(),
        };
        let target = place.open().map_err(opening)?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let status = rustix::fs::statx(&target, "", flags, StatxFlags::TYPE);
        let status = status.map_err(|errno| opening(errno.into()))?;
        if status.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT) {
            let step = format!("attaching to {}, where something else is mounted", place.real().display());
            return Err(MountError::new(step, Errno::BUSY, String::new()));
        }
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(self.0.as_fd(), "", target.as_fd(), "", flags).map_err(|errno| {
            MountError::new(format!("attaching to {}", place.real().display()), errno, String::new())
        })
    }
}

impl AsFd for Detached {
    /// The mount's root, as a reference.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `st_dev` of what `descriptor` refers to.
///
/// # Errors
/// Of `statx(2)`.
pub fn device_of(descriptor: impl AsFd) -> io::Result<DeviceNumber> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let status = rustix::fs::statx(descriptor, "", flags, StatxFlags::TYPE)?;
    Ok(DeviceNumber { major: status.stx_dev_major, minor: status.stx_dev_minor })
}

/// How a mount is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Waits until the file system is written out; refused while it is in use.
    Clean,
    /// Takes the mount out of sight at once. Only for a mount whose device or server is gone.
    DetachDead,
}

/// Takes away the mount on top at `place`.
///
/// # Errors
/// Of `umount2(2)`: `EBUSY` while files are open, `EINVAL` when nothing is mounted.
pub fn remove(place: &Place, how: Removal) -> io::Result<()> {
    let flags = match how {
        Removal::Clean => UnmountFlags::NOFOLLOW,
        Removal::DetachDead => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    Ok(unmount(place.through_descriptor(), flags)?)
}

/// What the file system wrote into its context: one message per read, without the level letter.
fn messages(context: &OwnedFd) -> String {
    let mut text = String::new();
    let mut buffer = [0_u8; 1024];
    while text.len() < MAX_LOG {
        let Ok(length) = rustix::io::read(context, &mut buffer) else { break };
        let Some(message) = buffer.get(..length).filter(|message| !message.is_empty()) else { break };
        let message = String::from_utf8_lossy(message);
        let message = message.trim_end();
        let message = match message.split_once(' ') {
            Some(("e" | "w" | "i", rest)) => rest,
            _ => message,
        };
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(message);
    }
    text
}
