//! The programs that are measured, started as in an installation: appliance, controller, helper, node agent.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use harness::address;
use harness::control::Control;
use harness::csi::Csi;
use harness::orchestrator::Orchestrator;
use harness::process::{Places, Process};
use harness::program::{Program, RunAs};
use uuid::Uuid;

use crate::protocol::POOL;

/// Time in which the controller reaches the appliance, the node agent its helper.
pub const CONNECT: Duration = Duration::from_secs(60);
/// What the programs log: what they do by default.
const LOG_LEVEL: &str = "info";

/// The running programs.
#[derive(Debug)]
pub struct Chain {
    appliance: Process,
    /// The controller.
    pub controller: Process,
    /// The helper, or why it does not run here.
    pub helper: Result<Process, String>,
    /// The node agent.
    pub node: Process,
    /// Services of the node agent's socket.
    pub node_csi: Csi,
    /// The sidecars.
    pub orchestrator: Orchestrator,
    /// The stand-in's control.
    pub control: Control,
    /// What a reader of the figures should know.
    pub notes: Vec<String>,
}

impl Chain {
    /// Starts the programs of `bin` below `work`, and waits until each can work.
    ///
    /// # Errors
    /// Appliance, controller or node agent cannot be started. A helper that cannot is kept as such.
    pub async fn start(bin: &Path, work: &Path, logs: &Path) -> anyhow::Result<Self> {
        // The programs may run as others than this one.
        fs::set_permissions(work, Permissions::from_mode(0o755))
            .context("opening the temporary directory")?;
        for name in ["kubelet", "csi", "appliance", "tls"] {
            fs::create_dir_all(work.join(name))
                .with_context(|| format!("making {name} in {}", work.display()))?;
        }
        let key = work.join("api-key");
        // The form of a TrueNAS key: `<id>-<64 letters and digits>`.
        let secret = [Uuid::new_v4(), Uuid::new_v4()].map(|part| part.simple().to_string()).concat();
        fs::write(&key, format!("1-{secret}\n")).with_context(|| format!("writing {}", key.display()))?;
        fs::set_permissions(&key, Permissions::from_mode(0o400)).context("protecting the API key")?;

        let places = Places { logs: logs.to_owned(), scratch: work.to_owned() };
        let api = address::free_loopback()?.to_string();
        let control_socket = work.join("control.sock");
        let appliance = Program::new("truenas-sim", &bin.join("truenas-sim"))
            .words(&["--backend", "memory", "--pool", POOL, "--truenas-version", "25.10"])
            .words(&["--listen", &api, "--nvmet-port", "127.0.0.1:4420", "--iscsi-portal", "127.0.0.1:3260"])
            .flag("--state-dir", work.join("appliance"))
            .flag("--tls-dir", work.join("tls"))
            .flag("--api-key-file", &key)
            .flag("--control", &control_socket)
            .run_as(RunAs::Powerless);
        let appliance = Process::start(&appliance, &places).await?;

        let controller_socket = work.join("csi/controller.sock");
        let controller = Program::new("controller", &bin.join("tns-csi"))
            .words(&["controller", "--cluster-id", "bench", "--log-level", LOG_LEVEL])
            .flag("--endpoint", address::unix(&controller_socket))
            .flag("--api-url", format!("wss://{api}/api/current"))
            .flag("--api-key-file", &key)
            .flag("--ca-file", work.join("tls/ca.pem"))
            .run_as(RunAs::Powerless);
        let controller = Process::start(&controller, &places).await?;
        let controller_csi = Csi::new(&controller_socket);
        controller_csi.probed(CONNECT).await.context("the controller")?;

        let mut notes = Vec::new();
        let helper_socket = work.join("helper/helper.sock");
        let helper = start_helper(bin, work, &helper_socket, &places, &mut notes).await;
        let node_socket = work.join("csi/node.sock");
        let node = Program::new("node", &bin.join("tns-csi"))
            .words(&["node", "--log-level", LOG_LEVEL])
            .flag("--endpoint", address::unix(&node_socket))
            .flag("--helper", address::unix(&helper_socket))
            .run_as(RunAs::Powerless);
        let node = Process::start(&node, &places).await?;
        let node_csi = Csi::new(&node_socket);
        if helper.is_ok() {
            node_csi.probed(CONNECT).await.context("the node agent")?;
        }
        Ok(Self {
            appliance,
            controller,
            helper: helper.map_err(|error| format!("{error:#}")),
            node,
            node_csi,
            orchestrator: Orchestrator::new(controller_csi.controller),
            control: Control::new(&control_socket),
            notes,
        })
    }

    /// The helper.
    ///
    /// # Errors
    /// It does not run here.
    pub fn helper(&self) -> anyhow::Result<&Process> {
        self.helper.as_ref().map_err(|reason| anyhow!("node-helper does not start here: {reason}"))
    }

    /// Ends the programs.
    ///
    /// # Errors
    /// One ended by itself, or badly.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.node.stop().await?;
        if let Ok(helper) = &mut self.helper {
            helper.stop().await?;
        }
        self.controller.stop().await?;
        self.appliance.stop().await
    }
}

/// Starts the helper as it runs on a node. Where its start-up checks refuse this machine (in a container, for one), it
/// starts without them: nothing is mounted here, and its memory is the same.
async fn start_helper(
    bin: &Path,
    work: &Path,
    socket: &Path,
    places: &Places,
    notes: &mut Vec<String>,
) -> anyhow::Result<Process> {
    let program = Program::new("node-helper", &bin.join("node-helper"))
        .words(&["--node-name", "bench", "--allow-uid", &nix::unistd::geteuid().to_string()])
        .words(&["--allow-server", "127.0.0.0/8", "--storage-cidr", "127.0.0.0/8"])
        .flag("--listen", address::unix(socket))
        .flag("--kubelet-root", work.join("kubelet"))
        .flag("--state-dir", work.join("helper-state"))
        .variable("RUST_LOG", LOG_LEVEL);
    let refusal = match Process::start(&program, places).await {
        Ok(helper) => return Ok(helper),
        Err(error) => format!("{error:#}"),
    };
    let configuration = work.join("helper.toml");
    fs::write(&configuration, "[tests]\nskip_host_checks = true\n")
        .with_context(|| format!("writing {}", configuration.display()))?;
    let helper = Process::start(&program.flag("--config", &configuration), places).await?;
    // Its own words are the first line of the log that the error carries.
    let words = refusal.lines().nth(1).unwrap_or(&refusal);
    notes.push(format!("node-helper runs without its checks of the host, which ended it here with: {words}"));
    Ok(helper)
}
