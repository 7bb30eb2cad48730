//! Writing and reading data on volumes, off the runtime and with a deadline: a dead mount must not hang the lab.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};

/// Time an access to a healthy volume may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// Runs blocking work with a deadline. After the deadline the thread is left behind, as nothing can end it.
pub async fn bounded<T: Send + 'static>(
    what: &str,
    deadline: Duration,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // Not the runtime's pool: its threads are waited for at the end.
    std::thread::spawn(move || {
        let _unheard = sender.send(work());
    });
    let result = tokio::time::timeout(deadline, receiver).await;
    let result = result.with_context(|| format!("{what} hangs for {} s", deadline.as_secs()))?;
    result.with_context(|| format!("the thread for {what} died"))?.with_context(|| what.to_owned())
}

/// Bytes that look random, are the same for the same seed, and do not compress.
pub fn noise(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 32);
    let mut counter = 0_u64;
    while bytes.len() < length {
        let mut block = Sha256::new();
        block.update(seed.as_bytes());
        block.update(counter.to_le_bytes());
        bytes.extend_from_slice(&block.finalize());
        counter += 1;
    }
    bytes.truncate(length);
    bytes
}

/// Writes a file, or the start of a device, and makes it durable.
pub async fn write(path: &Path, bytes: Vec<u8>) -> anyhow::Result<()> {
    let path = path.to_owned();
    bounded(&format!("writing {}", path.display()), DEADLINE, move || {
        let device = path.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir());
        let mut file = File::options().write(true).create(!device).truncate(!device).open(&path)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        Ok(())
    })
    .await
}

/// Reads `length` bytes from the start, past the cache when it is a device, and compares them.
pub async fn verify(path: &Path, expected: Vec<u8>) -> anyhow::Result<()> {
    let path = path.to_owned();
    bounded(&format!("reading {}", path.display()), DEADLINE, move || {
        let mut found = vec![0; expected.len()];
        File::open(&path)?.read_exact(&mut found)?;
        ensure!(found == expected, "the data differ from what was written");
        Ok(())
    })
    .await
}

/// What writing until it fails came to.
#[derive(Debug)]
pub struct Full {
    /// Bytes that were accepted and made durable.
    pub written: u64,
    /// The error that ended it.
    pub error: std::io::Error,
}

/// Writes a file, each piece made durable, until an error or `limit` bytes.
pub async fn write_until_error(path: &Path, limit: u64) -> anyhow::Result<Option<Full>> {
    const PIECE: usize = 8 << 20;
    let path = path.to_owned();
    bounded(&format!("filling {}", path.display()), Duration::from_secs(300), move || {
        let mut file = File::options().write(true).create(true).truncate(true).open(&path)?;
        let piece = noise("fill", PIECE);
        let mut written = 0;
        while written < limit {
            // Without making it durable the quota would show only when the file is closed.
            if let Err(error) = file.write_all(&piece).and_then(|()| file.sync_data()) {
                return Ok(Some(Full { written, error }));
            }
            written += PIECE as u64;
        }
        Ok(None)
    })
    .await
}

/// Writes one block past the page cache: fails at once when the device or server refuses.
pub fn write_direct(path: &Path) -> std::io::Result<()> {
    #[repr(align(4096))]
    struct Block([u8; 4096]);
    let block = Block([0x5a; 4096]);
    let device = path.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir());
    let mut file = File::options()
        .write(true)
        .create(!device)
        .custom_flags(nix::libc::O_DIRECT | nix::libc::O_SYNC)
        .open(path)?;
    file.write_all(&block.0)
}

/// Size of a file or device in bytes.
pub fn size(path: &Path) -> anyhow::Result<u64> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    file.seek(SeekFrom::End(0)).with_context(|| format!("seeking in {}", path.display()))
}

/// Size of the file system at a path in bytes.
pub async fn filesystem_size(path: &Path) -> anyhow::Result<u64> {
    let path: PathBuf = path.to_owned();
    bounded(&format!("statfs of {}", path.display()), DEADLINE, move || {
        let found = nix::sys::statvfs::statvfs(&path)?;
        Ok(found.blocks() * found.fragment_size())
    })
    .await
}
