//! Waiting for a state with a deadline.

use std::time::{Duration, Instant};

use anyhow::bail;

/// First pause between two looks.
const FIRST: Duration = Duration::from_millis(5);
/// Longest pause between two looks.
const LONGEST: Duration = Duration::from_millis(200);

/// Looks again, with growing pauses, until `look` says yes; an error after `deadline` or when `look` fails.
pub async fn until(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let end = Instant::now() + deadline;
    let mut pause = FIRST;
    while !look()? {
        if Instant::now() >= end {
            bail!("{what} did not come within {} s", deadline.as_secs());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
    Ok(())
}
