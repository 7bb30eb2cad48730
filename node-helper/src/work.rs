//! Blocking kernel work, off the runtime.
//!
//! A system call on a dead mount or device may never return. So none is made on the runtime's thread, and who waits
//! for one says what a missing answer means.

use std::time::Duration;

use tokio::time::Instant;

use crate::failure::Failure;

/// Runs `job` on the blocking pool and waits until it ends, however long that takes.
///
/// The operation holds its volume until the outcome is known, and callers that ran out of time join it later: a thread
/// that hangs in the kernel cannot be taken back, so nobody starts a second one beside it.
///
/// # Errors
/// Internal, when the job could not be run.
pub async fn run<T, F>(what: &str, job: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    tokio::task::spawn_blocking(job).await.map_err(|error| {
        Failure::internal(format!("{what}: the work ended without an answer ({error}); see the helper's log"))
    })
}

/// Pauses between attempts at something that another process may hold for a moment: 5 ms doubling to 640 ms, 1.3 s in
/// all.
///
/// A process that is just being started holds copies of every open descriptor until it executes its program, and so
/// keeps a device "in use" that was closed here. One that is really in use stays so.
pub fn pauses() -> impl Iterator<Item = Duration> {
    (0..8).map(|step| Duration::from_millis(5 << step))
}

/// Repeats a blocking `attempt` with [`pauses`] as long as its error is `busy`.
///
/// # Errors
/// The last attempt's.
pub fn until_free<T, E>(
    busy: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    for pause in pauses() {
        match attempt() {
            Err(error) if busy(&error) => std::thread::sleep(pause),
            outcome => return outcome,
        }
    }
    attempt()
}

/// The earlier of `deadline` and `limit` from this moment on.
#[must_use]
pub fn at_most(deadline: Instant, limit: Duration) -> Instant {
    Instant::now().checked_add(limit).map_or(deadline, |own| own.min(deadline))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_busy_for_a_moment_is_tried_again_and_nothing_else_is() {
        let mut left = 2;
        let outcome = until_free(
            |busy| *busy,
            || {
                left -= 1;
                if left == 0 { Ok(()) } else { Err(true) }
            },
        );
        assert_eq!((outcome, left), (Ok(()), 0));
        let mut attempts = 0;
        let outcome: Result<(), bool> = until_free(
            |busy| *busy,
            || {
                attempts += 1;
                Err(false)
            },
        );
        assert_eq!((outcome, attempts), (Err(false), 1));
    }
}
