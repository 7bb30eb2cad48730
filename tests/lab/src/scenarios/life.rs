//! The plain life of a volume: made, attached, staged, written, read back after everything was taken down and brought
//! up again, grown, deleted.

use std::path::Path;

use anyhow::{Context, ensure};
use tns_csi_proto::csi::v1::volume_capability::access_mode::Mode;

use super::common::{OTHER_POD, POD, iscsi, nfs, nvmeof, smb};
use crate::data;
use crate::kubelet::{Class, GIB, Kubelet};
use crate::scenario::{Run, Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "nfs-life",
            about: "an NFS volume keeps its data through unstage and stage, grows, and is gone after delete",
            run: Run::Chain(|lab| Box::pin(async { life(&lab.kubelet, &nfs()).await })),
        },
        Scenario {
            name: "smb-life",
            about: "the same for an SMB volume",
            run: Run::Chain(|lab| Box::pin(async { life(&lab.kubelet, &smb()).await })),
        },
        Scenario {
            name: "iscsi-ext4-life",
            about: "the same for an iSCSI volume with ext4",
            run: Run::Chain(|lab| Box::pin(async { life(&lab.kubelet, &iscsi("ext4")).await })),
        },
        Scenario {
            name: "iscsi-block-life",
            about: "the same for a raw iSCSI device",
            run: Run::Chain(|lab| {
                Box::pin(async {
                    life(&lab.kubelet, &Class::block("iscsi", Mode::SingleNodeMultiWriter)).await
                })
            }),
        },
        Scenario {
            name: "nvmeof-ext4-life",
            about: "the same for an NVMe-oF volume with ext4",
            run: Run::Chain(|lab| Box::pin(async { life(&lab.kubelet, &nvmeof("ext4")).await })),
        },
        Scenario {
            name: "nvmeof-dhchap-life",
            about: "the same for an NVMe-oF volume whose node and appliance prove themselves to each other",
            run: Run::Chain(|lab| {
                Box::pin(async {
                    let class = nvmeof("ext4").with("nvmeof.dhchap", "mutual");
                    life(&lab.kubelet, &class).await
                })
            }),
        },
        Scenario {
            name: "nvmeof-xfs-life",
            about: "the same for an NVMe-oF volume with xfs",
            run: Run::Chain(|lab| Box::pin(async { life(&lab.kubelet, &nvmeof("xfs")).await })),
        },
        Scenario {
            name: "nvmeof-block-life",
            about: "the same for a raw NVMe-oF device",
            run: Run::Chain(|lab| {
                Box::pin(async {
                    life(&lab.kubelet, &Class::block("nvmeof", Mode::SingleNodeMultiWriter)).await
                })
            }),
        },
        Scenario {
            name: "read-only-publish",
            about: "a pod that gets a volume read-only cannot write, while another pod of the node can",
            run: Run::Chain(|lab| Box::pin(async { read_only(&lab.kubelet).await })),
        },
    ]
}

pub(super) async fn life(kubelet: &Kubelet, class: &Class) -> anyhow::Result<()> {
    let (mut volume, path) = kubelet.bring_up("pvc-life", class, GIB, POD).await?;
    let file = if class.is_block() { path.clone() } else { path.join("data") };
    let bytes = data::noise("life", 8 << 20);
    data::write(&file, bytes.clone()).await?;

    kubelet.unpublish(&volume, POD).await.context("NodeUnpublishVolume")?;
    ensure!(!path.exists(), "{} is left after unpublish", path.display());
    kubelet.unstage(&volume).await.context("NodeUnstageVolume")?;
    kubelet.detach(&volume).await.context("ControllerUnpublishVolume")?;
    kubelet.attach(&mut volume).await.context("ControllerPublishVolume again")?;
    kubelet.stage(&volume).await.context("NodeStageVolume again")?;
    kubelet.publish(&volume, POD, false).await.context("NodePublishVolume again")?;
    data::verify(&file, bytes.clone()).await?;

    let before = visible_size(class.is_block(), &path).await?;
    kubelet.expand(&mut volume, POD, 2 * GIB).await.context("expanding")?;
    let after = visible_size(class.is_block(), &path).await?;
    ensure!(after > before + before / 2, "{before} bytes before and {after} after growing to 2 GiB");
    data::verify(&file, bytes).await?;
    let usage = kubelet.stats(&volume, POD).await.context("NodeGetVolumeStats")?;
    ensure!(usage.iter().any(|usage| usage.total > GIB), "{usage:?}");

    kubelet.take_down(&volume, POD).await?;
    kubelet.delete(&volume).await.context("deleting what is gone")
}

async fn visible_size(block: bool, path: &Path) -> anyhow::Result<u64> {
    if block { data::size(path) } else { data::filesystem_size(path).await }
}

async fn read_only(kubelet: &Kubelet) -> anyhow::Result<()> {
    for class in [nfs(), smb(), iscsi("ext4"), nvmeof("ext4")] {
        let (volume, path) = kubelet.bring_up("pvc-readonly", &class, GIB, POD).await?;
        data::write(&path.join("data"), b"written by the first pod".to_vec()).await?;
        let other = kubelet.publish(&volume, OTHER_POD, true).await.context("publishing read-only")?;
        data::verify(&other.join("data"), b"written by the first pod".to_vec()).await?;
        let refused = std::fs::write(other.join("more"), "x").map_err(|error| error.raw_os_error());
        ensure!(
            refused == Err(Some(nix::libc::EROFS)),
            "writing through the read-only path gave {refused:?}"
        );
        kubelet.unpublish(&volume, OTHER_POD).await.context("NodeUnpublishVolume of the second pod")?;
        kubelet.take_down(&volume, POD).await?;
    }
    Ok(())
}
