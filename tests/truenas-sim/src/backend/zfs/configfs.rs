//! Reading and changing configfs, with errors that name the file and never a secret.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::backend::{BackendError, Refusal, Result};

/// Names in a directory, ordered; none when it does not exist.
pub(super) fn entries(directory: &Path) -> Result<Vec<String>> {
    let found = match fs::read_dir(directory) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("reading", directory, &error)),
    };
    let mut names: Vec<String> = found
        .filter_map(std::result::Result::ok)
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

pub(super) fn unlink_others(directory: &Path, keep: &BTreeSet<&str>) -> Result<()> {
    for name in entries(directory)? {
        if !keep.contains(name.as_str()) {
            let path = directory.join(name);
            fs::remove_file(&path).map_err(|error| failed("unlinking", &path, &error))?;
        }
    }
    Ok(())
}

pub(super) fn link(to: &Path, at: &Path) -> Result<()> {
    if at.symlink_metadata().is_ok() {
        return Ok(());
    }
    std::os::unix::fs::symlink(to, at).map_err(|error| failed("linking", at, &error))
}

pub(super) fn make_directory(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(failed("making", path, &error))
        }
        _ => Ok(()),
    }
}

pub(super) fn remove_directory(path: &Path) -> Result<()> {
    fs::remove_dir(path).map_err(|error| failed("removing", path, &error))
}

pub(super) fn read(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).map_err(|error| failed("reading", path, &error))?;
    Ok(text.trim_end_matches('\n').to_owned())
}

pub(super) fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).map_err(|error| failed(&format!("writing {value:?} to"), path, &error))
}

/// As [`change`], but the value never shows in an error.
pub(super) fn write_secret(path: &Path, value: &str) -> Result<()> {
    if read(path).is_ok_and(|present| present == value) {
        return Ok(());
    }
    fs::write(path, value).map_err(|error| failed("writing", path, &error))
}

/// Writes only what differs: enabling twice or renaming a live subsystem is an error.
pub(super) fn change(path: &Path, value: &str) -> Result<()> {
    if read(path)? == value { Ok(()) } else { write(path, value) }
}

pub(super) fn failed(what: &str, path: &Path, error: &std::io::Error) -> BackendError {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => Refusal::Missing,
        std::io::ErrorKind::InvalidInput => Refusal::Invalid,
        std::io::ErrorKind::ResourceBusy => Refusal::Busy,
        _ => Refusal::Other,
    };
    BackendError::new(kind, format!("{what} {}: {error}", path.display()))
}
