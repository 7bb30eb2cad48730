//! Growing a mounted file system to the size of its device.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use tokio::time::{Instant, timeout_at};

use super::kind::GrowBy;
use super::make::program;
use super::{FilesystemError, Filesystems, FsType};
use crate::device::VolumeNode;
use crate::tool::{Input, Invocation, Privilege};

/// Size of a file system before and after, in bytes as statfs(2) counts them: its own overhead is not included, so
/// both are below the device's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grown {
    /// Before.
    pub from: u64,
    /// After; equal when it filled its device already.
    pub to: u64,
}

impl Filesystems {
    /// Grows the file system of `node` to the device's present size. `mounted` is a descriptor of the root of its
    /// mount, opened for reading (not `O_PATH`); `at` is the mount's path for errors. Shrinks nothing; may be called
    /// when there is nothing to grow.
    ///
    /// # Errors
    /// Why it could not be grown; it is whole then, at the old size or in between.
    pub async fn grow(
        &self,
        node: &VolumeNode,
        fs: FsType,
        mounted: &File,
        at: &Path,
        deadline: Instant,
    ) -> Result<Grown, FilesystemError> {
        let root = || mounted.try_clone().map_err(|source| size_error(at, source));
        let from = size(root()?, at, deadline).await?;
        let (tool, arguments, by) = fs.kind().grow();
        let output = match by {
            // The kernel asks for CAP_SYS_RESOURCE (ext4) or CAP_SYS_ADMIN (XFS, btrfs).
            GrowBy::Device => self.on_device(node, tool, arguments, Privilege::Inherited, deadline).await?,
            GrowBy::Mount => {
                let mut arguments: Vec<_> = arguments.iter().map(Into::into).collect();
                arguments.push(Invocation::STANDARD_INPUT.into());
                let input = Input::Descriptor(OwnedFd::from(root()?));
                let privilege = Privilege::Inherited;
                self.tools.run(Invocation { tool, arguments, input, privilege }, deadline).await?
            }
        };
        if output.code != 0 {
            return Err(program(tool, node, output));
        }
        Ok(Grown { from, to: size(root()?, at, deadline).await? })
    }
}

/// Bytes of a mounted file system, off the runtime: a dead device never answers.
async fn size(root: File, at: &Path, deadline: Instant) -> Result<u64, FilesystemError> {
    let read = tokio::task::spawn_blocking(move || rustix::fs::fstatvfs(&root));
    let late = |_| FilesystemError::Deadline { path: at.to_owned() };
    let answer = timeout_at(deadline, read).await.map_err(late)??;
    let usage = answer.map_err(|errno| size_error(at, errno.into()))?;
    Ok(usage.f_blocks.saturating_mul(usage.f_frsize))
}

fn size_error(at: &Path, source: io::Error) -> FilesystemError {
    FilesystemError::Size { path: at.to_owned(), source }
}
