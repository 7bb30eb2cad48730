//! Logs of the programs: one file each, their ends for people.

use std::fs;
use std::path::{Path, PathBuf};

/// The log of the program called `name`.
#[must_use]
pub fn log_path(logs: &Path, name: &str) -> PathBuf {
    logs.join(format!("{name}.log"))
}

/// The last `bytes` bytes of a file, for people; what cannot be read is said.
#[must_use]
pub fn tail(path: &Path, bytes: usize) -> String {
    match fs::read(path) {
        Ok(text) => String::from_utf8_lossy(text.get(text.len().saturating_sub(bytes)..).unwrap_or_default())
            .into_owned(),
        Err(error) => format!("cannot be read: {error}"),
    }
}

/// The ends of the logs of the programs called `names`, each with its path.
#[must_use]
pub fn tails(logs: &Path, names: &[&str], bytes: usize) -> String {
    let tail_of = |name: &&str| {
        let path = log_path(logs, name);
        format!("---- the end of {}\n{}\n", path.display(), tail(&path, bytes))
    };
    names.iter().map(tail_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_survives_a_cut_character_and_a_missing_file() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(log_path(directory.path(), "a"), "grün\n").unwrap();
        assert_eq!(tail(&log_path(directory.path(), "a"), 3), "\u{fffd}n\n");
        assert!(tails(directory.path(), &["a", "b"], 100).contains("cannot be read"));
    }
}
