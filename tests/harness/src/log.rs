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

/// The ends of those logs of the programs called `names` that exist, each with its path.
#[must_use]
pub fn tails(logs: &Path, names: &[&str], bytes: usize) -> String {
    let paths = names.iter().map(|name| log_path(logs, name)).filter(|path| path.exists());
    paths.map(|path| format!("---- the end of {}\n{}\n", path.display(), tail(&path, bytes))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_survives_a_cut_character_and_a_missing_file() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(log_path(directory.path(), "a"), "grün\n").unwrap();
        assert_eq!(tail(&log_path(directory.path(), "a"), 3), "\u{fffd}n\n");
        assert!(tail(&log_path(directory.path(), "b"), 3).contains("cannot be read"));
        let tails = tails(directory.path(), &["a", "b"], 100);
        assert!(tails.contains("a.log\ngrün\n") && !tails.contains("b.log"), "{tails}");
    }
}
