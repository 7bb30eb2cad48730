//! One append-only file of JSON lines, a line per transaction.
//!
//! A line is a list of `[table, key, value]`, a `null` value being a removal. A line is written with one `write`, so a
//! process killed in the middle leaves at most a torn last line, which is dropped when the file is read again. At
//! start the file is rewritten to its present contents (into a temporary file, then renamed). It promises to survive
//! the end of the process, not the loss of power: it does not wait for the disk.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

/// Name of the journal inside the state directory.
pub const FILE_NAME: &str = "state.jsonl";

/// Everything that was stored: table, key, value.
pub type Tables = BTreeMap<String, BTreeMap<String, Value>>;

/// One change of a transaction.
#[derive(Debug, Clone)]
pub struct Change {
    table: &'static str,
    key: String,
    value: Option<Value>,
}

impl Change {
    /// Stores a value under a key.
    pub fn put(table: &'static str, key: impl Into<String>, value: Value) -> Self {
        Self { table, key: key.into(), value: Some(value) }
    }

    /// Removes a key.
    pub fn remove(table: &'static str, key: impl Into<String>) -> Self {
        Self { table, key: key.into(), value: None }
    }
}

/// The open journal; without a directory it keeps nothing.
#[derive(Debug, Default)]
pub struct Journal {
    file: Mutex<Option<File>>,
    /// Held for the life of the journal: two processes on one state directory would tear it.
    _lock: Option<Flock<File>>,
}

impl Journal {
    /// A journal that keeps nothing (state of this process only).
    pub fn volatile() -> Self {
        Self::default()
    }

    /// Opens the journal in `directory` (made when absent), gives what it holds, and rewrites it compactly.
    pub fn open(directory: &Path) -> anyhow::Result<(Self, Tables)> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make the state directory {}", directory.display()))?;
        let lock_path = directory.join("lock");
        let lock =
            File::create(&lock_path).with_context(|| format!("cannot open {}", lock_path.display()))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
            anyhow::anyhow!(
                "the state directory {} is used by another process ({errno})",
                directory.display()
            )
        })?;
        let path = directory.join(FILE_NAME);
        let tables = match std::fs::read(&path) {
            Ok(bytes) => replay(&bytes).with_context(|| format!("{} cannot be read", path.display()))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Tables::new(),
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        let fresh = directory.join(format!("{FILE_NAME}.new"));
        let mut out = Vec::new();
        for (table, entries) in &tables {
            for (key, value) in entries {
                serde_json::to_writer(&mut out, &[(table, key, Some(value))])?;
                out.push(b'\n');
            }
        }
        std::fs::write(&fresh, &out).with_context(|| format!("cannot write {}", fresh.display()))?;
        std::fs::rename(&fresh, &path).with_context(|| format!("cannot rename to {}", path.display()))?;
        let file = OpenOptions::new().append(true).open(&path)?;
        Ok((Self { file: Mutex::new(Some(file)), _lock: Some(lock) }, tables))
    }

    /// Appends one transaction.
    pub fn commit(&self, changes: &[Change]) -> std::io::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut guard = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = guard.as_mut() else { return Ok(()) };
        let line: Vec<(&str, &str, &Option<Value>)> =
            changes.iter().map(|c| (c.table, c.key.as_str(), &c.value)).collect();
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        file.write_all(&bytes)
    }
}

/// Reads the journal's lines; a torn last line (no newline at its end) is dropped, a bad line before it is an error.
fn replay(bytes: &[u8]) -> anyhow::Result<Tables> {
    let mut tables = Tables::new();
    let whole = match bytes.iter().rposition(|b| *b == b'\n') {
        Some(end) => bytes.get(..end).unwrap_or_default(),
        None => return Ok(tables),
    };
    for (number, line) in whole.split(|b| *b == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let changes: Vec<(String, String, Option<Value>)> = serde_json::from_slice(line)
            .with_context(|| format!("line {} is not a transaction", number + 1))?;
        for (table, key, value) in changes {
            match value {
                Some(value) => tables.entry(table).or_default().insert(key, value),
                None => tables.entry(table).or_default().remove(&key),
            };
        }
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_committed_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, tables) = Journal::open(dir.path()).unwrap();
        assert!(tables.is_empty());
        journal.commit(&[Change::put("a", "1", json!({"x": 1})), Change::put("a", "2", json!(2))]).unwrap();
        journal.commit(&[Change::remove("a", "2")]).unwrap();
        drop(journal);
        let (_, tables) = Journal::open(dir.path()).unwrap();
        assert_eq!(tables["a"], BTreeMap::from([("1".to_owned(), json!({"x": 1}))]));
    }

    #[test]
    fn a_line_torn_by_a_kill_is_dropped_and_the_rest_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE_NAME), "[[\"a\",\"1\",true]]\n[[\"a\",\"2\",tr").unwrap();
        let (_, tables) = Journal::open(dir.path()).unwrap();
        assert_eq!(tables["a"].len(), 1);
    }

    proptest::proptest! {
        /// Wherever a kill cuts the file, whole transactions before the cut are kept and nothing else is made up.
        #[test]
        fn any_cut_keeps_a_prefix_of_the_transactions(count in 1_usize..8, cut in 0.0_f64..1.0) {
            let dir = tempfile::tempdir().unwrap();
            let (journal, _) = Journal::open(dir.path()).unwrap();
            for n in 0..count {
                journal.commit(&[Change::put("a", n.to_string(), json!("x\ny")), Change::put("b", n.to_string(), json!(n))]).unwrap();
            }
            drop(journal);
            let path = dir.path().join(FILE_NAME);
            let bytes = std::fs::read(&path).unwrap();
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let at = (bytes.len() as f64 * cut) as usize;
            std::fs::write(&path, &bytes[..at]).unwrap();
            let (_, tables) = Journal::open(dir.path()).unwrap();
            let kept = bytes[..at].iter().filter(|b| **b == b'\n').count();
            for table in ["a", "b"] {
                proptest::prop_assert_eq!(tables.get(table).map_or(0, BTreeMap::len), kept);
            }
        }
    }

    #[test]
    fn a_bad_line_in_the_middle_is_an_error_and_the_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let text = "garbage\n[[\"a\",\"1\",true]]\n";
        std::fs::write(dir.path().join(FILE_NAME), text).unwrap();
        assert!(Journal::open(dir.path()).is_err());
        assert_eq!(std::fs::read_to_string(dir.path().join(FILE_NAME)).unwrap(), text);
    }

    #[test]
    fn two_processes_do_not_share_a_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Journal::open(dir.path()).unwrap();
        assert!(Journal::open(dir.path()).is_err());
    }
}
