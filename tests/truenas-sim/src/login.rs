//! API keys: who they belong to, when they are refused or revoked, and how often one may try.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::failure::{EBUSY, Failure};

/// The window of the rate limit.
const WINDOW: Duration = Duration::from_secs(60);

/// Keys and the rate limit.
#[derive(Debug)]
pub(crate) struct Login {
    calls: Mutex<BTreeMap<(String, IpAddr), VecDeque<Instant>>>,
    rate: usize,
}

impl Login {
    pub fn new(rate: usize) -> Self {
        Self { calls: Mutex::default(), rate }
    }

    /// Counts an unauthenticated call of this method from this address; over the limit it is refused.
    pub async fn admit(&self, method: &str, peer: IpAddr) -> Result<(), Failure> {
        let now = Instant::now();
        let over = {
            let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
            let seen = calls.entry((method.to_owned(), peer)).or_default();
            while seen.front().is_some_and(|at| now.duration_since(*at) > WINDOW) {
                seen.pop_front();
            }
            seen.push_back(now);
            seen.len() > self.rate
        };
        if over {
            return Err(Failure::call(EBUSY, "Rate Limit Exceeded"));
        }
        Ok(())
    }

    /// Forgets what was counted, as a restart does.
    pub fn reset(&self) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Whether two secrets are equal, in time that does not depend on where they differ.
pub(crate) fn same_secret(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |seen, (x, y)| seen | (x ^ y)) == 0
}

/// Checks the form of an API key: `<digits>-<secret>`.
pub(crate) fn is_api_key(key: &str) -> bool {
    key.split_once('-').is_some_and(|(id, secret)| {
        !id.is_empty()
            && id.bytes().all(|b| b.is_ascii_digit())
            && secret.len() >= 8
            && !secret.contains(char::is_whitespace)
    })
}
