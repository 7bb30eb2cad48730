//! What is on a device: blkid's word, and our own look at both ends.
//!
//! The device is opened exclusively for the whole probe: what holds it (a mount in another namespace, a mkfs that
//! outlived the helper, multipathd) shows as "in use" and not as a result.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use rustix::fs::{Advice, fadvise};
use tokio::time::{Instant, timeout_at};

use super::blkid::{Answer, Signature, answer};
use super::content::{Content, Found, Probed};
use super::{FilesystemError, Filesystems, FsType};
use crate::device::{DeviceError, VolumeNode};
use crate::tool::{Input, Invocation, Privilege, Tool};

/// How much of each end of a device has to be zero for it to be blank. Every signature that blkid knows lies within.
pub(super) const END: usize = 1 << 20;
/// Alignment of reads past the page cache; a multiple of every logical block size that NVMe and iSCSI units have.
const ALIGNMENT: usize = 4096;

/// Something to read from at an offset: a device, or a failing one in a test.
pub(super) trait ReadAt {
    /// Reads some bytes at `offset`; 0 at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }
}

/// Both ends of a device.
#[derive(Debug)]
pub(super) struct Ends {
    /// The first MiB, or all of a smaller device.
    pub(super) head: Vec<u8>,
    /// Offset of the first byte that is not zero, in the head or in the last MiB.
    pub(super) first_byte: Option<u64>,
}

impl Filesystems {
    /// Finds out what is on a device. Nothing is written.
    ///
    /// # Errors
    /// [`FilesystemError`] whenever the answer is not certain: a byte of the ends that cannot be read, a blkid that
    /// fails, two findings that contradict each other, a device that somebody holds.
    pub async fn probe(&self, node: &VolumeNode, deadline: Instant) -> Result<Probed, FilesystemError> {
        let own = node.clone();
        let opened = tokio::task::spawn_blocking(move || -> Result<(File, Ends), FilesystemError> {
            let held = own.open_exclusive()?;
            let ends = read_ends(&uncached(&held, &own)?, own.size, &own.path)?;
            // blkid reads through the page cache: nothing from before the other side's last write may be in it.
            let _advice_only = fadvise(&held, 0, None, Advice::DontNeed);
            Ok((held, ends))
        });
        let late = |_| FilesystemError::Deadline { path: node.path.clone() };
        let (held, ends) = timeout_at(deadline, opened).await.map_err(late)???;

        let input = held.try_clone().map_err(|source| unreadable(&node.path, 0, source))?;
        let output = self
            .tools
            .run(
                Invocation {
                    tool: Tool::Blkid,
                    arguments: ["-p", "-o", "export", Invocation::STANDARD_INPUT].map(Into::into).to_vec(),
                    input: Input::Descriptor(OwnedFd::from(input)),
                    privilege: Privilege::None,
                },
                deadline,
            )
            .await?;
        // A resize while the probe ran would make it true of no device.
        let own = node.clone();
        tokio::task::spawn_blocking(move || own.verify(&held)).await??;

        let content = match answer(output.code, &output.stdout, &output.stderr) {
            Answer::Failed => {
                return Err(FilesystemError::Program {
                    tool: Tool::Blkid,
                    path: node.path.clone(),
                    code: output.code,
                    stderr: output.stderr,
                });
            }
            found => judge(&found, &ends, node)?,
        };
        Ok(Probed { content, number: node.number, size: node.size })
    }
}

/// Brings blkid's word and our own reading together. They have to agree.
fn judge(found: &Answer, ends: &Ends, node: &VolumeNode) -> Result<Content, FilesystemError> {
    let contradiction = |found: String| FilesystemError::Contradiction { path: node.path.clone(), found };
    let seen = FsType::ALL.into_iter().find_map(|fs| Some((fs, fs.kind().superblock(&ends.head)?)));
    match (found, seen) {
        (Answer::Nothing, Some((fs, superblock))) if !superblock.complete => Ok(Content::Unfinished(fs)),
        (Answer::Nothing, Some((fs, _))) => {
            // A superblock with a wrong checksum or impossible values: damaged data, not an absence of data.
            Ok(Content::Other(format!(
                "a superblock of {fs} that blkid does not accept, perhaps a damaged file system"
            )))
        }
        (Answer::Nothing, None) => Ok(ends.first_byte.map_or(Content::Blank, |offset| {
            Content::Unknown(format!(
                "data that no probe knows (first byte that is not zero at offset {offset})"
            ))
        })),
        (Answer::Ambivalent(words), _) => {
            let words = words.replace(Invocation::STANDARD_INPUT, &node.path.display().to_string());
            Ok(Content::Other(format!("several signatures at once ({words})")))
        }
        (Answer::Signature(signature), seen) => {
            let Some(fs) = mountable(signature) else { return Ok(Content::Other(signature.words())) };
            match seen {
                Some((own, superblock)) if own == fs && superblock.complete => {
                    if superblock.devices != 1 {
                        return Ok(Content::Other(format!(
                            "a file system {fs} that is spread over {} devices",
                            superblock.devices
                        )));
                    }
                    if superblock.size > node.size {
                        return Err(FilesystemError::Truncated {
                            path: node.path.clone(),
                            size: node.size,
                            fs,
                            covers: superblock.size,
                        });
                    }
                    Ok(Content::Filesystem(Found { fs, uuid: signature.uuid.clone(), size: superblock.size }))
                }
                Some((own, _)) if own == fs => Ok(Content::Unfinished(fs)),
                Some((own, _)) => {
                    Err(contradiction(format!("blkid finds {fs}, but its first MiB holds {own}")))
                }
                None => Err(contradiction(format!(
                    "blkid finds {fs}, but its first MiB holds no superblock of it"
                ))),
            }
        }
        (Answer::Failed, _) => Err(contradiction("blkid gave no answer".to_owned())),
    }
}

/// The file system that a signature names, if the helper mounts it and nothing else is on the device.
fn mountable(signature: &Signature) -> Option<FsType> {
    let alone = signature.partition_table.is_none() && signature.usage.as_deref() == Some("filesystem");
    signature.kind.as_deref().filter(|_| alone)?.parse().ok()
}

/// Reads both ends. Any error, and any end of data before the device's size, is an error.
pub(super) fn read_ends(device: &impl ReadAt, size: u64, path: &Path) -> Result<Ends, FilesystemError> {
    // Smaller devices are read whole.
    let length = usize::try_from(size).unwrap_or(END).min(END);
    let head = read_exactly(device, 0, length, path)?;
    let tail_at = size.saturating_sub(END as u64).max(length as u64);
    // Reads past the page cache begin and end on block boundaries; a few bytes read twice do no harm.
    let aligned = tail_at - tail_at % ALIGNMENT as u64;
    let tail = read_exactly(device, aligned, usize::try_from(size - aligned).unwrap_or(END), path)?;
    let first = |bytes: &[u8]| bytes.iter().position(|&byte| byte != 0).map(|at| at as u64);
    let first_byte = first(&head).or_else(|| first(&tail).map(|at| aligned + at));
    Ok(Ends { head, first_byte })
}

fn read_exactly(
    device: &impl ReadAt,
    offset: u64,
    length: usize,
    path: &Path,
) -> Result<Vec<u8>, FilesystemError> {
    // Room to begin at an aligned address, which reads past the page cache need.
    let mut room = vec![0_u8; length + ALIGNMENT];
    let start = room.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    let mut done = 0;
    while done < length {
        let at = offset + done as u64;
        let rest = room.get_mut(start + done..start + length).unwrap_or_default();
        match device.read_at(rest, at) {
            Ok(0) => {
                let end = io::Error::new(io::ErrorKind::UnexpectedEof, "the device ends before its size");
                return Err(unreadable(path, at, end));
            }
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(path, at, error)),
        }
    }
    room.drain(..start);
    room.truncate(length);
    Ok(room)
}

/// A second descriptor of the same device that reads past the page cache, so that what another node wrote since the
/// device was last read here is seen. A plain file (in tests) is read as it is.
fn uncached(held: &File, node: &VolumeNode) -> Result<File, FilesystemError> {
    let failed = |source| FilesystemError::from(DeviceError::Unreadable { path: node.path.clone(), source });
    if !held.metadata().map_err(failed)?.file_type().is_block_device() {
        return held.try_clone().map_err(failed);
    }
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_DIRECT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(&node.path)
        .map_err(failed)?;
    node.verify(&file)?;
    Ok(file)
}

fn unreadable(path: &Path, offset: u64, source: io::Error) -> FilesystemError {
    FilesystemError::Unreadable { path: path.to_owned(), offset, source }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;
    use crate::device::testing::identity;

    /// A device whose content is a rule, with an error from some offset on.
    struct Device {
        size: u64,
        marks: Vec<u64>,
        broken_from: Option<u64>,
        ends_at: Option<u64>,
        /// Most bytes that one read gives.
        chunk: usize,
    }

    impl Default for Device {
        fn default() -> Self {
            Self { size: 10 << 20, marks: vec![], broken_from: None, ends_at: None, chunk: usize::MAX }
        }
    }

    impl ReadAt for Device {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let end = self.ends_at.unwrap_or(self.size);
            let length =
                buffer.len().min(self.chunk).min(usize::try_from(end.saturating_sub(offset)).unwrap());
            if self.broken_from.is_some_and(|broken| offset + length as u64 > broken) {
                return Err(io::Error::from_raw_os_error(nix::errno::Errno::EIO as i32));
            }
            buffer[..length].fill(0);
            for &mark in &self.marks {
                if (offset..offset + length as u64).contains(&mark) {
                    buffer[usize::try_from(mark - offset).unwrap()] = 1;
                }
            }
            Ok(length)
        }
    }

    fn ends(device: &Device) -> Result<Ends, FilesystemError> {
        read_ends(device, device.size, Path::new("/dev/test"))
    }

    #[test]
    fn t3_a_byte_that_cannot_be_read_is_an_error_wherever_it_is() {
        for broken in [0, 512, (1 << 20) - 1, 9 << 20, (10 << 20) - 1] {
            let error = ends(&Device { broken_from: Some(broken), ..Device::default() }).unwrap_err();
            assert!(matches!(error, FilesystemError::Unreadable { .. }), "{error}");
            assert!(error.to_string().contains("Unreadable is not blank"), "{error}");
        }
    }

    #[test]
    fn a_device_that_ends_before_its_size_is_an_error() {
        for at in [0, 4096, (10 << 20) - 512] {
            let error = ends(&Device { ends_at: Some(at), ..Device::default() }).unwrap_err();
            assert!(error.to_string().contains("ends before its size"), "{error}");
        }
    }

    #[test]
    fn zeroes_at_both_ends_are_blank_and_one_byte_is_not() {
        assert_eq!(ends(&Device::default()).unwrap().first_byte, None);
        for mark in [0, 1, (1 << 20) - 1, 9 << 20, (10 << 20) - 1] {
            let found = ends(&Device { marks: vec![mark], chunk: 4096, ..Device::default() }).unwrap();
            assert_eq!(found.first_byte, Some(mark));
        }
    }

    proptest! {
        #[test]
        fn every_size_is_read_to_its_last_byte(blocks in 1_u64..9000, chunk in 1_usize..64) {
            let size = blocks * 512;
            let device = Device { size, marks: vec![size - 1], chunk: chunk * 512, ..Device::default() };
            prop_assert_eq!(ends(&device).unwrap().first_byte, Some(size - 1));
            let blank = Device { size, chunk: chunk * 512, ..Device::default() };
            prop_assert_eq!(ends(&blank).unwrap().first_byte, None);
        }
    }

    fn node(size: u64) -> VolumeNode {
        VolumeNode {
            path: PathBuf::from("/dev/test"),
            number: crate::device::DeviceNumber::FILE,
            size,
            read_only: false,
            reachable: true,
            identity: identity(1),
        }
    }

    /// An XFS superblock of `blocks` blocks of 4 KiB.
    fn xfs(blocks: u64, in_progress: u8) -> Ends {
        let mut head = vec![0; END];
        head[..4].copy_from_slice(b"XFSB");
        head[4..8].copy_from_slice(&4096_u32.to_be_bytes());
        head[8..16].copy_from_slice(&blocks.to_be_bytes());
        head[126] = in_progress;
        Ends { head, first_byte: Some(0) }
    }

    fn says(text: &str) -> Answer {
        answer(0, text, "")
    }

    const GIB: u64 = 1 << 30;

    #[test]
    fn an_unfinished_xfs_is_told_from_a_file_system() {
        let found = says("TYPE=xfs\nUSAGE=filesystem\nUUID=u\n");
        assert_eq!(judge(&found, &xfs(262_144, 1), &node(GIB)).unwrap(), Content::Unfinished(FsType::Xfs));
        let Content::Filesystem(complete) = judge(&found, &xfs(262_144, 0), &node(2 * GIB)).unwrap() else {
            panic!("complete")
        };
        assert_eq!((complete.fs, complete.size), (FsType::Xfs, GIB));
    }

    #[test]
    fn a_file_system_beyond_the_end_of_its_device_is_an_error() {
        let found = says("TYPE=xfs\nUSAGE=filesystem\n");
        let error = judge(&found, &xfs(262_145, 0), &node(GIB)).unwrap_err();
        assert!(matches!(error, FilesystemError::Truncated { .. }), "{error}");
    }

    #[test]
    fn findings_that_disagree_are_an_error_and_a_refused_superblock_is_not_blank() {
        let ext4 = says("TYPE=ext4\nUSAGE=filesystem\n");
        assert!(matches!(
            judge(&ext4, &xfs(262_144, 0), &node(GIB)),
            Err(FilesystemError::Contradiction { .. })
        ));
        let blank = Ends { head: vec![0; END], first_byte: None };
        assert!(matches!(judge(&ext4, &blank, &node(GIB)), Err(FilesystemError::Contradiction { .. })));
        assert!(matches!(judge(&Answer::Nothing, &xfs(262_144, 0), &node(GIB)).unwrap(), Content::Other(_)));
    }

    #[test]
    fn a_partition_table_beside_a_file_system_is_no_volume_of_ours() {
        let found = says("TYPE=xfs\nUSAGE=filesystem\nPTTYPE=dos\n");
        assert!(matches!(judge(&found, &xfs(262_144, 0), &node(GIB)).unwrap(), Content::Other(_)));
        let pool = says("TYPE=zfs_member\nUSAGE=filesystem\n");
        let content = judge(&pool, &Ends { head: vec![1; END], first_byte: Some(0) }, &node(GIB)).unwrap();
        assert_eq!(content, Content::Other("a member of a ZFS pool".to_owned()));
    }

    #[test]
    fn only_a_blank_device_is_permitted_and_remains_only_to_who_holds_the_record() {
        let probed = |content| Probed { content, number: crate::device::DeviceNumber::FILE, size: GIB };
        let found = Content::Filesystem(Found { fs: FsType::Xfs, uuid: None, size: GIB });
        for (content, blank, interrupted) in [
            (Content::Blank, true, true),
            (Content::Unfinished(FsType::Ext4), false, true),
            (Content::Unknown("bytes".to_owned()), false, true),
            (found, false, false),
            (Content::Other("swap space".to_owned()), false, false),
        ] {
            let probed = probed(content);
            assert_eq!(probed.permit_blank(&node(GIB)).is_ok(), blank, "{probed:?}");
            assert_eq!(probed.permit_interrupted(&node(GIB)).is_ok(), interrupted, "{probed:?}");
            if let Err(error) = probed.permit_blank(&node(GIB)) {
                assert!(error.to_string().contains(&probed.content.to_string()), "{error}");
            }
        }
    }
}
