//! The low-level probe: `blkid -p -o export`, and what its answers mean.
//!
//! Its exit status 2 covers both "nothing known there" and "could not look" (blkid(8)). So the status alone never
//! proves a blank device: silence on the error stream and our own reading of the device's ends belong to it.

use std::collections::BTreeMap;

/// What blkid knows about a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It knows nothing on the device.
    Nothing,
    /// It knows exactly one thing.
    Signature(Signature),
    /// Several things claim the device.
    Ambivalent(String),
    /// It did not come to an answer.
    Failed,
}

/// A signature as blkid describes it; empty values are absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Signature {
    /// `TYPE`: ext4, xfs, crypto_LUKS, LVM2_member, swap, …
    pub(super) kind: Option<String>,
    /// `USAGE`: filesystem, raid, crypto, other.
    pub(super) usage: Option<String>,
    /// `UUID`.
    pub(super) uuid: Option<String>,
    /// `PTTYPE`: kind of a partition table.
    pub(super) partition_table: Option<String>,
}

/// Exit status: something was found.
const FOUND: i32 = 0;
/// Exit status: nothing was found, or the device could not be read.
const NOTHING: i32 = 2;
/// Exit status: several signatures.
const AMBIVALENT: i32 = 8;

/// Reads an answer out of exit status and streams.
pub(super) fn answer(code: i32, stdout: &str, stderr: &str) -> Answer {
    match code {
        FOUND => {
            let signature = Signature::parse(stdout);
            let known =
                signature.kind.is_some() || signature.partition_table.is_some() || signature.usage.is_some();
            if known { Answer::Signature(signature) } else { Answer::Failed }
        }
        NOTHING if stdout.trim().is_empty() && stderr.trim().is_empty() => Answer::Nothing,
        AMBIVALENT => Answer::Ambivalent(stderr.trim().to_owned()),
        _ => Answer::Failed,
    }
}

impl Signature {
    /// Parses `KEY=value` lines. The export format puts a backslash before characters that a shell would treat
    /// specially.
    fn parse(text: &str) -> Self {
        let mut values: BTreeMap<&str, String> = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key, unescape(value)))
            .filter(|(_, value)| !value.is_empty())
            .collect();
        Self {
            kind: values.remove("TYPE"),
            usage: values.remove("USAGE"),
            uuid: values.remove("UUID"),
            partition_table: values.remove("PTTYPE"),
        }
    }

    /// The signature in words.
    pub(super) fn words(&self) -> String {
        let kind = self.kind.as_deref().unwrap_or("an unnamed signature");
        let content = match (self.kind.as_deref(), self.usage.as_deref()) {
            (Some("crypto_LUKS"), _) => Some("an encrypted volume (LUKS)".to_owned()),
            (Some("LVM2_member"), _) => Some("an LVM physical volume".to_owned()),
            (Some("zfs_member"), _) => Some("a member of a ZFS pool".to_owned()),
            (Some("linux_raid_member"), _) => Some("a member of a Linux RAID".to_owned()),
            (Some("swap"), _) => Some("swap space".to_owned()),
            (Some(kind), Some("filesystem")) => Some(format!("a file system {kind}")),
            (None, None) => None,
            (_, Some(usage)) => Some(format!("{kind} ({usage})")),
            (Some(kind), None) => Some(kind.to_owned()),
        };
        let table = self.partition_table.as_ref().map(|table| format!("a partition table ({table})"));
        match (content, table) {
            (Some(content), Some(table)) => format!("{content} and {table}"),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => kind.to_owned(),
        }
    }
}

fn unescape(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    let mut escaped = false;
    for character in value.chars() {
        if character == '\\' && !escaped {
            escaped = true;
        } else {
            plain.push(character);
            escaped = false;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn t3_no_answer_is_never_nothing() {
        assert_eq!(answer(2, "", ""), Answer::Nothing);
        assert_eq!(answer(2, "", "blkid: error: /proc/self/fd/0: Input/output error"), Answer::Failed);
        assert_eq!(answer(2, "TYPE=ext4", ""), Answer::Failed);
        for code in [1, 3, 4, 64, 127, 255] {
            assert_eq!(answer(code, "", ""), Answer::Failed, "status {code}");
        }
        assert_eq!(answer(0, "", ""), Answer::Failed, "found, but nothing named");
        assert_eq!(answer(0, "DEVNAME=/proc/self/fd/0\n", ""), Answer::Failed);
        assert!(matches!(answer(8, "", "ambivalent result"), Answer::Ambivalent(_)));
    }

    #[test]
    fn a_signature_is_read_whole() {
        let text = "DEVNAME=/proc/self/fd/0\nLABEL=a\\ b\\\\c\nUUID=0552e959-770e\nVERSION=1.0\nBLOCK_SIZE=4096\nTYPE=ext4\n\
                    USAGE=filesystem\n";
        let Answer::Signature(signature) = answer(0, text, "") else { panic!("found") };
        assert_eq!(signature.kind.as_deref(), Some("ext4"));
        assert_eq!(signature.uuid.as_deref(), Some("0552e959-770e"));
        assert_eq!(signature.words(), "a file system ext4");
        assert_eq!(unescape("a\\ b\\\\c"), "a b\\c");
    }

    #[test]
    fn everything_is_said_in_words() {
        for (text, words) in [
            ("PTTYPE=gpt\nPTUUID=x\n", "a partition table (gpt)"),
            ("TYPE=crypto_LUKS\nUSAGE=crypto\n", "an encrypted volume (LUKS)"),
            ("TYPE=LVM2_member\nUSAGE=raid\n", "an LVM physical volume"),
            ("TYPE=zfs_member\nUSAGE=filesystem\n", "a member of a ZFS pool"),
            ("TYPE=swap\nUSAGE=other\n", "swap space"),
            ("TYPE=vfat\nUSAGE=filesystem\nPTTYPE=dos\n", "a file system vfat and a partition table (dos)"),
            ("TYPE=bcache\nUSAGE=other\n", "bcache (other)"),
        ] {
            let Answer::Signature(signature) = answer(0, text, "") else { panic!("{text}") };
            assert_eq!(signature.words(), words);
        }
    }

    proptest! {
        #[test]
        fn no_output_whatever_breaks_the_parser(code in 0..256, stdout: String, stderr: String) {
            let answer = answer(code, &stdout, &stderr);
            if answer == Answer::Nothing {
                prop_assert!(code == 2 && stdout.trim().is_empty() && stderr.trim().is_empty());
            }
        }
    }
}
