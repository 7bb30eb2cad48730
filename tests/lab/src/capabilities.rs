//! Names of the capabilities in a mask of `/proc/<pid>/status`.

use anyhow::Context;

/// Names by bit (`include/uapi/linux/capability.h`), without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Names of the bits that are set in a hexadecimal mask; a bit without a name is given by its number.
pub fn names(mask: &str) -> anyhow::Result<Vec<String>> {
    let mask =
        u64::from_str_radix(mask, 16).with_context(|| format!("{mask:?} is no mask of capabilities"))?;
    let name = |bit: usize| NAMES.get(bit).map_or_else(|| format!("bit {bit}"), |name| (*name).to_owned());
    Ok((0..64).filter(|bit| mask & (1 << bit) != 0).map(|bit: u32| name(bit as usize)).collect())
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn bits_have_their_names() {
        assert!(names("0000000000000000").unwrap().is_empty());
        assert_eq!(names("0000000001200004").unwrap(), ["DAC_READ_SEARCH", "SYS_ADMIN", "SYS_RESOURCE"]);
        assert_eq!(names("8000000000000000").unwrap(), ["bit 63"]);
        assert!(names("").is_err());
        assert!(names("xyz").is_err());
    }
}
