//! Reading sysfs attributes: absent is an answer, unreadable is an error.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::DeviceError;

/// Value of an attribute without its newline; `None` when the attribute or its device is gone.
///
/// A device may vanish between listing and reading: `ENOENT` before the open, `ENODEV` or `ENXIO` after it.
pub(crate) fn attribute(path: &Path) -> Result<Option<String>, DeviceError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).trim_end().to_owned())),
        Err(error) if is_gone(&error) => Ok(None),
        Err(source) => Err(DeviceError::Unreadable { path: path.to_owned(), source }),
    }
}

/// Content of a binary attribute; `None` when the attribute or its device is gone, or the device gave no such page
/// (the kernel answers EINVAL or nothing then).
pub(crate) fn bytes(path: &Path) -> Result<Option<Vec<u8>>, DeviceError> {
    match std::fs::read(path) {
        Ok(bytes) if bytes.is_empty() => Ok(None),
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(source) => Err(DeviceError::Unreadable { path: path.to_owned(), source }),
    }
}

/// Names in a directory, sorted; empty when it is absent (a class directory appears with its module).
pub(crate) fn names(directory: &Path) -> Result<Vec<String>, DeviceError> {
    let unreadable = |source| DeviceError::Unreadable { path: directory.to_owned(), source };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(source) => return Err(unreadable(source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        // Kernel names are ASCII; another name is none of ours.
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Name of the directory that a link leads to (`device` → `nvme-subsys0`); `None` when it is gone.
pub(crate) fn target_name(link: &Path) -> Result<Option<String>, DeviceError> {
    match link.canonicalize() {
        Ok(path) => Ok(path.file_name().map(|name| name.to_string_lossy().into_owned())),
        Err(error) if is_gone(&error) => Ok(None),
        Err(source) => Err(DeviceError::Unreadable { path: PathBuf::from(link), source }),
    }
}

fn is_gone(error: &io::Error) -> bool {
    const GONE: [i32; 3] = [Errno::ENOENT as i32, Errno::ENODEV as i32, Errno::ENXIO as i32];
    error.raw_os_error().is_some_and(|code| GONE.contains(&code))
}
