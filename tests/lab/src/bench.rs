//! What staging costs over the bare steps, in the same guest, volume by volume in turn.
//!
//! The bare steps of a new block volume: connect (by `/dev/nvme-fabrics`, or by `iscsiadm` with static records), wait for
//! the device, `blkid`, `mkfs.ext4` with the helper's options, mount, bind; of files: `mount.nfs` or `mount.cifs`, bind. Both
//! sides get volumes that the driver made and attached.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use harness::wait;
use tns_csi_proto::csi::v1::volume_capability::access_mode::Mode;
use uuid::Uuid;

use crate::guest::{RUN, run as command};
use crate::kubelet::{Class, GIB, Volume};
use crate::lab::{Lab, SERVER, with_smb_user};

/// Volumes on each side.
const ROUNDS: usize = 7;
/// How much longer staging and publishing may take than the bare steps.
const TARGET: f64 = 1.2;
/// What a peer sleeps for a new NVMe-oF file system (the fixed waits of its staging), for comparison.
const PEER: &str = "a peer sleeps 10 to 20 s";
const POD: &str = "9e1d7c52-9a0d-4c5e-8f43-2b6c1d0e5f01";

/// Measures and prints; false when something could not be measured.
pub async fn run() -> anyhow::Result<bool> {
    let mut lab = Lab::start().await?;
    let measured = measure(&lab).await;
    if measured.is_err() {
        println!("{}", crate::logs::log_tails());
    }
    println!(
        "\nNodeStageVolume + NodePublishVolume of a new volume over the bare steps, medians of {ROUNDS} in turn; {PEER}"
    );
    for (title, driver, bare) in measured? {
        let ratio = driver.as_secs_f64() / bare.as_secs_f64();
        let verdict = if ratio <= TARGET { "ok" } else { "OVER" };
        println!(
            "  {title:<14} {:>8.0} ms   bare {:>8.0} ms   ratio {ratio:>6.2}   target {TARGET}  {verdict}",
            driver.as_secs_f64() * 1e3,
            bare.as_secs_f64() * 1e3
        );
    }
    println!("\nIn the guest, at rest after these volumes");
    for (name, process, target) in
        [("node agent", &lab.node, 10), ("node-helper", &lab.helper, 10), ("controller", &lab.controller, 15)]
    {
        let mib = |field: &str| -> anyhow::Result<f64> {
            let text = process.field(field)?;
            let kib = text.split_whitespace().next().and_then(|word| word.parse::<u32>().ok());
            Ok(f64::from(kib.with_context(|| format!("{field} is {text:?}"))?) / 1024.0)
        };
        let (all, own) = (mib("VmRSS")?, mib("RssAnon")?);
        let verdict = if all <= f64::from(target) { "ok" } else { "OVER" };
        println!(
            "  resident memory of {name:<14} {all:>8.1} MiB   target {target}  {verdict}  ({own:.1} MiB its own, the \
             rest its program file)"
        );
    }
    for (name, process) in [("node agent", &lab.node), ("node-helper", &lab.helper)] {
        let took = process.ready_after.as_millis();
        println!("  {name} ready after {took} ms on this emulated machine (target 100 ms on a real one)");
    }
    lab.stop().await?;
    Ok(true)
}

type Measured = Vec<(&'static str, Duration, Duration)>;

async fn measure(lab: &Lab) -> anyhow::Result<Measured> {
    let mode = Mode::SingleNodeMultiWriter;
    let mut measured = Vec::new();
    for (title, class) in [
        ("NVMe-oF, ext4", Class::mount("nvmeof", "ext4", mode)),
        ("iSCSI, ext4", Class::mount("iscsi", "ext4", mode)),
        ("NFS", Class::mount("nfs", "", mode)),
        ("SMB", with_smb_user(Class::mount("smb", "", mode))),
    ] {
        let (mut driver, mut bare) = (Vec::new(), Vec::new());
        // The first round loads programs and modules and counts for neither side.
        for round in 0..=ROUNDS {
            let by_driver = through_driver(lab, &class, &format!("bench-driver-{round}")).await?;
            let by_hand = by_hand(lab, &class, &format!("bench-bare-{round}")).await.context(title)?;
            if round > 0 {
                driver.push(by_driver);
                bare.push(by_hand);
            }
        }
        measured.push((title, median(driver)?, median(bare)?));
    }
    Ok(measured)
}

fn median(mut times: Vec<Duration>) -> anyhow::Result<Duration> {
    times.sort();
    times.get(times.len() / 2).copied().context("nothing was measured")
}

async fn new_volume(lab: &Lab, class: &Class, name: &str) -> anyhow::Result<Volume> {
    let mut volume = lab.kubelet.create(name, class, GIB).await.context("CreateVolume")?;
    lab.kubelet.attach(&mut volume).await.context("ControllerPublishVolume")?;
    Ok(volume)
}

async fn through_driver(lab: &Lab, class: &Class, name: &str) -> anyhow::Result<Duration> {
    let volume = new_volume(lab, class, name).await?;
    let start = Instant::now();
    lab.kubelet.stage(&volume).await.context("NodeStageVolume")?;
    lab.kubelet.publish(&volume, POD, false).await.context("NodePublishVolume")?;
    let took = start.elapsed();
    lab.kubelet.take_down(&volume, POD).await?;
    Ok(took)
}

/// A volume that is connected by hand, as what undoes that.
enum Connected {
    Nvme(PathBuf),
    Iscsi(Session),
    Files,
}

async fn by_hand(lab: &Lab, class: &Class, name: &str) -> anyhow::Result<Duration> {
    let volume = new_volume(lab, class, name).await?;
    let (staging, target) = (Path::new(RUN).join("bare/staging"), Path::new(RUN).join("bare/target"));
    for directory in [&staging, &target] {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    let text = |path: &Path| path.display().to_string();
    let credentials = Path::new(RUN).join("bare/credentials");
    let session = Session::of(lab, &volume)?;
    let secrets = &class.secrets;
    let value = |key: &str| secrets.get(key).map(String::as_str).unwrap_or_default();
    fs::write(&credentials, format!("username={}\npassword={}\n", value("username"), value("password")))
        .context("writing the credentials")?;

    let start = Instant::now();
    let connected = match class.protocol() {
        "nvmeof" => {
            let controller = connect(lab, &volume)?;
            format(&device_of(&controller).await?, &staging)?;
            Connected::Nvme(controller)
        }
        "iscsi" => {
            session.login()?;
            format(&session.device().await?, &staging)?;
            Connected::Iscsi(session)
        }
        "nfs" => {
            let export = format!("{SERVER}:{}", context(&volume, "export")?);
            command("mount", &["-t", "nfs4", "-o", "vers=4.2,hard", &export, &text(&staging)])?;
            Connected::Files
        }
        _ => {
            let share = format!("//{SERVER}/{}", context(&volume, "share")?);
            let options =
                format!("vers=3.0,file_mode=0777,dir_mode=0777,credentials={}", credentials.display());
            command("mount", &["-t", "cifs", "-o", &options, &share, &text(&staging)])?;
            Connected::Files
        }
    };
    command("mount", &["--bind", &text(&staging), &text(&target)])?;
    let took = start.elapsed();
    command("umount", &[&text(&target)])?;
    command("umount", &[&text(&staging)])?;
    match connected {
        Connected::Nvme(controller) => {
            fs::write(controller.join("delete_controller"), "1").context("disconnecting")?;
        }
        Connected::Iscsi(session) => session.logout()?,
        Connected::Files => {}
    }
    lab.kubelet.detach(&volume).await.context("ControllerUnpublishVolume")?;
    lab.kubelet.remove(&volume).await?;
    Ok(took)
}

fn context<'a>(volume: &'a Volume, key: &str) -> anyhow::Result<&'a String> {
    volume.publish_context.get(key).with_context(|| format!("no {key} in the context"))
}

/// Proves that the device is blank, makes the file system as the helper does, and mounts it.
fn format(device: &Path, staging: &Path) -> anyhow::Result<()> {
    let device = device.display().to_string();
    // Status 2: nothing was found, which is what shall be.
    let probe =
        std::process::Command::new("blkid").args(["-p", &device]).status().context("starting blkid")?;
    ensure!(probe.code() == Some(2), "blkid found something on the new {device}");
    command("mkfs.ext4", &["-q", "-m", "0", "-E", "nodiscard", &device])?;
    command("mount", &["-t", "ext4", "-o", "noatime", &device, &staging.display().to_string()])
}

/// An iSCSI session made by `iscsiadm`, with a record and an initiator name of its own.
struct Session {
    iqn: String,
    portal: String,
}

/// The iface record of the bare sessions.
const IFACE: &str = "bench";

impl Session {
    fn of(lab: &Lab, volume: &Volume) -> anyhow::Result<Self> {
        if volume.class.protocol() != "iscsi" {
            return Ok(Self { iqn: String::new(), portal: String::new() });
        }
        let initiator = tns_csi_proto::identity::initiator_name(&host(lab)?);
        // It is there already after the first volume.
        drop(command("iscsiadm", &["-m", "iface", "-I", IFACE, "-o", "new"]));
        let name =
            ["-m", "iface", "-I", IFACE, "-o", "update", "-n", "iface.initiatorname", "-v", &initiator];
        command("iscsiadm", &name)?;
        let portal = context(volume, "portals")?.split(',').next().unwrap_or_default().to_owned();
        Ok(Self { iqn: context(volume, "iqn")?.clone(), portal })
    }

    fn run(&self, more: &[&str]) -> anyhow::Result<()> {
        let record = ["-m", "node", "-T", &self.iqn, "-p", &self.portal, "-I", IFACE];
        command("iscsiadm", &[record.as_slice(), more].concat())
    }

    fn login(&self) -> anyhow::Result<()> {
        self.run(&["-o", "new"])?;
        self.run(&["--login"])
    }

    fn logout(&self) -> anyhow::Result<()> {
        self.run(&["--logout"])?;
        self.run(&["-o", "delete"])
    }

    /// Waits for the disk of the one session.
    async fn device(&self) -> anyhow::Result<PathBuf> {
        let mut found = None;
        wait::until("the session's disk", Duration::from_secs(30), || {
            for entry in fs::read_dir("/sys/class/block").context("listing block devices")? {
                let path = entry.context("listing block devices")?.path();
                let place = fs::read_link(&path).unwrap_or_default().display().to_string();
                let whole = !path.join("partition").exists();
                if whole && place.contains("/session") && path.join("device/vpd_pg80").exists() {
                    found = path.file_name().map(|name| Path::new("/dev").join(name));
                }
            }
            Ok(found.as_ref().is_some_and(|path| path.exists()))
        })
        .await?;
        found.context("no disk was found")
    }
}

/// This node's host UUID, from its id.
fn host(lab: &Lab) -> anyhow::Result<Uuid> {
    let host = lab.kubelet.node_id.split(';').nth(1).and_then(|text| Uuid::parse_str(text).ok());
    host.with_context(|| format!("no host UUID in the node id {}", lab.kubelet.node_id))
}

/// Connects as this node and returns the controller's directory in sysfs.
fn connect(lab: &Lab, volume: &Volume) -> anyhow::Result<PathBuf> {
    let nqn = context(volume, "subsystemNQN")?;
    let portal = context(volume, "portals")?.split(',').next().unwrap_or_default();
    let (address, port) = portal.rsplit_once(':').with_context(|| format!("{portal} is no portal"))?;
    let host = host(lab)?;
    let host_nqn = tns_csi_proto::identity::host_nqn(&host);
    let line = format!(
        "transport=tcp,traddr={address},trsvcid={port},nqn={nqn},hostnqn={host_nqn},hostid={host},keep_alive_tmo=5,\
         reconnect_delay=10,ctrl_loss_tmo=-1"
    );
    let mut fabrics = File::options().read(true).write(true).open("/dev/nvme-fabrics")?;
    fabrics.write_all(line.as_bytes()).context("connecting by /dev/nvme-fabrics")?;
    let mut answer = [0; 256];
    let length = fabrics.read(&mut answer).context("reading the answer of /dev/nvme-fabrics")?;
    let answer = String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned();
    let instance = answer.trim().split(',').find_map(|part| part.strip_prefix("instance="));
    let instance = instance.with_context(|| format!("/dev/nvme-fabrics answered {answer:?}"))?;
    Ok(Path::new("/sys/class/nvme").join(format!("nvme{instance}")))
}

/// Waits for the one namespace of a controller.
async fn device_of(controller: &Path) -> anyhow::Result<PathBuf> {
    let nqn = fs::read_to_string(controller.join("subsysnqn")).context("reading the subsystem's name")?;
    let mut found = None;
    wait::until("the namespace's device", Duration::from_secs(30), || {
        for entry in fs::read_dir("/sys/class/nvme-subsystem").context("listing NVMe subsystems")? {
            let subsystem = entry.context("listing NVMe subsystems")?.path();
            if fs::read_to_string(subsystem.join("subsysnqn")).is_ok_and(|name| name == nqn) {
                found = namespace_in(&subsystem)?;
            }
        }
        Ok(found.as_ref().is_some_and(|path: &PathBuf| path.exists()))
    })
    .await?;
    match found {
        Some(path) => Ok(path),
        None => bail!("{} has no namespace", controller.display()),
    }
}

fn namespace_in(subsystem: &Path) -> anyhow::Result<Option<PathBuf>> {
    for entry in fs::read_dir(subsystem).with_context(|| format!("listing {}", subsystem.display()))? {
        let name = entry.context("listing a subsystem")?.file_name().to_string_lossy().into_owned();
        let numbers = name.strip_prefix("nvme").and_then(|rest| rest.split_once('n'));
        if numbers.is_some_and(|(a, b)| [a, b].iter().all(|part| part.parse::<u32>().is_ok())) {
            return Ok(Some(Path::new("/dev").join(name)));
        }
    }
    Ok(None)
}
