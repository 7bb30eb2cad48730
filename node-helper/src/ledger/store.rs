//! The ledger's files: written whole, made durable, read strictly.
//!
//! A file is written beside the old one, synced, renamed over it, and the directory synced: after a crash there is the
//! old record or the new one. A file that cannot be read as a record is refused by name; nothing is guessed from it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::record::{FORM, Record};
use crate::failure::{Failure, Kind};
use crate::source::VolumeId;
use crate::work::until_free;

/// A record is a few hundred bytes and one line per target; a file beyond this is none.
const MAX_FILE: u64 = 1 << 20;
const SUFFIX: &str = "json";

/// Why the ledger does not answer.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Reading or writing failed.
    #[error("ledger file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The file is not a record of the form this helper writes.
    #[error(
        "ledger file {} cannot be used: {fault}. Nothing was done. Find out what is mounted for this volume, then \
         restore or remove the file", path.display()
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// Another helper works with the same directory.
    #[error("state directory {} is in use by another helper", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        let kind = match &error {
            LedgerError::Io { .. } => Kind::Internal,
            LedgerError::Unusable { .. } | LedgerError::Locked { .. } => Kind::FailedPrecondition,
        };
        Self::new(kind, error.to_string())
    }
}

/// The ledger of one state directory; exclusive while it lives.
#[derive(Debug)]
pub struct Ledger {
    directory: PathBuf,
    _lock: File,
}

impl Ledger {
    /// Opens the ledger in `<state>/volumes`, making the directory (mode 0700) when absent.
    ///
    /// # Errors
    /// When the directory cannot be made or another process holds it.
    pub fn open(state: &Path) -> Result<Self, LedgerError> {
        let directory = state.join("volumes");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .and_then(|()| File::open(state)?.sync_all())
            .map_err(|source| io_error(&directory, source))?;
        let path = state.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| io_error(&path, source))?;
        // A program that a dead helper was just starting holds a copy of the lock for a moment.
        let free = until_free(|error| matches!(error, fs::TryLockError::WouldBlock), || lock.try_lock());
        match free {
            Ok(()) => Ok(Self { directory, _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(LedgerError::Locked { path: state.to_owned() }),
            Err(fs::TryLockError::Error(source)) => Err(io_error(&path, source)),
        }
    }

    /// The record of a volume; `None` when there is none.
    ///
    /// # Errors
    /// When the file cannot be read or is no record of this volume.
    pub fn read(&self, volume: &VolumeId) -> Result<Option<Record>, LedgerError> {
        let path = self.path(volume);
        let Some(record) = read_file(&path)? else { return Ok(None) };
        if record.volume_id != volume.as_str() {
            let fault =
                format!("it is about volume {:?}, its name about {:?}", record.volume_id, volume.as_str());
            return Err(LedgerError::Unusable { path, fault });
        }
        Ok(Some(record))
    }

    /// Makes `record` the volume's durable record.
    ///
    /// # Errors
    /// When it could not be made durable; the old record stands then.
    pub fn write(&self, volume: &VolumeId, record: &Record) -> Result<(), LedgerError> {
        let path = self.path(volume);
        let fresh = path.with_extension("new");
        let text = serde_json::to_vec_pretty(record).map_err(|error| io_error(&path, error.into()))?;
        let written = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&fresh)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&fresh, &path))
            .and_then(|()| self.sync());
        written.map_err(|source| io_error(&path, source))
    }

    /// Removes the volume's record.
    ///
    /// # Errors
    /// When the removal could not be made durable; absence is no error.
    pub fn remove(&self, volume: &VolumeId) -> Result<(), LedgerError> {
        let path = self.path(volume);
        match fs::remove_file(&path) {
            Ok(()) => self.sync().map_err(|source| io_error(&path, source)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(io_error(&path, source)),
        }
    }

    /// Every record, and the errors of the files that are none.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<(Vec<Record>, Vec<LedgerError>), LedgerError> {
        let unreadable = |source| io_error(&self.directory, source);
        let mut records = Vec::new();
        let mut errors = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_none_or(|extension| extension != SUFFIX) {
                continue;
            }
            match read_file(&path) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        records.sort_by(|a, b| a.volume_id.cmp(&b.volume_id));
        Ok((records, errors))
    }

    fn path(&self, volume: &VolumeId) -> PathBuf {
        self.directory.join(volume.hash()).with_extension(SUFFIX)
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

fn io_error(path: &Path, source: io::Error) -> LedgerError {
    LedgerError::Io { path: path.to_owned(), source }
}

fn read_file(path: &Path) -> Result<Option<Record>, LedgerError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error(path, source)),
    };
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text).map_err(|source| io_error(path, source))?;
    let unusable = |fault: String| LedgerError::Unusable { path: path.to_owned(), fault };
    /// The one field that every form has.
    #[derive(serde::Deserialize)]
    struct Form {
        form: u32,
    }
    let form: Form = serde_json::from_slice(&text)
        .map_err(|error| unusable(format!("it is torn or foreign ({error}, {} bytes)", text.len())))?;
    if form.form != FORM {
        return Err(unusable(format!("it has form {}, this helper knows form {FORM}", form.form)));
    }
    serde_json::from_slice(&text).map(Some).map_err(|error| unusable(format!("it is not a record ({error})")))
}

#[cfg(test)]
mod tests {
    use super::super::record::{Access, Published, RecordedSource};
    use super::*;

    fn volume() -> VolumeId {
        VolumeId::parse("tank/k8s/pvc-1").expect("a plain id")
    }

    fn record() -> Record {
        let source = RecordedSource::Nfs { device: "192.0.2.7:/mnt/tank/a".to_owned(), port: 2049 };
        let access =
            Access::Filesystem { fs_type: "nfs".to_owned(), options: vec![], readonly: false, group: None };
        let mut record = Record::staging(&volume(), source, "csi/stage".to_owned(), access);
        record.published.push(Published {
            target: "pods/a/mount".to_owned(),
            options: vec![],
            readonly: true,
            exclusive: false,
            device: None,
        });
        record
    }

    #[test]
    fn a_record_survives_and_goes() {
        let state = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::open(state.path()).expect("a ledger");
        assert_eq!(ledger.read(&volume()).expect("nothing yet"), None);
        ledger.write(&volume(), &record()).expect("written");
        drop(ledger);
        let ledger = Ledger::open(state.path()).expect("a ledger");
        assert_eq!(ledger.read(&volume()).expect("read"), Some(record()));
        assert_eq!(ledger.list().expect("a list").0, [record()]);
        ledger.remove(&volume()).expect("removed");
        ledger.remove(&volume()).expect("absent is fine");
        assert!(ledger.list().expect("a list").0.is_empty());
    }

    #[test]
    fn torn_unknown_and_misnamed_files_are_refused_by_name() {
        let state = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::open(state.path()).expect("a ledger");
        let path = ledger.path(&volume());
        let whole = serde_json::to_string(&record()).expect("text");
        let other = whole.replace("pvc-1", "pvc-2");
        let newer = whole.replace("\"form\":1", "\"form\":2");
        let unknown = whole.replace("\"form\":1", "\"form\":1,\"surprise\":true");
        let torn = &whole[..whole.len() / 2];
        for text in ["", "{", torn, other.as_str(), newer.as_str(), unknown.as_str()] {
            fs::write(&path, text).expect("written");
            let error = ledger.read(&volume()).expect_err("refused");
            assert!(error.to_string().contains(path.to_str().expect("text")), "{error}");
            assert_eq!(Failure::from(error).kind, Kind::FailedPrecondition);
            assert_eq!(
                fs::read_to_string(&path).expect("still there"),
                text,
                "a refused file is left as it is"
            );
        }
    }

    #[test]
    fn a_half_written_replacement_leaves_the_old_record() {
        let state = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::open(state.path()).expect("a ledger");
        ledger.write(&volume(), &record()).expect("written");
        fs::write(ledger.path(&volume()).with_extension("new"), "{\"form\":").expect("a torn replacement");
        assert_eq!(ledger.read(&volume()).expect("read"), Some(record()));
        assert_eq!(ledger.list().expect("a list").0.len(), 1);
        ledger.write(&volume(), &record()).expect("the torn file is in nobody's way");
    }

    #[test]
    fn two_helpers_never_share_a_state_directory() {
        let state = tempfile::tempdir().expect("a directory");
        let _first = Ledger::open(state.path()).expect("a ledger");
        assert!(matches!(Ledger::open(state.path()), Err(LedgerError::Locked { .. })));
    }
}
