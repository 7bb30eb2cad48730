//! Mount options: an allow-list per kind of file system, parsed once.
//!
//! Options arrive as in mount(8) `-o`. What the list does not hold is refused by name: an option can name a device
//! (`logdev=`), another address (`addr=`) or a security context, and the caller may be hostile. Defaults come first
//! and lose against the caller's; `ro` on request of the helper's API wins over everything.

mod attributes;
mod block;
mod nfs;
mod rule;
mod smb;

use std::fmt;

use attributes::Attributes;
pub use attributes::BindOptions;
use rule::Value;
use rustix::mount::MountAttrFlags;

use crate::failure::Failure;
use crate::filesystem::FsType;

/// Longest text of all options together, in bytes (CSI, "Size Limits").
const MAX_TEXT: usize = 4096;

/// Which list applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// A file system on a block device: ext4(5), xfs(5), btrfs(5).
    Block(FsType),
    /// nfs(5), version 4.
    Nfs,
    /// mount.cifs(8), version 3.
    Cifs,
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::Block(kind) => kind.name(),
            Self::Nfs => "nfs",
            Self::Cifs => "cifs",
        }
    }

    /// Options that hold unless the caller says otherwise: those of the file system, and for NFS version 4.2 and
    /// waiting for a server that is away.
    fn defaults(self) -> &'static [&'static str] {
        match self {
            Self::Block(kind) => kind.mount_defaults(),
            Self::Nfs => &["vers=4.2", "hard"],
            Self::Cifs => &["vers=3.0", "file_mode=0777", "dir_mode=0777", "hard"],
        }
    }

    fn known(self) -> &'static [(&'static str, Value)] {
        match self {
            Self::Block(FsType::Ext4) => block::EXT4,
            Self::Block(FsType::Xfs) => block::XFS,
            Self::Block(FsType::Btrfs) => block::BTRFS,
            Self::Nfs => nfs::NFS,
            Self::Cifs => smb::CIFS,
        }
    }
}

/// Options of the file system's superblock that every kind knows.
const SUPERBLOCK: &[&str] = &["sync", "dirsync", "lazytime"];

/// Options for mount(8), not for the kernel.
const WITHOUT_EFFECT: &[&str] = &["defaults", "_netdev", "nofail", "rw", "async", "nolazytime"];

/// An option for `fsconfig(2)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Name.
    pub key: String,
    /// Value; `None` for a flag.
    pub value: Option<String>,
}

impl Parameter {
    /// An option with a value.
    pub fn with(key: &str, value: impl Into<String>) -> Self {
        Self { key: key.to_owned(), value: Some(value.into()) }
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(formatter, "{}={value}", self.key),
            None => formatter.write_str(&self.key),
        }
    }
}

/// Options of a file system mount, ready for the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    mount: Attributes,
    parameters: Vec<Parameter>,
}

impl MountOptions {
    /// Parses the caller's options over the family's defaults.
    ///
    /// # Errors
    /// `InvalidArgument` naming the option (never its value, which may be a secret of another program).
    pub fn parse(family: Family, flags: &[String], readonly: bool) -> Result<Self, Failure> {
        let mut options = Self { mount: Attributes::default(), parameters: Vec::new() };
        for default in family.defaults() {
            options.apply(family, default)?;
        }
        for option in split(flags)? {
            options.apply(family, option)?;
        }
        if readonly {
            options.mount.read_only = true;
        }
        if options.mount.read_only {
            options.set(Parameter { key: "ro".to_owned(), value: None });
        }
        Ok(options)
    }

    /// Whether nothing may be written through the mount.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.mount.read_only
    }

    /// For `fsmount(2)`.
    #[must_use]
    pub fn attributes(&self) -> MountAttrFlags {
        self.mount.flags()
    }

    /// For `fsconfig(2)`, in order.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// One text per option, in one order: two requests with the same meaning have the same texts.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        let mut texts: Vec<String> = self.parameters.iter().map(ToString::to_string).collect();
        texts.extend(self.mount.texts());
        texts.sort();
        texts.dedup();
        texts
    }

    fn apply(&mut self, family: Family, option: &str) -> Result<(), Failure> {
        let (key, value) = option.split_once('=').map_or((option, None), |(key, value)| (key, Some(value)));
        if value.is_none() && self.mount.apply(key) {
            return Ok(());
        }
        if WITHOUT_EFFECT.contains(&key) || (family == Family::Nfs && nfs::WITHOUT_EFFECT.contains(&key)) {
            return Ok(());
        }
        if value.is_none() && SUPERBLOCK.contains(&key) {
            self.set(Parameter { key: key.to_owned(), value: None });
            return Ok(());
        }
        let (key, value) = match family {
            Family::Nfs => nfs::version(key, value)?,
            Family::Cifs => smb::version(key, value)?,
            Family::Block(_) => (key, value),
        };
        if let Some(reason) = smb::refused(key).filter(|_| family == Family::Cifs) {
            return Err(Failure::invalid(format!("mount option {key:?} is not allowed for cifs: {reason}")));
        }
        let Some((_, rule)) = family.known().iter().find(|(name, _)| *name == key) else {
            let known: Vec<&str> = family.known().iter().map(|(name, _)| *name).collect();
            return Err(Failure::invalid(format!(
                "mount option {key:?} is not allowed for {}; allowed are ro, noexec, nosuid, nodev, noatime, \
                 nodiratime, relatime, strictatime, sync, dirsync, lazytime, {}",
                family.name(),
                known.join(", ")
            )));
        };
        if !rule.accepts(value) {
            return Err(Failure::invalid(format!(
                "mount option {key:?} for {} {}",
                family.name(),
                rule.wants()
            )));
        }
        self.set(Parameter { key: key.to_owned(), value: value.map(str::to_owned) });
        Ok(())
    }

    /// Adds an option in place of every earlier one with the same subject.
    fn set(&mut self, parameter: Parameter) {
        let subject = subject(&parameter.key).to_owned();
        self.parameters.retain(|earlier| self::subject(&earlier.key) != subject);
        self.parameters.push(parameter);
    }
}

/// Splits at commas, as mount(8) does, and bounds the whole.
fn split(flags: &[String]) -> Result<Vec<&str>, Failure> {
    let length: usize = flags.iter().map(|flag| flag.len().saturating_add(1)).sum();
    if length > MAX_TEXT {
        return Err(Failure::invalid(format!(
            "mount_flags have {length} bytes; at most {MAX_TEXT} are allowed"
        )));
    }
    Ok(flags
        .iter()
        .flat_map(|flag| flag.split(','))
        .map(str::trim)
        .filter(|option| !option.is_empty())
        .collect())
}

/// What an option is about: later options replace earlier ones about the same.
fn subject(key: &str) -> &str {
    match key {
        "hard" | "soft" | "softerr" => "hard",
        "inode32" | "inode64" => "inode",
        "prjquota" | "pquota" => "pquota",
        "compress" | "compress-force" => "compress",
        key => key.strip_prefix("no").unwrap_or(key),
    }
}

#[cfg(test)]
mod tests;
