//! The group of a pod (`fsGroup`), which kubelet leaves to the driver.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown, symlink};
use std::path::Path;

use anyhow::{Context, ensure};
use tonic::Code;

use super::common::{OTHER_POD, POD, iscsi, nfs, nvmeof, refused, smb};
use crate::guest::{KUBELET, RUN};
use crate::kubelet::{Class, GIB, Kubelet};
use crate::scenario::{Run, Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "group-files",
            about: "ext4, xfs, btrfs and NFS volumes belong to the pod's group; links are not followed, a walk happens once",
            run: Run::Chain(|lab| {
                Box::pin(async {
                    for class in [nvmeof("ext4"), iscsi("xfs"), nvmeof("btrfs"), nfs()] {
                        let what = format!("{:?}", class.parameters);
                        by_ownership(&lab.kubelet, &class).await.context(what)?;
                    }
                    Ok(())
                })
            }),
        },
        Scenario {
            name: "group-smb",
            about: "an SMB mount belongs to the pod's group, and to no other while it is there",
            run: Run::Chain(|lab| Box::pin(async { by_mount_option(&lab.kubelet).await })),
        },
        Scenario {
            name: "group-squashed",
            about: "an NFS export that maps root is refused for a group with what to do, and works without one",
            run: Run::Chain(|lab| Box::pin(async { squashed(&lab.kubelet).await })),
        },
    ]
}

/// Group and permission bits, of a link itself.
fn of(path: &Path) -> anyhow::Result<(u32, u32)> {
    let found = path.symlink_metadata().with_context(|| format!("looking at {}", path.display()))?;
    Ok((found.gid(), found.mode() & 0o7777))
}

async fn by_ownership(kubelet: &Kubelet, class: &Class) -> anyhow::Result<()> {
    let outside = Path::new(RUN).join("not-the-volumes");
    fs::create_dir_all(&outside)?;
    fs::write(outside.join("file"), "the host's")?;
    let host = (of(&outside)?, of(&outside.join("file"))?);

    let (mut volume, path) =
        kubelet.bring_up("pvc-group", &class.clone().for_group("2000"), GIB, POD).await?;
    let (group, mode) = of(&path)?;
    ensure!((group, mode & 0o2770) == (2000, 0o2770), "the root has group {group} and mode {mode:o}");
    let (directory, file) = (path.join("directory"), path.join("directory/file"));
    fs::create_dir(&directory)?;
    ensure!(of(&directory)?.0 == 2000, "what is made in the root is not the group's");
    fs::write(&file, "a pod's")?;
    chown(&directory, Some(1000), Some(9))?;
    chown(&file, Some(1000), Some(9))?;
    symlink(&outside, directory.join("to-directory"))?;
    symlink(outside.join("file"), directory.join("to-file"))?;

    // Staged anew for another group: everything goes over, whoever owns it.
    kubelet.unpublish(&volume, POD).await.context("NodeUnpublishVolume")?;
    kubelet.unstage(&volume).await.context("NodeUnstageVolume")?;
    volume.class = class.clone().for_group("3000");
    kubelet.stage(&volume).await.context("NodeStageVolume for another group")?;
    kubelet.publish(&volume, POD, false).await.context("NodePublishVolume for another group")?;
    let (group, mode) = of(&file)?;
    ensure!((group, mode & 0o660) == (3000, 0o660), "the file has group {group} and mode {mode:o}");
    let (group, mode) = of(&directory)?;
    ensure!((group, mode & 0o2770) == (3000, 0o2770), "the directory has group {group} and mode {mode:o}");
    ensure!(file.metadata()?.uid() == 1000, "the owner was changed");
    ensure!(of(&directory.join("to-file"))?.0 == 3000, "the link itself is not the group's");
    ensure!(host == (of(&outside)?, of(&outside.join("file"))?), "a link was followed out of the volume");

    // The root matches: a second pod costs no walk.
    chown(&file, None, Some(9))?;
    kubelet.publish(&volume, OTHER_POD, false).await.context("a second pod of the group")?;
    kubelet.stage(&volume).await.context("NodeStageVolume repeated")?;
    ensure!(of(&file)?.0 == 9, "the volume was walked although its root matched");

    // Not taken from under the pods that use it.
    volume.class = class.clone().for_group("4000");
    kubelet.unpublish(&volume, OTHER_POD).await.context("NodeUnpublishVolume of the second pod")?;
    refused(
        "another group",
        kubelet.publish(&volume, OTHER_POD, false).await,
        Code::FailedPrecondition,
        "4000",
    )?;
    refused("another group", kubelet.stage(&volume).await, Code::AlreadyExists, "4000")?;
    ensure!(of(&path)?.0 == 3000, "the group was taken from a running pod");
    kubelet.unpublish(&volume, POD).await.context("NodeUnpublishVolume")?;
    let path = kubelet.publish(&volume, OTHER_POD, false).await.context("the next pod's group")?;
    ensure!(
        (of(&path)?.0, of(&path.join("directory/file"))?.0) == (4000, 4000),
        "the next pod has no access"
    );
    kubelet.take_down(&volume, OTHER_POD).await
}

async fn by_mount_option(kubelet: &Kubelet) -> anyhow::Result<()> {
    let class = smb();
    let (mut volume, path) =
        kubelet.bring_up("pvc-group", &class.clone().for_group("2000"), GIB, POD).await?;
    fs::write(path.join("file"), "a pod's")?;
    ensure!((of(&path)?.0, of(&path.join("file"))?.0) == (2000, 2000), "the mount is not the group's");
    volume.class = class.clone().for_group("3000");
    let answer = kubelet.publish(&volume, OTHER_POD, false).await;
    refused("another group", answer, Code::FailedPrecondition, "group 2000")?;
    refused("another group", kubelet.stage(&volume).await, Code::AlreadyExists, "gid=")?;
    kubelet.take_down(&volume, POD).await?;

    let mut contrary = class.for_group("3000");
    contrary.add_mount_flag("gid=2000");
    let mut volume = kubelet.create("pvc-group", &contrary, GIB).await.context("CreateVolume")?;
    kubelet.attach(&mut volume).await.context("ControllerPublishVolume")?;
    refused("a gid of the class", kubelet.stage(&volume).await, Code::InvalidArgument, "gid=2000")?;
    kubelet.detach(&volume).await.context("ControllerUnpublishVolume")?;
    kubelet.remove(&volume).await
}

async fn squashed(kubelet: &Kubelet) -> anyhow::Result<()> {
    let class = nfs().with("nfs.rootSquash", "true");
    let mut volume = kubelet.create("pvc-group", &class, GIB).await.context("CreateVolume")?;
    kubelet.attach(&mut volume).await.context("ControllerPublishVolume")?;
    volume.class = class.clone().for_group("2000");
    refused("root is mapped", kubelet.stage(&volume).await, Code::FailedPrecondition, "nfs.rootSquash")?;
    let mounts = crate::lab::mounts_below(KUBELET)?;
    ensure!(mounts.is_empty(), "a refused stage left {mounts:?}");
    volume.class = class;
    kubelet.stage(&volume).await.context("NodeStageVolume without a group")?;
    kubelet.publish(&volume, POD, false).await.context("NodePublishVolume without a group")?;
    kubelet.take_down(&volume, POD).await
}
