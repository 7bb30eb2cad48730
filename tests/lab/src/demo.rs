//! The demo: a volume's life per protocol as a readable account, each line something that was just done and seen.

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use harness::control::Figures;
use harness::process::Process;
use nix::errno::Errno;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tns_csi_proto::csi::v1::volume_capability::access_mode::Mode;

use crate::appliance;
use crate::capabilities;
use crate::data;
use crate::guest::{PARENT, run as command};
use crate::kubelet::{Class, GIB, Volume};
use crate::lab::{Lab, with_smb_user};

const POD: &str = "6d5f5f0e-3c57-4f0d-9b2f-0a8f4c1e7d01";
/// What is written and read back, in bytes.
const PAYLOAD: usize = 8 << 20;
/// How far below the quota the demo brings the volume before it fills it, in bytes.
const HEADROOM: u64 = 32 << 20;
/// What a volume leaves on the appliance while it exists.
const TABLES: &[&str] = &[
    "sharing.nfs",
    "sharing.smb",
    "iscsi.target",
    "iscsi.extent",
    "iscsi.targetextent",
    "iscsi.initiator",
    "nvmet.subsys",
    "nvmet.namespace",
    "nvmet.host_subsys",
    "nvmet.port_subsys",
];

/// Runs the demo on a fresh chain.
pub async fn run() -> anyhow::Result<()> {
    let start = Instant::now();
    let mut lab = Lab::start().await?;
    println!();
    println!(
        "truenas-sim on real ZFS, the driver's controller and node agent, and the node-helper are running."
    );
    println!("Each line: what was asked of the driver, how long it took, and how many calls in how many");
    println!("sequential hops reached the appliance.");
    let result = chapters(&lab).await;
    if let Err(error) = result {
        println!("{}", crate::logs::log_tails());
        return Err(error);
    }
    empty(&lab).await?;
    lab.stop().await?;
    println!();
    println!("The demo took {:.0} s.", start.elapsed().as_secs_f64());
    Ok(())
}

async fn chapters(lab: &Lab) -> anyhow::Result<()> {
    let nfs = Class::mount("nfs", "", Mode::MultiNodeMultiWriter);
    Chapter::new(lab, "NFS: a file system for many nodes", "demo-nfs", nfs).tell().await?;
    let smb = with_smb_user(Class::mount("smb", "", Mode::MultiNodeMultiWriter));
    Chapter::new(lab, "SMB: a file system for many nodes", "demo-smb", smb).tell().await?;
    let iscsi = Class::mount("iscsi", "ext4", Mode::SingleNodeMultiWriter);
    Chapter::new(lab, "iSCSI: ext4 on a zvol", "demo-iscsi", iscsi).tell().await?;
    let ext4 = Class::mount("nvmeof", "ext4", Mode::SingleNodeMultiWriter);
    Chapter::new(lab, "NVMe-oF: ext4 on a zvol", "demo-ext4", ext4).tell().await?;
    let block = Class::block("nvmeof", Mode::SingleNodeMultiWriter);
    Chapter::new(lab, "NVMe-oF: the raw device", "demo-block", block).tell().await
}

/// The life of one volume.
struct Chapter<'a> {
    lab: &'a Lab,
    title: &'a str,
    name: &'a str,
    class: Class,
}

impl<'a> Chapter<'a> {
    fn new(lab: &'a Lab, title: &'a str, name: &'a str, class: Class) -> Self {
        Self { lab, title, name, class }
    }

    async fn tell(&self) -> anyhow::Result<()> {
        let kubelet = &self.lab.kubelet;
        println!("\n== {}", self.title);
        let mut volume = self.step("CreateVolume", kubelet.create(self.name, &self.class, GIB)).await?;
        self.seen(&format!("volume {}, {}", volume.id, gib(unsigned(volume.capacity))));
        self.attach(&mut volume).await?;
        let (staged, who) =
            tokio::join!(self.step("NodeStageVolume", kubelet.stage(&volume)), async { self.who() });
        staged?;
        who?;
        let path = self.step("NodePublishVolume", kubelet.publish(&volume, POD, false)).await?;
        let file = if self.class.is_block() { path.clone() } else { path.join("data") };

        let payload = data::noise(self.name, PAYLOAD);
        let digest = hash(&payload);
        data::write(&file, payload.clone()).await?;
        self.seen(&format!("the pod wrote {} MiB, SHA-256 {digest}", PAYLOAD >> 20));

        self.step("NodeUnpublishVolume", kubelet.unpublish(&volume, POD)).await?;
        self.step("NodeUnstageVolume", kubelet.unstage(&volume)).await?;
        ensure!(!path.exists(), "{} is left after unpublish", path.display());
        self.seen("nothing is mounted or connected any more");
        self.step("NodeStageVolume", kubelet.stage(&volume)).await?;
        self.step("NodePublishVolume", kubelet.publish(&volume, POD, false)).await?;
        data::verify(&file, payload.clone()).await?;
        self.seen(&format!("the pod read the same {} MiB back, SHA-256 {digest}", PAYLOAD >> 20));

        if appliance::property(&volume.id, "type")? == "filesystem" {
            self.fill(&volume, &path).await?;
        }
        self.grow(&mut volume, &path).await?;
        data::verify(&file, payload).await?;
        self.seen("the data are still the same");

        self.step("NodeUnpublishVolume", kubelet.unpublish(&volume, POD)).await?;
        self.step("NodeUnstageVolume", kubelet.unstage(&volume)).await?;
        self.step("ControllerUnpublishVolume", kubelet.detach(&volume)).await?;
        self.step("DeleteVolume", kubelet.remove(&volume)).await
    }

    async fn attach(&self, volume: &mut Volume) -> anyhow::Result<()> {
        self.step("ControllerPublishVolume", self.lab.kubelet.attach(volume)).await?;
        let keys: Vec<&str> = volume.publish_context.keys().map(String::as_str).collect();
        self.seen(&format!("granted to this node; it gets {}", keys.join(", ")));
        Ok(())
    }

    /// Fills the volume up to its quota. The quota of 1 GiB, the least that TrueNAS takes, is brought near to what is
    /// used, at the pool, so that an emulated machine need not write a GiB; then it is put back.
    async fn fill(&self, volume: &Volume, path: &Path) -> anyhow::Result<()> {
        let quota = appliance::property(&volume.id, "refquota")?;
        // ZFS counts what the last transaction wrote only when it is on the disks.
        command("zpool", &["sync"])?;
        let used: u64 =
            appliance::property(&volume.id, "referenced")?.parse().context("reading what is used")?;
        command("zfs", &["set", &format!("refquota={}", used + HEADROOM), &volume.id])?;
        let file = path.join("fill");
        let full = data::write_until_error(&file, 16 * HEADROOM).await?;
        let full = full.context("writing past the quota was not refused")?;
        let code = full.error.raw_os_error().map(Errno::from_raw);
        // Over SMB a server has one word for both (Samba: STATUS_DISK_FULL), which the kernel reads as ENOSPC.
        let expected = if self.class.parameters.get("protocol").is_some_and(|p| p == "smb") {
            Errno::ENOSPC
        } else {
            Errno::EDQUOT
        };
        ensure!(
            code == Some(expected),
            "writing past the quota ended with {} instead of {expected:?}",
            full.error
        );
        self.seen(&format!(
            "with {} MiB left in the quota the pod could write {} MiB, then {expected:?} ({})",
            HEADROOM >> 20,
            full.written >> 20,
            full.error
        ));
        std::fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        command("zfs", &["set", &format!("refquota={quota}"), &volume.id])
    }

    async fn grow(&self, volume: &mut Volume, path: &Path) -> anyhow::Result<()> {
        let before = self.size(path).await?;
        self.step("ControllerExpandVolume, NodeExpand", self.lab.kubelet.expand(volume, POD, 2 * GIB))
            .await?;
        let after = self.size(path).await?;
        ensure!(after > before + before / 2, "{before} bytes before growing, {after} after");
        let who = if self.class.is_block() { "the device" } else { "the file system" };
        self.seen(&format!("{who} grew from {} to {} while in use", gib(before), gib(after)));
        Ok(())
    }

    async fn size(&self, path: &Path) -> anyhow::Result<u64> {
        if self.class.is_block() { data::size(path) } else { data::filesystem_size(path).await }
    }

    /// Does a step and prints its line.
    async fn step<T, E>(&self, name: &str, work: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
    where
        Result<T, E>: Context<T, E>,
    {
        self.lab.control.reset_figures().await?;
        let start = Instant::now();
        let result = work.await.with_context(|| format!("{name} of {}", self.name))?;
        let took = start.elapsed();
        let figures = self.lab.control.figures().await?;
        println!("  {name:<36} {:>8}  {}", seconds(took), calls(&figures));
        Ok(result)
    }

    /// Prints what was seen after a step.
    fn seen(&self, text: &str) {
        println!("      {text}");
    }

    /// Prints as whom the programs run, looked up while one of them works.
    fn who(&self) -> anyhow::Result<()> {
        let programs: [(&str, &Process); 3] = [
            ("controller", &self.lab.controller),
            ("node agent", &self.lab.node),
            ("node-helper", &self.lab.helper),
        ];
        for (name, process) in programs {
            let uids = process.field("Uid")?;
            let uid = uids.split_whitespace().nth(1).unwrap_or("?");
            let effective = capabilities::names(&process.field("CapEff")?)?;
            let held = if effective.is_empty() { "none".to_owned() } else { effective.join(", ") };
            println!("      meanwhile: {name} has effective uid {uid}, capabilities: {held}");
        }
        Ok(())
    }
}

/// Shows that the appliance holds nothing of the demo any more.
async fn empty(lab: &Lab) -> anyhow::Result<()> {
    println!("\n== The appliance at the end");
    let datasets = appliance::datasets_below(PARENT)?;
    println!("  datasets and zvols below {PARENT}: {}", datasets.len());
    let mut left = datasets.len();
    for table in TABLES {
        let rows = lab.control.send(json!({"command": "rows", "table": table})).await?;
        let count = rows.as_array().map(Vec::len).with_context(|| format!("rows of {table}: {rows}"))?;
        println!("  rows of {table}: {count}");
        left += count;
    }
    let stats = lab.control.send(json!({"command": "stats"})).await?;
    if let (Some(Value::Bool(true)), Some(Value::Array(broken))) =
        (stats.get("schemas_checked"), stats.get("schema_violations"))
    {
        println!("  requests and answers that break the appliance's schemas: {}", broken.len());
    }
    ensure!(left == 0, "the appliance is not empty");
    Ok(())
}

fn calls(figures: &Figures) -> String {
    match figures.calls {
        0 => "no call".to_owned(),
        1 => "1 call".to_owned(),
        calls => format!("{calls} calls in {} hops", figures.hops),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}

fn unsigned(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or_default()
}

/// The first 16 digits of the SHA-256.
fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
