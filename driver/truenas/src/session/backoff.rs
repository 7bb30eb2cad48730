//! Pauses between connection attempts and the number of logins per minute.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::options::Reconnect;

/// Logins of this client within [`LOGIN_WINDOW`]. The appliance allows 20 per address and method, and other clients
/// may share the address.
const LOGINS: usize = 10;
const LOGIN_WINDOW: Duration = Duration::from_secs(60);

/// `delay` shortened at random by up to one half, so that clients do not come back in step.
pub(crate) fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(rand::random_range(0.5..=1.0))
}

/// Doubling pauses.
#[derive(Debug)]
pub(super) struct Backoff {
    limits: Reconnect,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(limits: Reconnect) -> Self {
        Self { limits, failures: 0 }
    }

    /// Number of the attempt that begins.
    pub(super) fn attempt(&self) -> u32 {
        self.failures.saturating_add(1)
    }

    /// The pause after a failure.
    pub(super) fn next(&mut self) -> Duration {
        let factor = 2u32.saturating_pow(self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        jittered(self.limits.first.saturating_mul(factor).min(self.limits.max))
    }

    /// A login succeeded.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Keeps the logins below the appliance's limit, also when connections end right after each login.
#[derive(Debug, Default)]
pub(super) struct LoginBudget(VecDeque<Instant>);

impl LoginBudget {
    pub(super) fn used(&mut self, logins: u32) {
        for _ in 0..logins {
            self.0.push_back(Instant::now());
        }
        while self.0.len() > LOGINS {
            self.0.pop_front();
        }
    }

    /// How long to wait before the next connection may log in; the fallback may need two logins.
    pub(super) fn pause(&self) -> Duration {
        let now = Instant::now();
        let recent = self.0.iter().filter(|t| now.duration_since(**t) < LOGIN_WINDOW).count();
        if recent + 2 <= LOGINS {
            return Duration::ZERO;
        }
        // Logins age out in order: the one whose ageing makes room for two more.
        let freeing = self.0.len().saturating_sub(recent) + (recent + 2 - LOGINS) - 1;
        self.0.get(freeing).map_or(LOGIN_WINDOW, |t| LOGIN_WINDOW.saturating_sub(now.duration_since(*t)))
    }

    pub(super) async fn wait(&self) {
        tokio::time::sleep(self.pause()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_one_to_thirty_seconds() {
        let mut backoff = Backoff::new(Reconnect::default());
        for seconds in [1u64, 2, 4, 8, 16, 30, 30, 30] {
            let pause = backoff.next();
            let full = Duration::from_secs(seconds);
            assert!(pause <= full && pause >= full / 2, "{pause:?} for {full:?}");
        }
        for _ in 0..100 {
            assert!(backoff.next() <= Duration::from_secs(30));
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn logins_never_exceed_ten_in_a_minute() {
        let mut budget = LoginBudget::default();
        let mut logins: Vec<Instant> = Vec::new();
        for round in 0..200u32 {
            tokio::time::sleep(budget.pause()).await;
            let used = 1 + round % 2;
            budget.used(used);
            logins.extend((0..used).map(|_| Instant::now()));
            let now = Instant::now();
            let recent = logins.iter().filter(|t| now.duration_since(**t) < LOGIN_WINDOW).count();
            assert!(recent <= LOGINS, "{recent} in round {round}");
        }
    }
}
