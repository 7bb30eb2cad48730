//! What the stand-in does to storage and exports, behind one trait with two implementations.
//!
//! Purpose: keep everything that TrueNAS's middleware decides (validation, ids, rows of shares and subsystems, error
//! shapes, jobs, limits) in one place, common to both, and leave to a backend only what ZFS, the kernel's NVMe target
//! and the NFS server would do.
//!
//! The rule it keeps: a backend is told *what shall be*, never how TrueNAS words it. Property names and values are
//! ZFS's own (`refquota`, `volsize`, `on`, `lz4`), sizes are bytes, and a refusal says its kind so that the common
//! layer can give it the errno of the appliance's version.
//!
//! Methods are synchronous and may block: every API call runs on a blocking thread. They may run at the same time;
//! the common layer only serialises the mutations of one sharing service against each other (so `apply_nfs`,
//! `apply_smb` and `apply_nvmet` are never entered twice at once).

pub mod export;
pub mod memory;
pub mod storage;
pub mod zfs;

pub use export::{
    IscsiChap, IscsiGroup, IscsiSession, IscsiTarget, IscsiTargetEntry, IscsiUnit, NfsExport, NfsSecurity,
    NvmetDevice, NvmetHost, NvmetNamespace, NvmetPort, NvmetSession, NvmetSubsystem, NvmetTarget, SmbShare,
};
pub use storage::{
    Dataset, DatasetKind, Encryption, Key, NewDataset, PermissionChange, Permissions, Pool, Property, Scope,
    Snapshot, Source,
};

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Why a backend refused. The kind chooses the errno; the text is what `zfs` (or the kernel) said.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub struct BackendError {
    /// What kind of refusal it is.
    pub kind: Refusal,
    /// The words of the tool or kernel, without a prefix. Never holds a secret.
    pub text: String,
}

impl BackendError {
    /// A refusal of the given kind with these words.
    pub fn new(kind: Refusal, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// The kinds of refusal that lead to different answers of the appliance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The dataset, snapshot or pool does not exist.
    Missing,
    /// A dataset or snapshot of this name exists.
    Exists,
    /// It has child datasets and the request was not recursive.
    HasChildren,
    /// It has snapshots and the request was not recursive.
    HasSnapshots,
    /// A snapshot of it has a clone outside what would be destroyed, or the snapshot itself has one.
    HasClones,
    /// It is open, mounted and in use, or held.
    Busy,
    /// No space left in the pool or under the parent's quota.
    NoSpace,
    /// `promote` of a dataset that is not a clone.
    NotAClone,
    /// ZFS or the kernel does not accept the name or value.
    Invalid,
    /// Anything else (a tool is missing, a write failed).
    Other,
}

/// Short form of a backend's answer.
pub type Result<T> = std::result::Result<T, BackendError>;

/// The storage and the exports of one appliance.
pub trait Backend: Send + Sync + 'static {
    /// The imported pools (never a boot pool).
    fn pools(&self) -> Result<Vec<Pool>>;

    /// Names of the imported pools.
    fn pool_names(&self) -> Result<Vec<String>> {
        Ok(self.pools()?.into_iter().map(|pool| pool.name).collect())
    }

    /// Datasets with all their native and user properties, ordered by name. A path in [`Scope::Paths`] that does not
    /// exist is left out without an error (as `zfs.resource.query` does).
    fn datasets(&self, scope: &Scope<'_>) -> Result<Vec<Dataset>>;

    /// Creates one file system (mounted at `/mnt/<name>`) or zvol. The parent exists. Properties and user properties
    /// come with it (`zfs create -o ...`); real ZFS shows the dataset for a moment without them.
    /// `acltype=nfsv4` exists only in TrueNAS's ZFS; a backend on another leaves it out.
    fn create_dataset(&self, new: &NewDataset) -> Result<()>;

    /// As [`Backend::create_dataset`], encrypted with a key of its own.
    fn create_encrypted(&self, new: &NewDataset, encryption: &Encryption) -> Result<()>;

    /// Sets (`Some`) or inherits (`None`, also: removes a user property) properties of a dataset. Keys with a colon
    /// are user properties. All or nothing as far as ZFS allows.
    fn set_properties(&self, name: &str, changes: &BTreeMap<String, Option<String>>) -> Result<()>;

    /// Destroys a dataset: `zfs destroy [-f] [-r]`. `recursive` takes children and snapshots along, never clones
    /// elsewhere (that is refused as [`Refusal::HasClones`]).
    fn destroy_dataset(&self, name: &str, recursive: bool, force: bool) -> Result<()>;

    /// `zfs promote`: moves the origin snapshot, and the older ones, to the clone.
    fn promote(&self, name: &str) -> Result<()>;

    /// `zfs rename` of a dataset and everything below it.
    fn rename_dataset(&self, name: &str, to: &str) -> Result<()>;

    /// Snapshots ordered by creation, of one dataset (not of its children) or of all.
    fn snapshots(&self, of: Option<&str>) -> Result<Vec<Snapshot>>;

    /// `zfs snapshot [-r] [-o key=value] dataset@name`, atomic over the given datasets.
    fn create_snapshot(
        &self,
        datasets: &[String],
        name: &str,
        user_properties: &BTreeMap<String, String>,
    ) -> Result<()>;

    /// `zfs destroy [-d] dataset@name`. With `defer` and clones the snapshot is marked and stays visible until the
    /// last clone is gone.
    fn destroy_snapshot(&self, dataset: &str, name: &str, defer: bool) -> Result<()>;

    /// `zfs clone` with native properties; a file system is mounted.
    fn clone_snapshot(
        &self,
        dataset: &str,
        name: &str,
        to: &str,
        properties: &BTreeMap<String, String>,
    ) -> Result<()>;

    /// Adds (`true`) the hold tag `truenas`, or drops (`false`) all tags of a snapshot.
    fn hold_snapshot(&self, dataset: &str, name: &str, held: bool) -> Result<()>;

    /// Rolls the dataset back to the snapshot; newer snapshots are destroyed only with `recursive`.
    fn rollback(&self, dataset: &str, name: &str, recursive: bool) -> Result<()>;

    /// Sets user properties of a snapshot (`None` removes).
    fn set_snapshot_properties(
        &self,
        dataset: &str,
        name: &str,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<()>;

    /// Whether this absolute path (`/mnt/...`) exists as seen by the appliance: a mounted file system or a stray
    /// directory. A backend under an alternate root maps the path itself.
    fn path_exists(&self, path: &str) -> bool;

    /// Owner and mode of a path that exists.
    fn permissions(&self, path: &str) -> Result<Permissions>;

    /// Changes owner and mode of one path, nothing below it.
    fn set_permissions(&self, path: &str, change: PermissionChange) -> Result<()>;

    /// Makes a plain directory (an absolute path below `/mnt`), the parents too. Existing ones are left alone.
    fn make_directory(&self, path: &str) -> Result<()>;

    /// Whether `/dev/zvol/<name>` is there as a block device. It appears some milliseconds after the zvol does.
    fn device_ready(&self, zvol: &str) -> bool;

    /// Tells the exports that a zvol has grown (rescan, `revalidate_size`), after `set_properties` changed `volsize`.
    fn volume_grown(&self, zvol: &str) -> Result<()>;

    /// Makes the NFS server export exactly these shares; `running` false: serves nothing. Called after every change
    /// of a share or of the service, and at start, with the whole list.
    fn apply_nfs(&self, running: bool, exports: &[NfsExport]) -> Result<()>;

    /// Makes the SMB server share exactly this; `running` false: serves nothing. Called as [`Backend::apply_nfs`] is. A
    /// share that is no longer listed, or whose name changed, has its clients disconnected; any other change leaves live
    /// connections alone.
    fn apply_smb(&self, running: bool, shares: &[SmbShare]) -> Result<()>;

    /// Makes the kernel's NVMe target exactly this. Called after every change and at start with the whole target; the
    /// backend finds the difference. A host or port link that is no longer listed is removed at once. A restart is
    /// given as a sequence of targets in which parts are missing.
    fn apply_nvmet(&self, target: &NvmetTarget) -> Result<()>;

    /// Makes the iSCSI target exactly this. Called after every change and at start with the whole target; the backend
    /// finds the difference. An initiator that is no longer listed loses its session.
    fn apply_iscsi(&self, target: &IscsiTarget) -> Result<()>;

    /// The initiators logged in at this moment.
    fn iscsi_sessions(&self) -> Result<Vec<IscsiSession>>;

    /// The NVMe controllers connected at this moment.
    fn nvmet_sessions(&self) -> Result<Vec<NvmetSession>>;

    /// Addresses that clients can reach this appliance at.
    fn addresses(&self) -> Vec<IpAddr> {
        crate::backend::storage::interface_addresses()
    }
}

/// The backend on a real pool, which is imported already.
pub(crate) fn real(settings: &zfs::Settings) -> anyhow::Result<std::sync::Arc<dyn Backend>> {
    Ok(std::sync::Arc::new(zfs::Zfs::new(settings)?))
}
