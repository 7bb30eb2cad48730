//! ext4: made, checked and grown by e2fsprogs.

use super::kind::{GrowBy, Kind, Superblock, bytes};
use super::options::{OptionRule, Value};
use crate::tool::{Privilege, Tool};

/// ext4.
pub(super) struct Ext4;

/// Offset of the superblock in bytes (`fs/ext4/ext4.h`, `struct ext4_super_block`, for this and the fields below).
const SUPERBLOCK: usize = 1024;
const BLOCKS_LOW: usize = SUPERBLOCK + 0x04;
const LOG_BLOCK_SIZE: usize = SUPERBLOCK + 0x18;
const MAGIC: usize = SUPERBLOCK + 0x38;
const INCOMPATIBLE: usize = SUPERBLOCK + 0x60;
const BLOCKS_HIGH: usize = SUPERBLOCK + 0x150;
const EXT_MAGIC: u16 = 0xEF53;
/// `INCOMPAT_64BIT`: only then the high half of the block count counts.
const SIXTY_FOUR_BIT: u32 = 0x80;

impl Kind for Ext4 {
    fn mkfs(&self) -> Tool {
        Tool::MkfsExt4
    }

    fn min_size(&self) -> u64 {
        // Below this mke2fs makes no journal, and a volume without journal does not survive a node's crash.
        8 << 20
    }

    fn mount_defaults(&self) -> &'static [&'static str] {
        &["noatime", "errors=remount-ro"]
    }

    /// `-m 0`: no blocks reserved for root, the volume belongs to a pod. `nodiscard`: a device that is proven blank
    /// has nothing to discard, and discarding a large zvol over the network takes longer than all the rest. No force
    /// flag: mke2fs then still refuses a device that is mounted or held.
    fn mkfs_arguments(&self) -> &'static [&'static str] {
        &["-q", "-m", "0", "-E", "nodiscard"]
    }

    /// Without a terminal mke2fs asks nobody whether it may write over an old file system.
    fn mkfs_overwrite(&self) -> &'static [&'static str] {
        &[]
    }

    fn mkfs_privilege(&self) -> Privilege {
        Privilege::None
    }

    fn mkfs_allowed(&self) -> &'static [OptionRule] {
        &[
            OptionRule { flag: "-b", value: Value::Number },
            OptionRule { flag: "-C", value: Value::Number },
            OptionRule { flag: "-g", value: Value::Number },
            OptionRule { flag: "-G", value: Value::Number },
            OptionRule { flag: "-i", value: Value::Number },
            OptionRule { flag: "-I", value: Value::Number },
            OptionRule { flag: "-N", value: Value::Number },
            OptionRule { flag: "-m", value: Value::Number },
            OptionRule { flag: "-L", value: Value::Word },
            OptionRule { flag: "-T", value: Value::Word },
            OptionRule { flag: "-O", value: Value::Features },
            OptionRule { flag: "-J", value: Value::Keys(&["size"]) },
            OptionRule {
                flag: "-E",
                value: Value::Keys(&[
                    "lazy_itable_init",
                    "lazy_journal_init",
                    "stride",
                    "stripe_width",
                    "stripe-width",
                    "resize",
                    "discard",
                    "nodiscard",
                    "packed_meta_blocks",
                    "num_backup_sb",
                ]),
            },
        ]
    }

    /// `-p` replays the journal and mends what is safe to mend without asking; on a clean file system it reads one
    /// superblock.
    fn check(&self) -> Option<(Tool, &'static [&'static str])> {
        Some((Tool::E2fsck, &["-p"]))
    }

    fn grow(&self) -> (Tool, &'static [&'static str], GrowBy) {
        (Tool::Resize2fs, &[], GrowBy::Device)
    }

    fn superblock(&self, head: &[u8]) -> Option<Superblock> {
        if u16::from_le_bytes(bytes(head, MAGIC)?) != EXT_MAGIC {
            return None;
        }
        let wide = u32::from_le_bytes(bytes(head, INCOMPATIBLE)?) & SIXTY_FOUR_BIT != 0;
        let high = if wide { u64::from(u32::from_le_bytes(bytes(head, BLOCKS_HIGH)?)) } else { 0 };
        let blocks = high << 32 | u64::from(u32::from_le_bytes(bytes(head, BLOCKS_LOW)?));
        let shift = u32::from_le_bytes(bytes(head, LOG_BLOCK_SIZE)?);
        // 64 KiB is the largest block size there is.
        let block = if shift <= 6 { 1024_u64 << shift } else { return None };
        // mke2fs writes the superblock last, so its presence says that all before it was written.
        Some(Superblock { size: blocks.checked_mul(block)?, complete: true, devices: 1 })
    }
}
