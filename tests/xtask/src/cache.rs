//! Where the guest's root and virtme-ng are kept between runs, and the lock that keeps two builds apart.
//!
//! Rule: an entry exists under its final name only when it is complete. It is made under another name beside it and
//! renamed, so an aborted build is never used.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

/// The project's cache: `$XDG_CACHE_HOME/tns-csi`, by default `~/.cache/tns-csi`.
pub struct Cache {
    directory: PathBuf,
    _lock: File,
}

impl Cache {
    /// Opens the cache and waits for another task that is filling it.
    pub fn open() -> anyhow::Result<Self> {
        let directory = directory()?;
        fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        let path = directory.join("lock");
        let lock = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
        if lock.try_lock().is_err() {
            println!("waiting for another task that is filling {}", directory.display());
            lock.lock().with_context(|| format!("locking {}", path.display()))?;
        }
        Ok(Self { directory, _lock: lock })
    }

    /// Path of the entry `kind` made by `recipe`: another recipe is another entry.
    pub fn entry(&self, kind: &str, recipe: &str) -> PathBuf {
        let digest = Sha256::digest(recipe.as_bytes());
        let hash: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        self.directory.join(format!("{kind}-{hash}"))
    }

    /// A path beside `entry` for a build in progress; what an aborted one left there is removed by `remove`.
    pub fn partial(entry: &Path, remove: impl Fn(&Path) -> anyhow::Result<()>) -> anyhow::Result<PathBuf> {
        let mut name = entry.file_name().context("a cache entry has a name")?.to_os_string();
        name.push(".partial");
        let partial = entry.with_file_name(name);
        if partial.symlink_metadata().is_ok() {
            remove(&partial)?;
        }
        Ok(partial)
    }
}

fn directory() -> anyhow::Result<PathBuf> {
    let base = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if Path::new(&cache).is_absolute() => PathBuf::from(cache),
        (_, Some(home)) if Path::new(&home).is_absolute() => PathBuf::from(home).join(".cache"),
        _ => bail!(
            "neither XDG_CACHE_HOME nor HOME is an absolute path: set one, the lab's guest is kept there"
        ),
    };
    let directory = base.join("tns-csi");
    // vng builds a shell line from its paths without quoting them.
    if directory.to_str().is_none_or(|text| text.contains(char::is_whitespace)) {
        bail!("{} contains a blank, which virtme-ng cannot take: set XDG_CACHE_HOME", directory.display());
    }
    Ok(directory)
}
