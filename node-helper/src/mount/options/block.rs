//! Options of file systems on a block device: ext4(5), xfs(5), btrfs(5).

use super::rule::Value;

pub(super) const EXT4: &[(&str, Value)] = &[
    ("errors", Value::Word(&["remount-ro", "continue"])),
    ("data", Value::Word(&["ordered", "writeback", "journal"])),
    ("commit", Value::Number),
    ("discard", Value::None),
    ("nodiscard", Value::None),
    ("barrier", Value::None),
    ("delalloc", Value::None),
    ("nodelalloc", Value::None),
    ("auto_da_alloc", Value::None),
    ("noauto_da_alloc", Value::None),
    ("journal_checksum", Value::None),
    ("journal_async_commit", Value::None),
    ("init_itable", Value::Number),
    ("noinit_itable", Value::None),
    ("inode_readahead_blks", Value::Number),
    ("stripe", Value::Number),
    ("max_batch_time", Value::Number),
    ("min_batch_time", Value::Number),
    ("acl", Value::None),
    ("user_xattr", Value::None),
    ("prjquota", Value::None),
];

pub(super) const XFS: &[(&str, Value)] = &[
    ("nouuid", Value::None),
    ("discard", Value::None),
    ("nodiscard", Value::None),
    ("inode64", Value::None),
    ("inode32", Value::None),
    ("largeio", Value::None),
    ("nolargeio", Value::None),
    ("swalloc", Value::None),
    ("noalign", Value::None),
    ("filestreams", Value::None),
    ("wsync", Value::None),
    ("allocsize", Value::Size),
    ("logbsize", Value::Size),
    ("logbufs", Value::Number),
    ("sunit", Value::Number),
    ("swidth", Value::Number),
    ("prjquota", Value::None),
    ("pquota", Value::None),
];

pub(super) const BTRFS: &[(&str, Value)] = &[
    ("compress", Value::Optional(&["no", "zlib", "lzo", "zstd"])),
    ("compress-force", Value::Optional(&["zlib", "lzo", "zstd"])),
    ("discard", Value::Optional(&["sync", "async"])),
    ("nodiscard", Value::None),
    ("ssd", Value::None),
    ("nossd", Value::None),
    ("autodefrag", Value::None),
    ("noautodefrag", Value::None),
    ("commit", Value::Number),
    ("flushoncommit", Value::None),
    ("noflushoncommit", Value::None),
    ("space_cache", Value::Optional(&["v2"])),
    ("max_inline", Value::Size),
];
