//! How many requests are taken: a caller that runs wild must not keep the host's helper busy.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::failure::Failure;

/// Requests that may come at once.
const BURST: u32 = 1000;
/// Requests per second after that.
const PER_SECOND: u32 = 200;

/// A token bucket over all connections.
#[derive(Debug)]
pub struct Rate(Mutex<Bucket>);

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Rate {
    /// A full bucket.
    pub fn new() -> Self {
        Self(Mutex::new(Bucket { tokens: f64::from(BURST), filled: Instant::now() }))
    }

    /// Takes one token.
    ///
    /// # Errors
    /// `Unavailable` when there is none: nothing was done, the caller comes again.
    pub fn admit(&self) -> Result<(), Failure> {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let elapsed: Duration = now.saturating_duration_since(bucket.filled);
        bucket.filled = now;
        bucket.tokens = (bucket.tokens + elapsed.as_secs_f64() * f64::from(PER_SECOND)).min(f64::from(BURST));
        if bucket.tokens < 1.0 {
            return Err(Failure::unavailable(format!(
                "more than {PER_SECOND} requests per second reach this helper; try again later"
            )));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_recovers() {
        let rate = Rate::new();
        let admitted = (0..BURST + 500).filter(|_| rate.admit().is_ok()).count();
        assert!(admitted >= BURST as usize && admitted < BURST as usize + 400, "{admitted}");
        rate.0.lock().expect("whole").filled -= Duration::from_secs(1);
        assert!(rate.admit().is_ok());
    }
}
