//! What the helper does with volumes: one file per flow.
//!
//! Every flow has the same order: the request is compared with the ledger, the mount table and sysfs; the intent is
//! made durable; the effect follows; the ledger is brought up to date. So each can be cut off anywhere and repeated.

mod block;
mod expand;
mod group;
mod list;
mod publish;
mod stage;
mod stats;
mod unpublish;
mod unstage;
mod view;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tns_csi_proto::HELPER_REVISION;
use tns_csi_proto::helper::v1 as api;
use tokio::time::Instant;

use crate::attach::Attachments;
use crate::device::Devices;
use crate::failure::Failure;
use crate::filesystem::{Filesystems, FsType, MkfsOptions};
use crate::host::Host;
use crate::ledger::Ledger;
use crate::mount::{BindOptions, MountOptions, Questions};
use crate::paths::{KubeletRoot, Layout, StagingPath, TargetPath, VolumePath};
use crate::registry::Registry;
use crate::servers::AllowedServers;
use crate::source::{Source, VolumeId};

/// How long a mount may take to say that it lives. A longer silence is a fact about its server, not about the mount.
const ANSWER: Duration = Duration::from_secs(10);
/// How long taking back a failed stage may take; the caller waits for nothing of it beyond its own deadline.
const UNDO: Duration = Duration::from_secs(30);

/// What every call brings beside its fields.
#[derive(Debug, Clone)]
pub struct Call {
    /// Bound of the work's own waits: early enough before [`answer_by`](Self::answer_by) that the caller reads what
    /// the work saw last, and not a bare timeout.
    pub deadline: Instant,
    /// When the caller stops waiting.
    pub answer_by: Instant,
    /// Equal for requests that ask for the same.
    pub fingerprint: Vec<u8>,
}

/// StageVolume.
#[derive(Debug, Clone)]
pub struct Stage {
    /// The volume.
    pub volume: VolumeId,
    /// Where.
    pub staging: StagingPath,
    /// From where.
    pub source: Source,
    /// How.
    pub access: StageAccess,
    /// Size in bytes as the appliance knows it; 0 for file sources.
    pub capacity: u64,
    /// The volume has content from elsewhere: never format it.
    pub never_format: bool,
}

/// How a volume is staged.
#[derive(Debug, Clone)]
pub enum StageAccess {
    /// A file system on a block device, mounted.
    Filesystem {
        /// Which one.
        kind: FsType,
        /// Mount options.
        options: MountOptions,
        /// Extra arguments of its mkfs.
        mkfs_options: MkfsOptions,
        /// Group that shall own its files.
        group: Option<u32>,
    },
    /// A file source, mounted.
    Export {
        /// nfs or cifs.
        fs_type: &'static str,
        /// Mount options.
        options: MountOptions,
        /// Group that shall own its files; on SMB it is among the options too.
        group: Option<u32>,
    },
    /// A block device, connected.
    RawBlock {
        /// Nothing may be written to it.
        readonly: bool,
    },
}

/// UnstageVolume.
#[derive(Debug, Clone)]
pub struct Unstage {
    /// The volume.
    pub volume: VolumeId,
    /// Where; `None` for a path at which no volume can be.
    pub staging: Option<VolumePath>,
}

/// PublishVolume.
#[derive(Debug, Clone)]
pub struct Publish {
    /// The volume.
    pub volume: VolumeId,
    /// Where it is staged.
    pub staging: StagingPath,
    /// Where the pod expects it.
    pub target: TargetPath,
    /// As a block special file.
    pub block: bool,
    /// No other target may exist.
    pub exclusive: bool,
    /// Options of the bind, with read-only.
    pub options: BindOptions,
    /// Group of the pod.
    pub group: Option<u32>,
}

/// UnpublishVolume.
#[derive(Debug, Clone)]
pub struct Unpublish {
    /// The volume.
    pub volume: VolumeId,
    /// Where; `None` for a path at which no volume can be.
    pub target: Option<VolumePath>,
}

/// ExpandVolume.
#[derive(Debug, Clone)]
pub struct Expand {
    /// The volume.
    pub volume: VolumeId,
    /// Where it is staged or published.
    pub path: VolumePath,
    /// Size the device must have reached, in bytes; 0 for whatever it has.
    pub required: u64,
}

/// GetVolumeStats.
#[derive(Debug, Clone)]
pub struct Stats {
    /// The volume.
    pub volume: VolumeId,
    /// Where it is staged or published.
    pub path: VolumePath,
}

/// What the flows work with.
#[derive(Debug)]
pub struct Parts {
    /// Accepted paths.
    pub layout: Layout,
    /// The kubelet root.
    pub root: KubeletRoot,
    /// What was intended.
    pub ledger: Ledger,
    /// This host.
    pub host: Host,
    /// Whom it may talk to.
    pub servers: AllowedServers,
    /// Block devices.
    pub devices: Devices,
    /// How they come and go.
    pub attachments: Attachments,
    /// File systems.
    pub filesystems: Filesystems,
}

/// What an operation on a volume ends with.
#[derive(Debug, Clone)]
enum Done {
    Staged(api::StageVolumeResponse),
    Expanded(api::ExpandVolumeResponse),
    Text(String),
}

/// The volumes of this host.
#[derive(Debug)]
pub struct Volumes {
    parts: Parts,
    operations: Registry<VolumeId, Done>,
    /// Statistics take no lock; equal requests join.
    statistics: Registry<String, api::GetVolumeStatsResponse>,
    /// Held while a device is claimed for a volume in the ledger, so that two volumes cannot claim it at once.
    claims: tokio::sync::Mutex<()>,
    /// Mounts that are being asked whether they live.
    asked: Questions,
    /// The helper is about to end: what may take long and can be taken up again is cut off.
    stopping: Arc<AtomicBool>,
}

impl Volumes {
    /// Over these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            parts,
            operations: Registry::default(),
            statistics: Registry::default(),
            claims: tokio::sync::Mutex::default(),
            asked: Questions::default(),
            stopping: Arc::default(),
        })
    }

    /// Accepted paths.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.parts.layout
    }

    /// Answers GetHostInfo.
    ///
    /// # Errors
    /// `FailedPrecondition` when the host has no address for storage.
    pub async fn host_info(&self) -> Result<api::GetHostInfoResponse, Failure> {
        let (host, iscsi) = (self.parts.host.clone(), self.parts.attachments.iscsi().clone());
        let found = crate::work::run("reading the host's addresses", move || {
            let mut protocols = crate::host::kernel::protocols();
            if iscsi.is_available(&host.kernel) {
                protocols.push("iscsi".to_owned());
            }
            (host.storage_addresses(), protocols)
        });
        let (addresses, protocols) = found.await?;
        let addresses = addresses.map_err(Failure::precondition)?;
        Ok(api::GetHostInfoResponse {
            revision: HELPER_REVISION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node_name: self.parts.host.node_name.clone(),
            host_uuid: self.parts.host.uuid.to_string(),
            storage_addresses: addresses.iter().map(ToString::to_string).collect(),
            public_key: self.parts.host.sealing.public_key().to_vec(),
            kernel_release: self.parts.host.kernel.clone(),
            protocols,
            filesystems: self.parts.filesystems.available().iter().map(ToString::to_string).collect(),
        })
    }

    /// Waits, at most `grace`, until no operation runs.
    pub async fn finish(&self, grace: Duration) {
        self.stopping.store(true, Ordering::Relaxed);
        if tokio::time::timeout(grace, self.operations.idle()).await.is_err() {
            tracing::warn!(running = self.operations.len(), "operations were still running at the end");
        }
    }
}

/// A registry answers with what its own verb produced; anything else is a mistake in this module.
fn unexpected(verb: &str) -> Failure {
    Failure::internal(format!("{verb} ended with another verb's answer"))
}
