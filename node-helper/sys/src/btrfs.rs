//! What a mounted btrfs says about itself.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `struct btrfs_ioctl_fs_info_args` of `include/uapi/linux/btrfs.h`: 1,024 bytes, of which the first 32 matter here.
#[repr(C)]
pub struct FsInfoArgs {
    max_id: u64,
    num_devices: u64,
    fsid: [u8; 16],
    rest: [u64; 124],
}

mod raw {
    nix::ioctl_read!(fs_info, 0x94, 31, super::FsInfoArgs);
}

/// Identity of a mounted btrfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Its id as the kernel knows it: unique among what is mounted, also where two have the same on disk.
    pub id: [u8; 16],
    /// How many devices it is on.
    pub devices: u64,
}

/// Asks the btrfs that a file or directory (not an `O_PATH` descriptor) lies on (`BTRFS_IOC_FS_INFO`).
///
/// # Errors
/// `ENOTTY` on another file system, else what the kernel answers.
pub fn info(file: impl AsFd) -> io::Result<Info> {
    let mut found = FsInfoArgs { max_id: 0, num_devices: 0, fsid: [0; 16], rest: [0; 124] };
    // SAFETY: the descriptor is borrowed for the whole call and so stays open; BTRFS_IOC_FS_INFO reads and stores at most
    // the 1,024 bytes of its argument (the size is part of the request number, fs/btrfs/ioctl.c, btrfs_ioctl_fs_info) at
    // the address given, which is a live, aligned local of that size in which every bit pattern is valid.
    unsafe { raw::fs_info(file.as_fd().as_raw_fd(), &raw mut found) }?;
    Ok(Info { id: found.fsid, devices: found.num_devices })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_has_the_kernels_size() {
        assert_eq!(size_of::<FsInfoArgs>(), 1024);
    }

    #[test]
    fn another_file_system_does_not_answer() {
        let file = std::fs::File::open("/proc/self/status").unwrap();
        assert_eq!(info(&file).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }
}
