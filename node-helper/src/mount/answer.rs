//! Whether a mount answers, and what it says about its usage.
//!
//! A dead server or device can hold a caller for ever, so who asks gives a deadline and learns "silent". The thread that
//! asked stays in the kernel then; so a mount is asked once at a time, who asks again joins, and all questions together
//! leave threads for everybody else: a server that is silent for days costs one thread per mount, not one per question.
//!
//! ext4 answers `statfs` from memory after its device is gone: for block volumes the device's identity decides, not this.

use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::failure::{Failure, Kind};
use crate::paths::Place;
use crate::registry::Registry;
use crate::work;

/// Most threads that questions may hold: a quarter of the process's blocking pool.
const AT_ONCE: usize = 128;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It answered.
    Alive(Usage),
    /// It is gone: the server knows the handle no more or refuses this host, or the device is shut down. In words.
    Dead(String),
    /// No answer until the deadline; it may come back.
    Silent,
}

/// The questions that are on their way.
#[derive(Debug)]
pub struct Questions {
    running: Registry<String, Answer>,
    slots: Arc<Semaphore>,
}

impl Default for Questions {
    fn default() -> Self {
        Self { running: Registry::default(), slots: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Questions {
    /// Asks the mount with this id (as in mountinfo) at `place`.
    ///
    /// # Errors
    /// `Internal`, for an answer that says nothing about life (no descriptor left).
    pub async fn ask(&self, place: Place, mount: i32, deadline: Instant) -> Result<Answer, Failure> {
        let shown = place.real().display().to_string();
        // With the id: what is mounted there anew is not judged by the silence of what was there before.
        let key = format!("mount {mount} at {shown}");
        self.put(key, deadline, move || match usage(&place) {
            Ok(usage) => Ok(Answer::Alive(usage)),
            // The SMB client's word for a server that is away: it reconnects by itself, so the mount is kept.
            Err(error) if error.raw_os_error() == Some(Errno::HOSTDOWN.raw_os_error()) => Ok(Answer::Silent),
            Err(error) if is_dead(&error) => Ok(Answer::Dead(error.to_string())),
            Err(error) => Err(Failure::internal(format!("asking the mount at {shown}: {error}"))),
        })
        .await
    }

    /// Puts one question, or joins the same one.
    async fn put(
        &self,
        key: String,
        deadline: Instant,
        question: impl FnOnce() -> Result<Answer, Failure> + Send + 'static,
    ) -> Result<Answer, Failure> {
        let slots = Arc::clone(&self.slots);
        let work = async move {
            // The semaphore is never closed; without a slot the question is put all the same.
            let _slot = slots.acquire_owned().await.ok();
            work::run("asking the mount", question).await?
        };
        match self.running.run(&key, "asking", Vec::new(), deadline, work).await {
            Err(failure) if failure.kind == Kind::DeadlineExceeded => Ok(Answer::Silent),
            outcome => outcome,
        }
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

/// Answers that only a mount gives whose other end is gone, or has taken this host's access back.
fn is_dead(error: &io::Error) -> bool {
    let dead = [
        Errno::ACCESS,
        Errno::PERM,
        Errno::STALE,
        Errno::IO,
        Errno::NODEV,
        Errno::NXIO,
        Errno::NOTCONN,
        Errno::SHUTDOWN,
        Errno::UCLEAN,
    ];
    error.raw_os_error().is_some_and(|code| dead.iter().any(|errno| errno.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const ALIVE: Answer = Answer::Alive(Usage { total: 1, used: 0, available: 1, inodes: 0, inodes_free: 0 });

    fn shortly() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    #[tokio::test]
    async fn c6_hung_mounts_a_silent_server_holds_one_thread_however_often_it_is_asked() {
        let questions = Questions::default();
        let (answer, silence) = mpsc::channel::<()>();
        let put = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&put);
        let first = questions.put("dead".to_owned(), shortly(), move || {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ended = silence.recv();
            Ok(ALIVE)
        });
        assert_eq!(first.await, Ok(Answer::Silent));
        for _ in 0..3 {
            let counted = Arc::clone(&put);
            let again = questions.put("dead".to_owned(), shortly(), move || {
                counted.fetch_add(1, Ordering::SeqCst);
                Ok(ALIVE)
            });
            assert_eq!(again.await, Ok(Answer::Silent));
        }
        assert_eq!(put.load(Ordering::SeqCst), 1);
        let later = Instant::now() + Duration::from_secs(20);
        assert_eq!(questions.put("other".to_owned(), later, || Ok(ALIVE)).await, Ok(ALIVE));
        drop(answer);
        assert_eq!(questions.put("dead".to_owned(), later, || Ok(ALIVE)).await, Ok(ALIVE));
    }

    #[test]
    fn a_server_that_took_the_access_back_is_gone_and_a_lack_of_descriptors_says_nothing() {
        for errno in [Errno::STALE, Errno::IO, Errno::ACCESS, Errno::PERM] {
            assert!(is_dead(&errno.into()), "{errno}");
        }
        assert!(!is_dead(&Errno::HOSTDOWN.into()), "an SMB server that is away comes back");
        assert!(!is_dead(&Errno::MFILE.into()) && !is_dead(&Errno::NOMEM.into()));
    }
}
