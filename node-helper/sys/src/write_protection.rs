//! Write protection of a whole block device.
//!
//! A read-only mount protects files, not a device node in it: the kernel lets special files be written there. Only the
//! device itself can refuse.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

mod raw {
    nix::ioctl_write_ptr_bad!(blkroset, 0x125d, libc::c_int);
}

/// Makes the kernel refuse (or allow) writes to a block device, for everybody on this host (`BLKROSET`). A device that
/// is read-only by its own nature stays so.
///
/// # Errors
/// `EACCES` without `CAP_SYS_ADMIN`, `ENOTTY` when the descriptor is no block device.
pub fn set_read_only(device: impl AsFd, read_only: bool) -> io::Result<()> {
    let flag = libc::c_int::from(read_only);
    // SAFETY: the descriptor is borrowed for the whole call and so stays open; BLKROSET reads exactly one int
    // (block/ioctl.c, blkdev_roset, get_user) from the address given, which is a live, aligned local of that type.
    unsafe { raw::blkroset(device.as_fd().as_raw_fd(), &raw const flag) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_file_cannot_be_protected() {
        let file = tempfile::tempfile().expect("a file");
        assert!(set_read_only(&file, true).is_err());
    }
}
