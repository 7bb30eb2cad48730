//! Where the programs under test leave their logs and report that they are ready.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use anyhow::Context;

use harness::process::Places;

use crate::guest::{RUN, output};

/// Directory of the logs: shared with the host.
const LOGS: &str = "/lab/logs";
/// The programs that this one starts, and what the system's daemons say (iscsid, multipathd).
const PROGRAMS: &[&str] = &["controller", "node", "node-helper", "truenas-sim", SYSLOG];
const SYSLOG: &str = "syslog";
/// Where daemons send what they have to say (syslog(3)).
const SYSLOG_SOCKET: &str = "/dev/log";
/// How much of each log is shown after a failure, in bytes.
const TAIL: usize = 4_000;

/// Where programs leave what they need and say.
pub fn places() -> Places {
    Places { logs: PathBuf::from(LOGS), scratch: Path::new(RUN).join("notify") }
}

/// The log of a program.
pub fn log_path(name: &str) -> PathBuf {
    harness::log::log_path(Path::new(LOGS), name)
}

/// The end of every program's log and of the kernel's, for people.
pub fn log_tails() -> String {
    let kernel = output("dmesg", &[]).unwrap_or_else(|error| format!("cannot be read: {error:#}"));
    let cut = kernel.ceil_char_boundary(kernel.len().saturating_sub(TAIL));
    let kernel = kernel.get(cut..).unwrap_or_default();
    format!(
        "{}---- the end of the kernel's log\n{kernel}\n",
        harness::log::tails(Path::new(LOGS), PROGRAMS, TAIL)
    )
}

/// Takes what daemons say into a log, for as long as this program runs.
pub fn collect_syslog() -> anyhow::Result<()> {
    // One that an earlier program left.
    if Path::new(SYSLOG_SOCKET).exists() {
        fs::remove_file(SYSLOG_SOCKET).with_context(|| format!("removing {SYSLOG_SOCKET}"))?;
    }
    let socket =
        UnixDatagram::bind(SYSLOG_SOCKET).with_context(|| format!("listening at {SYSLOG_SOCKET}"))?;
    let path = log_path(SYSLOG);
    let mut log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    std::thread::spawn(move || {
        let mut message = [0; 8192];
        while let Ok(length) = socket.recv(&mut message) {
            let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default()).into_owned();
            if writeln!(log, "{}", text.trim_end_matches(['\n', '\0'])).is_err() {
                break;
            }
        }
    });
    Ok(())
}
