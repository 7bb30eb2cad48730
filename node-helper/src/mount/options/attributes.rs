//! What belongs to a mount and not to its file system, and so to a bind too.

use rustix::mount::MountAttrFlags;

use super::split;
use crate::failure::Failure;

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
pub(super) struct Attributes {
    pub(super) read_only: bool,
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
    pub(super) fn apply(&mut self, key: &str) -> bool {
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

    pub(super) fn flags(&self) -> MountAttrFlags {
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

    pub(super) fn texts(&self) -> Vec<String> {
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
