//! Where what is built from Go is kept, outside the clone: `$XDG_CACHE_HOME/tns-csi`, by default `~/.cache/tns-csi`.
//!
//! Rule: an entry has its final name only when it is complete; it is made beside it and renamed. The name carries a
//! hash of all that determines the content, so an entry never goes stale.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

/// A hash for entry names: 16 hexadecimal digits of SHA-256 over the parts, each with its length before it.
#[must_use]
pub fn key(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The cached file `name`; `make` writes it to the path that it is given when it is not there. Another process that
/// makes the same file is waited for.
///
/// # Errors
/// No place for a cache, or what `make` reports.
pub fn file(name: &str, make: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<PathBuf> {
    let directory = directory()?;
    let path = directory.join(name);
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let lock_path = directory.join(format!("{name}.lock"));
    let lock = File::create(&lock_path).with_context(|| format!("making {}", lock_path.display()))?;
    lock.lock().with_context(|| format!("locking {}", lock_path.display()))?;
    // Another process may have made it while this one waited.
    if !path.exists() {
        let partial = directory.join(format!("{name}.partial"));
        remove(&partial)?;
        make(&partial)?;
        fs::rename(&partial, &path).with_context(|| format!("naming {}", path.display()))?;
    }
    Ok(path)
}

fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = match path.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    removed.with_context(|| format!("removing {}, which an aborted build left", path.display()))
}

fn directory() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    match (absolute("XDG_CACHE_HOME"), absolute("HOME")) {
        (Some(cache), _) => Ok(cache.join("tns-csi")),
        (None, Some(home)) => Ok(home.join(".cache/tns-csi")),
        (None, None) => {
            bail!("neither XDG_CACHE_HOME nor HOME is an absolute path: set one, csi-sanity is kept there")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::key;

    #[test]
    fn a_key_depends_on_every_part_and_on_their_borders() {
        assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
        assert_ne!(key(&["a", "b"]), key(&["ab", ""]));
        assert_ne!(key(&["a", "b"]), key(&["b", "a"]));
        assert_eq!(key(&[]).len(), 16);
    }
}
