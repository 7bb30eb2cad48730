//! The whole chain in one guest: appliance, controller, node agent and helper, each as it would run for real.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use harness::address::unix;
use harness::control::Control;
use harness::csi::Csi;
use harness::orchestrator::Orchestrator;
use harness::process::Process;
use harness::program::DRIVER_UID;
use harness::program::{Program, RunAs};
use tns_csi_proto::csi::v1::NodeGetInfoRequest;

use crate::appliance;
use crate::guest::{self, KUBELET, PARENT, POOL, RUN};
use crate::kubelet::{Class, DRIVER, Kubelet};
use crate::logs::places;
use crate::relay::helper_socket;

/// Address of the appliance.
pub const SERVER: &str = "127.0.0.1";
/// The appliance's SMB user: an account of the machine that it runs on.
const SMB_USER: &str = "root";
/// The user's password: comma and quotes end an option where passwords travel in option strings.
const SMB_PASSWORD: &str = "p,a\"s's=%s 7f3kq9zx1mvb";
/// Where the stand-in listens.
const API: &str = "127.0.0.1:8443";
/// Where the programs lie.
const BIN: &str = "/lab/bin";
/// Where the appliance's JSON Schemas lie, when the host has them.
const SCHEMAS: &str = "/lab/bin/schemas";

/// Everything that runs, and the orchestrator's clients.
#[derive(Debug)]
pub struct Lab {
    /// The stand-in appliance.
    pub appliance: Process,
    /// The driver's controller.
    pub controller: Process,
    /// The node-helper.
    pub helper: Process,
    /// The driver's node agent.
    pub node: Process,
    /// Control of the stand-in.
    pub control: Control,
    /// The orchestrator.
    pub kubelet: Kubelet,
}

impl Lab {
    /// Starts the four programs, one after the other, each ready before the next.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[]).await
    }

    /// As [`Self::start`], with further arguments for the stand-in.
    pub async fn start_with(appliance_arguments: &[&str]) -> anyhow::Result<Self> {
        files()?;
        let places = places();
        let appliance = Process::start(&appliance_program(appliance_arguments), &places).await?;
        let controller = Process::start(&controller_program(), &places).await?;
        let helper = Process::start(&helper_program(), &places).await?;
        let node = Process::start(&node_program(), &places).await?;
        let node_agent = Csi::new(&run_path("csi/node.sock")).node;
        let info = node_agent.clone().node_get_info(NodeGetInfoRequest {}).await.context("NodeGetInfo")?;
        let kubelet = Kubelet {
            sidecars: Orchestrator::new(Csi::new(&run_path("csi/controller.sock")).controller),
            node: node_agent,
            node_id: info.into_inner().node_id,
            root: PathBuf::from(KUBELET),
        };
        Ok(Self { appliance, controller, helper, node, control: Control::new(&control_socket()), kubelet })
    }

    /// Ends the programs in the order in which a machine would.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        for process in [&mut self.node, &mut self.helper, &mut self.controller, &mut self.appliance] {
            process.stop().await?;
        }
        Ok(())
    }

    /// After a failed scenario: ends everything and undoes by force what is left, so that the next one can start anew.
    pub async fn clear(mut self) -> anyhow::Result<()> {
        for process in [&mut self.node, &mut self.helper, &mut self.controller] {
            process.crash().await?;
        }
        unmount_all()?;
        disconnect_all()?;
        self.appliance.crash().await?;
        clear_target()?;
        appliance::destroy_below(PARENT)?;
        for state in ["appliance", "helper"] {
            let path = run_path(state);
            fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(())
    }

    /// Every request and answer since the stand-in's start kept to the appliance's schemas, where they are there.
    pub async fn must_keep_to_schemas(&self) -> anyhow::Result<()> {
        let stats = self.control.send(serde_json::json!({"command": "stats"})).await?;
        match stats.get("schema_violations").and_then(serde_json::Value::as_array) {
            Some(violations) if violations.is_empty() => Ok(()),
            violations => bail!("requests or answers break the appliance's schemas: {violations:?}"),
        }
    }

    /// Nothing of a scenario may be left: no dataset, no mount, no connected controller, no dead program.
    pub fn must_be_clean(&mut self) -> anyhow::Result<()> {
        for (name, process) in [
            ("truenas-sim", &mut self.appliance),
            ("controller", &mut self.controller),
            ("node-helper", &mut self.helper),
            ("node agent", &mut self.node),
        ] {
            if !process.running() {
                bail!("{name} does not run");
            }
        }
        let datasets = appliance::datasets_below(PARENT)?;
        if !datasets.is_empty() {
            bail!("datasets are left: {}", datasets.join(", "));
        }
        let mounts = mounts_below(KUBELET)?;
        if !mounts.is_empty() {
            bail!("mounts are left: {}", mounts.join(", "));
        }
        let controllers = nvme_fabrics_controllers()?;
        if !controllers.is_empty() {
            bail!("NVMe controllers are left: {}", controllers.join(", "));
        }
        let iscsi = iscsi_leftovers();
        if !iscsi.is_empty() {
            bail!("of iSCSI is left: {}", iscsi.join(", "));
        }
        Ok(())
    }
}

/// A class whose Secret holds the appliance's SMB user.
pub fn with_smb_user(class: Class) -> Class {
    class.with_secret("username", SMB_USER).with_secret("password", SMB_PASSWORD)
}

fn run_path(name: &str) -> PathBuf {
    Path::new(RUN).join(name)
}

fn control_socket() -> PathBuf {
    run_path("appliance-control.sock")
}

/// Directories with the owners that a real installation gives them, and the API key.
fn files() -> anyhow::Result<()> {
    guest::directory(&places().scratch, 0, 0, 0o755)?;
    guest::directory(&run_path("csi"), DRIVER_UID, DRIVER_UID, 0o755)?;
    guest::directory(&run_path("helper-socket"), 0, DRIVER_UID, 0o750)?;
    guest::directory(&run_path("helper"), 0, 0, 0o700)?;
    guest::directory(&run_path("appliance"), 0, 0, 0o700)?;
    guest::directory(&run_path("tls"), 0, 0, 0o755)?;
    guest::directory(&run_path("secret"), DRIVER_UID, DRIVER_UID, 0o700)?;
    guest::directory(&run_path("appliance-secret"), 0, 0, 0o700)?;
    let password = run_path("appliance-secret/smb-password");
    fs::write(&password, SMB_PASSWORD).with_context(|| format!("writing {}", password.display()))?;
    let key = run_path("secret/api-key");
    if !key.exists() {
        // The form of a TrueNAS key: `<id>-<64 letters and digits>`.
        let secret: String = (0..2).map(|_| uuid::Uuid::new_v4().simple().to_string()).collect();
        fs::write(&key, format!("1-{secret}\n")).with_context(|| format!("writing {}", key.display()))?;
        std::os::unix::fs::chown(&key, Some(DRIVER_UID), Some(DRIVER_UID))
            .context("giving away the API key")?;
    }
    Ok(())
}

fn appliance_program(arguments: &[&str]) -> Program {
    let mut program = program("truenas-sim", "truenas-sim")
        .words(&["--backend", "zfs", "--pool", POOL, "--listen", API, "--truenas-version", "25.10"])
        .words(&[
            "--nvmet-port",
            "127.0.0.1:4420",
            "--iscsi-portal",
            "127.0.0.1:3260",
            "--smb-user",
            SMB_USER,
        ])
        .flag("--smb-password-file", run_path("appliance-secret/smb-password"))
        .flag("--state-dir", run_path("appliance"))
        .flag("--api-key-file", run_path("secret/api-key"))
        .flag("--tls-dir", run_path("tls"))
        .flag("--control", control_socket());
    if let Some(schemas) = schemas() {
        program = program.flag("--schemas", schemas);
    }
    program.words(arguments).variable("RUST_LOG", "info")
}

/// The appliance's JSON Schemas, when the host has them.
pub fn schemas() -> Option<&'static Path> {
    Some(Path::new(SCHEMAS)).filter(|path| path.is_dir())
}

fn controller_program() -> Program {
    program("controller", "tns-csi")
        .words(&["controller", "--driver-name", DRIVER, "--cluster-id", "lab"])
        .flag("--endpoint", unix(&run_path("csi/controller.sock")))
        .flag("--api-url", format!("wss://{API}/api/current"))
        .flag("--api-key-file", run_path("secret/api-key"))
        .flag("--ca-file", run_path("tls/ca.pem"))
        .run_as(RunAs::User(DRIVER_UID))
}

fn helper_program() -> Program {
    program("node-helper", "node-helper")
        .words(&["--kubelet-root", KUBELET, "--node-name", "lab-node", "--driver-name", DRIVER])
        .flag("--listen", unix(&helper_socket()))
        .flag("--state-dir", run_path("helper"))
        .flag("--allow-uid", DRIVER_UID.to_string())
        .words(&["--allow-server", "127.0.0.0/8", "--storage-cidr", "127.0.0.0/8"])
}

fn node_program() -> Program {
    program("node", "tns-csi")
        .words(&["node", "--driver-name", DRIVER])
        .flag("--endpoint", unix(&run_path("csi/node.sock")))
        .flag("--helper", unix(&helper_socket()))
        .run_as(RunAs::User(DRIVER_UID))
}

fn program(name: &str, file: &str) -> Program {
    Program::new(name, &Path::new(BIN).join(file))
}

/// Mount points below a directory, the directory itself left out, the last one mounted first.
pub fn mounts_below(directory: &str) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
    let prefix = format!("{directory}/");
    let points =
        text.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| point.starts_with(&prefix));
    Ok(points.rev().map(str::to_owned).collect())
}

fn unmount_all() -> anyhow::Result<()> {
    for point in mounts_below(KUBELET)? {
        guest::run("umount", &["--lazy", "--force", &point])?;
    }
    for directory in ["pods", "plugins"] {
        let path = Path::new(KUBELET).join(directory);
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

/// NVMe controllers over fabrics, by their names in sysfs.
pub fn nvme_fabrics_controllers() -> anyhow::Result<Vec<String>> {
    let directory = Path::new("/sys/class/nvme");
    let Ok(entries) = fs::read_dir(directory) else { return Ok(Vec::new()) };
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

/// Sessions of the iSCSI initiator, and records from which it would make some again.
pub fn iscsi_leftovers() -> Vec<String> {
    let names = |path: &str| -> Vec<String> {
        let entries = fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
        entries.map(|entry| entry.path().display().to_string()).collect()
    };
    ["/sys/class/iscsi_session", "/var/lib/iscsi/nodes"].into_iter().flat_map(names).collect()
}

fn disconnect_all() -> anyhow::Result<()> {
    for name in nvme_fabrics_controllers()? {
        let path = Path::new("/sys/class/nvme").join(&name).join("delete_controller");
        // It may go by itself meanwhile.
        if let Err(error) = fs::write(&path, "1")
            && error.kind() != std::io::ErrorKind::NotFound
        {
            bail!("disconnecting {name}: {error}");
        }
    }
    Ok(())
}

/// Empties the kernel's NVMe target by hand, as its owner is gone.
fn clear_target() -> anyhow::Result<()> {
    let script = "cd /sys/kernel/config/nvmet || exit 0
for link in ports/*/subsystems/*; do [ -L \"$link\" ] && rm \"$link\"; done
for port in ports/*; do [ -d \"$port\" ] && rmdir \"$port\"; done
for enable in subsystems/*/namespaces/*/enable; do [ -e \"$enable\" ] && echo 0 > \"$enable\"; done
for namespace in subsystems/*/namespaces/*; do [ -d \"$namespace\" ] && rmdir \"$namespace\"; done
for link in subsystems/*/allowed_hosts/*; do [ -L \"$link\" ] && rm \"$link\"; done
for subsystem in subsystems/*; do [ -d \"$subsystem\" ] && rmdir \"$subsystem\"; done
for host in hosts/*; do [ -d \"$host\" ] && rmdir \"$host\"; done
rm -f /etc/exports.d/truenas.exports; exportfs -r; rpc.nfsd 0; true";
    guest::run("sh", &["-c", script])
}
