//! The fixed list of external programs, found once, run by one runner.
//!
//! The rule it keeps: no program runs that is not in [`Tool`], none is looked up through an inherited `PATH`, and
//! none gets more of the helper than it needs (see [`run`](Tools::run)).

mod error;
mod run;

pub use error::ToolError;
#[cfg(test)]
pub(crate) use run::starting;
pub use run::{Input, Invocation, Output, Privilege};

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A program the helper may start. Nothing else is ever executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tool {
    /// Low-level probe of a device (util-linux).
    Blkid,
    /// Makes an ext4 (e2fsprogs).
    MkfsExt4,
    /// Makes an XFS (xfsprogs).
    MkfsXfs,
    /// Makes a btrfs (btrfs-progs).
    MkfsBtrfs,
    /// Checks an ext4 and replays its journal (e2fsprogs).
    E2fsck,
    /// Grows an ext4 (e2fsprogs).
    Resize2fs,
    /// Grows a mounted XFS (xfsprogs).
    XfsGrowfs,
    /// Grows a mounted btrfs (btrfs-progs).
    Btrfs,
    /// Logs in to and out of iSCSI targets through iscsid (open-iscsi).
    Iscsiadm,
    /// Talks to multipathd (multipath-tools).
    Multipathd,
}

impl Tool {
    /// Every program, in the order in which start-up reports them.
    pub const ALL: [Self; 10] = [
        Self::Blkid,
        Self::MkfsExt4,
        Self::MkfsXfs,
        Self::MkfsBtrfs,
        Self::E2fsck,
        Self::Resize2fs,
        Self::XfsGrowfs,
        Self::Btrfs,
        Self::Iscsiadm,
        Self::Multipathd,
    ];

    /// File name of the program.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blkid => "blkid",
            Self::MkfsExt4 => "mkfs.ext4",
            Self::MkfsXfs => "mkfs.xfs",
            Self::MkfsBtrfs => "mkfs.btrfs",
            Self::E2fsck => "e2fsck",
            Self::Resize2fs => "resize2fs",
            Self::XfsGrowfs => "xfs_growfs",
            Self::Btrfs => "btrfs",
            Self::Iscsiadm => "iscsiadm",
            Self::Multipathd => "multipathd",
        }
    }

    /// Package that brings the program on Debian and its kin.
    #[must_use]
    pub const fn package(self) -> &'static str {
        match self {
            Self::Blkid => "util-linux",
            Self::MkfsExt4 | Self::E2fsck | Self::Resize2fs => "e2fsprogs",
            Self::MkfsXfs | Self::XfsGrowfs => "xfsprogs",
            Self::MkfsBtrfs | Self::Btrfs => "btrfs-progs",
            Self::Iscsiadm => "open-iscsi",
            Self::Multipathd => "multipath-tools",
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Directories in which programs are looked for, after the configured ones; the first hit counts.
const DIRECTORIES: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"];

/// Where each program of the list lies on this host. Looked up once; cheap to clone.
#[derive(Debug, Clone)]
pub struct Tools {
    found: Arc<BTreeMap<Tool, PathBuf>>,
    searched: Arc<[PathBuf]>,
}

impl Tools {
    /// Looks every program up: first in `extra` (absolute directories from the configuration, for hosts such as Talos
    /// that keep tools elsewhere), then in the usual directories. A missing program is no error until it is needed.
    #[must_use]
    pub fn find(extra: &[PathBuf]) -> Self {
        let searched: Vec<PathBuf> = extra
            .iter()
            .filter(|directory| directory.is_absolute())
            .cloned()
            .chain(DIRECTORIES.iter().map(PathBuf::from))
            .collect();
        let found = Tool::ALL
            .into_iter()
            .filter_map(|tool| {
                let path = searched
                    .iter()
                    .map(|directory| directory.join(tool.name()))
                    .find(|path| executable(path))?;
                Some((tool, path))
            })
            .collect();
        Self { found: Arc::new(found), searched: searched.into() }
    }

    /// Absolute path of a program.
    ///
    /// # Errors
    /// [`ToolError::Missing`], naming package and directories searched.
    pub fn path(&self, tool: Tool) -> Result<&Path, ToolError> {
        self.found
            .get(&tool)
            .map(PathBuf::as_path)
            .ok_or_else(|| ToolError::Missing { tool, searched: self.searched.to_vec() })
    }

    /// Whether a program is there.
    #[must_use]
    pub fn has(&self, tool: Tool) -> bool {
        self.found.contains_key(&tool)
    }

    /// The programs that are not there, for one line in the log at start-up.
    #[must_use]
    pub fn missing(&self) -> Vec<Tool> {
        Tool::ALL.into_iter().filter(|tool| !self.has(*tool)).collect()
    }
}

fn executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
pub(crate) mod testing {
    //! Programs for tests: the usual directories and those in `TNS_CSI_TEST_TOOL_DIRS` (separated by colons).

    use super::{Tool, Tools};

    /// The programs of this machine.
    pub(crate) fn tools() -> Tools {
        let extra = std::env::var_os("TNS_CSI_TEST_TOOL_DIRS").unwrap_or_default();
        Tools::find(&std::env::split_paths(&extra).collect::<Vec<_>>())
    }

    /// The programs of this machine, or `None` with a loud word when one of `needed` is absent.
    pub(crate) fn tools_or_skip(needed: &[Tool]) -> Option<Tools> {
        let tools = tools();
        for tool in needed {
            if let Err(error) = tools.path(*tool) {
                eprintln!("SKIPPED: {error}");
                return None;
            }
        }
        Some(tools)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_directory_comes_first_and_only_executables_count() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("blkid");
        std::fs::write(&own, "#!/bin/sh\n").unwrap();
        let before = Tools::find(&[directory.path().to_owned()]);
        assert_ne!(before.path(Tool::Blkid).ok(), Some(own.as_path()), "a file without x bit is no program");

        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o755)).unwrap();
        let tools = Tools::find(&[directory.path().to_owned()]);
        assert_eq!(tools.path(Tool::Blkid).unwrap(), own);
    }

    #[test]
    fn a_relative_directory_is_not_searched() {
        let tools = Tools::find(&[PathBuf::from("bin")]);
        assert!(tools.searched.iter().all(|directory| directory.is_absolute()));
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let tools = Tools { found: Arc::default(), searched: vec![PathBuf::from("/usr/sbin")].into() };
        let error = tools.path(Tool::MkfsXfs).unwrap_err().to_string();
        assert!(
            error.contains("mkfs.xfs") && error.contains("xfsprogs") && error.contains("/usr/sbin"),
            "{error}"
        );
        assert_eq!(tools.missing(), Tool::ALL);
    }
}
