//! The programs under test and their places: the appliance's stand-in, the controller, the helper and the node agent,
//! started in that order as on a real machine, two CSI sockets for csi-sanity.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use harness::address::{free_loopback, unix};
use harness::csi::Csi;
use harness::log::{log_path, tails};
use harness::process::{Places, Process};
use harness::program::{DRIVER_UID, Program, RunAs};

/// Directory below the kubelet root in which csi-sanity makes its paths.
pub const PARENT: &str = "csi-sanity";
/// The appliance's SMB user: an account of the machine that it runs on.
pub const SMB_USER: &str = "root";
/// Time the controller may take to reach the appliance.
const CONNECT: Duration = Duration::from_secs(60);
/// Name of the driver under test.
const DRIVER: &str = "tns.csi.io";
/// What the programs log: enough to see a secret where none may be.
const LOG_LEVELS: &str =
    "info,tns_csi=debug,truenas=debug,node_helper=debug,fake_helper=debug,truenas_sim=info";

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
    /// Value of every secret that csi-sanity sends, the password of the SMB user among them; must appear in no log.
    pub secret: String,
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
        // The appliance's own, not the driver's.
        let password = self.smb_password_file();
        fs::write(&password, &self.secret).with_context(|| format!("writing {}", password.display()))?;
        owned(&password, None, 0o400)?;
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

    fn smb_password_file(&self) -> PathBuf {
        self.work.join("appliance/smb-password")
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
        let work = |name: &str| self.work.join(name);
        // The driver's programs take their log levels from their own variable, the others from RUST_LOG.
        let program = |name: &str, file: &str, run_as: RunAs| {
            Program::new(name, &self.bin.join(file))
                .run_as(run_as)
                .variable("RUST_LOG", LOG_LEVELS)
                .variable("TNS_CSI_LOG_LEVEL", LOG_LEVELS)
        };
        let mut appliance = program("truenas-sim", "truenas-sim", appliance_as)
            .words(&["--backend", backend, "--truenas-version", "25.10", "--pool", &self.pool])
            .words(&["--listen", &api.to_string(), "--nvmet-port", "127.0.0.1:4420"])
            .flag("--state-dir", work("appliance"))
            .flag("--tls-dir", work("tls"))
            .flag("--control", self.control_socket())
            .flag("--api-key-file", self.key_file())
            .words(&["--iscsi-portal", "127.0.0.1:3260", "--smb-user", SMB_USER])
            .flag("--smb-password-file", self.smb_password_file());
        if let Some(schemas) = &self.schemas {
            appliance = appliance.flag("--schemas", schemas);
        }
        let controller = program("controller", "tns-csi", driver_as)
            .words(&["controller", "--driver-name", DRIVER, "--cluster-id", "conformance"])
            .flag("--endpoint", unix(&self.controller_socket()))
            .flag("--api-url", format!("wss://{api}/api/current"))
            .flag("--api-key-file", self.key_file())
            .flag("--ca-file", work("tls/ca.pem"));
        let helper_name = match self.place {
            Place::Host => "fake-helper",
            Place::Lab => "node-helper",
        };
        let mut helper = program(helper_name, helper_name, appliance_as)
            .words(&["--node-name", "conformance"])
            .flag("--listen", self.helper_endpoint())
            .flag("--kubelet-root", &self.kubelet)
            .flag("--state-dir", work("helper-state"))
            .flag("--config", work("helper.toml"));
        if self.place == Place::Lab {
            helper = helper
                .words(&["--driver-name", DRIVER, "--allow-uid", &DRIVER_UID.to_string()])
                .words(&["--allow-server", "127.0.0.0/8", "--storage-cidr", "127.0.0.0/8"]);
        }
        let node = program("node", "tns-csi", driver_as)
            .words(&["node", "--driver-name", DRIVER])
            .flag("--helper", self.helper_endpoint())
            .flag("--endpoint", unix(&self.node_socket()));
        vec![appliance, controller, helper, node]
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
        let places = Places { logs: layout.logs.clone(), scratch: layout.work.clone() };
        for program in layout.programs(free_loopback()?) {
            processes.push(Process::start(&program, &places).await?);
        }
        for socket in [layout.controller_socket(), layout.node_socket()] {
            let probed = Csi::new(&socket).probed(CONNECT).await;
            probed.with_context(|| socket.display().to_string())?;
        }
        Ok(Self { processes })
    }

    /// Names of the programs that have ended by themselves.
    pub fn dead(&mut self) -> Vec<String> {
        let dead = self.processes.iter_mut().filter_map(|process| (!process.running()).then_some(process));
        dead.map(|process| process.name().to_owned()).collect()
    }

    /// Ends all of them at once, so that others can start in their place.
    ///
    /// # Errors
    /// One of them does not go.
    pub async fn kill(self) -> anyhow::Result<()> {
        for mut process in self.processes.into_iter().rev() {
            process.crash().await?;
        }
        Ok(())
    }

    /// Ends all of them, last started first; tells everything that went wrong.
    pub async fn stop(self) -> Vec<String> {
        let mut failures = Vec::new();
        for mut process in self.processes.into_iter().rev() {
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
    tails(&layout.logs, &NAMES, 6_000)
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
