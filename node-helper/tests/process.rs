//! The process as a whole: the real binary, its socket, its limits.
#![allow(clippy::expect_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tns_csi_proto::HELPER_REVISION;
use tns_csi_proto::helper::v1 as api;
use tns_csi_proto::helper::v1::node_helper_client::NodeHelperClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

/// A running helper; stopped when dropped.
struct Helper {
    directory: tempfile::TempDir,
    child: Child,
    ready_after: Duration,
}

impl Helper {
    fn start(allow_uid: u32, skip_host_checks: bool) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        std::fs::create_dir(path("kubelet")).expect("the kubelet root");
        std::fs::write(path("config.toml"), format!("[tests]\nskip_host_checks = {skip_host_checks}\n"))
            .expect("the configuration");
        let begun = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_node-helper"))
            .arg(format!("--listen=unix://{}", path("run/helper.sock").display()))
            .arg(format!("--kubelet-root={}", path("kubelet").display()))
            .arg(format!("--state-dir={}", path("state").display()))
            .arg(format!("--config={}", path("config.toml").display()))
            .arg(format!("--allow-uid={allow_uid}"))
            .args(["--node-name=n1", "--storage-cidr=127.0.0.0/8", "--allow-server=192.0.2.0/24"])
            .env("RUST_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the helper starts");
        let mut helper = Self { directory, child, ready_after: Duration::ZERO };
        helper.wait_ready();
        helper.ready_after = begun.elapsed();
        helper
    }

    /// Reads the log until the readiness line or the end.
    fn wait_ready(&mut self) {
        use std::io::BufRead;
        let log = std::io::BufReader::new(self.child.stderr.take().expect("a log"));
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut seen = Vec::new();
        while let Ok(line) = receiver.recv_timeout(Duration::from_secs(30)) {
            if line.contains("ready") && line.contains("node=") {
                return;
            }
            seen.push(line);
        }
        panic!("the helper did not become ready: {seen:#?}");
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("run/helper.sock")
    }

    async fn client(&self) -> NodeHelperClient<Channel> {
        let socket = self.socket();
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        let endpoint = Endpoint::from_static("http://helper");
        NodeHelperClient::new(endpoint.connect_with_connector_lazy(connect))
    }

    fn status(&self, field: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its status");
        let line = text.lines().find(|line| line.starts_with(field)).expect("the field");
        line.split(':').nth(1).expect("a value").trim().to_owned()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

#[tokio::test]
async fn it_serves_its_user_with_few_privileges_and_little_memory() {
    let helper = Helper::start(own_uid(), true);
    let mode = helper.socket().metadata().expect("a socket").permissions().mode() & 0o777;
    assert_eq!(mode, 0o660);
    let mut client = helper.client().await;
    let info = client.get_host_info(api::GetHostInfoRequest { min_revision: 1 }).await.expect("an answer");
    let info = info.into_inner();
    assert_eq!((info.revision, info.node_name.as_str()), (HELPER_REVISION, "n1"));
    assert_eq!(info.storage_addresses, ["127.0.0.1"]);
    assert!(uuid::Uuid::try_parse(&info.host_uuid).is_ok());

    // SYS_ADMIN (21), SYS_RESOURCE (24), DAC_READ_SEARCH (2), CHOWN (0), FOWNER (3), FSETID (4) and nothing else, in
    // any set.
    let allowed: u64 = (1 << 21) | (1 << 24) | (1 << 2) | 1 | (1 << 3) | (1 << 4);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let bits = u64::from_str_radix(&helper.status(set), 16).expect("bits");
        let privileged = own_uid() == 0 || set != "CapBnd";
        assert!(!privileged || bits & !allowed == 0, "{set} is {bits:x}");
    }
    assert_eq!(helper.status("NoNewPrivs"), "1");
    let resident = helper.status("VmRSS");
    println!("ready after {:?}, resident {resident}", helper.ready_after);
}

#[tokio::test]
async fn what_it_does_not_know_or_do_it_says() {
    let helper = Helper::start(own_uid(), true);
    let mut client = helper.client().await;
    let newer = api::GetHostInfoRequest { min_revision: HELPER_REVISION + 1 };
    let status = client.get_host_info(newer).await.expect_err("too new");
    assert_eq!(status.code(), Code::FailedPrecondition);
    let trim = client.trim_volume(api::TrimVolumeRequest::default()).await.expect_err("not built");
    assert_eq!(trim.code(), Code::Unimplemented);
    let watch = client.watch_volumes(api::WatchVolumesRequest::default()).await.expect_err("not built");
    assert_eq!(watch.code(), Code::Unimplemented);
    let freeze = client.freeze_volume(api::FreezeVolumeRequest::default()).await.expect_err("not built");
    assert_eq!(freeze.code(), Code::Unimplemented);
    let large = api::UnstageVolumeRequest { staging_path: "x".repeat(80_000), ..Default::default() };
    let status = client.unstage_volume(Request::new(large)).await.expect_err("too large");
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
}

#[tokio::test]
async fn another_user_is_closed_out_before_a_byte() {
    let helper = Helper::start(own_uid() + 1, true);
    if own_uid() != 0 {
        eprintln!("SKIPPED: only root reaches a socket that belongs to another user");
        return;
    }
    let mut client = helper.client().await;
    let status = client.get_host_info(api::GetHostInfoRequest::default()).await.expect_err("closed");
    assert_ne!(status.code(), Code::Ok);
    use tokio::io::AsyncReadExt;
    let mut raw = UnixStream::connect(helper.socket()).await.expect("the kernel connects");
    let mut buffer = [0; 16];
    let read = raw.read(&mut buffer).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[test]
fn it_stops_when_asked() {
    let mut helper = Helper::start(own_uid(), true);
    let pid = nix::unistd::Pid::from_raw(helper.child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signalled");
    let begun = Instant::now();
    let status = helper.child.wait().expect("ended");
    assert!(status.success() && begun.elapsed() < Duration::from_secs(10), "{status} {:?}", begun.elapsed());
}
