//! Waiting for a state with a deadline, for states that nobody announces.

use std::time::{Duration, Instant};

use anyhow::bail;

/// First pause between two looks.
const FIRST: Duration = Duration::from_millis(5);
/// Longest pause between two looks.
const LONGEST: Duration = Duration::from_millis(200);

/// Looks again, with growing pauses, until `look` says yes.
///
/// # Errors
/// `look` fails, or the deadline passes.
pub async fn until(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    until_found(what, deadline, async || Ok(look()?.then_some(()))).await
}

/// Looks again, with growing pauses, until `look` finds something.
///
/// # Errors
/// `look` fails, or the deadline passes.
pub async fn until_found<T>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = Instant::now() + deadline;
    let mut pause = FIRST;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("{what} did not come within {} s", deadline.as_secs());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_state_is_found_and_one_that_does_not_come_is_named() {
        let mut looks = 0;
        let found = until_found("three", Duration::from_secs(5), async || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.await.unwrap(), 3);
        let never = until("the device", Duration::ZERO, || Ok(false)).await;
        assert_eq!(never.unwrap_err().to_string(), "the device did not come within 0 s");
    }
}
