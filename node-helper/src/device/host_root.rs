//! Where the kernel's views of the host are, so that everything above them can be tried on a pretend host.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::DeviceNumber;

/// The directories through which the helper sees the kernel.
#[derive(Debug, Clone)]
pub struct HostRoot {
    sys: PathBuf,
    dev: PathBuf,
    proc: PathBuf,
    modules: PathBuf,
    nodes: Nodes,
}

/// How a device node tells its number.
#[derive(Debug, Clone, Copy)]
enum Nodes {
    /// A block special file, as on every host.
    Special,
    /// A plain file that holds `major:minor`: a pretend host needs no privilege to have it.
    Text,
}

impl HostRoot {
    /// This host: `/sys`, `/dev` and `/proc`.
    #[must_use]
    pub fn real() -> Self {
        Self {
            sys: "/sys".into(),
            dev: "/dev".into(),
            proc: "/proc".into(),
            modules: "/lib/modules".into(),
            nodes: Nodes::Special,
        }
    }

    /// A pretend host below a directory, for tests: `sys`, `dev` and `proc` lie in it, and a device node is a plain
    /// file that holds `major:minor`.
    #[must_use]
    pub fn pretend(root: &Path) -> Self {
        Self {
            sys: root.join("sys"),
            dev: root.join("dev"),
            proc: root.join("proc"),
            modules: root.join("lib/modules"),
            nodes: Nodes::Text,
        }
    }

    /// A pretend host whose device nodes are real block special files: for tests with privilege that mount them.
    #[must_use]
    pub fn pretend_with_devices(root: &Path) -> Self {
        Self { nodes: Nodes::Special, ..Self::pretend(root) }
    }

    /// A path below sysfs.
    #[must_use]
    pub fn sys(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.sys.join(relative)
    }

    /// A path below the device directory.
    #[must_use]
    pub fn dev(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.dev.join(relative)
    }

    /// A path below procfs.
    #[must_use]
    pub fn proc(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.proc.join(relative)
    }

    /// A path below the directory of the kernels' modules.
    #[must_use]
    pub fn modules(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.modules.join(relative)
    }

    /// The number that the node at `path` leads to; `None` when there is no node. A symbolic link is no node.
    ///
    /// # Errors
    /// `InvalidData` when something else than a block device lies there, else what the kernel answers.
    pub fn node_number(&self, path: &Path) -> io::Result<Option<DeviceNumber>> {
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match self.nodes {
            Nodes::Special if metadata.file_type().is_block_device() => {
                Ok(Some(DeviceNumber::from_rdev(metadata.rdev())))
            }
            Nodes::Special => Err(io::Error::new(io::ErrorKind::InvalidData, "it is no block device")),
            Nodes::Text => {
                let text = std::fs::read_to_string(path)?;
                text.trim()
                    .parse()
                    .map(Some)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }
}
