//! The kernel's NFS server: exports, start and stop.
//!
//! The rule it keeps: the file of exports is written whole and `exportfs -r` makes the kernel match it. A new server
//! leaves its grace period at once: nothing has locks to reclaim in a guest that is thrown away, and the first open
//! would wait 90 s.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::command::run;
use crate::backend::{BackendError, NfsExport, NfsSecurity, Refusal, Result};

/// Kernel threads of the server.
const THREADS: &str = "8";
/// exportfs reads every file of this directory that ends in `.exports`.
const EXPORTS: &str = "/etc/exports.d/truenas.exports";
/// Ends the grace period of the server.
const GRACE: &str = "/proc/fs/nfsd/v4_end_grace";
/// When the caches that hold file systems were flushed last.
const CACHES: &[&str] = &["/proc/net/rpc/nfsd.export/flush", "/proc/net/rpc/nfsd.fh/flush"];

/// How long a change waits until the caches can be flushed again: the second of the last flush, and a busy machine.
const SECOND: Duration = Duration::from_secs(5);

/// The server of this machine.
#[derive(Debug)]
pub(super) struct Server {
    exports: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    mountd: Option<Child>,
    /// What the running server exports.
    applied: Option<String>,
}

impl Server {
    pub(super) fn new() -> Self {
        Self { exports: PathBuf::from(EXPORTS), state: Mutex::default() }
    }

    /// Serves exactly these exports, or nothing.
    pub(super) fn apply(&self, running: bool, exports: &[NfsExport]) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let text = if running { render(exports) } else { String::new() };
        if running && state.applied.as_ref() == Some(&text) {
            return Ok(());
        }
        state.applied = None;
        if let Some(directory) = self.exports.parent() {
            fs::create_dir_all(directory).map_err(|error| failed("making", directory, &error))?;
        }
        fs::write(&self.exports, &text).map_err(|error| failed("writing", &self.exports, &error))?;
        if !running {
            return stop(&mut state.mountd);
        }
        if state.mountd.is_none() {
            start(&mut state.mountd)?;
        }
        let deadline = Instant::now() + SECOND;
        while !flushable() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        run("exportfs", &["-r"])?;
        state.applied = Some(text);
        Ok(())
    }

    /// Empties the kernel's caches of exports once more. What is still exported is asked for again when it is used next.
    pub(super) fn let_go(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.mountd.is_some() && flushable() {
            // A refusal shows in that the file system stays busy.
            let _unknown = run("exportfs", &["-f"]);
        }
    }
}

/// Whether a flush of the caches that hold file systems takes effect. The kernel (`write_flush` of
/// `net/sunrpc/cache.c`) moves the time of a flush one second on when two fall into one second, and cleans nothing
/// before that time has come: flushes in quick succession put each other off, and what is exported no more stays in
/// use.
fn flushable() -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    CACHES.iter().all(|cache| fs::read_to_string(cache).is_ok_and(|flush| passed(&flush, now)))
}

/// Whether the time of a cache's last flush, in seconds of the Unix epoch as its file says it, lies before this second.
fn passed(flush: &str, now: u64) -> bool {
    flush.trim().parse::<u64>().is_ok_and(|flush| flush < now)
}

fn start(mountd: &mut Option<Child>) -> Result<()> {
    run("rpc.nfsd", &[THREADS])?;
    let child = Command::new("rpc.mountd")
        .args(["--foreground", "--no-nfs-version", "2", "--no-nfs-version", "3"])
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| {
            BackendError::new(Refusal::Other, format!("rpc.mountd cannot be started: {error}"))
        })?;
    *mountd = Some(child);
    match fs::write(GRACE, "Y") {
        // The kernel skips the grace period by itself when no client is known from before, and then has none to end.
        Err(error) if error.kind() != std::io::ErrorKind::ResourceBusy => {
            Err(failed("writing", Path::new(GRACE), &error))
        }
        _ => Ok(()),
    }
}

fn stop(mountd: &mut Option<Child>) -> Result<()> {
    run("exportfs", &["-r"])?;
    run("rpc.nfsd", &["0"])?;
    if let Some(mut child) = mountd.take() {
        // An error means that it has ended by itself.
        let _ended = child.kill();
        let _status = child.wait();
    }
    Ok(())
}

/// The text of the file of exports: one line per path, one client list per host and network.
fn render(exports: &[NfsExport]) -> String {
    let mut paths: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for export in exports {
        let options = options(export);
        let mut clients: Vec<&str> =
            export.hosts.iter().chain(&export.networks).map(String::as_str).collect();
        if clients.is_empty() {
            clients.push("*");
        }
        let line = paths.entry(&export.path).or_default();
        line.extend(clients.into_iter().map(|client| format!("{client}({options})")));
    }
    paths.into_iter().fold(String::new(), |mut text, (path, clients)| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{} {}", quoted(path), clients.join(" "));
        text
    })
}

/// exports(5): a path may stand in quotes, with octal escapes.
fn quoted(path: &str) -> String {
    let escaped: String = path
        .chars()
        .map(|letter| match letter {
            '"' | '\\' => format!("\\{:03o}", letter as u32),
            other => other.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

/// Options as TrueNAS renders them: asynchronous never, squashing from `maproot` and `mapall`.
fn options(export: &NfsExport) -> String {
    let mut options = vec!["sync".to_owned(), "no_subtree_check".to_owned()];
    if !export.security.is_empty() {
        let names: Vec<&str> = export.security.iter().map(|security| name(*security)).collect();
        options.push(format!("sec={}", names.join(":")));
    }
    options.push(if export.read_only { "ro" } else { "rw" }.to_owned());
    let (user, group) = if export.mapall.0.is_some() {
        options.push("all_squash".to_owned());
        &export.mapall
    } else {
        &export.maproot
    };
    let uid = user.as_deref().map(|user| id("/etc/passwd", user));
    let gid = group.as_deref().map(|group| id("/etc/group", group));
    if export.mapall.0.is_none() && uid == Some(0) && gid == Some(0) {
        options.push("no_root_squash".to_owned());
    } else {
        options.extend(uid.map(|uid| format!("anonuid={uid}")));
        options.extend(gid.map(|gid| format!("anongid={gid}")));
    }
    options.join(",")
}

fn name(security: NfsSecurity) -> &'static str {
    match security {
        NfsSecurity::Sys => "sys",
        NfsSecurity::Krb5 => "krb5",
        NfsSecurity::Krb5i => "krb5i",
        NfsSecurity::Krb5p => "krb5p",
    }
}

/// Number of a user or group by the local database; the API layer has checked that it exists, `nobody` otherwise.
fn id(database: &str, name: &str) -> u32 {
    if name == "root" {
        return 0;
    }
    let text = fs::read_to_string(database).unwrap_or_default();
    let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = lines.find_map(|fields| match fields.as_slice() {
        [first, _, number, ..] if *first == name => number.parse().ok(),
        _ => None,
    });
    found.unwrap_or(65534)
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> BackendError {
    BackendError::new(Refusal::Other, format!("{what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(path: &str) -> NfsExport {
        NfsExport {
            id: 1,
            path: path.into(),
            read_only: false,
            hosts: Vec::new(),
            networks: Vec::new(),
            maproot: (None, None),
            mapall: (None, None),
            security: Vec::new(),
        }
    }

    #[test]
    fn an_export_that_names_nobody_in_particular_is_for_everyone() {
        assert_eq!(render(&[export("/mnt/tank/a")]), "\"/mnt/tank/a\" *(sync,no_subtree_check,rw)\n");
    }

    #[test]
    fn root_keeps_its_power_only_with_user_and_group_root() {
        let root = |user: Option<&str>, group: Option<&str>| {
            let mut export = export("/mnt/tank/a");
            export.maproot = (user.map(str::to_owned), group.map(str::to_owned));
            options(&export)
        };
        assert!(root(Some("root"), Some("root")).ends_with("rw,no_root_squash"));
        assert!(root(Some("root"), None).ends_with("rw,anonuid=0"));
        assert!(root(None, None).ends_with("rw"));
    }

    #[test]
    fn shares_of_one_path_are_one_line() {
        let mut one = export("/mnt/tank/a b\"c");
        one.hosts = vec!["192.0.2.1".into()];
        let mut two = one.clone();
        two.hosts = vec![];
        two.networks = vec!["198.51.100.0/24".into()];
        two.read_only = true;
        assert_eq!(
            render(&[one, two]),
            "\"/mnt/tank/a b\\042c\" 192.0.2.1(sync,no_subtree_check,rw) \
             198.51.100.0/24(sync,no_subtree_check,ro)\n"
        );
    }

    #[test]
    fn a_flush_whose_time_has_not_come_is_not_put_off_again() {
        assert!(passed("1764320000\n", 1_764_320_001));
        assert!(!passed("1764320001\n", 1_764_320_001));
        assert!(!passed("1764320002\n", 1_764_320_001));
        assert!(!passed("", 1_764_320_001));
    }

    #[test]
    fn nothing_exported_is_an_empty_file() {
        assert_eq!(render(&[]), "");
    }
}
