//! btrfs: its life on a block volume, and two volumes with one file system id, as a clone and its source have.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

use super::common::{OTHER_POD, POD, nvmeof};
use super::life::life;
use crate::data;
use crate::guest::run;
use crate::kubelet::{GIB, Kubelet};
use crate::scenario::{Run, Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "nvmeof-btrfs-life",
            about: "the plain life of an NVMe-oF volume with btrfs, made with options of its class",
            run: Run::Chain(|lab| {
                Box::pin(async {
                    let class = nvmeof("btrfs").with("mkfsOptions", "-m single --csum xxhash");
                    life(&lab.kubelet, &class).await
                })
            }),
        },
        Scenario {
            name: "btrfs-same-id",
            about: "two btrfs volumes with one id on a node are each their own, whichever comes first",
            run: Run::Chain(|lab| Box::pin(async { same_id(&lab.kubelet).await })),
        },
    ]
}

async fn same_id(kubelet: &Kubelet) -> anyhow::Result<()> {
    let class = nvmeof("btrfs");
    let (source, path) = kubelet.bring_up("pvc-source", &class, GIB, POD).await?;
    data::write(&path.join("both"), b"before the copy".to_vec()).await?;
    kubelet.unpublish(&source, POD).await.context("NodeUnpublishVolume")?;
    kubelet.unstage(&source).await.context("NodeUnstageVolume")?;

    let mut copy = kubelet.create("pvc-copy", &class, GIB).await.context("CreateVolume")?;
    let node = |id: &str| format!("/dev/zvol/{id}");
    let (from, to) = (format!("if={}", node(&source.id)), format!("of={}", node(&copy.id)));
    run("dd", &[&from, &to, "bs=1M", "conv=sparse,fsync", "status=none"])?;
    kubelet.attach(&mut copy).await.context("ControllerPublishVolume of the copy")?;
    kubelet.stage(&copy).await.context("NodeStageVolume of the copy")?;
    let copied = kubelet.publish(&copy, OTHER_POD, false).await.context("NodePublishVolume of the copy")?;
    data::write(&copied.join("copy"), b"only in the copy".to_vec()).await?;

    // The source beside it, under a device number that the kernel may have seen before.
    kubelet.stage(&source).await.context("NodeStageVolume of the source beside its copy")?;
    let path = kubelet.publish(&source, POD, false).await.context("NodePublishVolume of the source")?;
    data::write(&path.join("source"), b"only in the source".to_vec()).await?;
    for (root, own, other) in [(&path, "source", "copy"), (&copied, "copy", "source")] {
        let has = |name: &str| Path::new(root).join(name).exists();
        ensure!(has("both") && has(own) && !has(other), "{} shows another volume", root.display());
    }
    ensure!(fs::read(path.join("both"))? == fs::read(copied.join("both"))?, "the copy differs");
    kubelet.take_down(&copy, OTHER_POD).await?;
    data::verify(&path.join("source"), b"only in the source".to_vec()).await?;
    kubelet.take_down(&source, POD).await
}
