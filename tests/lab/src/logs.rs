//! Where the programs under test leave their logs and report that they are ready.

use std::path::{Path, PathBuf};

use harness::process::Places;

use crate::guest::RUN;

/// Directory of the logs: shared with the host.
const LOGS: &str = "/lab/logs";
/// The programs that this one starts.
const PROGRAMS: &[&str] = &["controller", "node", "node-helper", "truenas-sim"];
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

/// The end of every program's log, for people.
pub fn log_tails() -> String {
    harness::log::tails(Path::new(LOGS), PROGRAMS, TAIL)
}
