//! Mount options: an allow-list per kind of file system, parsed once.
//!
//! Options arrive as in mount(8) `-o`. What the list does not hold is refused by name: an option can name a device
//! (`logdev=`), another address (`addr=`) or a security context, and the caller may be hostile. Defaults come first
//! and lose against the caller's; `ro` on request of the helper's API wins over everything.

use std::fmt;

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
            Self::Block(FsType::Ext4) => EXT4,
            Self::Block(FsType::Xfs) => XFS,
            Self::Block(FsType::Btrfs) => BTRFS,
            Self::Nfs => NFS,
            Self::Cifs => CIFS,
        }
    }
}

/// What may follow an option's name.
#[derive(Debug, Clone, Copy)]
enum Value {
    /// Nothing.
    None,
    /// A decimal number.
    Number,
    /// A decimal number with an optional unit k, m or g.
    Size,
    /// An octal number of at most four digits.
    Octal,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Nothing or one of these words.
    Optional(&'static [&'static str]),
}

const EXT4: &[(&str, Value)] = &[
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

const XFS: &[(&str, Value)] = &[
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

const BTRFS: &[(&str, Value)] = &[
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

const NFS: &[(&str, Value)] = &[
    ("vers", Value::Word(&["4.2", "4.1", "4.0"])),
    ("hard", Value::None),
    ("soft", Value::None),
    ("softerr", Value::None),
    ("timeo", Value::Number),
    ("retrans", Value::Number),
    ("rsize", Value::Number),
    ("wsize", Value::Number),
    ("nconnect", Value::Number),
    ("max_connect", Value::Number),
    ("actimeo", Value::Number),
    ("acregmin", Value::Number),
    ("acregmax", Value::Number),
    ("acdirmin", Value::Number),
    ("acdirmax", Value::Number),
    ("ac", Value::None),
    ("noac", Value::None),
    ("cto", Value::None),
    ("nocto", Value::None),
    ("lookupcache", Value::Word(&["all", "none", "pos", "positive"])),
    ("sec", Value::Word(&["sys", "krb5", "krb5i", "krb5p"])),
    ("xprtsec", Value::Word(&["none", "tls", "mtls"])),
    ("sharecache", Value::None),
    ("nosharecache", Value::None),
    ("resvport", Value::None),
    ("noresvport", Value::None),
    ("rdirplus", Value::None),
    ("nordirplus", Value::None),
    ("trunkdiscovery", Value::None),
    ("notrunkdiscovery", Value::None),
    ("fsc", Value::None),
];

const CIFS: &[(&str, Value)] = &[
    ("vers", Value::Word(&["3.0", "3", "3.02", "3.1.1", "default"])),
    ("sec", Value::Word(&["none", "krb5", "krb5i", "ntlmssp", "ntlmsspi"])),
    ("cruid", Value::Number),
    ("uid", Value::Number),
    ("gid", Value::Number),
    ("forceuid", Value::None),
    ("noforceuid", Value::None),
    ("forcegid", Value::None),
    ("noforcegid", Value::None),
    ("file_mode", Value::Octal),
    ("dir_mode", Value::Octal),
    ("seal", Value::None),
    ("sign", Value::None),
    ("cache", Value::Word(&["none", "strict", "loose"])),
    ("actimeo", Value::Number),
    ("acregmax", Value::Number),
    ("acdirmax", Value::Number),
    ("closetimeo", Value::Number),
    ("rsize", Value::Number),
    ("wsize", Value::Number),
    ("rasize", Value::Number),
    ("bsize", Value::Number),
    ("brl", Value::None),
    ("nobrl", Value::None),
    ("perm", Value::None),
    ("noperm", Value::None),
    ("serverino", Value::None),
    ("noserverino", Value::None),
    ("mfsymlinks", Value::None),
    ("hard", Value::None),
    ("soft", Value::None),
    ("iocharset", Value::Word(&["utf8", "ascii", "iso8859-1", "iso8859-15"])),
    ("mapposix", Value::None),
    ("nosharesock", Value::None),
    ("echo_interval", Value::Number),
    ("handletimeout", Value::Number),
    ("max_channels", Value::Number),
    ("multichannel", Value::None),
    ("nomultichannel", Value::None),
    ("persistenthandles", Value::None),
    ("nopersistenthandles", Value::None),
    ("nohandlecache", Value::None),
    ("strictsync", Value::None),
    ("nostrictsync", Value::None),
    ("cifsacl", Value::None),
    ("modefromsid", Value::None),
    ("idsfromsid", Value::None),
    ("fsc", Value::None),
];

/// SMB options that are refused whatever they hold, with the reason.
fn refused_for_cifs(key: &str) -> Option<&'static str> {
    Some(match key {
        "cred" | "credentials" => "it names a file on this host; credentials come from the node-stage secret",
        key if key.starts_with("pass") => "the password comes from the node-stage secret, key \"password\"",
        key if key.starts_with("user") || key == "guest" => {
            "the user comes from the node-stage secret, key \"username\"; without one the mount is a guest's"
        }
        "dom" | "domain" | "workgroup" => "the domain comes from the node-stage secret, key \"domain\"",
        "ip" | "addr" | "port" | "source" | "unc" | "target" | "path" | "prefixpath" | "servern"
        | "srcaddr" => "server, share and address come from the volume",
        "snapshot" => "it would show another state than the volume's",
        _ => return None,
    })
}

/// Options of the file system's superblock that every kind knows.
const SUPERBLOCK: &[&str] = &["sync", "dirsync", "lazytime"];

/// Options for mount(8), not for the kernel; NFS 4 has no lock side protocol to switch.
const WITHOUT_EFFECT: &[&str] = &["defaults", "_netdev", "nofail", "rw", "async", "nolazytime"];
const WITHOUT_EFFECT_NFS: &[&str] = &["lock", "nolock", "local_lock", "retry", "proto", "fg", "acl", "noacl"];

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
        if WITHOUT_EFFECT.contains(&key) || (family == Family::Nfs && WITHOUT_EFFECT_NFS.contains(&key)) {
            return Ok(());
        }
        if value.is_none() && SUPERBLOCK.contains(&key) {
            self.set(Parameter { key: key.to_owned(), value: None });
            return Ok(());
        }
        let (key, value) = match family {
            Family::Nfs => nfs_version(key, value)?,
            Family::Cifs => cifs_version(key, value)?,
            Family::Block(_) => (key, value),
        };
        if let Some(reason) = refused_for_cifs(key).filter(|_| family == Family::Cifs) {
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
        let fits = match (rule, value) {
            (Value::None | Value::Optional(_), None) => true,
            (Value::Number, Some(text)) => is_number(text),
            (Value::Octal, Some(text)) => {
                (1..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte))
            }
            (Value::Size, Some(text)) => {
                is_number(text.strip_suffix(['k', 'm', 'g', 'K', 'M', 'G']).unwrap_or(text))
            }
            (Value::Word(words) | Value::Optional(words), Some(text)) => words.contains(&text),
            (Value::None, Some(_)) | (Value::Number | Value::Octal | Value::Size | Value::Word(_), None) => {
                false
            }
        };
        if !fits {
            let wanted = match rule {
                Value::None => "takes no value".to_owned(),
                Value::Number => "needs a number".to_owned(),
                Value::Octal => "needs an octal number like 0755".to_owned(),
                Value::Size => "needs a number, with k, m or g".to_owned(),
                Value::Word(words) => format!("needs one of {}", words.join(", ")),
                Value::Optional(words) => format!("needs nothing or one of {}", words.join(", ")),
            };
            return Err(Failure::invalid(format!("mount option {key:?} for {} {wanted}", family.name())));
        }
        self.set(Parameter { key: key.to_owned(), value: value.map(str::to_owned) });
        Ok(())
    }

    /// Gives every file of an SMB mount to `group` (the protocol carries no owners that could be changed).
    ///
    /// # Errors
    /// `InvalidArgument` when the caller's own `gid` or `noforcegid` says otherwise.
    pub fn give_to_group(&mut self, group: u32) -> Result<(), Failure> {
        let group = group.to_string();
        let own =
            self.parameters.iter().find_map(|parameter| match (parameter.key.as_str(), &parameter.value) {
                ("gid", Some(value)) if value.trim_start_matches('0') != group.trim_start_matches('0') => {
                    Some(format!("gid={value}"))
                }
                ("noforcegid", _) => Some("noforcegid".to_owned()),
                _ => None,
            });
        if let Some(own) = own {
            return Err(Failure::invalid(format!(
                "mount option {own:?} contradicts the volume's mount group {group} (the pod's fsGroup); remove one of both"
            )));
        }
        self.set(Parameter::with("gid", group));
        self.set(Parameter { key: "forcegid".to_owned(), value: None });
        Ok(())
    }

    /// Adds an option in place of every earlier one with the same subject.
    fn set(&mut self, parameter: Parameter) {
        let subject = subject(&parameter.key).to_owned();
        self.parameters.retain(|earlier| self::subject(&earlier.key) != subject);
        self.parameters.push(parameter);
    }
}

/// Options that a bind mount can carry, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindOptions(Attributes);

impl BindOptions {
    /// Takes from `flags` what a bind can carry; the rest was applied at staging and is ignored.
    ///
    /// # Errors
    /// `InvalidArgument` when the text is too long.
    pub fn parse(flags: &[String], readonly: bool) -> Result<Self, Failure> {
        let mut attributes = Attributes::default();
        for option in split(flags)? {
            attributes.apply(option);
        }
        attributes.read_only |= readonly;
        Ok(Self(attributes))
    }

    /// Whether nothing may be written through the bind.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.0.read_only
    }

    /// Attributes to add, and whether they decide about access times.
    #[must_use]
    pub fn attributes(&self) -> (MountAttrFlags, bool) {
        (self.0.flags(), self.0.atime.is_some())
    }

    /// One text per option, in one order.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        let mut texts = self.0.texts();
        texts.sort();
        texts
    }
}

/// Attributes of a mount, as opposed to those of its file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Attributes {
    read_only: bool,
    no_exec: bool,
    no_suid: bool,
    no_dev: bool,
    no_dir_atime: bool,
    atime: Option<Atime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Atime {
    Relative,
    Never,
    Strict,
}

impl Attributes {
    /// Takes one option; false when it is none of a mount's.
    fn apply(&mut self, key: &str) -> bool {
        match key {
            "ro" => self.read_only = true,
            // Never undoes a read-only that the API asked for: that is added at the end.
            "rw" => self.read_only = false,
            "noexec" => self.no_exec = true,
            "exec" => self.no_exec = false,
            "nosuid" => self.no_suid = true,
            "suid" => self.no_suid = false,
            "nodev" => self.no_dev = true,
            "dev" => self.no_dev = false,
            "nodiratime" => self.no_dir_atime = true,
            "diratime" => self.no_dir_atime = false,
            "noatime" => self.atime = Some(Atime::Never),
            "relatime" | "atime" => self.atime = Some(Atime::Relative),
            "strictatime" => self.atime = Some(Atime::Strict),
            _ => return false,
        }
        true
    }

    fn flags(&self) -> MountAttrFlags {
        let mut flags = MountAttrFlags::empty();
        flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.read_only);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.no_exec);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, self.no_suid);
        flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.no_dev);
        flags.set(MountAttrFlags::MOUNT_ATTR_NODIRATIME, self.no_dir_atime);
        flags |= match self.atime {
            None | Some(Atime::Relative) => MountAttrFlags::MOUNT_ATTR_RELATIME,
            Some(Atime::Never) => MountAttrFlags::MOUNT_ATTR_NOATIME,
            Some(Atime::Strict) => MountAttrFlags::MOUNT_ATTR_STRICTATIME,
        };
        flags
    }

    fn texts(&self) -> Vec<String> {
        let atime = match self.atime {
            None => None,
            Some(Atime::Relative) => Some("relatime"),
            Some(Atime::Never) => Some("noatime"),
            Some(Atime::Strict) => Some("strictatime"),
        };
        [
            self.read_only.then_some("ro"),
            self.no_exec.then_some("noexec"),
            self.no_suid.then_some("nosuid"),
            self.no_dev.then_some("nodev"),
            self.no_dir_atime.then_some("nodiratime"),
            atime,
        ]
        .into_iter()
        .flatten()
        .map(str::to_owned)
        .collect()
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

/// `vers`, `nfsvers` and `minorversion` become one `vers=4.x`; older versions are refused.
fn nfs_version<'a>(key: &'a str, value: Option<&'a str>) -> Result<(&'a str, Option<&'a str>), Failure> {
    Ok(match (key, value) {
        ("vers" | "nfsvers", Some("4" | "4.2")) | ("minorversion", Some("2")) => ("vers", Some("4.2")),
        ("vers" | "nfsvers", Some("4.1")) | ("minorversion", Some("1")) => ("vers", Some("4.1")),
        ("vers" | "nfsvers", Some("4.0")) | ("minorversion", Some("0")) => ("vers", Some("4.0")),
        ("vers" | "nfsvers", Some("2" | "3" | "3.0")) => {
            return Err(Failure::invalid(
                "mount option \"vers\": NFS 3 and older are refused, they need services on the host that this helper \
                 does not run; use 4.2, 4.1 or 4.0",
            ));
        }
        ("nfsvers", value) => ("vers", value),
        other => other,
    })
}

/// The other spellings of an SMB version; those before 3 are refused.
fn cifs_version<'a>(key: &'a str, value: Option<&'a str>) -> Result<(&'a str, Option<&'a str>), Failure> {
    Ok(match (key, value) {
        ("vers", Some("3.0.2")) => ("vers", Some("3.02")),
        ("vers", Some("3.11")) => ("vers", Some("3.1.1")),
        ("vers", Some("1.0" | "2.0" | "2.1" | "2" | "1")) => {
            return Err(Failure::invalid(
                "mount option \"vers\": SMB before 3.0 has no encryption and is refused; use 3.0, 3.02, 3.1.1, 3 or \
                 default",
            ));
        }
        other => other,
    })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u32>().is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXT4_FAMILY: Family = Family::Block(FsType::Ext4);
    const XFS_FAMILY: Family = Family::Block(FsType::Xfs);
    const BTRFS_FAMILY: Family = Family::Block(FsType::Btrfs);

    fn texts(family: Family, flags: &[&str], readonly: bool) -> Result<String, Failure> {
        let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        MountOptions::parse(family, &flags, readonly).map(|options| options.texts().join(","))
    }

    #[test]
    fn defaults_hold_and_the_caller_wins() {
        assert_eq!(texts(EXT4_FAMILY, &[], false).unwrap(), "errors=remount-ro,noatime");
        assert_eq!(
            texts(EXT4_FAMILY, &["relatime", "errors=continue"], false).unwrap(),
            "errors=continue,relatime"
        );
        assert_eq!(texts(XFS_FAMILY, &["discard"], false).unwrap(), "discard,noatime,nouuid");
        assert_eq!(texts(Family::Nfs, &["soft,nfsvers=4.1,nolock"], false).unwrap(), "soft,vers=4.1");
        assert_eq!(texts(Family::Nfs, &["vers=4"], false).unwrap(), "hard,vers=4.2");
    }

    #[test]
    fn read_only_is_never_undone() {
        let options = MountOptions::parse(EXT4_FAMILY, &["ro".to_owned(), "rw".to_owned()], true).unwrap();
        assert!(options.read_only());
        assert!(options.attributes().contains(MountAttrFlags::MOUNT_ATTR_RDONLY));
        assert!(options.parameters().iter().any(|parameter| parameter.key == "ro"));
        assert!(BindOptions::parse(&["rw".to_owned()], true).unwrap().read_only());
    }

    #[test]
    fn options_that_reach_elsewhere_are_refused_by_name() {
        for (family, option) in [
            (XFS_FAMILY, "logdev=/dev/sda"),
            (XFS_FAMILY, "rtdev=/dev/sda"),
            (EXT4_FAMILY, "journal_path=/dev/sda"),
            (EXT4_FAMILY, "errors=panic"),
            (EXT4_FAMILY, "usrjquota=a"),
            (Family::Nfs, "addr=198.51.100.1"),
            (Family::Nfs, "mountaddr=198.51.100.1"),
            (Family::Nfs, "clientaddr=198.51.100.1"),
            (Family::Nfs, "source=x"),
            (Family::Nfs, "vers=3"),
            (BTRFS_FAMILY, "device=/dev/sda"),
            (EXT4_FAMILY, "context=x"),
            (EXT4_FAMILY, "commit=1x"),
            (EXT4_FAMILY, "suid_dumpable"),
            (EXT4_FAMILY, "noatime=1"),
        ] {
            assert!(texts(family, &[option], false).is_err(), "{option}");
        }
        let failure = texts(EXT4_FAMILY, &["password=hunter2"], false).unwrap_err();
        assert!(failure.message.contains("password") && !failure.message.contains("hunter2"), "{failure}");
        assert!(texts(EXT4_FAMILY, &["x".repeat(5000).as_str()], false).is_err());
    }

    #[test]
    fn an_smb_mount_has_its_defaults_and_the_caller_wins() {
        for (flags, expected) in [
            (&[][..], "dir_mode=0777,file_mode=0777,hard,vers=3.0"),
            (&["vers=3.1.1", "dir_mode=0750"], "dir_mode=0750,file_mode=0777,hard,vers=3.1.1"),
            (&["vers=3.0.2,seal"], "dir_mode=0777,file_mode=0777,hard,seal,vers=3.02"),
            (&["nobrl", "brl"], "brl,dir_mode=0777,file_mode=0777,hard,vers=3.0"),
            (&["serverino,noserverino"], "dir_mode=0777,file_mode=0777,hard,noserverino,vers=3.0"),
            (&["hard,soft", "noatime"], "dir_mode=0777,file_mode=0777,noatime,soft,vers=3.0"),
            (
                &["sec=krb5,cruid=1000,_netdev"],
                "cruid=1000,dir_mode=0777,file_mode=0777,hard,sec=krb5,vers=3.0",
            ),
        ] {
            assert_eq!(texts(Family::Cifs, flags, false).unwrap(), expected, "{flags:?}");
        }
    }

    #[test]
    fn smb_options_that_name_credentials_or_other_servers_are_refused_with_the_reason() {
        for (option, reason) in [
            ("credentials=/etc/shadow", "node-stage secret"),
            ("password=hunter2", "node-stage secret"),
            ("pass=hunter2", "node-stage secret"),
            ("password2=hunter2", "node-stage secret"),
            ("user=hunter2", "node-stage secret"),
            ("username=hunter2", "node-stage secret"),
            ("domain=hunter2", "node-stage secret"),
            ("guest", "guest"),
            ("prefixpath=hunter2", "volume"),
            ("unc=hunter2", "volume"),
            ("ip=hunter2", "volume"),
            ("source=hunter2", "volume"),
            ("vers=1.0", "3.0"),
            ("vers=2.1", "3.0"),
            ("sec=ntlm", "needs one of"),
            ("file_mode=0888", "octal"),
            ("dir_mode=07777", "octal"),
        ] {
            let failure = texts(Family::Cifs, &[option], false).expect_err(option);
            let name = option.split('=').next().unwrap();
            assert!(failure.message.contains(name) && failure.message.contains(reason), "{failure}");
            assert!(!failure.message.contains("hunter2") && !failure.message.contains("shadow"), "{failure}");
        }
    }

    #[test]
    fn the_mount_group_owns_an_smb_mount_and_contradictions_are_named() {
        let parse = |flag: &str| MountOptions::parse(Family::Cifs, &[flag.to_owned()], false).unwrap();
        let mut options = parse("gid=2000");
        options.give_to_group(2000).unwrap();
        assert!(options.texts().contains(&"gid=2000".to_owned()));
        assert!(options.texts().contains(&"forcegid".to_owned()));
        for flag in ["gid=3000", "noforcegid"] {
            let failure = parse(flag).give_to_group(2000).unwrap_err();
            assert!(failure.message.contains(flag) && failure.message.contains("2000"), "{failure}");
        }
    }

    #[test]
    fn a_bind_takes_only_what_it_can_carry() {
        let bind = BindOptions::parse(&["noexec,vers=4.2".to_owned(), "discard".to_owned()], false).unwrap();
        assert_eq!(bind.texts(), ["noexec"]);
        assert_eq!(bind.attributes(), (MountAttrFlags::MOUNT_ATTR_NOEXEC, false));
    }

    proptest! {
        #[test]
        fn what_was_parsed_parses_again_to_the_same(
            flags in proptest::collection::vec("ro|rw|noatime|strictatime|nodev|discard|nodiscard|commit=[0-9]{1,3}|data=journal", 0..8),
            readonly: bool,
        ) {
            let once = MountOptions::parse(EXT4_FAMILY, &flags, readonly).unwrap();
            let again = MountOptions::parse(EXT4_FAMILY, &once.texts(), readonly).unwrap();
            prop_assert_eq!(once.texts(), again.texts());
        }
    }
}
