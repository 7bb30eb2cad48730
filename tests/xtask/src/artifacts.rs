//! Builds the binaries and lays out the directories that the guest sees.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::progress::step;

/// Packages whose programs run in the guest.
const PACKAGES: &[&str] =
    &["tns-csi", "node-helper", "truenas-sim", "fake-helper", "lab", "conformance", "bench"];

/// Programs and a place for logs.
pub struct Artifacts {
    /// Directory of the programs.
    pub bin: PathBuf,
    /// Directory for the logs of one run, empty at its start.
    pub logs: PathBuf,
}

/// How the programs are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build; for tests.
    Debug,
    /// As shipped; for figures.
    Release,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }
}

/// Compiles the programs and copies them, without debug information, beside each other.
pub fn build(profile: Profile) -> anyhow::Result<Artifacts> {
    step("building the programs", || {
        let artifacts = last_built(profile)?;
        for program in &cargo_build(profile)? {
            install(program, &artifacts.bin)?;
        }
        copy_schemas(&artifacts.bin.join("schemas"))?;
        Ok(artifacts)
    })
}

/// The directory of the appliance's JSON Schemas, which are not part of this repository: `TNS_CSI_SIM_SCHEMAS`, or
/// beside the clone.
pub fn schemas() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/truenas-api/schemas");
    let directory = std::env::var_os("TNS_CSI_SIM_SCHEMAS").map_or_else(beside, PathBuf::from);
    directory.canonicalize().ok().filter(|path| path.is_dir())
}

/// Copies the schemas to where the guest sees them.
fn copy_schemas(to: &Path) -> anyhow::Result<()> {
    let Some(from) = schemas() else {
        println!("the appliance's schemas are not here: requests and answers are not checked against them");
        return Ok(());
    };
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    for entry in fs::read_dir(&from).with_context(|| format!("reading {}", from.display()))? {
        let path = entry.with_context(|| format!("reading {}", from.display()))?.path();
        if let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|kind| kind == "json")) {
            let copy = to.join(name);
            // Written anew, since the originals may be read-only and so would be their copies.
            let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            fs::write(&copy, text).with_context(|| format!("writing {}", copy.display()))?;
        }
    }
    Ok(())
}

/// The programs as last built, perhaps none, and a fresh directory for logs.
pub fn last_built(profile: Profile) -> anyhow::Result<Artifacts> {
    let lab = target_directory()?.join("lab");
    let bin = lab.join(format!("bin-{}", profile.name()));
    fs::create_dir_all(&bin).with_context(|| format!("making {}", bin.display()))?;
    let logs = fresh_logs(&lab)?;
    Ok(Artifacts { bin, logs })
}

/// Cargo's target directory, as cargo itself reports it.
fn target_directory() -> anyhow::Result<PathBuf> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version=1"])
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("reading what cargo metadata printed")?;
    let target = metadata.get("target_directory").and_then(serde_json::Value::as_str);
    target.map(PathBuf::from).context("cargo metadata names no target directory")
}

/// An empty directory for logs. The directory of the last run is kept, older ones go.
fn fresh_logs(lab: &Path) -> anyhow::Result<PathBuf> {
    let logs = lab.join("logs");
    let last = lab.join("logs.last");
    if logs.exists() {
        if last.exists() {
            fs::remove_dir_all(&last).with_context(|| format!("removing {}", last.display()))?;
        }
        fs::rename(&logs, &last).with_context(|| format!("setting {} aside", logs.display()))?;
    }
    fs::create_dir_all(&logs).with_context(|| format!("making {}", logs.display()))?;
    Ok(logs)
}

/// Cargo, without what `cargo run` says of xtask's own package: build scripts that watch those variables would run
/// again, and everything above them be compiled again, at every turn between this build and a plain one.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(name);
        }
    }
    command
}

/// Runs cargo build and returns the paths of the programs, as cargo itself reports them.
fn cargo_build(profile: Profile) -> anyhow::Result<Vec<PathBuf>> {
    let mut command = cargo();
    command.args(["build", "--message-format=json-render-diagnostics"]);
    if profile == Profile::Release {
        command.arg("--release");
    }
    for package in PACKAGES {
        command.args(["--package", package]);
    }
    let output = command.stderr(Stdio::inherit()).output().context("starting cargo")?;
    if !output.status.success() {
        bail!("cargo build ended with {}", output.status);
    }
    let mut programs = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        if let Some(path) = message.get("executable").and_then(serde_json::Value::as_str) {
            programs.push(PathBuf::from(path));
        }
    }
    Ok(programs)
}

/// Copies a program without its debug information: the guest reads it over 9p. A copy that is newer stays.
fn install(program: &Path, bin: &Path) -> anyhow::Result<()> {
    let copy = bin.join(program.file_name().context("a program has a name")?);
    let changed = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    if let (Ok(old), Ok(new)) = (changed(&copy), changed(program))
        && old > new
    {
        return Ok(());
    }
    let stripped = Command::new("strip").args(["--strip-debug", "-o"]).arg(&copy).arg(program).status();
    if !stripped.is_ok_and(|status| status.success()) {
        fs::copy(program, &copy).with_context(|| format!("copying {}", program.display()))?;
    }
    Ok(())
}
