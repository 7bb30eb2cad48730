//! Access that is taken back while the node is connected: the node can write no more, and nothing that it still sends
//! reaches the appliance.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tns_csi_proto::csi::v1::volume_capability::access_mode::Mode;

use super::common::{POD, Untouched, again, nfs, nvmeof};
use crate::data;
use crate::kubelet::{Class, GIB};
use crate::lab::Lab;
use crate::scenario::{Run, Scenario};

/// A cut NVMe-oF connection is tried again after 10 s; the refusal then ends the device.
const BITES_WITHIN: Duration = Duration::from_secs(90);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "fence-nvmeof-block",
            about: "a revoked node fails to write to the NVMe-oF device that it has open",
            run: Run::Chain(|lab| {
                Box::pin(beside_another(lab, Class::block("nvmeof", Mode::SingleNodeWriter)))
            }),
        },
        Scenario {
            name: "fence-nvmeof-ext4",
            about: "a revoked node fails to write to the NVMe-oF file system that it has mounted",
            run: Run::Chain(|lab| Box::pin(beside_another(lab, nvmeof("ext4")))),
        },
        Scenario {
            name: "fence-nvmeof-unserved-port",
            about: "with no other volume on the port a revoked write waits, and arrives only when access is granted anew",
            run: Run::Chain(|lab| Box::pin(waiting(lab))),
        },
        Scenario {
            name: "fence-iscsi",
            about: "after the last unpublish nothing that a node writes to its iSCSI device arrives, until access is granted anew",
            run: Run::Chain(|lab| Box::pin(cut_off(lab))),
        },
        Scenario {
            name: "fence-nfs",
            about: "a revoked node fails to write to the NFS volume that it has mounted",
            run: Run::Chain(|lab| Box::pin(fenced(lab, nfs()))),
        },
        Scenario {
            name: "fence-of-the-other-node",
            about: "revoking another node leaves this one writing, and keeps the other out of the lists",
            run: Run::Chain(|lab| Box::pin(other_node(lab))),
        },
    ]
}

async fn write(path: &Path) -> anyhow::Result<std::io::Result<()>> {
    let path: PathBuf = path.to_owned();
    data::bounded("writing past the cache", BITES_WITHIN, move || Ok(data::write_direct(&path))).await
}

/// The port goes on serving another volume, as on every appliance with more than one: a revoked host that connects again
/// is refused then, which ends its device. Without any subsystem the port does not listen, and the kernel waits.
async fn beside_another(lab: &mut Lab, class: Class) -> anyhow::Result<()> {
    let kubelet = lab.kubelet.clone();
    let mut other = kubelet.create("pvc-beside", &nvmeof("ext4"), GIB).await.context("CreateVolume")?;
    kubelet.attach(&mut other).await.context("ControllerPublishVolume")?;
    fenced(lab, class).await?;
    kubelet.detach(&other).await.context("ControllerUnpublishVolume")?;
    kubelet.remove(&other).await
}

async fn waiting(lab: &mut Lab) -> anyhow::Result<()> {
    let kubelet = lab.kubelet.clone();
    let class = Class::block("nvmeof", Mode::SingleNodeWriter);
    let (mut volume, path) = kubelet.bring_up("pvc-waiting", &class, GIB, POD).await?;
    write(&path).await?.context("writing while access is granted")?;
    kubelet.detach(&volume).await.context("ControllerUnpublishVolume")?;
    let untouched = Untouched::since_now(&volume.id)?;
    let mut pending = tokio::spawn({
        let path = path.clone();
        async move { write(&path).await }
    });
    // Longer than the kernel's delay between two attempts to connect.
    if let Ok(ended) = tokio::time::timeout(Duration::from_secs(25), &mut pending).await {
        let ended = ended.context("the writer died")??;
        ensure!(ended.is_err(), "written without access");
    }
    untouched.must_hold().context("after the unpublish was answered")?;
    kubelet.attach(&mut volume).await.context("ControllerPublishVolume anew")?;
    if !pending.is_finished() {
        pending.await.context("the writer died")??.context("the waiting write")?;
    }
    again("NodeStageVolume", async || kubelet.stage(&volume).await).await?;
    write(&path).await?.context("writing after access was granted anew")?;
    kubelet.take_down(&volume, POD).await
}

/// An iSCSI session without access is lost or waits, as iscsid decides; either way nothing arrives.
async fn cut_off(lab: &mut Lab) -> anyhow::Result<()> {
    let kubelet = lab.kubelet.clone();
    let class = Class::block("iscsi", Mode::SingleNodeWriter);
    let (mut volume, path) = kubelet.bring_up("pvc-cut-off", &class, GIB, POD).await?;
    write(&path).await?.context("writing while access is granted")?;
    kubelet.detach(&volume).await.context("ControllerUnpublishVolume")?;
    let untouched = Untouched::since_now(&volume.id)?;
    let mut pending = tokio::spawn({
        let path = path.clone();
        async move { write(&path).await }
    });
    if let Ok(ended) = tokio::time::timeout(Duration::from_secs(25), &mut pending).await {
        let ended = ended.context("the writer died")??;
        println!("   refused: {:?}", ended.as_ref().err());
        ensure!(ended.is_err(), "written without access");
    } else {
        println!("   the write waits");
    }
    untouched.must_hold().context("after the unpublish was answered")?;
    kubelet.attach(&mut volume).await.context("ControllerPublishVolume anew")?;
    if !pending.is_finished() {
        let ended = pending.await.context("the writer died")??;
        println!("   with access anew the waiting write ended with {ended:?}");
    }
    again("NodeUnpublishVolume", async || kubelet.unpublish(&volume, POD).await).await?;
    again("NodeUnstageVolume", async || kubelet.unstage(&volume).await).await?;
    again("NodeStageVolume", async || kubelet.stage(&volume).await).await?;
    let path = kubelet.publish(&volume, POD, false).await.context("NodePublishVolume anew")?;
    write(&path).await?.context("writing after access was granted anew")?;
    kubelet.take_down(&volume, POD).await
}

async fn fenced(lab: &mut Lab, class: Class) -> anyhow::Result<()> {
    let kubelet = lab.kubelet.clone();
    let (mut volume, path) = kubelet.bring_up("pvc-fence", &class, GIB, POD).await?;
    let file = if class.is_block() { path } else { path.join("data") };
    write(&file).await?.context("writing while access is granted")?;

    kubelet.detach(&volume).await.context("ControllerUnpublishVolume")?;
    // What arrives from here on is what the fence must keep out.
    let untouched = Untouched::since_now(&volume.id)?;
    let begun = Instant::now();
    let error = loop {
        match write(&file).await? {
            Err(error) => break error,
            Ok(()) => ensure!(
                begun.elapsed() < BITES_WITHIN,
                "still writing {} s after the unpublish was answered",
                begun.elapsed().as_secs()
            ),
        }
    };
    println!("   refused after {:.1} s: {error}", begun.elapsed().as_secs_f64());
    untouched.must_hold().context("after the unpublish was answered")?;

    // The node is made clean without any access, then gets it anew.
    again("NodeUnpublishVolume", async || kubelet.unpublish(&volume, POD).await).await?;
    again("NodeUnstageVolume", async || kubelet.unstage(&volume).await).await?;
    kubelet.attach(&mut volume).await.context("ControllerPublishVolume anew")?;
    again("NodeStageVolume", async || kubelet.stage(&volume).await).await?;
    let path = kubelet.publish(&volume, POD, false).await.context("NodePublishVolume anew")?;
    let file = if class.is_block() { path } else { path.join("data") };
    write(&file).await?.context("writing after access was granted anew")?;
    kubelet.take_down(&volume, POD).await
}

async fn other_node(lab: &mut Lab) -> anyhow::Result<()> {
    let shared = Class::block("nvmeof", Mode::MultiNodeMultiWriter);
    for class in [nfs(), shared] {
        let kubelet = lab.kubelet.clone();
        let (volume, path) = kubelet.bring_up("pvc-shared", &class, GIB, POD).await?;
        let file = if class.is_block() { path } else { path.join("data") };
        let other = format!("other-node;{};{}", uuid::Uuid::new_v4().simple(), crate::guest::OTHER_ADDRESS);
        kubelet.attach_to(&volume, &other).await.context("ControllerPublishVolume to the other node")?;
        write(&file).await?.context("writing beside the other node")?;
        kubelet.detach_from(&volume, &other).await.context("ControllerUnpublishVolume of the other node")?;
        write(&file).await?.context("writing after the other node was revoked")?;
        let hosts = super::common::rows(lab, "nvmet.host_subsys").await?.len();
        let exports = super::common::rows(lab, "sharing.nfs").await?;
        let named = exports.iter().any(|row| row.to_string().contains(crate::guest::OTHER_ADDRESS));
        ensure!(!named && hosts == usize::from(class.is_block()), "the other node kept access: {exports:?}");
        kubelet.take_down(&volume, POD).await?;
    }
    Ok(())
}
