//! XFS: made and grown by xfsprogs. It is never checked before mounting: its log is replayed by the mount itself, and
//! xfs_repair is a person's decision.

use super::kind::{GrowBy, Kind, Superblock, bytes};
use super::options::{OptionRule, Value};
use crate::tool::{Privilege, Tool};

/// XFS.
pub(super) struct Xfs;

/// Offsets in the superblock at the device's start (`fs/xfs/libxfs/xfs_format.h`, `struct xfs_dsb`).
const BLOCK_SIZE: usize = 4;
const DATA_BLOCKS: usize = 8;
const IN_PROGRESS: usize = 126;

impl Kind for Xfs {
    fn mkfs(&self) -> Tool {
        Tool::MkfsXfs
    }

    fn min_size(&self) -> u64 {
        // What mkfs.xfs accepts since 6.0; older ones made smaller ones that suffer from tiny logs.
        300 << 20
    }

    /// `nouuid`: a clone carries the UUID of its source, and both may be mounted on one node.
    fn mount_defaults(&self) -> &'static [&'static str] {
        &["noatime", "nouuid"]
    }

    /// `-K`: a device that is proven blank has nothing to discard. No `-f`: mkfs.xfs then still refuses a device on
    /// which it finds something.
    fn mkfs_arguments(&self) -> &'static [&'static str] {
        &["-q", "-K"]
    }

    /// mkfs.xfs writes its superblock first, so the remains of an interrupted run look like a file system to it.
    fn mkfs_overwrite(&self) -> &'static [&'static str] {
        &["-f"]
    }

    /// mkfs.xfs sets the block size of the device's page cache (`BLKBSZSET`), for which the kernel asks for
    /// `CAP_SYS_ADMIN`.
    fn mkfs_privilege(&self) -> Privilege {
        Privilege::Inherited
    }

    fn mkfs_allowed(&self) -> &'static [OptionRule] {
        &[
            OptionRule { flag: "-b", value: Value::Keys(&["size"]) },
            OptionRule {
                flag: "-d",
                value: Value::Keys(&["agcount", "agsize", "su", "sw", "sunit", "swidth", "noalign"]),
            },
            OptionRule {
                flag: "-i",
                value: Value::Keys(&["size", "maxpct", "attr", "sparse", "projid32bit", "nrext64"]),
            },
            OptionRule { flag: "-l", value: Value::Keys(&["size", "su", "sunit", "version", "lazy-count"]) },
            OptionRule {
                flag: "-m",
                value: Value::Keys(&["bigtime", "crc", "finobt", "inobtcount", "reflink", "rmapbt"]),
            },
            OptionRule { flag: "-n", value: Value::Keys(&["size", "version", "ftype"]) },
            OptionRule { flag: "-s", value: Value::Keys(&["size"]) },
            OptionRule { flag: "-L", value: Value::Word },
            OptionRule { flag: "-K", value: Value::None },
        ]
    }

    fn check(&self) -> Option<(Tool, &'static [&'static str])> {
        None
    }

    fn grow(&self) -> (Tool, &'static [&'static str], GrowBy) {
        (Tool::XfsGrowfs, &["-d"], GrowBy::Mount)
    }

    fn superblock(&self, head: &[u8]) -> Option<Superblock> {
        if head.get(..4)? != b"XFSB" {
            return None;
        }
        let block = u64::from(u32::from_be_bytes(bytes(head, BLOCK_SIZE)?));
        let blocks = u64::from_be_bytes(bytes(head, DATA_BLOCKS)?);
        let [in_progress] = bytes(head, IN_PROGRESS)?;
        Some(Superblock { size: blocks.checked_mul(block)?, complete: in_progress == 0, devices: 1 })
    }
}
