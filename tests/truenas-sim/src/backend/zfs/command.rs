//! Runs `zfs` and its kin and puts their refusals into kinds.

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{BackendError, Refusal, Result};

/// How long the NFS server may take to let go of a file system that is exported no more: a second for each change of
/// the exports that fell into one second, and more where the machine is busy.
const RELEASE: Duration = Duration::from_secs(15);

/// Runs a program without a shell and returns its standard output; a bad end is a refusal in its own words.
pub(super) fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<String> {
    let output = start(program, arguments)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(refusal(&String::from_utf8_lossy(&output.stderr)))
    }
}

/// Runs `zfs`.
pub(super) fn zfs<S: AsRef<OsStr>>(arguments: &[S]) -> Result<String> {
    run("zfs", arguments)
}

/// Runs `zfs` for something that asks for a key, which goes through a pipe and nowhere else.
pub(super) fn zfs_with_key(arguments: &[String], key: &str) -> Result<()> {
    let other =
        |error: std::io::Error| BackendError::new(Refusal::Other, format!("zfs cannot be started: {error}"));
    let mut child = Command::new("zfs")
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(other)?;
    if let Some(mut pipe) = child.stdin.take() {
        // When it has ended already, its words tell why.
        let _ended = pipe.write_all(format!("{key}\n").as_bytes());
    }
    let output = child.wait_with_output().map_err(other)?;
    if output.status.success() { Ok(()) } else { Err(refusal(&String::from_utf8_lossy(&output.stderr))) }
}

/// Runs `zfs` for something that a use of the dataset forbids, and once more after each `release` as long as it is a
/// use that ends by itself: udevd, which opens each zvol that changes to look at it, and the caches of the kernel's NFS
/// server. Another use of a zvol is refused at once, of a file system after [`RELEASE`].
pub(super) fn zfs_busy(arguments: &[String], release: impl Fn()) -> Result<()> {
    let deadline = Instant::now() + RELEASE;
    let mut pause = Duration::from_millis(20);
    let mut settled = false;
    loop {
        match zfs(arguments) {
            Err(error) if error.kind == Refusal::Busy && mounted(&error) && Instant::now() < deadline => {
                release();
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(500));
            }
            Err(error) if error.kind == Refusal::Busy && !settled => {
                settled = true;
                let _unknown = start("udevadm", &["settle", "--timeout=10"]);
            }
            result => return result.map(drop),
        }
    }
}

/// Whether a file system that cannot be unmounted is what was in the way.
fn mounted(error: &BackendError) -> bool {
    error.to_string().contains("cannot unmount")
}

/// Runs `zfs get -j` with these options on these datasets. Names that do not exist are left out, as `zfs.resource.query`
/// does; any other complaint is a refusal. With a missing name `zfs` prints no JSON at all (2.3), so it is asked again
/// without it.
pub(super) fn zfs_get(options: &[&str], names: &[String]) -> Result<String> {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    while !names.is_empty() {
        let output = start("zfs", &[&["get", "-j", "-p"], options, &["all"], &names].concat())?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        let before = names.len();
        names.retain(|name| !errors.lines().any(|line| missing(line) == Some(name)));
        if names.len() == before {
            return Err(refusal(&errors));
        }
    }
    Ok(String::new())
}

/// The name in `cannot open '<name>': dataset does not exist`.
fn missing(line: &str) -> Option<&str> {
    line.strip_prefix("cannot open '")?.strip_suffix("': dataset does not exist")
}

fn start<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<Output> {
    Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|error| BackendError::new(Refusal::Other, format!("{program} cannot be started: {error}")))
}

fn refusal(errors: &str) -> BackendError {
    BackendError::new(kind(errors), errors.trim())
}

/// The kind of refusal that the words of `zfs` mean. The texts come from libzfs (`libzfs_util.c`, `zfs_main.c`).
fn kind(text: &str) -> Refusal {
    const WORDS: &[(&str, Refusal)] = &[
        ("dependent clones", Refusal::HasClones),
        ("not a cloned", Refusal::NotAClone),
        ("dataset does not exist", Refusal::Missing),
        ("parent does not exist", Refusal::Missing),
        ("no such pool", Refusal::Missing),
        ("could not find any snapshots", Refusal::Missing),
        ("already exists", Refusal::Exists),
        ("out of space", Refusal::NoSpace),
        ("dataset is busy", Refusal::Busy),
        ("is busy", Refusal::Busy),
        ("invalid", Refusal::Invalid),
        ("bad property", Refusal::Invalid),
        ("must be", Refusal::Invalid),
        ("too long", Refusal::Invalid),
        ("larger than", Refusal::Invalid),
    ];
    if text.contains("has children") {
        return children_kind(text);
    }
    WORDS.iter().find(|(words, _)| text.contains(words)).map_or(Refusal::Other, |(_, kind)| *kind)
}

/// `has children` is said for child datasets and for snapshots; the list that follows tells which.
fn children_kind(text: &str) -> Refusal {
    let mut listed = text.lines().skip_while(|line| !line.contains("use '-r'")).skip(1).peekable();
    if listed.peek().is_some() && listed.all(|name| name.contains('@')) {
        Refusal::HasSnapshots
    } else {
        Refusal::HasChildren
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_and_children_are_told_apart() {
        let snapshots = "cannot destroy 'tank/a': filesystem has children\nuse '-r' to destroy the following datasets:\n\
                         tank/a@one\ntank/a@two\n";
        let children = "cannot destroy 'tank/a': filesystem has children\nuse '-r' to destroy the following datasets:\n\
                        tank/a/b\ntank/a@one\n";
        assert_eq!(kind(snapshots), Refusal::HasSnapshots);
        assert_eq!(kind(children), Refusal::HasChildren);
        assert_eq!(kind("cannot destroy 'tank/a': volume has children"), Refusal::HasChildren);
    }

    #[test]
    fn the_missing_name_is_found() {
        assert_eq!(missing("cannot open 'tank/a b': dataset does not exist"), Some("tank/a b"));
        assert_eq!(missing("cannot open 'tank/a': pool I/O is suspended"), None);
        assert_eq!(missing(""), None);
    }

    #[test]
    fn the_words_of_zfs_have_kinds() {
        for (text, expected) in [
            ("cannot open 'tank/x': dataset does not exist", Refusal::Missing),
            ("cannot create 'tank/x/y': parent does not exist", Refusal::Missing),
            ("cannot create 'tank/x': dataset already exists", Refusal::Exists),
            ("cannot create 'tank/x': out of space", Refusal::NoSpace),
            ("cannot destroy 'tank/x': dataset is busy", Refusal::Busy),
            ("cannot unmount '/mnt/tank/x': pool or dataset is busy", Refusal::Busy),
            (
                "cannot destroy 'tank/x@s': snapshot has dependent clones\nuse '-R' to destroy the following datasets:\ntank/c",
                Refusal::HasClones,
            ),
            (
                "cannot destroy 'tank/x': filesystem has dependent clones\nuse '-R' to destroy",
                Refusal::HasClones,
            ),
            ("cannot promote 'tank/x': not a cloned filesystem", Refusal::NotAClone),
            ("cannot create 'tank/a b@': invalid character '@' in name", Refusal::Invalid),
            (
                "cannot set property for 'tank/x': 'volsize' must be a multiple of volume block size",
                Refusal::Invalid,
            ),
            ("internal error: something else", Refusal::Other),
            ("", Refusal::Other),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
    }
}
