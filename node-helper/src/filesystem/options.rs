//! mkfs options of a request: only those of the list, so that none names another file or device.

use super::FsType;

/// An option of mkfs that a request may set.
#[derive(Debug)]
pub(super) struct OptionRule {
    /// The flag, `-x` or `--long`.
    pub(super) flag: &'static str,
    /// What may follow it.
    pub(super) value: Value,
}

/// What an option's value may be. None can hold a slash: no value names a file or device.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value {
    /// No value.
    None,
    /// Decimal digits with at most one letter as unit.
    Number,
    /// Letters, digits, `-`, `_`, `.`; 32 at most.
    Word,
    /// Words separated by commas, each perhaps with `^` or a number of its own (`quota`, `^has_journal`).
    Features,
    /// `key` or `key=word` separated by commas, with the keys listed.
    Keys(&'static [&'static str]),
}

/// Checked mkfs options of one file system, each an argument of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MkfsOptions(Vec<String>);

/// A mkfs option that is not of the list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("mkfs option {option:?} is not allowed for {fs}: {why}; allowed are {}", allowed(*fs))]
pub struct InvalidMkfsOption {
    option: String,
    fs: FsType,
    why: &'static str,
}

impl MkfsOptions {
    /// Checks the options of a request: a flag with its value in the same argument (`-i8192`) or in the next one.
    ///
    /// # Errors
    /// [`InvalidMkfsOption`] naming the option and those that are allowed.
    pub fn parse(fs: FsType, options: &[String]) -> Result<Self, InvalidMkfsOption> {
        let rules = fs.kind().mkfs_allowed();
        let mut checked = Vec::new();
        let mut rest = options.iter();
        while let Some(option) = rest.next() {
            let refuse = |why| InvalidMkfsOption { option: option.chars().take(64).collect(), fs, why };
            // The longest flag that fits, so that a long option is not read as a short one with a value.
            let rule = rules
                .iter()
                .filter(|rule| option.starts_with(rule.flag))
                .max_by_key(|rule| rule.flag.len())
                .ok_or_else(|| refuse("it is not on the list"))?;
            let attached = option.get(rule.flag.len()..).filter(|value| !value.is_empty());
            checked.push(rule.flag.to_owned());
            if matches!(rule.value, Value::None) {
                if attached.is_some() {
                    return Err(refuse("it takes no value"));
                }
                continue;
            }
            let value = match attached {
                Some(value) => value,
                None => rest.next().ok_or_else(|| refuse("its value is missing"))?,
            };
            if !rule.value.accepts(value) {
                return Err(refuse("its value is not of the allowed form"));
            }
            checked.push(value.to_owned());
        }
        Ok(Self(checked))
    }

    /// The arguments.
    pub(super) fn arguments(&self) -> &[String] {
        &self.0
    }
}

impl Value {
    fn accepts(self, text: &str) -> bool {
        match self {
            Self::None => text.is_empty(),
            Self::Number => {
                let digits = text.strip_suffix(|c: char| c.is_ascii_alphabetic()).unwrap_or(text);
                (1..=20).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
            }
            Self::Word => is_word(text),
            Self::Features => {
                text.len() <= 256
                    && text.split(',').all(|feature| is_word(feature.strip_prefix('^').unwrap_or(feature)))
            }
            Self::Keys(keys) => {
                text.len() <= 256
                    && text.split(',').all(|pair| {
                        let (key, value) =
                            pair.split_once('=').map_or((pair, None), |(key, value)| (key, Some(value)));
                        keys.contains(&key) && value.is_none_or(is_word)
                    })
            }
        }
    }
}

/// A first character that is no dash keeps a value from being read as a flag.
fn is_word(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && !text.starts_with('-')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn allowed(fs: FsType) -> String {
    fs.kind().mkfs_allowed().iter().map(|rule| rule.flag).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(fs: FsType, options: &[&str]) -> Result<MkfsOptions, InvalidMkfsOption> {
        MkfsOptions::parse(fs, &options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_of_the_list_pass_in_both_spellings() {
        let options =
            parse(FsType::Ext4, &["-i", "8192", "-m1", "-O", "^has_journal,quota", "-E", "stride=4,discard"]);
        let expected = ["-i", "8192", "-m", "1", "-O", "^has_journal,quota", "-E", "stride=4,discard"];
        assert_eq!(options.unwrap().arguments(), expected);
        assert!(parse(FsType::Xfs, &["-m", "reflink=1,crc=1", "-K"]).is_ok());
        assert!(parse(FsType::Btrfs, &["-O", "quota", "--csum", "xxhash"]).is_ok());
        assert!(parse(FsType::Ext4, &[]).unwrap().arguments().is_empty());
    }

    #[test]
    fn options_that_name_files_devices_or_force_are_refused() {
        for (fs, options) in [
            (FsType::Ext4, &["-F"][..]),
            (FsType::Ext4, &["-d", "/etc"]),
            (FsType::Ext4, &["-S"]),
            (FsType::Ext4, &["-l", "/etc/shadow"]),
            (FsType::Ext4, &["-J", "device=/dev/sda"]),
            (FsType::Ext4, &["-L", "../x/y"]),
            (FsType::Ext4, &["/dev/sda"]),
            (FsType::Ext4, &["-i"]),
            (FsType::Ext4, &["-i", "-F"]),
            (FsType::Ext4, &["-L", "-F"]),
            (FsType::Ext4, &["-E", "offset=4096"]),
            (FsType::Ext4, &["-E", "root_owner=0:0"]),
            (FsType::Xfs, &["-f"]),
            (FsType::Xfs, &["-d", "name=/dev/sda"]),
            (FsType::Xfs, &["-d", "file"]),
            (FsType::Xfs, &["-l", "logdev=/dev/sda"]),
            (FsType::Xfs, &["-c", "options=/etc/x"]),
            (FsType::Xfs, &["-p", "/etc/x"]),
            (FsType::Xfs, &["-Kx"]),
            (FsType::Btrfs, &["-f"]),
            (FsType::Btrfs, &["--rootdir", "/etc"]),
            (FsType::Btrfs, &[""]),
        ] {
            let error = parse(fs, options).unwrap_err().to_string();
            assert!(error.contains("allowed are -"), "{options:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_passes_names_a_path(options in proptest::collection::vec(".{0,40}", 0..4)) {
            for fs in FsType::ALL {
                if let Ok(checked) = MkfsOptions::parse(fs, &options) {
                    prop_assert!(checked.arguments().iter().all(|argument| !argument.contains('/')));
                }
            }
        }
    }
}
