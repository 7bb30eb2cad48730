//! The programs under test and their places: the appliance's stand-in, the controller, the helper and the node agent,
//! started in that order as on a real machine, two CSI sockets for csi-sanity.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tns_csi_proto::csi::v1::ProbeRequest;
use tns_csi_proto::csi::v1::identity_client::IdentityClient;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::transport::{Channel, Endpoint};

use crate::process::{Process, Program, RunAs, log_path, tail};

/// Directory below the kubelet root in which csi-sanity makes its paths.
pub const PARENT: &str = "csi-sanity";
/// User of the driver in the lab, as in the chart.
const DRIVER_UID: u32 = 65532;
/// Time the controller may take to reach the appliance.
const CONNECT: Duration = Duration::from_secs(60);
/// Time between two questions whether it has.
const ASK: Duration = Duration::from_millis(100);
/// Name of the driver under test.
const DRIVER: &str = "tns.csi.io";

/// Names of all programs under test, as their logs are called.
pub const NAMES: [&str; 5] = ["truenas-sim", "controller", "fake-helper", "node-helper", "node"];

/// Which helper and which appliance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Any machine, without privilege: the helper is a behaving fake, the appliance keeps its pool in memory.
    Host,
    /// The lab's guest, as root: the real helper and a real pool; the driver as another user.
    Lab,
}

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Host or lab.
    pub place: Place,
    /// Directory of the programs.
    pub bin: PathBuf,
    /// Directory for sockets, state and configuration; removed by its owner.
    pub work: PathBuf,
    /// Directory for logs.
    pub logs: PathBuf,
    /// Kubelet's root.
    pub kubelet: PathBuf,
    /// Pool of the appliance.
    pub pool: String,
    /// Directory of the appliance's JSON Schemas; with it every message to and from the appliance is checked.
    pub schemas: Option<PathBuf>,
    /// The API key, which must appear in no log.
    pub api_key: String,
}

impl Layout {
    /// CSI socket of the controller.
    #[must_use]
    pub fn controller_socket(&self) -> PathBuf {
        self.work.join("csi/controller.sock")
    }

    /// CSI socket of the node agent.
    #[must_use]
    pub fn node_socket(&self) -> PathBuf {
        self.work.join("csi/node.sock")
    }

    /// The directory in which csi-sanity makes its paths.
    #[must_use]
    pub fn parent(&self) -> PathBuf {
        self.kubelet.join(PARENT)
    }

    /// Makes the directories with the owners that an installation gives them, the key file and the helper's
    /// configuration.
    ///
    /// # Errors
    /// Of the file system.
    pub fn prepare(&self) -> anyhow::Result<()> {
        let driver = (self.place == Place::Lab).then_some(DRIVER_UID);
        for (name, owner, mode) in [
            ("", None, 0o755),
            ("csi", driver, 0o755),
            ("helper-socket", driver, 0o750),
            ("helper-state", None, 0o700),
            ("appliance", None, 0o700),
            ("tls", None, 0o755),
            ("secret", driver, 0o700),
        ] {
            directory(&self.work.join(name), owner, mode)?;
        }
        directory(&self.kubelet, None, 0o755)?;
        directory(&self.parent(), None, 0o755)?;
        let key = self.key_file();
        fs::write(&key, &self.api_key).with_context(|| format!("writing {}", key.display()))?;
        owned(&key, driver, 0o400)?;
        let configuration = self.work.join("helper.toml");
        fs::write(&configuration, format!("[paths]\nextra_parents = [\"{PARENT}\"]\n"))
            .with_context(|| format!("writing {}", configuration.display()))
    }

    /// Control socket of the stand-in appliance.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.work.join("appliance-control.sock")
    }

    fn key_file(&self) -> PathBuf {
        self.work.join("secret/api-key")
    }

    fn helper_endpoint(&self) -> String {
        unix(&self.work.join("helper-socket/helper.sock"))
    }

    /// The four programs in the order in which they start.
    fn programs(&self, api: SocketAddr) -> Vec<Program> {
        let (appliance_as, driver_as) = match self.place {
            Place::Host => (RunAs::Powerless, RunAs::Powerless),
            Place::Lab => (RunAs::Caller, RunAs::User(DRIVER_UID)),
        };
        let backend = match self.place {
            Place::Host => "memory",
            Place::Lab => "zfs",
        };
        let work = |name: &str| self.work.join(name).into_os_string();
        let mut appliance = Words::new(&self.bin, "truenas-sim")
            .text(&["--backend", backend, "--truenas-version", "25.10", "--pool", &self.pool])
            .text(&["--listen", &api.to_string(), "--nvmet-port", "127.0.0.1:4420"])
            .with("--state-dir", work("appliance"))
            .with("--tls-dir", work("tls"))
            .with("--control", self.control_socket().into_os_string())
            .with("--api-key-file", self.key_file().into_os_string());
        if let Some(schemas) = &self.schemas {
            appliance = appliance.with("--schemas", schemas.clone().into_os_string());
        }
        let controller = Words::new(&self.bin, "tns-csi")
            .text(&["controller", "--driver-name", DRIVER, "--cluster-id", "conformance"])
            .text(&["--endpoint", &unix(&self.controller_socket())])
            .text(&["--api-url", &format!("wss://{api}/api/current")])
            .with("--api-key-file", self.key_file().into_os_string())
            .with("--ca-file", work("tls/ca.pem"));
        let helper_name = match self.place {
            Place::Host => "fake-helper",
            Place::Lab => "node-helper",
        };
        let mut helper = Words::new(&self.bin, helper_name)
            .text(&["--listen", &self.helper_endpoint(), "--node-name", "conformance"])
            .with("--kubelet-root", self.kubelet.clone().into_os_string())
            .with("--state-dir", work("helper-state"))
            .with("--config", work("helper.toml"));
        if self.place == Place::Lab {
            helper = helper.text(&["--driver-name", DRIVER, "--allow-uid", &DRIVER_UID.to_string()]).text(&[
                "--allow-server",
                "127.0.0.0/8",
                "--storage-cidr",
                "127.0.0.0/8",
            ]);
        }
        let node = Words::new(&self.bin, "tns-csi")
            .text(&["node", "--driver-name", DRIVER, "--helper", &self.helper_endpoint()])
            .text(&["--endpoint", &unix(&self.node_socket())]);
        vec![
            Program { name: "truenas-sim", command: appliance.0, run_as: appliance_as },
            Program { name: "controller", command: controller.0, run_as: driver_as },
            Program { name: helper_name, command: helper.0, run_as: appliance_as },
            Program { name: "node", command: node.0, run_as: driver_as },
        ]
    }
}

/// The running programs.
#[derive(Debug)]
pub struct Stand {
    processes: Vec<Process>,
}

impl Stand {
    /// Starts all four and waits until the controller has reached the appliance.
    ///
    /// # Errors
    /// One of them does not come up.
    pub async fn start(layout: &Layout) -> anyhow::Result<Self> {
        layout.prepare()?;
        let mut processes = Vec::new();
        for program in layout.programs(free_port()?) {
            processes.push(Process::start(&program, &layout.logs, &layout.work).await?);
        }
        for socket in [layout.controller_socket(), layout.node_socket()] {
            probe_until_ready(&socket).await?;
        }
        Ok(Self { processes })
    }

    /// Names of the programs that have ended by themselves.
    pub fn dead(&mut self) -> Vec<&'static str> {
        self.processes.iter_mut().filter_map(|process| (!process.running()).then(|| process.name())).collect()
    }

    /// Ends all of them at once, so that others can start in their place.
    ///
    /// # Errors
    /// One of them does not go.
    pub async fn kill(self) -> anyhow::Result<()> {
        for process in self.processes.into_iter().rev() {
            process.kill().await?;
        }
        Ok(())
    }

    /// Ends all of them, last started first; tells everything that went wrong.
    pub async fn stop(self) -> Vec<String> {
        let mut failures = Vec::new();
        for process in self.processes.into_iter().rev() {
            if let Err(error) = process.stop().await {
                failures.push(format!("{error:#}"));
            }
        }
        failures
    }
}

/// Removes the programs' logs of an earlier invocation; one that cannot be removed is appended to.
pub fn clear_logs(layout: &Layout) {
    for name in NAMES {
        drop(fs::remove_file(log_path(&layout.logs, name)));
    }
}

/// The end of every program's log.
#[must_use]
pub fn log_tails(layout: &Layout) -> String {
    let paths = NAMES.iter().map(|name| log_path(&layout.logs, name)).filter(|path| path.exists());
    paths.map(|path| format!("---- the end of {}\n{}\n", path.display(), tail(&path, 6_000))).collect()
}

/// A channel to a unix socket.
///
/// # Errors
/// Nobody answers there.
pub async fn channel(socket: &Path) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(unix(socket)).context("naming the socket")?;
    endpoint.connect().await.with_context(|| format!("connecting to {}", socket.display()))
}

async fn probe_until_ready(socket: &Path) -> anyhow::Result<()> {
    let mut identity = IdentityClient::new(channel(socket).await?);
    let deadline = Instant::now() + CONNECT;
    let mut tick = interval(ASK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let said = match identity.probe(ProbeRequest {}).await {
            Ok(response) if response.get_ref().ready.unwrap_or(true) => return Ok(()),
            Ok(_) => "not ready".to_owned(),
            Err(status) => format!("{:?}: {}", status.code(), status.message()),
        };
        if Instant::now() > deadline {
            bail!("{} still answers Probe with {said} after {} s", socket.display(), CONNECT.as_secs());
        }
    }
}

/// A port that was free a moment ago.
fn free_port() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    listener.local_addr().context("looking for a free port")
}

fn unix(path: &Path) -> String {
    format!("unix://{}", path.display())
}

fn directory(path: &Path, owner: Option<u32>, mode: u32) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
    owned(path, owner, mode)
}

fn owned(path: &Path, owner: Option<u32>, mode: u32) -> anyhow::Result<()> {
    if owner.is_some() {
        chown(path, owner, owner).with_context(|| format!("giving away {}", path.display()))?;
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("setting the mode of {}", path.display()))
}

/// A command line in the making.
struct Words(Vec<OsString>);

impl Words {
    fn new(bin: &Path, program: &str) -> Self {
        Self(vec![bin.join(program).into_os_string()])
    }

    fn text(mut self, words: &[&str]) -> Self {
        self.0.extend(words.iter().map(OsString::from));
        self
    }

    fn with(mut self, flag: &str, value: OsString) -> Self {
        self.0.extend([OsString::from(flag), value]);
        self
    }
}
