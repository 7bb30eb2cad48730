//! The caller's deadline, and the longer one of the work itself.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

/// How long a call waits for its work when the caller names no deadline.
const DEFAULT: Duration = Duration::from_secs(60);
/// Longest wait of a call, whatever the caller says.
const MAX: Duration = Duration::from_secs(600);
/// How long work may go on, also after its caller has gone.
const WORK: Duration = Duration::from_secs(120);
/// Answered this much before the caller's deadline, so that the answer still arrives.
const MARGIN: Duration = Duration::from_millis(100);

/// When a call must answer, from the header `grpc-timeout` (gRPC over HTTP/2: up to 8 digits and one of `HMSmun`).
#[must_use]
pub fn of_call(metadata: &MetadataMap) -> Instant {
    let told = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(parse);
    let timeout = told.unwrap_or(DEFAULT).min(MAX);
    let margin = MARGIN.min(timeout / 10);
    Instant::now() + (timeout - margin)
}

/// When work that begins now has to end.
#[must_use]
pub fn of_work() -> Instant {
    Instant::now() + WORK
}

fn parse(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(number * 3600),
        'M' => Duration::from_secs(number * 60),
        'S' => Duration::from_secs(number),
        'm' => Duration::from_millis(number),
        'u' => Duration::from_micros(number),
        'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_header_is_read_in_every_unit() {
        assert_eq!(parse("10S"), Some(Duration::from_secs(10)));
        assert_eq!(parse("2M"), Some(Duration::from_secs(120)));
        assert_eq!(parse("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(parse("14999m"), Some(Duration::from_millis(14999)));
        assert_eq!(parse("99999999u"), Some(Duration::from_micros(99_999_999)));
        assert_eq!(parse("5n"), Some(Duration::from_nanos(5)));
        for text in ["", "S", "10", "+1S", "123456789S", "1x", "1.5S"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
