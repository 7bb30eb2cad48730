//! `mount_setattr(2)`: attributes of a mount that is not attached anywhere yet.
//!
//! A bind that must be read-only gets its attribute while it is still detached, so it is never writable for a moment.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets and clears attributes of the one mount that `mount` refers to (an `open_tree` or `fsmount` descriptor).
///
/// `set` and `clear` are `MOUNT_ATTR_*` bits of `linux/mount.h`; an access-time mode needs `MOUNT_ATTR__ATIME` in
/// `clear`. Mounts below it are left alone.
///
/// # Errors
/// The errno of the call: `EINVAL` for bits the kernel does not know, `ENOSYS` before Linux 5.12, `EPERM` without
/// `CAP_SYS_ADMIN`.
pub fn mount_setattr(mount: BorrowedFd<'_>, set: u64, clear: u64) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is a static NUL-terminated string, `attributes` lives across the call and its exact size is
    // passed; the kernel reads both and writes nothing.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH as libc::c_uint,
            std::ptr::from_ref(&attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
