//! Making a file system on a permitted device, and checking one before it is mounted.

use std::ffi::OsString;
use std::os::fd::OwnedFd;

use tokio::time::{Instant, timeout_at};

use super::content::{Content, FormatPermit, Found};
use super::{FilesystemError, Filesystems, FsType, MkfsOptions};
use crate::device::VolumeNode;
use crate::tool::{Input, Invocation, Output, Privilege, Tool};

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// This kind of file system is not checked before mounting.
    NotNeeded,
    /// Nothing was wrong.
    Clean,
    /// The journal was replayed or something was mended.
    Mended,
}

impl Filesystems {
    /// Makes a file system on the device that the permit is for, and probes again: exactly what was wanted must be
    /// there.
    ///
    /// The permit is used up. When this ends with an error the device may hold the remains of an unfinished making;
    /// the caller's durable "formatting" record says so until the first good mount.
    ///
    /// # Errors
    /// [`FilesystemError::Stale`] or [`FilesystemError::TooSmall`] before anything is written; else why the program
    /// or the second probe failed.
    pub async fn make(
        &self,
        node: &VolumeNode,
        fs: FsType,
        options: &MkfsOptions,
        permit: FormatPermit,
        deadline: Instant,
    ) -> Result<Found, FilesystemError> {
        if permit.number != node.number || permit.size != node.size {
            return Err(FilesystemError::Stale { path: node.path.clone() });
        }
        if node.size < fs.min_size() {
            return Err(FilesystemError::TooSmall { path: node.path.clone(), size: node.size, fs });
        }
        let kind = fs.kind();
        let force = if permit.overwrite { kind.mkfs_overwrite() } else { &[] };
        let given = options.arguments().iter().map(String::as_str);
        let arguments: Vec<&str> = kind.mkfs_arguments().iter().chain(force).copied().chain(given).collect();
        let output = self.on_device(node, kind.mkfs(), &arguments, kind.mkfs_privilege(), deadline).await?;
        if output.code != 0 {
            return Err(program(kind.mkfs(), node, output));
        }
        match self.probe(node, deadline).await?.content {
            Content::Filesystem(found) if found.fs == fs => Ok(found),
            other => Err(FilesystemError::NotMade { path: node.path.clone(), fs, found: other.to_string() }),
        }
    }

    /// Checks a file system where that is right before a mount, and mends what is safe to mend without asking. Not
    /// for a device that is mounted, nor for a read-only stage.
    ///
    /// # Errors
    /// [`FilesystemError::Damaged`] when a person has to decide; it must not be mounted then.
    pub async fn check(
        &self,
        node: &VolumeNode,
        fs: FsType,
        deadline: Instant,
    ) -> Result<Checked, FilesystemError> {
        let Some((tool, arguments)) = fs.kind().check() else { return Ok(Checked::NotNeeded) };
        let output = self.on_device(node, tool, arguments, Privilege::None, deadline).await?;
        // Status of fsck(8): a sum of bits. 1: mended; 2: mended, a mounted one would have to be mounted anew; 4: left
        // as it is; 8 and above: the program itself failed.
        match output.code {
            0 => Ok(Checked::Clean),
            1..=3 => Ok(Checked::Mended),
            4..=7 => {
                let text = if output.stderr.is_empty() { output.stdout } else { output.stderr };
                let stderr = text.replace(Invocation::STANDARD_INPUT, &node.path.display().to_string());
                Err(FilesystemError::Damaged { path: node.path.clone(), tool, code: output.code, stderr })
            }
            _ => Err(program(tool, node, output)),
        }
    }

    /// Runs a program whose last argument is the device, which it gets as an open descriptor.
    pub(super) async fn on_device(
        &self,
        node: &VolumeNode,
        tool: Tool,
        arguments: &[&str],
        privilege: Privilege,
        deadline: Instant,
    ) -> Result<Output, FilesystemError> {
        let own = node.clone();
        // Not exclusive: the program itself opens the device so.
        let opened = tokio::task::spawn_blocking(move || own.open());
        let late = |_| FilesystemError::Deadline { path: node.path.clone() };
        let device = timeout_at(deadline, opened).await.map_err(late)???;
        let mut arguments: Vec<OsString> = arguments.iter().map(Into::into).collect();
        arguments.push(Invocation::STANDARD_INPUT.into());
        let input = Input::Descriptor(OwnedFd::from(device));
        Ok(self.tools.run(Invocation { tool, arguments, input, privilege }, deadline).await?)
    }
}

/// A program's failure, with the device under the name that people know.
pub(super) fn program(tool: Tool, node: &VolumeNode, output: Output) -> FilesystemError {
    let words = if output.stderr.is_empty() { output.stdout } else { output.stderr };
    let stderr = words.replace(Invocation::STANDARD_INPUT, &node.path.display().to_string());
    FilesystemError::Program { tool, path: node.path.clone(), code: output.code, stderr }
}
