//! The API key: where it comes from and what shape it must have.
//!
//! TrueNAS keys are `<numeric id>-<secret>` (`api_key.create`). The value is held zeroed on drop; no message of this
//! module contains any part of it.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

/// Longest accepted key in bytes; the appliance limits every plain string to 1,024 characters.
const MAX_KEY: usize = 1024;

/// A TrueNAS API key.
///
/// `Debug` shows where it came from, never the value. A key read from a file is read again before each login, so that
/// a rotated Kubernetes Secret takes effect without a restart.
#[derive(Clone)]
pub struct ApiKey {
    secret: SecretString,
    file: Option<PathBuf>,
    stamp: Option<Stamp>,
}

/// Which file was read, and when it was written: device, inode, time of change in seconds and nanoseconds.
type Stamp = (u64, u64, i64, i64);

/// Why a key cannot be used. The value is never part of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The file could not be read.
    #[error("API key file {} cannot be read: {why}", path.display())]
    Unreadable {
        /// The file that was given.
        path: PathBuf,
        /// The operating system's words.
        why: String,
    },
    /// Nothing but white space.
    #[error(
        "the API key{} is empty: put the key shown once by TrueNAS (Credentials > Users > API Keys) there",
        place(file)
    )]
    Empty {
        /// The file, when the key came from one.
        file: Option<PathBuf>,
    },
    /// More than one line.
    #[error("the API key{} has more than one line: it must hold the key alone", place(file))]
    MultipleLines {
        /// The file, when the key came from one.
        file: Option<PathBuf>,
    },
    /// Not `<digits>-<secret>`.
    #[error(
        "the API key{} does not have the form <number>-<secret> (at most {MAX_KEY} visible ASCII characters): copy the \
         whole key that TrueNAS showed, without quotes",
        place(file)
    )]
    Malformed {
        /// The file, when the key came from one.
        file: Option<PathBuf>,
    },
}

fn place(file: &Option<PathBuf>) -> String {
    file.as_ref().map_or_else(String::new, |f| format!(" in {}", f.display()))
}

impl ApiKey {
    /// Takes a key given as text; surrounding white space is removed.
    ///
    /// # Errors
    /// [`KeyError`] when it is empty, spans lines, or is not `<digits>-<secret>`.
    pub fn new(text: &str) -> Result<Self, KeyError> {
        Ok(Self { secret: checked(text, None)?, file: None, stamp: None })
    }

    /// Reads the key from `path` (one line; surrounding white space is removed).
    ///
    /// # Errors
    /// [`KeyError`] when the file cannot be read or does not hold one well-formed key.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        let path = path.as_ref();
        let (secret, stamp) = read(path)?;
        Ok(Self { secret, file: Some(path.to_owned()), stamp: Some(stamp) })
    }

    /// The value, for the login message only.
    pub(crate) fn expose(&self) -> &str {
        self.secret.expose_secret()
    }

    /// Whether the value can change under us (it came from a file).
    pub(crate) fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// Reads the file again. `Ok(true)` when the value changed; a key without a file never changes.
    ///
    /// # Errors
    /// As [`ApiKey::from_file`]; the value held so far stays.
    pub(crate) fn reload(&mut self) -> Result<bool, KeyError> {
        self.look().map(|(value, _)| value)
    }

    /// Reads the file again. `Ok(true)` when it was replaced or written to since, also with the same value: somebody
    /// meant something by that.
    ///
    /// # Errors
    /// As [`ApiKey::from_file`]; the value held so far stays.
    pub(crate) fn file_changed(&mut self) -> Result<bool, KeyError> {
        self.look().map(|(value, file)| value || file)
    }

    /// Reads the file again: whether the value, and whether the file changed.
    fn look(&mut self) -> Result<(bool, bool), KeyError> {
        let Some(path) = &self.file else { return Ok((false, false)) };
        let (fresh, stamp) = read(path)?;
        let value = fresh.expose_secret() != self.secret.expose_secret();
        let file = self.stamp.replace(stamp) != Some(stamp);
        self.secret = fresh;
        Ok((value, file))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("value", &"[redacted]").field("file", &self.file).finish()
    }
}

fn read(path: &Path) -> Result<(SecretString, Stamp), KeyError> {
    let unreadable =
        |why: &dyn fmt::Display| KeyError::Unreadable { path: path.to_owned(), why: why.to_string() };
    // One allocation of the largest accepted size: a buffer that grows would leave copies of the key behind.
    let mut buffer = Zeroizing::new(Vec::with_capacity(4 * MAX_KEY + 1));
    let file = std::fs::File::open(path).map_err(|e| unreadable(&e))?;
    let metadata = file.metadata().map_err(|e| unreadable(&e))?;
    let stamp = (metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
    file.take(4 * MAX_KEY as u64).read_to_end(&mut buffer).map_err(|e| unreadable(&e))?;
    let file = Some(path.to_owned());
    match std::str::from_utf8(&buffer) {
        Ok(text) => checked(text, file).map(|secret| (secret, stamp)),
        Err(_) => Err(KeyError::Malformed { file }),
    }
}

fn checked(text: &str, file: Option<PathBuf>) -> Result<SecretString, KeyError> {
    let key = text.trim();
    if key.is_empty() {
        return Err(KeyError::Empty { file });
    }
    if key.contains(['\n', '\r']) {
        return Err(KeyError::MultipleLines { file });
    }
    let well_formed = key.len() <= MAX_KEY
        && key.bytes().all(|b| b.is_ascii_graphic())
        && key.split_once('-').is_some_and(|(id, secret)| {
            !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()) && !secret.is_empty()
        });
    if !well_formed {
        return Err(KeyError::Malformed { file });
    }
    Ok(SecretString::from(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_around_the_key_is_removed() {
        assert_eq!(ApiKey::new(" 1-abc\n").unwrap().expose(), "1-abc");
        assert_eq!(ApiKey::new("12-a-b").unwrap().expose(), "12-a-b");
    }

    #[test]
    fn bad_keys_are_refused_without_showing_them() {
        let cases = [
            ("", "empty"),
            (" \n\t", "empty"),
            ("1-hushhush\n2-hushhush", "more than one line"),
            ("hushhush", "<number>-<secret>"),
            ("-hushhush", "<number>-<secret>"),
            ("1-", "<number>-<secret>"),
            ("1x-hushhush", "<number>-<secret>"),
            ("\"1-hushhush\"", "<number>-<secret>"),
            ("1-hush hush", "<number>-<secret>"),
            ("1-hüshhush", "<number>-<secret>"),
        ];
        for (text, words) in cases {
            let error = ApiKey::new(text).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
        }
        assert!(ApiKey::new(&format!("1-{}", "a".repeat(MAX_KEY))).is_err());
    }

    #[test]
    fn debug_is_redacted() {
        assert!(!format!("{:?}", ApiKey::new("7-hushhush").unwrap()).contains("hush"));
    }

    #[test]
    fn a_secret_volume_that_swaps_its_links_is_noticed() {
        // As kubelet's atomic writer does: key -> ..data/key, ..data -> ..<time>.
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (version, key) in [("..1", "1-old"), ("..2", "2-new")] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("key"), key).unwrap();
        }
        std::os::unix::fs::symlink("..1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/key", at("key")).unwrap();
        let mut key = ApiKey::from_file(at("key")).unwrap();
        assert_eq!(key.file_changed(), Ok(false));
        std::os::unix::fs::symlink("..2", at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!((key.file_changed(), key.expose()), (Ok(true), "2-new"));
        assert_eq!(key.file_changed(), Ok(false));
    }

    #[test]
    fn a_file_written_again_counts_as_changed_even_with_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "1-same").unwrap();
        let mut key = ApiKey::from_file(&path).unwrap();
        std::fs::write(dir.path().join("fresh"), "1-same").unwrap();
        std::fs::rename(dir.path().join("fresh"), &path).unwrap();
        assert_eq!((key.reload(), key.file_changed()), (Ok(false), Ok(false)), "one look takes note of it");
        std::fs::write(dir.path().join("fresh"), "1-same").unwrap();
        std::fs::rename(dir.path().join("fresh"), &path).unwrap();
        assert_eq!(key.file_changed(), Ok(true));
    }

    #[test]
    fn a_rotated_file_is_noticed_and_a_broken_one_keeps_the_old_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "1-old\n").unwrap();
        let mut key = ApiKey::from_file(&path).unwrap();
        assert_eq!(key.reload(), Ok(false));
        std::fs::write(&path, "2-new\n").unwrap();
        assert_eq!(key.reload(), Ok(true));
        std::fs::write(&path, "").unwrap();
        assert_eq!(key.reload(), Err(KeyError::Empty { file: Some(path.clone()) }));
        assert_eq!(key.expose(), "2-new");
        assert!(matches!(ApiKey::from_file(dir.path().join("none")), Err(KeyError::Unreadable { .. })));
    }
}
