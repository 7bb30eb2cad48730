//! btrfs: made and grown by btrfs-progs. It is never checked before mounting: it verifies as it reads, and its
//! check program is for a person's hands.

use super::kind::{GrowBy, Kind, Superblock, bytes};
use super::options::{OptionRule, Value};
use crate::tool::{Privilege, Tool};

/// btrfs.
pub(super) struct Btrfs;

/// Offset of the first superblock in bytes (`fs/btrfs/disk-io.h`, `BTRFS_SUPER_INFO_OFFSET`; fields:
/// `include/uapi/linux/btrfs_tree.h`, `struct btrfs_super_block`).
const SUPERBLOCK: usize = 64 << 10;
const MAGIC: usize = SUPERBLOCK + 0x40;
const TOTAL_BYTES: usize = SUPERBLOCK + 0x70;
const NUM_DEVICES: usize = SUPERBLOCK + 0x88;

impl Kind for Btrfs {
    fn mkfs(&self) -> Tool {
        Tool::MkfsBtrfs
    }

    fn min_size(&self) -> u64 {
        // mkfs.btrfs wants about 109 MiB for its default profiles.
        128 << 20
    }

    fn mount_defaults(&self) -> &'static [&'static str] {
        &["noatime"]
    }

    /// `-K`: a device that is proven blank has nothing to discard. No `-f`: mkfs.btrfs then still refuses a device
    /// on which it finds something.
    fn mkfs_arguments(&self) -> &'static [&'static str] {
        &["-q", "-K"]
    }

    fn mkfs_overwrite(&self) -> &'static [&'static str] {
        &["-f"]
    }

    fn mkfs_privilege(&self) -> Privilege {
        Privilege::None
    }

    fn mkfs_allowed(&self) -> &'static [OptionRule] {
        &[
            OptionRule { flag: "-d", value: Value::Word },
            OptionRule { flag: "-m", value: Value::Word },
            OptionRule { flag: "-n", value: Value::Number },
            OptionRule { flag: "-s", value: Value::Number },
            OptionRule { flag: "-L", value: Value::Word },
            OptionRule { flag: "-O", value: Value::Features },
            OptionRule { flag: "-R", value: Value::Features },
            OptionRule { flag: "--csum", value: Value::Word },
            OptionRule { flag: "-K", value: Value::None },
            OptionRule { flag: "-M", value: Value::None },
        ]
    }

    fn check(&self) -> Option<(Tool, &'static [&'static str])> {
        None
    }

    fn grow(&self) -> (Tool, &'static [&'static str], GrowBy) {
        (Tool::Btrfs, &["filesystem", "resize", "max"], GrowBy::Mount)
    }

    fn superblock(&self, head: &[u8]) -> Option<Superblock> {
        let magic: [u8; 8] = bytes(head, MAGIC)?;
        let complete = match &magic {
            b"_BHRfS_M" => true,
            // mkfs.btrfs writes this one until it has finished; blkid and the kernel refuse it.
            b"!BHRfS_M" => false,
            _ => return None,
        };
        let size = u64::from_le_bytes(bytes(head, TOTAL_BYTES)?);
        Some(Superblock { size, complete, devices: u64::from_le_bytes(bytes(head, NUM_DEVICES)?) })
    }
}
