//! The volume's node: what gets formatted, mounted or bound.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::{DeviceError, DeviceIdentity, DeviceNumber};

/// The node through which a volume is used, as it was at one look. A device-mapper node may take the place of the
/// namespace's own: users of this value do not care.
///
/// The value grows old: number and path are right only while the device exists. Whoever acts on it opens it with
/// [`open`](Self::open) or [`open_exclusive`](Self::open_exclusive), which check again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeNode {
    /// The node below the device directory.
    pub path: PathBuf,
    /// Its number.
    pub number: DeviceNumber,
    /// Size in bytes.
    pub size: u64,
    /// The kernel refuses writes to the device.
    pub read_only: bool,
    /// A path to the appliance works: I/O is answered and does not wait.
    pub reachable: bool,
    /// What makes it the volume's.
    pub identity: DeviceIdentity,
}

impl VolumeNode {
    /// A plain file in the place of a device, for tests without privilege.
    ///
    /// # Errors
    /// What the kernel answers about the file.
    pub fn from_file(path: &Path, identity: DeviceIdentity) -> io::Result<Self> {
        let size = path.metadata()?.len();
        let number = DeviceNumber::FILE;
        Ok(Self { path: path.to_owned(), number, size, read_only: false, reachable: true, identity })
    }

    /// Kernel name of the device at this moment (`nvme0n1`).
    #[must_use]
    pub fn kernel_name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Opens the device for reading. Blocking.
    ///
    /// # Errors
    /// [`DeviceError::Changed`] when number or size of what was opened differ from this value.
    pub fn open(&self) -> Result<File, DeviceError> {
        self.open_with(OFlag::empty())
    }

    /// Opens the device for reading, for us alone: while the file is open the kernel lets nobody mount the device or
    /// open it exclusively, and the open fails while somebody does. Blocking.
    ///
    /// # Errors
    /// [`DeviceError::InUse`] when somebody holds it, else as [`open`](Self::open).
    pub fn open_exclusive(&self) -> Result<File, DeviceError> {
        self.open_with(OFlag::O_EXCL)
    }

    fn open_with(&self, extra: OFlag) -> Result<File, DeviceError> {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | extra;
        let opened = std::fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(&self.path);
        let file = opened.map_err(|source| {
            if source.raw_os_error() == Some(Errno::EBUSY as i32) {
                DeviceError::InUse { path: self.path.clone(), users: Vec::new() }
            } else {
                self.unreadable(source)
            }
        })?;
        self.verify(&file)?;
        Ok(file)
    }

    /// Checks that an open file is this node, with the size it had at the look. Blocking.
    ///
    /// # Errors
    /// [`DeviceError::Changed`] naming the difference.
    pub fn verify(&self, file: &File) -> Result<(), DeviceError> {
        let metadata = file.metadata().map_err(|source| self.unreadable(source))?;
        let kind = metadata.file_type();
        let (number, size) = if kind.is_block_device() {
            let size = node_helper_sys::block::size(file).map_err(|source| self.unreadable(source))?;
            (DeviceNumber::from_rdev(metadata.rdev()), size)
        } else if kind.is_file() {
            (DeviceNumber::FILE, metadata.len())
        } else {
            return Err(self.changed("it is neither a block device nor a file".to_owned()));
        };
        if number != self.number {
            return Err(self.changed(format!("its number is {number}, expected {}", self.number)));
        }
        if size != self.size {
            return Err(self.changed(format!("its size is {size} bytes, expected {}", self.size)));
        }
        Ok(())
    }

    fn changed(&self, found: String) -> DeviceError {
        DeviceError::Changed { path: self.path.clone(), found }
    }

    fn unreadable(&self, source: io::Error) -> DeviceError {
        DeviceError::Unreadable { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::identity;
    use super::*;

    #[test]
    fn a_file_that_changed_since_the_look_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        std::fs::write(&path, [0; 4096]).unwrap();
        let node = VolumeNode::from_file(&path, identity(1)).unwrap();
        node.open_exclusive().unwrap();
        std::fs::write(&path, [0; 8192]).unwrap();
        let error = node.open().unwrap_err();
        assert!(
            matches!(error, DeviceError::Changed { .. }) && error.to_string().contains("8192"),
            "{error}"
        );
    }

    #[test]
    fn another_kind_of_node_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        std::fs::write(&path, [0; 4096]).unwrap();
        let device = VolumeNode {
            number: DeviceNumber { major: 259, minor: 1 },
            ..VolumeNode::from_file(&path, identity(1)).unwrap()
        };
        assert!(matches!(device.open().unwrap_err(), DeviceError::Changed { .. }));
        let character = VolumeNode { path: "/dev/null".into(), ..device.clone() };
        assert!(matches!(character.open().unwrap_err(), DeviceError::Changed { .. }));
    }

    #[test]
    fn a_link_in_the_place_of_the_node_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        std::fs::write(&path, [0; 4096]).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let node = VolumeNode::from_file(&link, identity(1)).unwrap();
        assert!(node.open().is_err());
    }
}
