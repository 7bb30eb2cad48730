//! What the kernel says of a process: proc_pid_status(5).

use std::fs;

use anyhow::Context;
use nix::unistd::Pid;

/// The text of `/proc/<pid>/status` at one moment.
#[derive(Clone, Debug)]
pub struct Status(String);

impl Status {
    /// Of a process.
    ///
    /// # Errors
    /// There is no such process.
    pub fn of(pid: Pid) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/status");
        fs::read_to_string(&path).map(Self).with_context(|| format!("reading {path}"))
    }

    /// A field as it is written, e.g. `Uid` or `CapEff`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        let lines = self.0.lines();
        lines.filter_map(|line| line.split_once(':')).find(|(field, _)| *field == name).map(|(_, v)| v.trim())
    }

    /// Resident memory (`VmRSS`) in bytes; what a container is charged for is close to it.
    ///
    /// # Errors
    /// The process has none any more (it has ended).
    pub fn resident(&self) -> anyhow::Result<u64> {
        let text = self.field("VmRSS").context("no VmRSS: the process has ended")?;
        let kibibytes = text.strip_suffix(" kB").and_then(|number| number.parse::<u64>().ok());
        Ok(kibibytes.with_context(|| format!("VmRSS is {text:?}, expected kB"))? * 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = Status("Name:\tx\nVmRSSX:\t1 kB\nVmRSS:\t    3072 kB\nUid:\t0\t0\t0\t0\n".to_owned());
        assert_eq!(status.resident().unwrap(), 3 << 20);
        assert_eq!(status.field("Uid"), Some("0\t0\t0\t0"));
        assert_eq!(status.field("Rss"), None);
    }

    #[test]
    fn a_process_without_memory_is_told() {
        assert!(Status("Name:\tx\nState:\tZ (zombie)\n".to_owned()).resident().is_err());
        assert!(Status("VmRSS:\t12 MB\n".to_owned()).resident().is_err());
        assert!(Status::of(nix::unistd::getpid()).unwrap().resident().unwrap() > 0);
    }
}
