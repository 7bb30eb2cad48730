//! Staging what is staged already: alive it stays as it is, dead it is staged anew, and never twice.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::join_all;
use harness::wait;
use tns_csi_proto::csi::v1::volume_capability::access_mode::Mode;
use tonic::Code;

use super::common::{OTHER_POD, POD, again, must_be_staged_once, nfs, nvmeof, refused};
use crate::data;
use crate::guest::output;
use crate::kubelet::{Class, GIB, Volume};
use crate::lab::{Lab, nvme_fabrics_controllers};
use crate::scenario::{Run, Scenario};

const NVME: &str = "/sys/class/nvme";
const REACH: Duration = Duration::from_secs(60);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "dead-device-gone",
            about: "a mount whose device is gone is not published; staging makes it anew and the data are there",
            run: Run::Chain(|lab| Box::pin(dead(lab, "ext4", Return::Never))),
        },
        Scenario {
            name: "dead-device-under-another-number",
            about: "the same when the device is back under another number: the dead mount is never bound",
            run: Run::Chain(|lab| Box::pin(dead(lab, "ext4", Return::AnotherNumber))),
        },
        Scenario {
            name: "dead-device-xfs",
            about: "the same with xfs, which shuts down when its device goes",
            run: Run::Chain(|lab| Box::pin(dead(lab, "xfs", Return::AnotherNumber))),
        },
        Scenario {
            name: "same-stage-at-once",
            about: "the same stage and publish sent several times at once: one mount each",
            run: Run::Chain(|lab| Box::pin(at_once(lab))),
        },
    ]
}

/// Whether a device comes back before the volume is staged again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Return {
    Never,
    AnotherNumber,
}

/// A connection as the kernel knows it, to make it again.
struct Connection {
    options: String,
    controller: String,
}

fn connection() -> anyhow::Result<Connection> {
    let controllers = nvme_fabrics_controllers()?;
    let [controller] = controllers.as_slice() else {
        anyhow::bail!("one connection expected: {controllers:?}")
    };
    let read = |name: &str| -> anyhow::Result<String> {
        let path = Path::new(NVME).join(controller).join(name);
        Ok(fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?
            .trim()
            .to_owned())
    };
    let address = read("address")?;
    let address: Vec<&str> = address
        .split(',')
        .filter(|part| part.starts_with("traddr=") || part.starts_with("trsvcid="))
        .collect();
    Ok(Connection {
        options: format!(
            "transport=tcp,{},nqn={},hostnqn={},hostid={}",
            address.join(","),
            read("subsysnqn")?,
            read("hostnqn")?,
            read("hostid")?
        ),
        controller: controller.clone(),
    })
}

/// Device numbers of the volume's namespaces, as the kernel lists them now.
fn numbers() -> anyhow::Result<Vec<String>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir("/sys/block").context("listing block devices")? {
        let entry = entry.context("listing block devices")?;
        if entry.file_name().to_string_lossy().starts_with("nvme") {
            let number = fs::read_to_string(entry.path().join("dev")).unwrap_or_default();
            numbers.push(number.trim().to_owned());
        }
    }
    Ok(numbers)
}

/// Device number of what is mounted at a path.
fn mounted(path: &Path) -> anyhow::Result<String> {
    let text = path.display().to_string();
    Ok(output("findmnt", &["--noheadings", "--output", "MAJ:MIN", "--mountpoint", &text])?.trim().to_owned())
}

async fn dead(lab: &mut Lab, fs_type: &str, back: Return) -> anyhow::Result<()> {
    let kubelet = lab.kubelet.clone();
    let (volume, path) = kubelet.bring_up("pvc-dead", &nvmeof(fs_type), GIB, POD).await?;
    let bytes = data::noise("dead", 2 << 20);
    data::write(&path.join("data"), bytes.clone()).await?;
    let staging = kubelet.staging_path(&volume);
    let before = mounted(&staging)?;

    let old = connection()?;
    fs::write(Path::new(NVME).join(&old.controller).join("delete_controller"), "1")
        .context("deleting the controller")?;
    wait::until("the end of the device", REACH, || Ok(!numbers()?.contains(&before))).await?;
    refused(
        "publishing a dead volume",
        kubelet.publish(&volume, OTHER_POD, false).await,
        Code::FailedPrecondition,
        "dead",
    )?;
    if back == Return::AnotherNumber {
        fs::write("/dev/nvme-fabrics", &old.options).context("connecting by hand")?;
        wait::until("the device's return", REACH, || Ok(!numbers()?.is_empty())).await?;
        let present = numbers()?;
        ensure!(!present.contains(&before), "the kernel gave the number {before} again: {present:?}");
        refused(
            "publishing a dead volume whose device is back",
            kubelet.publish(&volume, OTHER_POD, false).await,
            Code::FailedPrecondition,
            "dead",
        )?;
    }
    // kubelet stages again when a pod comes; the old pod still has its dead bind.
    again("NodeStageVolume", async || kubelet.stage(&volume).await).await?;
    must_be_staged_once(lab, &volume)?;
    let after = mounted(&staging)?;
    ensure!(after != before, "the dead device {before} is still mounted");
    let other = kubelet.publish(&volume, OTHER_POD, false).await.context("NodePublishVolume")?;
    ensure!(mounted(&other)? == after, "the other pod has {} instead of {after}", mounted(&other)?);
    data::verify(&other.join("data"), bytes.clone()).await?;
    data::write(&other.join("more"), bytes).await?;
    kubelet.unpublish(&volume, POD).await.context("NodeUnpublishVolume of the dead bind")?;
    kubelet.take_down(&volume, OTHER_POD).await
}

async fn at_once(lab: &mut Lab) -> anyhow::Result<()> {
    for class in [nvmeof("ext4"), nfs(), Class::block("nvmeof", Mode::SingleNodeWriter)] {
        let kubelet = lab.kubelet.clone();
        let mut volume: Volume = kubelet.create("pvc-at-once", &class, GIB).await.context("CreateVolume")?;
        kubelet.attach(&mut volume).await.context("ControllerPublishVolume")?;
        for outcome in join_all((0..4).map(|_| kubelet.stage(&volume))).await {
            outcome.context("one of the equal stages")?;
        }
        if !class.is_block() {
            must_be_staged_once(lab, &volume)?;
        }
        let published = join_all((0..4).map(|_| kubelet.publish(&volume, POD, false))).await;
        let mut path = None;
        for outcome in published {
            path = Some(outcome.context("one of the equal publishes")?);
        }
        let path = path.context("published")?;
        let mounts = super::common::mounts_at(&path)?;
        ensure!(mounts == 1, "{mounts} mounts at {}", path.display());
        kubelet.take_down(&volume, POD).await?;
    }
    Ok(())
}
