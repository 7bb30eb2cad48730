//! The kubelet root as a descriptor, and places below it.
//!
//! Every path is opened with `openat2(2)`, `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS`, from the
//! root's descriptor: a link planted on the way is an error, not a detour. All calls here block (a dead mount on the
//! way may hold them for long): run them through [`crate::work`].

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use super::shape::{PathError, VolumePath};
use crate::device::DeviceNumber;

/// What lies at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Nothing.
    Absent,
    /// A directory without entries.
    EmptyDirectory,
    /// A directory with entries.
    Directory,
    /// A regular file of no length.
    EmptyFile,
    /// A regular file with data.
    File,
    /// A block special file of this number.
    BlockDevice(DeviceNumber),
    /// Anything else: a symbolic link, a socket.
    Other,
}

impl Contents {
    /// In words, for messages.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Absent => "nothing".to_owned(),
            Self::EmptyDirectory => "an empty directory".to_owned(),
            Self::Directory => "a directory that is not empty".to_owned(),
            Self::EmptyFile => "an empty file".to_owned(),
            Self::File => "a file with data".to_owned(),
            Self::BlockDevice(number) => format!("block device {}:{}", number.major, number.minor),
            Self::Other => "a link or special file".to_owned(),
        }
    }
}

/// The kubelet root, opened once.
#[derive(Debug)]
pub struct KubeletRoot {
    descriptor: OwnedFd,
    real: PathBuf,
}

impl KubeletRoot {
    /// Opens the configured root. The root itself may be reached through links (distributions move it); below it none
    /// is followed.
    ///
    /// # Errors
    /// When it is not a directory that can be opened.
    pub fn open(configured: &Path) -> io::Result<Self> {
        let real = configured.canonicalize()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(&real, flags, Mode::empty())?;
        Ok(Self { descriptor, real })
    }

    /// The root as the mount table shows it: absolute, without links.
    #[must_use]
    pub fn real(&self) -> &Path {
        &self.real
    }

    /// `path` as the mount table shows it.
    #[must_use]
    pub fn real_path(&self, path: &VolumePath) -> PathBuf {
        self.real.join(path.relative())
    }

    /// Opens the directory in which `path` lies.
    ///
    /// # Errors
    /// [`PathError`] when it does not exist, is not a directory, or a link is on the way.
    pub fn place(&self, path: &VolumePath) -> Result<Place, PathError> {
        let parent = path.parent();
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent.as_path() };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat2(&self.descriptor, parent, flags, Mode::empty(), resolve()) {
            Ok(descriptor) => {
                let real = self.real_path(path);
                Ok(Place { parent: descriptor, name: path.name().to_owned(), field: path.field(), real })
            }
            Err(errno) => {
                let shown = self.real_path(path).display().to_string();
                let fault = match errno {
                    Errno::NOENT => "has no parent directory; the caller makes it".to_owned(),
                    Errno::LOOP => "leads through a symbolic link".to_owned(),
                    Errno::NOTDIR => "leads through something that is not a directory".to_owned(),
                    Errno::XDEV => "leaves the kubelet root".to_owned(),
                    errno => format!("cannot be opened: {errno}"),
                };
                Err(PathError::new(path.field(), &shown, fault))
            }
        }
    }
}

/// How every path below the root is resolved. `O_NOFOLLOW` must not join `O_PATH` here: together they open a link
/// itself (openat2(2)), where `RESOLVE_NO_SYMLINKS` alone refuses it.
fn resolve() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

/// One place: an opened directory and a name in it.
#[derive(Debug)]
pub struct Place {
    parent: OwnedFd,
    name: String,
    field: &'static str,
    real: PathBuf,
}

impl Place {
    /// The place as the mount table shows it.
    #[must_use]
    pub fn real(&self) -> &Path {
        &self.real
    }

    /// A path for calls that take no descriptor (`umount2`): resolved by the kernel from the opened directory, so it
    /// cannot be redirected.
    #[must_use]
    pub fn through_descriptor(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{}", self.parent.as_raw_fd(), self.name))
    }

    /// An error about this place.
    #[must_use]
    pub fn refuse(&self, fault: impl Into<String>) -> PathError {
        PathError::new(self.field, &self.real.display().to_string(), fault)
    }

    /// What lies here; the root of a mount when one is attached.
    ///
    /// # Errors
    /// Of `statx(2)` or reading the directory.
    pub fn contents(&self) -> io::Result<Contents> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let status = match rustix::fs::statx(&self.parent, &self.name, flags, StatxFlags::BASIC_STATS) {
            Ok(status) => status,
            Err(Errno::NOENT) => return Ok(Contents::Absent),
            Err(errno) => return Err(errno.into()),
        };
        Ok(match FileType::from_raw_mode(u32::from(status.stx_mode)) {
            FileType::Directory if self.is_empty_directory()? => Contents::EmptyDirectory,
            FileType::Directory => Contents::Directory,
            FileType::RegularFile if status.stx_size == 0 => Contents::EmptyFile,
            FileType::RegularFile => Contents::File,
            FileType::BlockDevice => Contents::BlockDevice(DeviceNumber {
                major: status.stx_rdev_major,
                minor: status.stx_rdev_minor,
            }),
            _ => Contents::Other,
        })
    }

    fn is_empty_directory(&self) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = self.open_with(flags)?;
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut entries = RawDir::new(directory, &mut buffer);
        while let Some(entry) = entries.next() {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a mount is attached exactly here, as the kernel says (`STATX_ATTR_MOUNT_ROOT`).
    ///
    /// # Errors
    /// Of `statx(2)`; absence is `Ok(false)`.
    pub fn is_mount_root(&self) -> io::Result<bool> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        match rustix::fs::statx(&self.parent, &self.name, flags, StatxFlags::TYPE) {
            Ok(status) => Ok(status.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Opens what lies here as a reference (`O_PATH`); the root of a mount when one is attached.
    ///
    /// # Errors
    /// Of `openat2(2)`; a link is `ELOOP`.
    pub fn open(&self) -> io::Result<OwnedFd> {
        self.open_with(OFlags::PATH | OFlags::CLOEXEC)
    }

    fn open_with(&self, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat2(&self.parent, &self.name, flags, Mode::empty(), resolve())?)
    }

    /// Makes an empty directory, mode 0750.
    ///
    /// # Errors
    /// Of `mkdirat(2)`; something already there is an error.
    pub fn make_directory(&self) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.parent, &self.name, Mode::from_raw_mode(0o750))?)
    }

    /// Makes an empty regular file, mode 0640, onto which a device node can be bound.
    ///
    /// # Errors
    /// Of `mknodat(2)`; something already there is an error.
    pub fn make_file(&self) -> io::Result<()> {
        let mode = Mode::from_raw_mode(0o640);
        Ok(rustix::fs::mknodat(&self.parent, &self.name, FileType::RegularFile, mode, 0)?)
    }

    /// Removes an empty directory or an empty file that is no mount point; anything else is left alone.
    ///
    /// # Errors
    /// When something else lies here, or of `unlinkat(2)`.
    pub fn remove_empty(&self) -> io::Result<()> {
        if self.is_mount_root()? {
            return Err(io::Error::other("a file system is mounted there"));
        }
        match self.contents()? {
            Contents::Absent => Ok(()),
            Contents::EmptyDirectory => {
                Ok(rustix::fs::unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR)?)
            }
            Contents::EmptyFile => Ok(rustix::fs::unlinkat(&self.parent, &self.name, AtFlags::empty())?),
            other => Err(io::Error::other(format!("found {} there; it is left alone", other.describe()))),
        }
    }
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::shape::Layout;
    use super::*;

    struct Host {
        _directory: tempfile::TempDir,
        root: KubeletRoot,
        layout: Layout,
    }

    impl Host {
        fn new() -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().canonicalize().expect("its real path");
            fs::create_dir(path.join("t")).expect("the parent");
            let layout = Layout::new(&path, "tns.csi.io", &["t".to_owned()]).expect("a layout");
            Self { root: KubeletRoot::open(&path).expect("a root"), layout, _directory: directory }
        }

        fn place(&self, below: &str) -> Result<Place, PathError> {
            let text = self.root.real().join("t").join(below);
            let path = self.layout.target(text.to_str().expect("text"), false)?;
            self.root.place(&path.0)
        }
    }

    #[test]
    fn a_link_on_the_way_is_refused() {
        let host = Host::new();
        symlink("/etc", host.root.real().join("t/link")).expect("a link");
        let error = host.place("link/passwd").expect_err("through a link");
        assert!(error.to_string().contains("symbolic link"), "{error}");
        let place = host.place("link").expect("its directory is fine");
        assert_eq!(place.contents().expect("contents"), Contents::Other);
        assert!(place.open().is_err());
        assert!(place.remove_empty().is_err());
    }

    #[test]
    fn a_missing_parent_is_named() {
        let error = Host::new().place("missing/x").expect_err("no parent");
        assert!(error.to_string().contains("no parent directory"), "{error}");
    }

    #[test]
    fn t2_only_empty_nodes_are_removed() {
        let host = Host::new();
        let place = host.place("volume").expect("a place");
        assert_eq!(place.contents().expect("contents"), Contents::Absent);
        place.remove_empty().expect("absent is fine");
        place.make_directory().expect("made");
        assert!(place.make_directory().is_err(), "what exists is not made again");
        assert_eq!(place.contents().expect("contents"), Contents::EmptyDirectory);
        let data = place.real().join("data");
        fs::write(&data, "x").expect("data");
        assert_eq!(place.contents().expect("contents"), Contents::Directory);
        assert!(place.remove_empty().is_err());
        assert!(data.exists(), "peer T2: nothing is removed recursively");
        fs::remove_file(&data).expect("removed");
        place.remove_empty().expect("an empty directory goes");
        place.make_file().expect("made");
        assert_eq!(place.contents().expect("contents"), Contents::EmptyFile);
        fs::write(place.real(), "x").expect("data");
        assert!(place.remove_empty().is_err());
        assert_eq!(fs::read(place.real()).expect("still there"), b"x");
    }
}
