//! The matrix of runs: each protocol with each way of using a volume that it serves, one after the other against one set
//! of programs, and the checks around them.
//!
//! Rule: besides csi-sanity's own verdict, a run must leave nothing behind: no volume, no path, no mount. And no secret
//! may stand in any program's log.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use harness::control::Control;
use harness::csi::Csi;
use harness::log::log_path;
use tns_csi_proto::csi::v1::ListVolumesRequest;

use crate::appliance;
use crate::programs::{self, Layout, Place, Stand};
use crate::report::Verdict;
use crate::sanity::{Access, Sanity};
use crate::skips::SKIPS;

/// One row of the matrix.
#[derive(Debug)]
pub struct Run {
    /// Name for people and for `--run`.
    pub name: &'static str,
    /// StorageClass parameter `protocol`.
    pub protocol: &'static str,
    /// How volumes are used.
    pub access: Access,
}

/// Every run. Raw block on NFS and SMB does not exist.
pub const RUNS: &[Run] = &[
    Run { name: "nfs/filesystem", protocol: "nfs", access: Access::Filesystem },
    Run { name: "smb/filesystem", protocol: "smb", access: Access::Filesystem },
    Run { name: "iscsi/filesystem", protocol: "iscsi", access: Access::Filesystem },
    Run { name: "iscsi/block", protocol: "iscsi", access: Access::Block },
    Run { name: "nvmeof/filesystem", protocol: "nvmeof", access: Access::Filesystem },
    Run { name: "nvmeof/block", protocol: "nvmeof", access: Access::Block },
];

/// What to run and against what.
#[derive(Debug)]
pub struct Matrix {
    /// The programs and their places.
    pub layout: Layout,
    /// csi-sanity.
    pub sanity: PathBuf,
    /// Names of runs; empty means all.
    pub only: Vec<String>,
    /// Regular expression over spec names: only these run, and the list of skips is not held to account.
    pub focus: Option<String>,
    /// Dataset below which volumes are made; none means the pool itself.
    pub parent: Option<String>,
    /// Time each run may take.
    pub limit: Duration,
}

/// Passed and failed specs and checks of all runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Passed.
    pub passed: usize,
    /// Failed.
    pub failed: usize,
}

impl Matrix {
    /// Runs everything, printing one line per run and, for what failed, what was found with the ends of all logs.
    pub async fn run(&self) -> Count {
        programs::clear_logs(&self.layout);
        let mut count = Count::default();
        let mut rows = BTreeSet::new();
        let mut stand = None;
        for run in
            RUNS.iter().filter(|run| self.only.is_empty() || self.only.iter().any(|name| name == run.name))
        {
            let start = Instant::now();
            let verdict = self.one(run, &mut stand).await;
            let verdict = verdict.unwrap_or_else(|error| Verdict {
                failures: vec![format!("{error:#}")],
                ..Verdict::default()
            });
            println!(
                "{}: {} passed, {} failed, {} skipped as listed, {:.1} min",
                run.name,
                verdict.passed,
                verdict.failures.len(),
                verdict.skipped,
                start.elapsed().as_secs_f64() / 60.0
            );
            self.tell(run.name, &verdict.failures);
            count.passed += verdict.passed;
            count.failed += verdict.failures.len();
            rows.extend(verdict.rows);
        }
        let mut failures = Vec::new();
        if let Some(stand) = stand {
            match appliance::schema_violations(&self.control()).await {
                Ok(Some(violations)) => failures.extend(violations),
                Ok(None) => println!("messages to and from the appliance were not checked: no --schemas"),
                Err(error) => failures.push(format!("{error:#}")),
            }
            failures.extend(stand.stop().await);
        }
        failures.extend(self.secrets_in_logs());
        if self.focus.is_none() && self.only.is_empty() && count.failed == 0 {
            failures.extend(stale_rows(&rows));
        }
        self.tell("after the runs", &failures);
        // Where nothing ran, nothing was shown to hold.
        count.passed += usize::from(failures.is_empty() && count.passed > 0);
        count.failed += failures.len();
        count
    }

    /// One run. The programs go on to the next one unless one of them has ended.
    async fn one(&self, run: &Run, stand: &mut Option<Stand>) -> anyhow::Result<Verdict> {
        let running = match stand {
            Some(running) => running,
            None => stand.insert(Stand::start(&self.layout).await?),
        };
        let sanity = Sanity {
            program: self.sanity.clone(),
            name: run.name.replace('/', "-"),
            parameters: self.parameters(run),
            access: run.access,
            secrets: self.secrets(run),
            focus: self.focus.clone(),
            limit: self.limit,
        };
        let before = self.held().await?;
        let judged = sanity.run(&self.layout).await;
        let dead = running.dead();
        if !dead.is_empty() {
            // The next run starts anew.
            if let Some(rest) = stand.take() {
                rest.kill().await?;
            }
            let mut verdict = judged.unwrap_or_default();
            verdict.failures.insert(0, format!("ended by itself during the run: {}", dead.join(", ")));
            return Ok(verdict);
        }
        let mut verdict = judged?;
        let after = self.held().await?;
        let left: Vec<String> =
            after.difference(&before).map(|name| format!("left behind: {name}")).collect();
        verdict.passed += usize::from(left.is_empty());
        verdict.failures.extend(left);
        Ok(verdict)
    }

    /// What the Secrets of the run's StorageClass hold.
    fn secrets(&self, run: &Run) -> Vec<(&'static str, String)> {
        match run.protocol {
            "smb" => {
                vec![("username", programs::SMB_USER.to_owned()), ("password", self.layout.secret.clone())]
            }
            _ => vec![("conformance", self.layout.secret.clone())],
        }
    }

    fn control(&self) -> Control {
        Control::new(&self.layout.control_socket())
    }

    fn parameters(&self, run: &Run) -> Vec<(&'static str, String)> {
        let mut parameters = vec![
            ("protocol", run.protocol.to_owned()),
            ("pool", self.layout.pool.clone()),
            ("server", "127.0.0.1".to_owned()),
        ];
        parameters.extend(self.parent.iter().map(|parent| ("parentDataset", parent.clone())));
        parameters
    }

    /// All that volumes can leave behind: what the driver lists, what the appliance holds, paths, mounts, connections.
    async fn held(&self) -> anyhow::Result<BTreeSet<String>> {
        let mut held = appliance::contents(&self.control()).await?;
        let mut controller = Csi::new(&self.layout.controller_socket()).controller;
        let volumes =
            controller.list_volumes(ListVolumesRequest::default()).await.context("listing volumes")?;
        let volumes = volumes.into_inner().entries.into_iter().filter_map(|entry| entry.volume);
        held.extend(volumes.map(|volume| format!("volume {}", volume.volume_id)));
        let parent = self.layout.parent();
        for entry in fs::read_dir(&parent).with_context(|| format!("reading {}", parent.display()))? {
            held.insert(format!("path {}", entry.context("reading a directory")?.path().display()));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
        let below = format!("{}/", parent.display());
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        held.extend(points.filter(|point| point.starts_with(&below)).map(|point| format!("mount {point}")));
        if self.layout.place == Place::Lab {
            held.extend(nvme_controllers().into_iter().map(|name| format!("NVMe controller {name}")));
            held.extend(iscsi_leftovers());
        }
        Ok(held)
    }

    /// The logs in which a secret stands.
    fn secrets_in_logs(&self) -> Vec<String> {
        let mut found = Vec::new();
        let key = self.layout.api_key.trim();
        let secrets = [("the API key", key), ("a CSI secret", self.layout.secret.as_str())];
        for name in programs::NAMES {
            let path = log_path(&self.layout.logs, name);
            let Ok(text) = fs::read(&path) else { continue };
            let text = String::from_utf8_lossy(&text);
            for (what, _) in secrets.iter().filter(|(_, secret)| text.contains(secret)) {
                found.push(format!("{} holds {what}", path.display()));
            }
        }
        found
    }

    fn tell(&self, name: &str, failures: &[String]) {
        if failures.is_empty() {
            return;
        }
        for failure in failures {
            println!("-- {name}: {failure}");
        }
        println!("{}", programs::log_tails(&self.layout));
    }
}

/// Rows of the list of skips that no run needed.
fn stale_rows(used: &BTreeSet<usize>) -> Vec<String> {
    let unused = SKIPS.iter().enumerate().filter(|(number, _)| !used.contains(number));
    unused.map(|(_, row)| format!("no run needs this row of the list of skips any more: {row:?}")).collect()
}

/// Kernel names of the NVMe controllers that are connected over TCP.
fn nvme_controllers() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/class/nvme") else { return Vec::new() };
    let over_tcp =
        |path: &PathBuf| fs::read_to_string(path.join("transport")).is_ok_and(|kind| kind.trim() == "tcp");
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(over_tcp);
    paths.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect()
}

/// Sessions of the node's iSCSI initiator, and records from which it would make some again.
fn iscsi_leftovers() -> Vec<String> {
    let names = |path: &str, what: &str| -> Vec<String> {
        let entries = fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
        entries.map(|entry| format!("iSCSI {what} {}", entry.file_name().to_string_lossy())).collect()
    };
    let mut found = names("/sys/class/iscsi_session", "session");
    for nodes in ["/var/lib/iscsi/nodes", "/etc/iscsi/nodes"] {
        found.extend(names(nodes, "node record"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_nobody_needs_is_named() {
        let all: BTreeSet<usize> = (0..SKIPS.len()).collect();
        assert_eq!(stale_rows(&all), Vec::<String>::new());
        let but_one: BTreeSet<usize> = (1..SKIPS.len()).collect();
        assert!(matches!(&stale_rows(&but_one)[..], [line] if line.contains(SKIPS[0].spec)));
    }

    #[test]
    fn runs_have_names_that_tell_them_apart() {
        let names: BTreeSet<&str> = RUNS.iter().map(|run| run.name).collect();
        assert_eq!(names.len(), RUNS.len());
    }
}
