//! Parameters that are ZFS properties of the volume.
//!
//! The rule it keeps: a value is what ZFS calls it, and what TrueNAS's API cannot set (`pool.dataset.create`) is refused
//! with what it can; nothing is set to something near it.

use std::collections::BTreeMap;

use truenas::calls::{CreateKind, DatasetProperties, FilesystemCreate, ShareType, VolumeCreate};

use crate::volume::capacity::{Granularity, VOLBLOCKSIZE};
use crate::volume::failure::Failure;
use crate::volume::parameter::Definition;
use crate::volume::protocol::Protocol;

/// On SMB the preset of TrueNAS's share decides these, whatever the request says.
const NFS: &[Protocol] = &[Protocol::Nfs];
const FILE: &[Protocol] = &[Protocol::Nfs, Protocol::Smb];
const BLOCK: &[Protocol] = &[Protocol::Iscsi, Protocol::Nvmeof];
const ALL: &[Protocol] = &Protocol::ALL;

/// Block sizes of zvols (`pool.dataset.create`, `volblocksize`).
const VOLBLOCKSIZES: [&str; 9] = ["512", "1K", "2K", "4K", "8K", "16K", "32K", "64K", "128K"];
/// Record sizes of file systems up to the default limit of `zfs_max_recordsize` in TrueNAS.
const RECORDSIZES: [&str; 12] =
    ["512", "1K", "2K", "4K", "8K", "16K", "32K", "64K", "128K", "256K", "512K", "1M"];

/// This group's part of the table.
pub(super) const TABLE: &[Definition] = &[
    Definition {
        name: "zfs.compression",
        protocols: ALL,
        values: "off, lz4, gzip, gzip-1, gzip-6, gzip-9, zstd, zstd-1 to zstd-19, lzjb or zle (TrueNAS's API has no \
                 other gzip levels)",
        check: |v| compression(v).is_some(),
    },
    Definition {
        name: "zfs.dedup",
        protocols: ALL,
        values: "off, on, verify or sha256, which is what on does (TrueNAS's API cannot set sha512)",
        check: |v| dedup(v).is_some(),
    },
    Definition {
        name: "zfs.sync",
        protocols: ALL,
        values: "standard, always or disabled",
        check: |v| matches!(v, "standard" | "always" | "disabled"),
    },
    Definition {
        name: "zfs.copies",
        protocols: ALL,
        values: "1, 2 or 3",
        check: |v| matches!(v, "1" | "2" | "3"),
    },
    Definition { name: "zfs.readonly", protocols: ALL, values: ON_OFF, check: is_on_off },
    Definition { name: "zfs.atime", protocols: FILE, values: ON_OFF, check: is_on_off },
    Definition { name: "zfs.exec", protocols: FILE, values: ON_OFF, check: is_on_off },
    Definition {
        name: "zfs.recordsize",
        protocols: FILE,
        values: "512, 1K, 2K, 4K, 8K, 16K, 32K, 64K, 128K, 256K, 512K or 1M",
        check: |v| RECORDSIZES.contains(&v),
    },
    Definition {
        name: "zfs.snapdir",
        protocols: FILE,
        values: "hidden or visible",
        check: |v| matches!(v, "hidden" | "visible"),
    },
    Definition {
        name: "zfs.aclmode",
        protocols: NFS,
        values: "passthrough, restricted or discard (TrueNAS's API cannot set groupmask)",
        check: |v| matches!(v, "passthrough" | "restricted" | "discard"),
    },
    Definition {
        name: "zfs.acltype",
        protocols: NFS,
        values: "off, nfsv4 or posix",
        check: |v| matches!(v, "off" | "nfsv4" | "posix"),
    },
    Definition {
        name: "zfs.casesensitivity",
        protocols: NFS,
        values: "sensitive or insensitive (TrueNAS's API cannot set mixed)",
        check: |v| matches!(v, "sensitive" | "insensitive"),
    },
    Definition {
        name: "zfs.sparse",
        protocols: BLOCK,
        values: "true (thin) or false (thick)",
        check: |v| matches!(v, "true" | "false"),
    },
    Definition {
        name: "zfs.volblocksize",
        protocols: BLOCK,
        values: "512, 1K, 2K, 4K, 8K, 16K, 32K, 64K or 128K; at least 32K on dRAID",
        check: |v| VOLBLOCKSIZES.contains(&v),
    },
    Definition {
        name: RESERVE,
        protocols: FILE,
        values: "true (the volume's size is reserved for it) or false",
        check: |v| matches!(v, "true" | "false"),
    },
    Definition {
        name: "datasetEnableQuotas",
        protocols: FILE,
        values: "true: a volume is always held to its size",
        check: |v| v == "true",
    },
];

/// The key by which a file system's size is reserved.
pub const RESERVE: &str = "datasetEnableReservation";

const ON_OFF: &str = "on or off";

fn is_on_off(value: &str) -> bool {
    matches!(value, "on" | "off")
}

/// Whether a parameter's value is one word in any case (`LZ4`, `lz4`) that is read in lower case.
pub(super) fn is_word(name: &str) -> bool {
    name.starts_with("zfs.") && !matches!(name, "zfs.recordsize" | "zfs.volblocksize")
}

/// TrueNAS's word for a compression.
fn compression(value: &str) -> Option<String> {
    let known = match value {
        "off" | "lz4" | "gzip" | "gzip-1" | "gzip-9" | "zstd" | "lzjb" | "zle" => value,
        // ZFS: gzip is gzip-6.
        "gzip-6" => "gzip",
        _ => {
            let level = value.strip_prefix("zstd-")?;
            let read: u8 = level.parse().ok()?;
            ((1..=19).contains(&read) && read.to_string() == level).then_some(value)?
        }
    };
    Some(known.to_ascii_uppercase())
}

/// TrueNAS's word for a deduplication.
fn dedup(value: &str) -> Option<&'static str> {
    match value {
        "off" => Some("OFF"),
        // ZFS deduplicates by sha256 when told "on" (zfsprops.7).
        "on" | "sha256" => Some("ON"),
        "verify" => Some("VERIFY"),
        _ => None,
    }
}

/// Bytes of a size such as `16K` out of the tables above.
fn bytes(value: &str) -> Option<u64> {
    match value.strip_suffix('K') {
        Some(kib) => kib.parse::<u64>().ok()?.checked_mul(1024),
        None => value.parse().ok(),
    }
}

/// ZFS properties that the class sets; those it does not name are the parent's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zfs {
    /// Those that file systems and zvols share.
    pub properties: DatasetProperties,
    /// Those of a file system; sizes are not filled in.
    filesystem: FilesystemCreate,
    /// Whether a file system's size is reserved for it.
    reserve: bool,
    /// Whether a zvol's size is reserved for it.
    thick: bool,
    /// Block size of a zvol in TrueNAS's spelling.
    volblocksize: Option<String>,
}

impl Zfs {
    /// Reads the group from a class's own keys, whose values the table has checked one by one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: values that do not go together.
    pub fn read(given: &BTreeMap<String, String>, protocol: Protocol) -> Result<Self, Failure> {
        let get = |key: &str| given.get(key).map(String::as_str);
        let upper = |key: &str| get(key).map(str::to_ascii_uppercase);
        let properties = DatasetProperties {
            compression: get("zfs.compression").and_then(compression),
            sync: upper("zfs.sync"),
            deduplication: get("zfs.dedup").and_then(dedup).map(str::to_owned),
            copies: get("zfs.copies").and_then(|copies| copies.parse().ok()),
            readonly: upper("zfs.readonly"),
            exec: upper("zfs.exec"),
            snapdir: upper("zfs.snapdir"),
            ..DatasetProperties::default()
        };
        let (acltype, aclmode) = acl(get("zfs.acltype"), get("zfs.aclmode"), protocol)?;
        Ok(Zfs {
            properties,
            filesystem: FilesystemCreate {
                acltype,
                aclmode,
                atime: upper("zfs.atime"),
                recordsize: upper("zfs.recordsize"),
                casesensitivity: upper("zfs.casesensitivity"),
                ..FilesystemCreate::default()
            },
            reserve: get(RESERVE) == Some("true"),
            thick: get("zfs.sparse") == Some("false"),
            volblocksize: upper("zfs.volblocksize"),
        })
    }

    /// What sizes a volume of the class can have.
    #[must_use]
    pub fn granularity(&self, protocol: Protocol) -> Granularity {
        if protocol.is_block() {
            Granularity::zvol(self.volblocksize.as_deref().and_then(bytes).unwrap_or(VOLBLOCKSIZE))
        } else {
            Granularity::REFQUOTA
        }
    }

    /// Whether volumes of the class have their size reserved, so that free space bounds it.
    #[must_use]
    pub fn is_thick(&self, protocol: Protocol) -> bool {
        if protocol.is_block() { self.thick } else { self.reserve }
    }

    /// Whether nothing can be written to volumes of the class.
    #[must_use]
    pub fn is_readonly(&self) -> bool {
        self.properties.readonly.as_deref() == Some("ON")
    }

    /// Kind and properties of a new volume of `size` bytes.
    #[must_use]
    pub fn of_new(&self, protocol: Protocol, size: u64) -> (CreateKind, DatasetProperties) {
        let mut properties = self.properties.clone();
        if protocol.is_block() {
            let fields = VolumeCreate {
                volsize: size,
                volblocksize: self.volblocksize.clone(),
                sparse: !self.thick,
                // TrueNAS applies its 80 % rule to sparse zvols too, where it protects nothing.
                force_size: !self.thick,
            };
            return (CreateKind::Volume(fields), properties);
        }
        properties.refreservation = self.reserve.then_some(size);
        let share_type = match protocol {
            // The preset's ACL lets the appliance's SMB users write; a dataset without it is root's alone. It sets
            // acltype, aclmode and casesensitivity itself.
            Protocol::Smb => ShareType::Smb,
            _ => self.filesystem.share_type,
        };
        let fields = FilesystemCreate { refquota: Some(size), share_type, ..self.filesystem.clone() };
        (CreateKind::Filesystem(fields), properties)
    }
}

/// ACL type and mode in TrueNAS's spelling. `pool.dataset.create`: POSIX and OFF need DISCARD, NFSV4 forbids it. A type
/// without a mode gets the one that fits; Linux clients of NFS get POSIX, and SMB shares what TrueNAS's preset gives.
fn acl(
    acltype: Option<&str>,
    aclmode: Option<&str>,
    protocol: Protocol,
) -> Result<(Option<String>, Option<String>), Failure> {
    let asked = acltype;
    let acltype = match (acltype, protocol) {
        (None, Protocol::Nfs) => Some("posix"),
        (None, _) if aclmode.is_some() => Some("nfsv4"),
        (given, _) => given,
    };
    let fitting = match acltype {
        None => return Ok((None, None)),
        Some("nfsv4") => "passthrough",
        Some(_) => "discard",
    };
    let aclmode = aclmode.unwrap_or(fitting);
    let (is_nfsv4, discards) = (acltype == Some("nfsv4"), aclmode == "discard");
    if is_nfsv4 == discards {
        let shown = acltype.unwrap_or_default();
        let by_default = if asked.is_some() { "" } else { " (the default)" };
        let valid = if is_nfsv4 { "passthrough or restricted" } else { "discard" };
        return Err(Failure::invalid(format!(
            "parameter zfs.aclmode is {aclmode:?}, valid with zfs.acltype {shown}{by_default} is {valid}"
        )));
    }
    Ok((acltype.map(str::to_ascii_uppercase), Some(aclmode.to_ascii_uppercase())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(protocol: Protocol, pairs: &[(&str, &str)]) -> Result<Zfs, Failure> {
        Zfs::read(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(), protocol)
    }

    #[test]
    fn each_value_is_in_the_table_or_refused() {
        let check = |name: &str, value: &str| (TABLE.iter().find(|d| d.name == name).unwrap().check)(value);
        let good = [
            ("zfs.compression", "off lz4 gzip gzip-1 gzip-6 gzip-9 zstd zstd-1 zstd-19 lzjb zle"),
            ("zfs.dedup", "off on verify sha256"),
            ("zfs.recordsize", "512 1K 128K 1M"),
            ("zfs.volblocksize", "512 1K 16K 128K"),
        ];
        for (name, values) in good {
            for value in values.split(' ') {
                assert!(check(name, value), "{name}={value}");
            }
        }
        let bad = [
            ("zfs.compression", "zstd-0 zstd-20 zstd-01 gzip-2 best on"),
            ("zfs.dedup", "sha512 true"),
            ("zfs.recordsize", "2M 3K 128"),
            ("zfs.volblocksize", "256K 16k 16384"),
            ("zfs.copies", "0 4"),
            ("zfs.casesensitivity", "mixed"),
            ("zfs.aclmode", "groupmask"),
        ];
        for (name, values) in bad {
            for value in values.split(' ') {
                assert!(!check(name, value), "{name}={value}");
            }
        }
    }

    #[test]
    fn acl_type_and_mode_go_together() {
        let both = |p: Protocol, pairs: &[(&str, &str)]| {
            let fields = read(p, pairs).unwrap().filesystem;
            (fields.acltype.unwrap_or_default(), fields.aclmode.unwrap_or_default())
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(both(Protocol::Nfs, &[]), pair("POSIX", "DISCARD"));
        assert_eq!(both(Protocol::Smb, &[]), pair("", ""), "the preset decides");
        assert_eq!(both(Protocol::Nfs, &[("zfs.acltype", "nfsv4")]), pair("NFSV4", "PASSTHROUGH"));
        assert_eq!(both(Protocol::Nfs, &[("zfs.acltype", "off")]), pair("OFF", "DISCARD"));
        for pairs in [
            &[("zfs.acltype", "nfsv4"), ("zfs.aclmode", "discard")][..],
            &[("zfs.acltype", "posix"), ("zfs.aclmode", "restricted")],
            &[("zfs.aclmode", "restricted")],
        ] {
            let refused = read(Protocol::Nfs, pairs).unwrap_err();
            assert!(refused.message.contains("zfs.acltype"), "{refused}");
        }
    }

    #[test]
    fn a_block_size_is_the_step_of_sizes() {
        let step = |v: &str| {
            read(Protocol::Iscsi, &[("zfs.volblocksize", v)]).unwrap().granularity(Protocol::Iscsi).step
        };
        assert_eq!((step("512"), step("16K"), step("128K")), (512, 16384, 131_072));
        for size in VOLBLOCKSIZES {
            assert!(bytes(size).is_some_and(u64::is_power_of_two), "{size}");
        }
    }
}
