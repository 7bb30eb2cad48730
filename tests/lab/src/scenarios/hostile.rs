//! The helper's caller taken over by somebody: no path, server or volume that is not this node's is within reach.
//!
//! The calls go to the real socket with the driver's user id; everything that must stay untouched is looked at again
//! afterwards.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use harness::paths;
use tns_csi_proto::helper::v1::node_helper_client::NodeHelperClient;
use tns_csi_proto::helper::v1::source::Protocol;
use tns_csi_proto::helper::v1::stage_volume_request::Access;
use tns_csi_proto::helper::v1::{
    ExpandVolumeRequest, FilesystemAccess, GetHostInfoRequest, GetVolumeStatsRequest, NfsSource, Portal,
    PublishVolumeRequest, Source, StageVolumeRequest, UnpublishVolumeRequest, UnstageVolumeRequest,
};
use tonic::Code;

use super::common::{OTHER_POD, POD, mounts_at, nfs, nvmeof, refused};
use crate::data;
use crate::guest::{KUBELET, OTHER_ADDRESS, RUN, run};
use crate::kubelet::{DRIVER, GIB, Kubelet, Volume};
use crate::lab::{Lab, SERVER};
use crate::logs::log_path;
use crate::relay::{Caller, helper_socket};
use crate::scenario::{Run, Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "hostile-paths",
            about: "paths outside, of other shapes, through symlinks, onto mounts or over 4 KiB: refused, untouched",
            run: Run::Chain(|lab| Box::pin(hostile_paths(lab))),
        },
        Scenario {
            name: "hostile-server",
            about: "a server outside --allow-server is refused and never spoken to",
            run: Run::Chain(|lab| Box::pin(hostile_server(lab))),
        },
        Scenario {
            name: "hostile-undo",
            about: "unpublish and unstage of what is not this volume's leave it untouched",
            run: Run::Chain(|lab| Box::pin(hostile_undo(lab))),
        },
        Scenario {
            name: "hostile-peer",
            about: "a peer with another user id is closed out before a byte is read, root included",
            run: Run::Chain(|lab| Box::pin(hostile_peer(lab))),
        },
    ]
}

fn stage_request(volume: &Volume, staging: &Path) -> StageVolumeRequest {
    StageVolumeRequest {
        volume_id: volume.id.clone(),
        staging_path: staging.display().to_string(),
        source: Some(Source {
            protocol: Some(Protocol::Nfs(NfsSource {
                portal: Some(Portal { address: SERVER.to_owned(), port: 0 }),
                export: format!("/mnt/{}", volume.id),
            })),
        }),
        access: Some(Access::Filesystem(FilesystemAccess::default())),
        timeout_ms: 30_000,
        ..StageVolumeRequest::default()
    }
}

fn publish_request(volume: &Volume, staging: &Path, target: &Path) -> PublishVolumeRequest {
    PublishVolumeRequest {
        volume_id: volume.id.clone(),
        staging_path: staging.display().to_string(),
        target_path: target.display().to_string(),
        timeout_ms: 30_000,
        ..PublishVolumeRequest::default()
    }
}

/// Every name below a directory, to compare before and after.
fn tree(directory: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(path) = left.pop() {
        for entry in fs::read_dir(&path).with_context(|| format!("reading {}", path.display()))? {
            let entry = entry?;
            names.push(format!("{} {:?}", entry.path().display(), entry.file_type()?));
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            }
        }
    }
    names.sort();
    Ok(names)
}

/// A volume that is staged, so that a publish fails for its path and for nothing else.
async fn staged(kubelet: &Kubelet, name: &str) -> anyhow::Result<Volume> {
    let mut volume = kubelet.create(name, &nfs(), GIB).await.context("CreateVolume")?;
    kubelet.attach(&mut volume).await.context("ControllerPublishVolume")?;
    kubelet.stage(&volume).await.context("NodeStageVolume")?;
    Ok(volume)
}

async fn hostile_paths(lab: &mut Lab) -> anyhow::Result<()> {
    let caller = Caller::start().await?;
    let outside = Path::new(RUN).join("outside");
    fs::create_dir_all(outside.join("globalmount")).context("making a directory outside")?;
    fs::create_dir_all(outside.join("mount")).context("making a directory outside")?;
    let volume = staged(&lab.kubelet, "pvc-paths").await?;
    let outcome = paths_of(lab, &caller, &volume, &outside).await;
    caller.stop().await?;
    outcome?;
    lab.kubelet.unstage(&volume).await.context("NodeUnstageVolume")?;
    lab.kubelet.detach(&volume).await.context("ControllerUnpublishVolume")?;
    lab.kubelet.remove(&volume).await
}

async fn paths_of(lab: &Lab, caller: &Caller, volume: &Volume, outside: &Path) -> anyhow::Result<()> {
    let kubelet = Path::new(KUBELET);
    let staging = lab.kubelet.staging_path(volume);
    let pods = format!("{KUBELET}/pods/{POD}");
    let long = format!("{pods}/volumes/kubernetes.io~csi/{}/mount", "x".repeat(4096));
    for directory in ["plugins_registry", "plugins/other"] {
        fs::create_dir_all(kubelet.join(directory)).context("making a directory of kubelet's")?;
    }
    let secrets = format!("{pods}/volumes/kubernetes.io~secret/token");
    fs::create_dir_all(&secrets).context("making a pod's secret")?;
    fs::create_dir_all(format!("{pods}/volumes/kubernetes.io~csi/pv")).context("making a pod's directory")?;

    // Of another shape, or not below the root at all.
    let mut strange: Vec<String> = [
        "/",
        "/etc",
        "/proc/self/cwd",
        "relative/path",
        "",
        KUBELET,
        &outside.display().to_string(),
        &format!("{KUBELET}/plugins_registry"),
        &format!("{KUBELET}/plugins_registry/tns.csi.io-reg.sock"),
        &format!("{KUBELET}/plugins/other"),
        &secrets,
        &format!("{KUBELET}/../etc"),
        &format!("{pods}/volumes/kubernetes.io~csi/pv/../../../../../../../../etc/mount"),
        &format!("{pods}/volumes/kubernetes.io~csi//mount"),
        &format!("{pods}/volumes/kubernetes.io~csi/./mount"),
        &format!("{pods}/volumes/kubernetes.io~csi/pv/mount/deeper"),
        &format!("{pods}/volumes/kubernetes.io~csi/pv\n/mount"),
        &long,
    ]
    .map(str::to_owned)
    .to_vec();
    // The staging directory of another volume.
    strange.push(paths::staging_mount(kubelet, DRIVER, "tank/k8s/other").display().to_string());
    let before = tree(kubelet)?;
    let outside_before = tree(outside)?;
    for path in &strange {
        let shown: String = path.chars().take(100).collect();
        let mut helper = caller.helper.clone();
        let stage = stage_request(volume, Path::new(path));
        refused(
            &format!("stage at {shown:?}"),
            helper.stage_volume(stage).await,
            Code::InvalidArgument,
            "staging_path",
        )?;
        let publish = publish_request(volume, &staging, Path::new(path));
        refused(
            &format!("publish at {shown:?}"),
            helper.publish_volume(publish).await,
            Code::InvalidArgument,
            "target_path",
        )?;
        let publish = publish_request(volume, Path::new(path), &lab.kubelet.target_path(volume, POD));
        refused(
            &format!("publish from {shown:?}"),
            helper.publish_volume(publish).await,
            Code::InvalidArgument,
            "staging_path",
        )?;
        if !path.is_empty() {
            let stats = GetVolumeStatsRequest {
                volume_id: volume.id.clone(),
                volume_path: path.clone(),
                ..GetVolumeStatsRequest::default()
            };
            refused(
                &format!("stats of {shown:?}"),
                helper.get_volume_stats(stats).await,
                Code::NotFound,
                "",
            )?;
            let expand = ExpandVolumeRequest {
                volume_id: volume.id.clone(),
                volume_path: path.clone(),
                ..ExpandVolumeRequest::default()
            };
            refused(&format!("expand of {shown:?}"), helper.expand_volume(expand).await, Code::NotFound, "")?;
        }
    }
    ensure!(tree(kubelet)? == before, "something below the kubelet root was changed");

    symlinks(caller, volume, &staging, outside).await?;
    occupied(lab, caller, volume, &staging).await?;
    ensure!(tree(outside)? == outside_before, "something outside of the kubelet root was changed");
    ensure!(
        !fs::read_to_string("/proc/self/mountinfo")?.contains(&format!(" {}/", outside.display())),
        "mounted outside"
    );
    Ok(())
}

/// A symbolic link as any component of a path with the right shape.
async fn symlinks(caller: &Caller, volume: &Volume, staging: &Path, outside: &Path) -> anyhow::Result<()> {
    let kubelet = Path::new(KUBELET);
    let mut helper = caller.helper.clone();
    for depth in 1..=6 {
        let pod = format!("7d1e1d0b-7f6d-4e0f-8a3f-2d5b0c9e4b0{depth}");
        let target = paths::target_mount(kubelet, &volume.name, &pod);
        // The component at this depth from the end is the link; what follows exists in what it leads to.
        let link = target.ancestors().nth(depth - 1).context("a target has that many components")?;
        if link == kubelet.join("pods") {
            continue;
        }
        let rest = target.strip_prefix(link).context("the link is in front of the target")?;
        let behind = outside.join("deep").join(rest.parent().unwrap_or(Path::new("")));
        fs::create_dir_all(behind).context("making what a link leads to")?;
        fs::create_dir_all(link.parent().context("a link has a parent")?)
            .context("making a pod's directory")?;
        symlink(outside.join("deep"), link).with_context(|| format!("linking {}", link.display()))?;
        let before = tree(&outside.join("deep"))?;
        let answer = helper.publish_volume(publish_request(volume, staging, &target)).await;
        refused(&format!("publish through the link {}", link.display()), answer, Code::InvalidArgument, "")?;
        ensure!(
            tree(&outside.join("deep"))? == before,
            "something behind the link {} was changed",
            link.display()
        );
        // Neither does an undo go through it.
        let undo = UnpublishVolumeRequest {
            volume_id: volume.id.clone(),
            target_path: target.display().to_string(),
            ..UnpublishVolumeRequest::default()
        };
        let _any_answer = helper.unpublish_volume(undo).await;
        ensure!(tree(&outside.join("deep"))? == before, "an unpublish went through {}", link.display());
        ensure!(
            fs::symlink_metadata(link).is_ok_and(|found| found.is_symlink()),
            "{} was removed",
            link.display()
        );
        fs::remove_file(link).context("removing the link")?;
        fs::remove_dir_all(outside.join("deep")).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
    }
    // The staging directory itself, and the one above it.
    let other = Volume { id: "tank/k8s/linked".to_owned(), ..volume.clone() };
    let path = paths::staging_mount(kubelet, DRIVER, &other.id);
    let above = path.parent().context("a staging path has a parent")?;
    fs::create_dir_all(above).context("making a staging directory")?;
    symlink(outside.join("globalmount"), &path).context("linking the staging path")?;
    refused(
        "stage at a link",
        helper.stage_volume(stage_request(&other, &path)).await,
        Code::InvalidArgument,
        "",
    )?;
    fs::remove_file(&path).context("removing the link")?;
    fs::remove_dir(above).context("removing a staging directory")?;
    symlink(outside, above).context("linking the directory above")?;
    refused(
        "stage through a link",
        helper.stage_volume(stage_request(&other, &path)).await,
        Code::InvalidArgument,
        "",
    )?;
    fs::remove_file(above).context("removing the link")
}

/// Places that hold something already: a mount, files, a file where a directory belongs.
async fn occupied(lab: &Lab, caller: &Caller, volume: &Volume, staging: &Path) -> anyhow::Result<()> {
    let mut helper = caller.helper.clone();
    let target = lab.kubelet.target_path(volume, OTHER_POD);
    fs::create_dir_all(&target).context("making a target")?;
    let shown = target.display().to_string();
    run("mount", &["-t", "tmpfs", "lab-foreign", &shown])?;
    fs::write(target.join("theirs"), "theirs").context("writing somebody's file")?;
    let answer = helper.publish_volume(publish_request(volume, staging, &target)).await;
    refused("publish on a mount point", answer, Code::InvalidArgument, "mount point")?;
    let undo = UnpublishVolumeRequest {
        volume_id: volume.id.clone(),
        target_path: shown.clone(),
        ..UnpublishVolumeRequest::default()
    };
    helper.unpublish_volume(undo.clone()).await.context("unpublish of what is not this volume's")?;
    ensure!(
        fs::read(target.join("theirs"))? == b"theirs" && mounts_at(&target)? == 1,
        "the mount was touched"
    );
    run("umount", &[&shown])?;

    fs::write(target.join("theirs"), "theirs").context("writing somebody's file")?;
    let answer = helper.publish_volume(publish_request(volume, staging, &target)).await;
    refused("publish on a directory with files", answer, Code::InvalidArgument, "empty")?;
    helper.unpublish_volume(undo.clone()).await.context("unpublish of what is not this volume's")?;
    ensure!(fs::read(target.join("theirs"))? == b"theirs", "somebody's file was touched");
    fs::remove_dir_all(&target).context("removing the target")?;
    fs::write(&target, "theirs").context("writing somebody's file")?;
    let answer = helper.publish_volume(publish_request(volume, staging, &target)).await;
    refused("publish on a file", answer, Code::InvalidArgument, "")?;
    helper.unpublish_volume(undo).await.context("unpublish of what is not this volume's")?;
    ensure!(fs::read(&target)? == b"theirs", "somebody's file was touched");
    fs::remove_file(&target).context("removing the file")?;

    let other = Volume { id: "tank/k8s/occupied".to_owned(), ..volume.clone() };
    let path = paths::staging_mount(Path::new(KUBELET), DRIVER, &other.id);
    fs::create_dir_all(&path).context("making a staging directory")?;
    run("mount", &["-t", "tmpfs", "lab-foreign", &path.display().to_string()])?;
    let answer = helper.stage_volume(stage_request(&other, &path)).await;
    refused("stage on a mount point", answer, Code::InvalidArgument, "mount point")?;
    ensure!(mounts_at(&path)? == 1, "the mount was touched");
    let undo = UnstageVolumeRequest {
        volume_id: other.id.clone(),
        staging_path: path.display().to_string(),
        ..UnstageVolumeRequest::default()
    };
    let answer = helper.unstage_volume(undo).await;
    refused("unstage of somebody's mount", answer, Code::FailedPrecondition, "left alone")?;
    ensure!(mounts_at(&path)? == 1, "the mount was touched");
    run("umount", &[&path.display().to_string()])
}

async fn hostile_server(lab: &mut Lab) -> anyhow::Result<()> {
    let caller = Caller::start().await?;
    // knfsd has the usual port on every address.
    let listener = std::net::TcpListener::bind((OTHER_ADDRESS, 0)).context("listening as another server")?;
    let port = u32::from(listener.local_addr().context("listening as another server")?.port());
    listener.set_nonblocking(true).context("listening as another server")?;
    let volume = Volume {
        name: "pvc-server".to_owned(),
        id: "tank/k8s/pvc-server".to_owned(),
        class: nfs(),
        capacity: GIB,
        context: Default::default(),
        publish_context: Default::default(),
    };
    let staging = lab.kubelet.staging_path(&volume);
    fs::create_dir_all(&staging).context("making a staging directory")?;
    let mut request = stage_request(&volume, &staging);
    request.source = Some(Source {
        protocol: Some(Protocol::Nfs(NfsSource {
            portal: Some(Portal { address: OTHER_ADDRESS.to_owned(), port }),
            export: "/mnt/tank".to_owned(),
        })),
    });
    let answer = caller.helper.clone().stage_volume(request).await;
    let spoken = listener.accept();
    caller.stop().await?;
    refused("a server outside of the list", answer, Code::PermissionDenied, OTHER_ADDRESS)?;
    ensure!(spoken.is_err(), "the server was spoken to");
    ensure!(mounts_at(&staging)? == 0, "mounted");
    Ok(())
}

async fn hostile_undo(lab: &mut Lab) -> anyhow::Result<()> {
    let caller = Caller::start().await?;
    let kubelet = lab.kubelet.clone();
    let (ours, path) = kubelet.bring_up("pvc-undo-a", &nvmeof("ext4"), GIB, POD).await?;
    let (other, other_path) = kubelet.bring_up("pvc-undo-b", &nfs(), GIB, OTHER_POD).await?;
    for path in [&path, &other_path] {
        data::write(&path.join("data"), b"kept".to_vec()).await?;
    }
    let mut helper = caller.helper.clone();
    let before = crate::lab::mounts_below(KUBELET)?;
    let strangers = ["tank/k8s/unheard-of", ours.id.as_str()];
    for volume_id in strangers {
        for target in [other_path.clone(), PathBuf::from("/etc"), PathBuf::from(KUBELET), PathBuf::from("/")]
        {
            let request = UnpublishVolumeRequest {
                volume_id: volume_id.to_owned(),
                target_path: target.display().to_string(),
                ..UnpublishVolumeRequest::default()
            };
            helper
                .unpublish_volume(request)
                .await
                .with_context(|| format!("unpublish of {volume_id} at {}", target.display()))?;
        }
        for staging in [kubelet.staging_path(&other), PathBuf::from("/etc"), PathBuf::from(KUBELET)] {
            let request = UnstageVolumeRequest {
                volume_id: volume_id.to_owned(),
                staging_path: staging.display().to_string(),
                ..UnstageVolumeRequest::default()
            };
            // A success of nothing and a refusal are both right; what counts is that nothing happens.
            let _any_answer = helper.unstage_volume(request).await;
        }
    }
    // In use by a pod: its own unstage is refused too.
    let request = UnstageVolumeRequest {
        volume_id: ours.id.clone(),
        staging_path: kubelet.staging_path(&ours).display().to_string(),
        ..UnstageVolumeRequest::default()
    };
    refused(
        "unstage of what is published",
        helper.unstage_volume(request).await,
        Code::FailedPrecondition,
        "published",
    )?;
    ensure!(crate::lab::mounts_below(KUBELET)? == before, "mounts were touched");
    for path in [&path, &other_path] {
        data::verify(&path.join("data"), b"kept".to_vec()).await?;
        data::write(&path.join("more"), b"kept".to_vec()).await?;
    }
    caller.stop().await?;
    kubelet.take_down(&ours, POD).await?;
    kubelet.take_down(&other, OTHER_POD).await
}

async fn hostile_peer(lab: &mut Lab) -> anyhow::Result<()> {
    // This program is root, whom the directory's mode does not keep out.
    let mut helper = NodeHelperClient::new(harness::csi::channel(&helper_socket()));
    let answer = tokio::time::timeout(
        Duration::from_secs(30),
        helper.get_host_info(GetHostInfoRequest { min_revision: 0 }),
    );
    if let Ok(answer) = answer.await.context("a refused connection hangs")? {
        bail!("root was answered: {answer:?}");
    }
    let log = fs::read_to_string(log_path("node-helper")).context("reading the helper's log")?;
    ensure!(log.contains("not among --allow-uid"), "the refusal is not in the helper's log");
    // Anybody else does not even reach the socket.
    let socket = helper_socket();
    let other = std::process::Command::new("setpriv")
        .args(["--reuid", "1000", "--regid", "1000", "--clear-groups", "--", "test", "-e"])
        .arg(&socket)
        .status()
        .context("looking as another user")?;
    ensure!(!other.success(), "user 1000 sees {}", socket.display());
    // A message over the limit ends the call and nothing else.
    let caller = Caller::start().await?;
    let mut helper = caller.helper.clone();
    let big = GetVolumeStatsRequest { volume_id: "x".repeat(128 << 10), ..GetVolumeStatsRequest::default() };
    ensure!(helper.get_volume_stats(big).await.is_err(), "a message of 128 KiB was taken");
    let info = helper.get_host_info(GetHostInfoRequest { min_revision: 0 }).await.context("GetHostInfo")?;
    ensure!(info.into_inner().node_name == "lab-node", "another helper answered");
    let newer = GetHostInfoRequest { min_revision: u32::MAX };
    refused("a newer revision", helper.get_host_info(newer).await, Code::FailedPrecondition, "revision")?;
    caller.stop().await?;
    ensure!(lab.helper.running(), "the helper ended");
    Ok(())
}
