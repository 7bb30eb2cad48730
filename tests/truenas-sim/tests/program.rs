//! The program: its flags, its readiness line, its control command, its death and return.
// Helpers of tests may stop at the first surprise as the tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_truenas-sim"));
    command.args([
        "--backend",
        "memory",
        "--listen",
        "127.0.0.1:0",
        "--truenas-version",
        "25.10",
        "--latency-ms",
        "0",
    ]);
    for (flag, name) in
        [("--state-dir", "state"), ("--tls-dir", "tls"), ("--api-key-file", "key"), ("--control", "control")]
    {
        command.arg(flag).arg(dir.join(name));
    }
    command.env("NO_COLOR", "1").stderr(Stdio::piped());
    command
}

/// Starts it and waits for its readiness line.
fn start(dir: &Path) -> Child {
    let mut child = command(dir).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut seen = Vec::new();
    for line in lines {
        let line = line.unwrap();
        let ready = line.contains("ready") && line.contains("wss://127.0.0.1:");
        seen.push(line);
        if ready {
            return child;
        }
    }
    let status = child.wait().unwrap();
    panic!("not ready, {status}: {seen:?}");
}

fn control(dir: &Path, command: &Value) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_truenas-sim"))
        .arg("control")
        .arg(dir.join("control"))
        .arg(command.to_string())
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

#[test]
fn what_was_stored_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key"), "1-0123456789abcdef\n").unwrap();
    let mut child = start(dir.path());
    let seed = json!({"command": "seed", "datasets": [{"name": "tank/a"}], "snapshots": ["tank/a@s"]});
    assert_eq!(control(dir.path(), &seed)["ok"], true);
    child.kill().unwrap();
    child.wait().unwrap();
    let ca = std::fs::read(dir.path().join("tls/ca.pem")).unwrap();
    let mut child = start(dir.path());
    assert_eq!(control(dir.path(), &json!({"command": "datasets"}))["result"], json!(["tank", "tank/a"]));
    assert_eq!(std::fs::read(dir.path().join("tls/ca.pem")).unwrap(), ca, "the certificate is kept");
    let second = command(dir.path()).output().unwrap();
    assert!(!second.status.success());
    let words = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(words.contains("used by another process"), "{words}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_malformed_key_is_refused_without_being_shown() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key"), "not-a-key-SECRETSECRET").unwrap();
    let output = command(dir.path()).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && words.contains("API key is malformed"), "{words}");
    assert!(!words.contains("SECRET"), "{words}");
}

#[test]
fn help_tells_every_flag_and_the_control_commands() {
    let output = Command::new(env!("CARGO_BIN_EXE_truenas-sim")).arg("--help").output().unwrap();
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    for word in [
        "--backend",
        "--listen",
        "--state-dir",
        "--api-key-file",
        "--tls-dir",
        "--truenas-version",
        "--latency-ms",
        "--control",
        "--smb-user",
        "--smb-password-file",
        "\"command\":\"ha\"",
        "--pool-size",
        "TNS_CSI_LISTEN",
        "wait_held",
        "pool_full",
        "next_stage",
    ] {
        assert!(help.contains(word), "{word} is missing in:\n{help}");
    }
    let output =
        Command::new(env!("CARGO_BIN_EXE_truenas-sim")).arg("--truenas-version").arg("1.0").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("known: 25.04, 25.10, 26"));
}
