//! Whether a mount answers, and what it says about its usage.
//!
//! A dead server or device can hold a caller for ever, so who asks gives a deadline and learns "silent". ext4 answers
//! `statfs` from memory after its device is gone: for block volumes the device's identity decides, not this.

use std::io;

use rustix::io::Errno;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::paths::Place;
use crate::work;

/// Usage of a file system, in bytes and inodes, as `statfs(2)` counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in all.
    pub total: u64,
    /// Bytes in use.
    pub used: u64,
    /// Bytes an unprivileged user can still write.
    pub available: u64,
    /// Inodes in all; 0 where the file system does not count them.
    pub inodes: u64,
    /// Inodes that are free.
    pub inodes_free: u64,
}

/// What a mount's root said.
#[derive(Debug)]
pub enum Answer {
    /// It answered.
    Alive(Usage),
    /// It is gone: the server knows the handle no more, or the device is shut down.
    Dead(io::Error),
    /// No answer until the deadline; it may come back.
    Silent,
}

/// Asks the mount at `place`.
///
/// # Errors
/// `Internal`, for an answer that says nothing about life (no permission, no descriptor left).
pub async fn ask(place: Place, deadline: Instant) -> Result<Answer, Failure> {
    let shown = place.real().display().to_string();
    let outcome = work::observe("asking the mount", deadline, move || usage(&place)).await?;
    match outcome {
        None => Ok(Answer::Silent),
        Some(Ok(usage)) => Ok(Answer::Alive(usage)),
        Some(Err(error)) if is_dead(&error) => Ok(Answer::Dead(error)),
        Some(Err(error)) => Err(Failure::internal(format!("asking the mount at {shown}: {error}"))),
    }
}

fn usage(place: &Place) -> io::Result<Usage> {
    let root = place.open()?;
    let found = rustix::fs::fstatfs(&root)?;
    // The kernel gives block counts as unsigned numbers in signed fields on some architectures.
    let unit = u64::try_from(found.f_frsize).ok().filter(|size| *size > 0);
    let unit = unit.or_else(|| u64::try_from(found.f_bsize).ok()).unwrap_or(0);
    let total = found.f_blocks.saturating_mul(unit);
    Ok(Usage {
        total,
        used: total.saturating_sub(found.f_bfree.saturating_mul(unit)),
        available: found.f_bavail.saturating_mul(unit),
        inodes: found.f_files,
        inodes_free: found.f_ffree,
    })
}

/// Answers that only a mount gives whose other end is gone.
fn is_dead(error: &io::Error) -> bool {
    let dead = [
        Errno::STALE,
        Errno::IO,
        Errno::NODEV,
        Errno::NXIO,
        Errno::NOTCONN,
        Errno::SHUTDOWN,
        Errno::HOSTDOWN,
        Errno::UCLEAN,
    ];
    error.raw_os_error().is_some_and(|code| dead.iter().any(|errno| errno.raw_os_error() == code))
}
