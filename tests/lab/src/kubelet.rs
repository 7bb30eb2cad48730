//! The orchestrator's side of a volume's life: what provisioner, attacher, resizer and kubelet ask of the driver, in
//! their order and with their paths.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use harness::orchestrator::Orchestrator;
pub use harness::orchestrator::{Class, GIB, Volume};
use harness::paths;
use tns_csi_proto::csi::v1::node_client::NodeClient;
use tns_csi_proto::csi::v1::{
    CapacityRange, NodeExpandVolumeRequest, NodeGetVolumeStatsRequest, NodePublishVolumeRequest,
    NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest, VolumeCapability,
    VolumeUsage,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::guest::{PARENT, POOL};
use crate::lab::SERVER;

/// The driver's name.
pub const DRIVER: &str = "tns.csi.io";
/// How long the orchestrator goes on calling.
const PATIENCE: Duration = Duration::from_secs(120);

/// The orchestrator with one node.
#[derive(Clone, Debug)]
pub struct Kubelet {
    /// The sidecars of the controller.
    pub sidecars: Orchestrator,
    /// The node agent.
    pub node: NodeClient<Channel>,
    /// Id of the node, as the node agent gave it.
    pub node_id: String,
    /// kubelet's directory.
    pub root: PathBuf,
}

impl Kubelet {
    /// CreateVolume in the lab's pool.
    pub async fn create(&self, name: &str, class: &Class, bytes: i64) -> Result<Volume, Status> {
        let class = class.clone().with("pool", POOL).with("parentDataset", PARENT).with("server", SERVER);
        self.sidecars.create(name, &class, bytes).await
    }

    /// ControllerPublishVolume to this node.
    pub async fn attach(&self, volume: &mut Volume) -> Result<(), Status> {
        volume.publish_context = self.attach_to(volume, &self.node_id).await?;
        Ok(())
    }

    /// ControllerPublishVolume to a node by its id.
    pub async fn attach_to(
        &self,
        volume: &Volume,
        node_id: &str,
    ) -> Result<BTreeMap<String, String>, Status> {
        self.sidecars.attach(volume, node_id).await
    }

    /// ControllerUnpublishVolume from this node.
    pub async fn detach(&self, volume: &Volume) -> Result<(), Status> {
        self.detach_from(volume, &self.node_id).await
    }

    /// ControllerUnpublishVolume from a node by its id.
    pub async fn detach_from(&self, volume: &Volume, node_id: &str) -> Result<(), Status> {
        self.sidecars.detach(volume, node_id).await
    }

    /// NodeStageVolume, in the directory that kubelet makes for it.
    pub async fn stage(&self, volume: &Volume) -> Result<(), Status> {
        self.stage_as(volume, volume.class.capability.clone()).await
    }

    /// As [`Self::stage`] with another capability than the volume was made with.
    pub async fn stage_as(&self, volume: &Volume, capability: VolumeCapability) -> Result<(), Status> {
        let path = self.staging_path(volume);
        if let Err(error) = fs::create_dir_all(&path)
            && !is_dead_mount(&path)
        {
            return Err(local(&path, &error));
        }
        let request = NodeStageVolumeRequest {
            volume_id: volume.id.clone(),
            publish_context: volume.publish_context.clone(),
            staging_target_path: text(&path),
            volume_capability: Some(capability),
            volume_context: volume.context.clone(),
            secrets: volume.class.secrets.clone(),
        };
        self.node.clone().node_stage_volume(request).await.map(drop)
    }

    /// NodeUnstageVolume; then kubelet removes the directory.
    pub async fn unstage(&self, volume: &Volume) -> Result<(), Status> {
        let path = self.staging_path(volume);
        let request =
            NodeUnstageVolumeRequest { volume_id: volume.id.clone(), staging_target_path: text(&path) };
        self.node.clone().node_unstage_volume(request).await?;
        // Never with what is in it: a volume that is still mounted would be emptied.
        match fs::remove_dir(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(local(&path, &error)),
            _ => Ok(()),
        }
    }

    /// NodePublishVolume for a pod; returns the path that the pod gets.
    pub async fn publish(&self, volume: &Volume, pod: &str, readonly: bool) -> Result<PathBuf, Status> {
        let target = self.target_path(volume, pod);
        let parent = target.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(|error| local(parent, &error))?;
        let request = NodePublishVolumeRequest {
            volume_id: volume.id.clone(),
            publish_context: volume.publish_context.clone(),
            staging_target_path: text(&self.staging_path(volume)),
            target_path: text(&target),
            volume_capability: Some(volume.class.capability.clone()),
            readonly,
            volume_context: volume.context.clone(),
            ..NodePublishVolumeRequest::default()
        };
        self.node.clone().node_publish_volume(request).await?;
        Ok(target)
    }

    /// NodeUnpublishVolume for a pod.
    pub async fn unpublish(&self, volume: &Volume, pod: &str) -> Result<(), Status> {
        let request = NodeUnpublishVolumeRequest {
            volume_id: volume.id.clone(),
            target_path: text(&self.target_path(volume, pod)),
        };
        self.node.clone().node_unpublish_volume(request).await.map(drop)
    }

    /// ControllerExpandVolume, then NodeExpandVolume when the driver asks for it. `pod` is where it is published.
    pub async fn expand(&self, volume: &mut Volume, pod: &str, bytes: i64) -> Result<(), Status> {
        let response = self.sidecars.expand(volume, bytes).await?;
        volume.capacity = response.capacity_bytes;
        if response.node_expansion_required {
            let request = NodeExpandVolumeRequest {
                volume_id: volume.id.clone(),
                volume_path: text(&self.target_path(volume, pod)),
                capacity_range: Some(CapacityRange { required_bytes: volume.capacity, limit_bytes: 0 }),
                staging_target_path: text(&self.staging_path(volume)),
                volume_capability: Some(volume.class.capability.clone()),
                ..NodeExpandVolumeRequest::default()
            };
            self.node.clone().node_expand_volume(request).await?;
        }
        Ok(())
    }

    /// NodeGetVolumeStats at a pod's path.
    pub async fn stats(&self, volume: &Volume, pod: &str) -> Result<Vec<VolumeUsage>, Status> {
        let request = NodeGetVolumeStatsRequest {
            volume_id: volume.id.clone(),
            volume_path: text(&self.target_path(volume, pod)),
            staging_target_path: text(&self.staging_path(volume)),
        };
        Ok(self.node.clone().node_get_volume_stats(request).await?.into_inner().usage)
    }

    /// DeleteVolume.
    pub async fn delete(&self, volume: &Volume) -> Result<(), Status> {
        self.sidecars.delete(volume).await
    }

    /// Create, attach, stage and publish; returns the volume and the pod's path.
    pub async fn bring_up(
        &self,
        name: &str,
        class: &Class,
        bytes: i64,
        pod: &str,
    ) -> anyhow::Result<(Volume, PathBuf)> {
        let mut volume = self.create(name, class, bytes).await.context("CreateVolume")?;
        self.attach(&mut volume).await.context("ControllerPublishVolume")?;
        self.stage(&volume).await.context("NodeStageVolume")?;
        let path = self.publish(&volume, pod, false).await.context("NodePublishVolume")?;
        Ok((volume, path))
    }

    /// The reverse of [`Self::bring_up`].
    pub async fn take_down(&self, volume: &Volume, pod: &str) -> anyhow::Result<()> {
        self.unpublish(volume, pod).await.context("NodeUnpublishVolume")?;
        self.unstage(volume).await.context("NodeUnstageVolume")?;
        self.detach(volume).await.context("ControllerUnpublishVolume")?;
        self.remove(volume).await
    }

    /// DeleteVolume until it is done: an appliance may find the dataset busy for a moment, as long as its NFS server has
    /// not let go of it.
    pub async fn remove(&self, volume: &Volume) -> anyhow::Result<()> {
        again("DeleteVolume", async || self.delete(volume).await).await
    }

    /// Where the volume is staged.
    pub fn staging_path(&self, volume: &Volume) -> PathBuf {
        if volume.class.is_block() {
            paths::staging_block(&self.root, &volume.name)
        } else {
            paths::staging_mount(&self.root, DRIVER, &volume.id)
        }
    }

    /// Where a pod finds the volume.
    pub fn target_path(&self, volume: &Volume, pod: &str) -> PathBuf {
        if volume.class.is_block() {
            paths::target_block(&self.root, &volume.name, pod)
        } else {
            paths::target_mount(&self.root, &volume.name, pod)
        }
    }
}

/// Whether an answer says that the call may still be running; after any other the orchestrator may never come back.
pub fn is_pending(code: Code) -> bool {
    matches!(code, Code::Aborted | Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

/// Repeats a call with growing pauses for as long as its answers say that it may still be running, as sidecars and
/// kubelet do. A final answer ends it.
pub async fn again<T>(what: &str, mut call: impl AsyncFnMut() -> Result<T, Status>) -> anyhow::Result<T> {
    let end = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(100);
    loop {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(status) if is_pending(status.code()) && Instant::now() < end => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
            Err(status) => return Err(status).with_context(|| format!("{what}, called again")),
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// kubelet goes on with a directory that it cannot look at when a mount there is dead (`IsCorruptedMnt` in
/// `k8s.io/mount-utils`): mending it is the driver's part.
fn is_dead_mount(path: &Path) -> bool {
    use nix::libc::{EACCES, EHOSTDOWN, EIO, ENOTCONN, ESTALE, EWOULDBLOCK};
    let dead = [ENOTCONN, ESTALE, EIO, EACCES, EHOSTDOWN, EWOULDBLOCK];
    path.metadata().is_err_and(|error| error.raw_os_error().is_some_and(|code| dead.contains(&code)))
}

/// What kubelet itself could not do.
fn local(path: &Path, error: &std::io::Error) -> Status {
    Status::internal(format!("kubelet's own step at {}: {error}", path.display()))
}
