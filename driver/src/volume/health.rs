//! What is wrong with a volume: a list of entries, and the one sentence that CSI has room for.
//!
//! The rule it keeps: an entry is something that was seen, with its status, a reason for machines and words for people.
//! A note says what an operator should know of a volume that works; it makes no volume abnormal.

use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// The data cannot be reached now.
    Inaccessible,
    /// Data is lost.
    DataLoss,
    /// It works, but worse than it should.
    Degraded,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Inaccessible => "INACCESSIBLE",
            Status::DataLoss => "DATA_LOSS",
            Status::Degraded => "DEGRADED",
        })
    }
}

/// One thing that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How bad it is; none for a note.
    pub status: Option<Status>,
    /// One CamelCase word.
    pub reason: &'static str,
    /// For people: which object, what was found.
    pub message: String,
}

impl Entry {
    /// Something that is wrong.
    #[must_use]
    pub fn new(status: Status, reason: &'static str, message: impl Into<String>) -> Self {
        Entry { status: Some(status), reason, message: message.into() }
    }

    /// Something to know of a volume that works.
    #[must_use]
    pub fn note(reason: &'static str, message: impl Into<String>) -> Self {
        Entry { status: None, reason, message: message.into() }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "{status} {}: {}", self.reason, self.message),
            None => write!(f, "{}: {}", self.reason, self.message),
        }
    }
}

/// Whether something is wrong, and everything in words (CSI 1.12, `VolumeCondition`).
#[must_use]
pub fn condition(entries: &[Entry]) -> (bool, String) {
    let abnormal = entries.iter().any(|e| e.status.is_some());
    let all: Vec<String> = entries.iter().map(ToString::to_string).collect();
    let healthy = "the volume and its export are there and served".to_owned();
    match (abnormal, all.is_empty()) {
        (_, true) => (false, healthy),
        (true, false) => (true, all.join("; ")),
        (false, false) => (false, format!("{healthy}; {}", all.join("; "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_told_and_is_not_abnormal() {
        let note = Entry::note("NotFenced", "open to 10.0.0.0/8");
        let (abnormal, words) = condition(std::slice::from_ref(&note));
        assert!(!abnormal && words.contains("NotFenced: open to 10.0.0.0/8"), "{words}");
        let gone = Entry::new(Status::Inaccessible, "ShareMissing", "no share");
        assert_eq!(
            condition(&[gone, note]),
            (true, "INACCESSIBLE ShareMissing: no share; NotFenced: open to 10.0.0.0/8".to_owned())
        );
        assert!(!condition(&[]).0);
    }
}
