//! The program `tns-csi node` as an operator runs it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tns_csi::csi::server::DRAIN_WITHIN;
use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::csi::v1::identity_client::IdentityClient;
use tonic::transport::Endpoint;

/// How long a process may take to do what is waited for on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Program {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Program {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tns-csi"))
            .args(args)
            .env_clear()
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)).ok();
        });
        Program { child, lines }
    }

    fn wait_for(&self, word: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(word) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("{word:?} was not logged ({error}) but\n{}", seen.join("\n")),
            }
        }
    }

    fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("/usr/bin/kill").args(["-TERM", &pid]).status().unwrap().success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn the_node_agent_starts_without_a_helper_and_ends_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("csi.sock");
    let endpoint = format!("unix://{}", socket.display());
    let helper = format!("unix://{}/helper.sock", dir.path().display());
    let mut program = Program::start(&[
        "node",
        "--endpoint",
        &endpoint,
        "--helper",
        &helper,
        "--log-format",
        "json",
        "--metrics-addr",
        "127.0.0.1:0",
    ]);
    let ready = program.wait_for("\"message\":\"ready\"");
    assert!(ready.contains(&endpoint), "{ready}");
    let channel = Endpoint::from_shared(endpoint).unwrap().connect().await.unwrap();
    let mut identity = IdentityClient::new(channel);
    let info = identity.get_plugin_info(csi::GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.name.as_str(), info.vendor_version.as_str()), ("tns.csi.io", env!("CARGO_PKG_VERSION")));
    let probe = identity.probe(csi::ProbeRequest {}).await.unwrap().into_inner();
    assert_eq!(probe.ready, Some(false));
    // The connection stays open: only calls may hold the end up.
    program.terminate();
    let told = Instant::now();
    assert!(program.child.wait().unwrap().success());
    assert!(told.elapsed() < DRAIN_WITHIN, "took {:?}", told.elapsed());
    assert!(!socket.exists());
}

#[test]
fn a_missing_or_bad_flag_is_a_usage_error_with_words() {
    for (args, word) in [
        (&["node"][..], "--helper"),
        (&["node", "--helper", "unix:///h.sock"], "CSI_ENDPOINT"),
        (&["node", "--helper", "/h.sock", "--endpoint", "unix:///c.sock"], "unix:///absolute/path"),
        (&["controller", "--endpoint", "unix:///c.sock"], "--api-url"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_tns-csi")).args(args).env_clear().output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let words = String::from_utf8(output.stderr).unwrap();
        assert!(words.contains(word), "{args:?}: {words}");
    }
}
