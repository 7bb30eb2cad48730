//! Block device queries that only an ioctl answers.
//!
//! Nothing here writes to a device. Sources: `include/uapi/linux/fs.h` (request numbers and the width of what the
//! kernel stores), `block/ioctl.c` (which request stores what).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

mod raw {
    nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
    nix::ioctl_read_bad!(blkroget, 0x125e, libc::c_int);
}

/// Size of a block device in bytes (`BLKGETSIZE64`).
///
/// # Errors
/// `ENOTTY` when the descriptor is no block device, else what the kernel answers.
pub fn size(device: impl AsFd) -> io::Result<u64> {
    let mut bytes: u64 = 0;
    // SAFETY: the descriptor is borrowed for the whole call and so stays open; BLKGETSIZE64 stores exactly one u64
    // (include/uapi/linux/fs.h declares it as size_t, block/ioctl.c stores it by put_u64) at the address given, which
    // is a live, aligned local of that type.
    unsafe { raw::blkgetsize64(device.as_fd().as_raw_fd(), &raw mut bytes) }?;
    Ok(bytes)
}

/// Whether the kernel refuses writes to a block device (`BLKROGET`).
///
/// # Errors
/// `ENOTTY` when the descriptor is no block device, else what the kernel answers.
pub fn read_only(device: impl AsFd) -> io::Result<bool> {
    let mut flag: libc::c_int = 0;
    // SAFETY: the descriptor is borrowed for the whole call and so stays open; BLKROGET stores exactly one int
    // (block/ioctl.c, put_int) at the address given, which is a live, aligned local of that type.
    unsafe { raw::blkroget(device.as_fd().as_raw_fd(), &raw mut flag) }?;
    Ok(flag != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_file_is_no_block_device() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(size(&file).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        assert_eq!(read_only(&file).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }
}
