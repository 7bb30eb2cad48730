//! The kernel's side of NVMe over fabrics: the fabrics device and the controllers' attributes.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::options::OptionLine;

/// What the helper asks of the kernel. Every call blocks, a connect for as long as the kernel tries.
pub trait Fabrics: Send + Sync + 'static {
    /// Makes a path; gives back the kernel's line about the new controller.
    ///
    /// # Errors
    /// The kernel's error number.
    fn connect(&self, options: &OptionLine) -> io::Result<String>;

    /// Writes a controller's attribute in sysfs.
    ///
    /// # Errors
    /// The kernel's error number; `NotFound` when the controller is gone.
    fn write_attribute(&self, attribute: &Path, value: &str) -> io::Result<()>;
}

/// The real thing: `/dev/nvme-fabrics` and sysfs.
#[derive(Debug, Clone)]
pub struct FabricsDevice {
    path: PathBuf,
}

impl FabricsDevice {
    /// The device at `path`.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

impl Fabrics for FabricsDevice {
    /// One write of the whole line connects; a read from the same descriptor then tells which controller it became
    /// (`drivers/nvme/host/fabrics.c`, `nvmf_dev_write`, `nvmf_dev_show`). Closing the descriptor keeps the path.
    fn connect(&self, options: &OptionLine) -> io::Result<String> {
        let mut device = std::fs::OpenOptions::new().read(true).write(true).open(&self.path)?;
        let line = options.as_str().as_bytes();
        // The kernel takes a line only in one piece, so a write that stops half-way is an error and not a beginning.
        if device.write(line)? != line.len() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the kernel took only part of the options"));
        }
        let mut reply = [0_u8; 256];
        let length = device.read(&mut reply)?;
        Ok(String::from_utf8_lossy(reply.get(..length).unwrap_or_default()).into_owned())
    }

    fn write_attribute(&self, attribute: &Path, value: &str) -> io::Result<()> {
        std::fs::OpenOptions::new().write(true).open(attribute)?.write_all(value.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NvmeHost, NvmeTarget, Tuning};
    use super::*;
    use crate::device::NvmeIdentity;
    use crate::device::testing::{nqn, uuid};

    fn line() -> OptionLine {
        let target = NvmeTarget {
            identity: NvmeIdentity { subsystem_nqn: nqn(1), uuid: Some(uuid(1)), nguid: None },
            portals: vec![],
            io_queues: None,
            queue_size: None,
            authentication: None,
        };
        let host = NvmeHost { nqn: nqn(2), id: uuid(2) };
        OptionLine::new(&target, &host, "192.0.2.7:4420".parse().unwrap(), Tuning::default())
    }

    #[test]
    fn the_line_is_written_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nvme-fabrics");
        std::fs::write(&path, "").unwrap();
        let reply = FabricsDevice::new(path.clone()).connect(&line()).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), line().as_str());
        assert_eq!(reply, "", "a plain file has nothing to read behind what was written");
    }

    #[test]
    fn an_absent_device_is_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nvme-fabrics");
        let error = FabricsDevice::new(path.clone()).connect(&line()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let attribute = directory.path().join("delete_controller");
        assert!(FabricsDevice::new(path.clone()).write_attribute(&attribute, "1").is_err());
        assert!(!path.exists() && !attribute.exists());
    }
}
