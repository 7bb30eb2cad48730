//! Runs csi-sanity over the two sockets of the driver and returns its verdict.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use harness::log::{log_path, tail};
use tokio::process::Command;
use tokio::time::timeout;

use crate::programs::Layout;
use crate::report::{self, Verdict};

/// What a volume is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Mounted as a file system.
    Filesystem,
    /// As a raw block device.
    Block,
}

/// One invocation of csi-sanity.
#[derive(Clone, Debug)]
pub struct Sanity {
    /// The program.
    pub program: PathBuf,
    /// Name for files, without slashes.
    pub name: String,
    /// Parameters of every volume, as in a StorageClass.
    pub parameters: Vec<(&'static str, String)>,
    /// How volumes are used.
    pub access: Access,
    /// The Secret that csi-sanity sends with every request; its values must appear in no log.
    pub secrets: Vec<(&'static str, String)>,
    /// Regular expression over spec names: only these run.
    pub focus: Option<String>,
    /// Time the whole run may take.
    pub limit: Duration,
}

/// The requests for which csi-sanity's secrets file has a map.
const SECRETS: &[&str] = &[
    "CreateVolume",
    "DeleteVolume",
    "ControllerPublishVolume",
    "ControllerUnpublishVolume",
    "ControllerValidateVolumeCapabilities",
    "NodeStageVolume",
    "NodePublishVolume",
    "CreateSnapshot",
    "DeleteSnapshot",
    "ControllerExpandVolume",
    "ControllerModifyVolume",
    "ListSnapshots",
    "GetSnapshot",
];

impl Sanity {
    /// Runs it to its end and judges its report.
    ///
    /// # Errors
    /// It cannot be started, hangs, or leaves no report.
    pub async fn run(&self, layout: &Layout) -> anyhow::Result<Verdict> {
        let name = format!("csi-sanity-{}", self.name);
        let parameters = layout.work.join("parameters.yaml");
        write(&parameters, &yaml_map(self.parameters.iter().map(|(key, value)| (*key, value.as_str())), ""))?;
        let secrets = layout.work.join("secrets.yaml");
        let all = SECRETS.iter().map(|request| {
            let entries = self.secrets.iter().map(|(key, value)| (*key, value.as_str()));
            format!("{request}Secret:\n{}", yaml_map(entries, "  "))
        });
        write(&secrets, &all.collect::<String>())?;
        let report = layout.logs.join(format!("{name}.json"));
        let log = log_path(&layout.logs, &name);
        let output = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let errors = output.try_clone().context("sharing a log file")?;

        let mut command = Command::new(&self.program);
        command
            .arg(format!("--csi.endpoint=unix://{}", layout.node_socket().display()))
            .arg(format!("--csi.controllerendpoint=unix://{}", layout.controller_socket().display()))
            .arg(format!("--csi.mountdir={}", layout.parent().join(format!("{}-pod", self.name)).display()))
            .arg(format!(
                "--csi.stagingdir={}",
                layout.parent().join(format!("{}-staging", self.name)).display()
            ))
            .arg(format!("--csi.testvolumeparameters={}", parameters.display()))
            .arg(format!("--csi.secrets={}", secrets.display()))
            .arg(match self.access {
                Access::Filesystem => "--csi.testvolumeaccesstype=mount",
                Access::Block => "--csi.testvolumeaccesstype=block",
            })
            .arg("--ginkgo.no-color")
            .arg("--ginkgo.v")
            .arg(format!("--ginkgo.json-report={}", report.display()))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true);
        if let Some(focus) = &self.focus {
            command.arg(format!("--ginkgo.focus={focus}"));
        }
        let end = |why: String| anyhow::anyhow!("{why}; the end of its log:\n{}", tail(&log, 3_000));
        let mut child = command.spawn().with_context(|| format!("starting {}", self.program.display()))?;
        let status = match timeout(self.limit, child.wait()).await {
            Ok(status) => status.context("waiting for csi-sanity")?,
            Err(_) => {
                child.kill().await.context("killing csi-sanity")?;
                return Err(end(format!("csi-sanity did not end within {} s", self.limit.as_secs())));
            }
        };
        let text = fs::read_to_string(&report)
            .map_err(|error| end(format!("csi-sanity ended with {status} and left no report ({error})")))?;
        let mut verdict = report::judge(&text, self.focus.is_some()).map_err(|error| {
            end(format!("csi-sanity ended with {status} and a report that cannot be read ({error})"))
        })?;
        if !status.success() && verdict.failures.is_empty() {
            verdict.failures.push(format!("csi-sanity ended with {status} and names no failure"));
        }
        Ok(verdict)
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// A YAML map of texts; JSON's quoting is YAML's too.
fn yaml_map<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>, indent: &str) -> String {
    entries.map(|(key, value)| format!("{indent}{key}: {}\n", serde_json::Value::from(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::yaml_map;

    #[test]
    fn values_are_quoted() {
        let text = yaml_map([("server", "127.0.0.1"), ("odd", "a: \"b\"\n")].into_iter(), "  ");
        assert_eq!(text, "  server: \"127.0.0.1\"\n  odd: \"a: \\\"b\\\"\\n\"\n");
    }
}
