//! How long a call may take, from the caller's gRPC deadline down to the helper's work.
//!
//! The order that is kept: the helper's work ends first and says why, then this process's wait for its answer, then
//! the caller's deadline. So the caller reads the helper's words and not a bare timeout.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// Longest limit the helper takes (helper API: above it is cut), in milliseconds.
const MAX_WORK_MS: u32 = 600_000;
/// What the helper allows itself when the caller sets no deadline (helper API), plus time to answer.
const WITHOUT_DEADLINE: Duration = Duration::from_secs(115);
/// Most time that is kept back from the caller's deadline at each of the two steps.
const MAX_MARGIN: Duration = Duration::from_secs(1);

/// Time left for a call, or none when the caller set no deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimit(Option<Duration>);

impl TimeLimit {
    /// The limit in a request's `grpc-timeout` header (gRPC over HTTP/2: up to 8 digits and one of `HMSmun`). A header
    /// that does not parse counts as absent, as the protocol asks.
    #[must_use]
    pub fn of(metadata: &MetadataMap) -> Self {
        TimeLimit(metadata.get("grpc-timeout").and_then(|value| parse(value.to_str().ok()?)))
    }

    /// A limit of `time` from now.
    #[must_use]
    pub fn within(time: Duration) -> Self {
        TimeLimit(Some(time))
    }

    /// The helper's share in milliseconds, as `timeout_ms`; 0 asks for the helper's own default.
    #[must_use]
    pub fn work_ms(self) -> u32 {
        self.0.map_or(0, |time| {
            let left = time.saturating_sub(2 * margin(time)).as_millis();
            u32::try_from(left).unwrap_or(u32::MAX).clamp(1, MAX_WORK_MS)
        })
    }

    /// How long this process waits for the helper's answer.
    #[must_use]
    pub fn answer_within(self) -> Duration {
        self.0.map_or(WITHOUT_DEADLINE, |time| time.saturating_sub(margin(time)))
    }
}

fn margin(time: Duration) -> Duration {
    (time / 20).min(MAX_MARGIN)
}

fn parse(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(text: &str) -> TimeLimit {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", text.parse().unwrap());
        TimeLimit::of(&metadata)
    }

    #[test]
    fn the_helper_ends_before_this_process_and_this_before_the_caller() {
        for text in ["10S", "2M", "1500m", "99999999S", "40u"] {
            let limit = limit(text);
            let caller = limit.0.unwrap();
            assert!(limit.answer_within() < caller, "{text}");
            assert!(
                Duration::from_millis(limit.work_ms().into()) < limit.answer_within() || limit.work_ms() == 1,
                "{text}"
            );
        }
        assert_eq!(limit("2M").work_ms(), 118_000);
        assert_eq!(limit("99999999S").work_ms(), MAX_WORK_MS);
    }

    #[test]
    fn without_a_deadline_the_helper_decides() {
        let none = TimeLimit::of(&MetadataMap::new());
        assert_eq!((none.work_ms(), none.answer_within()), (0, WITHOUT_DEADLINE));
        for text in ["", "S", "10", "10s", "+1S", "123456789S", "1 S"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
