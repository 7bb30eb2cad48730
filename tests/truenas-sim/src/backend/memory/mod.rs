//! A pool that exists only as names and numbers.
//!
//! Purpose: everything of ZFS that the API shows (inheritance, space, snapshots, clones, promotion) without privileges,
//! kept in the journal so that it survives restarts. Nothing is exported; the exports asked for can be looked at.
//!
//! The rule it keeps: what ZFS would refuse is refused, with the same kind of refusal.

mod pool;
mod properties;
mod snapshots;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{
    Backend, BackendError, Dataset, DatasetKind, Encryption, IscsiSession, IscsiTarget, NewDataset,
    NfsExport, NvmetSession, NvmetTarget, PermissionChange, Permissions, Pool, Refusal, Result, Scope,
    SmbShare, Snapshot,
};
use crate::state::{Journal, Tables};
use pool::{Node, State};

/// How the memory backend is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Pool name.
    pub pool: String,
    /// Usable size of the pool in bytes.
    pub size: u64,
    /// How long a new zvol's device stays away.
    pub device_delay: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { pool: "tank".into(), size: 1 << 40, device_delay: Duration::from_millis(5) }
    }
}

/// The backend without a disk.
#[derive(Debug)]
pub struct Memory {
    state: Mutex<State>,
    device_delay_ms: AtomicU64,
    exports: Mutex<(bool, Vec<NfsExport>)>,
    shares: Mutex<(bool, Vec<SmbShare>)>,
    iscsi: Mutex<IscsiTarget>,
    target: Mutex<NvmetTarget>,
}

impl Memory {
    /// A pool as the journal's tables describe it, or a new empty one.
    pub fn new(settings: &Settings, tables: &Tables, journal: Arc<Journal>) -> anyhow::Result<Self> {
        let state = State::load(&settings.pool, settings.size, tables, journal)?;
        Ok(Self {
            state: Mutex::new(state),
            device_delay_ms: AtomicU64::new(settings.device_delay.as_millis().try_into().unwrap_or(u64::MAX)),
            exports: Mutex::default(),
            shares: Mutex::default(),
            iscsi: Mutex::default(),
            target: Mutex::default(),
        })
    }

    /// Changes how long a new zvol's device stays away, for zvols made from then on.
    pub fn set_device_delay(&self, delay: Duration) {
        self.device_delay_ms.store(delay.as_millis().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Unloads the key of an encrypted dataset, or loads it again: it and what inherits from it is locked. Like the
    /// appliance's restart does to one with a passphrase.
    ///
    /// # Errors
    /// It is no dataset with a key of its own.
    pub fn set_locked(&self, dataset: &str, locked: bool) -> std::result::Result<(), String> {
        let mut state = self.state();
        if state.encryption_root(dataset).is_none_or(|(root, _)| root != dataset) {
            return Err(format!("{dataset} has no key of its own"));
        }
        let status = if locked { "unavailable" } else { "available" };
        let change = BTreeMap::from([("keystatus".to_owned(), Some(status.to_owned()))]);
        state.set(dataset, &change).map_err(|e| e.text)
    }

    /// The exports last applied, and whether the server runs.
    pub fn exports(&self) -> (bool, Vec<NfsExport>) {
        self.exports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The SMB shares last applied, and whether the server runs.
    pub fn shares(&self) -> (bool, Vec<SmbShare>) {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The iSCSI target last applied.
    pub fn iscsi(&self) -> IscsiTarget {
        self.iscsi.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The NVMe target last applied.
    pub fn target(&self) -> NvmetTarget {
        self.target.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn device_at(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.device_delay_ms.load(Ordering::Relaxed))
    }
}

impl Backend for Memory {
    fn pools(&self) -> Result<Vec<Pool>> {
        Ok(vec![self.state().pool()])
    }

    fn datasets(&self, scope: &Scope<'_>) -> Result<Vec<Dataset>> {
        Ok(self.state().datasets(scope))
    }

    fn create_dataset(&self, new: &NewDataset) -> Result<()> {
        let device_at = self.device_at();
        let mut state = self.state();
        let mut node = Node::new(new.kind);
        node.native = new.properties.clone();
        node.user = new.user_properties.clone();
        node.device_at = Some(device_at);
        state.add(&new.name, node)
    }

    fn create_encrypted(&self, new: &NewDataset, encryption: &Encryption) -> Result<()> {
        let mut new = new.clone();
        let own =
            [("encryption", encryption.algorithm.clone()), ("keyformat", encryption.key.format().to_owned())];
        new.properties.extend(own.map(|(key, value)| (key.to_owned(), value)));
        if let Some(iterations) = encryption.key.iterations() {
            new.properties.insert("pbkdf2iters".into(), iterations.to_string());
        }
        self.create_dataset(&new)
    }

    fn set_properties(&self, name: &str, changes: &BTreeMap<String, Option<String>>) -> Result<()> {
        self.state().set(name, changes)
    }

    fn destroy_dataset(&self, name: &str, recursive: bool, _force: bool) -> Result<()> {
        self.state().destroy(name, recursive)
    }

    fn promote(&self, name: &str) -> Result<()> {
        self.state().promote(name)
    }

    fn rename_dataset(&self, name: &str, to: &str) -> Result<()> {
        self.state().rename(name, to)
    }

    fn snapshots(&self, of: Option<&str>) -> Result<Vec<Snapshot>> {
        Ok(self.state().list_snapshots(of))
    }

    fn create_snapshot(
        &self,
        datasets: &[String],
        name: &str,
        user_properties: &BTreeMap<String, String>,
    ) -> Result<()> {
        self.state().snapshot(datasets, name, user_properties)
    }

    fn destroy_snapshot(&self, dataset: &str, name: &str, defer: bool) -> Result<()> {
        self.state().destroy_snapshot(dataset, name, defer)
    }

    fn clone_snapshot(
        &self,
        dataset: &str,
        name: &str,
        to: &str,
        properties: &BTreeMap<String, String>,
    ) -> Result<()> {
        let device_at = self.device_at();
        self.state().clone_snapshot(dataset, name, to, properties, device_at)
    }

    fn hold_snapshot(&self, dataset: &str, name: &str, held: bool) -> Result<()> {
        self.state().hold(dataset, name, held)
    }

    fn rollback(&self, dataset: &str, name: &str, recursive: bool) -> Result<()> {
        self.state().rollback(dataset, name, recursive)
    }

    fn set_snapshot_properties(
        &self,
        dataset: &str,
        name: &str,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<()> {
        self.state().set_snapshot(dataset, name, changes)
    }

    fn path_exists(&self, path: &str) -> bool {
        self.state().path_exists(path)
    }

    fn permissions(&self, path: &str) -> Result<Permissions> {
        self.state().permissions(path)
    }

    fn set_permissions(&self, path: &str, change: PermissionChange) -> Result<()> {
        self.state().set_permissions(path, change)
    }

    fn make_directory(&self, path: &str) -> Result<()> {
        self.state().make_directory(path)
    }

    fn device_ready(&self, zvol: &str) -> bool {
        self.state().node(zvol).is_some_and(|node| {
            node.kind == DatasetKind::Volume && node.device_at.is_none_or(|at| at <= Instant::now())
        })
    }

    fn volume_grown(&self, zvol: &str) -> Result<()> {
        match self.state().node(zvol) {
            Some(_) => Ok(()),
            None => Err(missing(zvol)),
        }
    }

    fn apply_nfs(&self, running: bool, exports: &[NfsExport]) -> Result<()> {
        *self.exports.lock().unwrap_or_else(PoisonError::into_inner) = (running, exports.to_vec());
        Ok(())
    }

    fn apply_smb(&self, running: bool, shares: &[SmbShare]) -> Result<()> {
        *self.shares.lock().unwrap_or_else(PoisonError::into_inner) = (running, shares.to_vec());
        Ok(())
    }

    fn apply_nvmet(&self, target: &NvmetTarget) -> Result<()> {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target.clone();
        Ok(())
    }

    fn apply_iscsi(&self, target: &IscsiTarget) -> Result<()> {
        *self.iscsi.lock().unwrap_or_else(PoisonError::into_inner) = target.clone();
        Ok(())
    }

    fn iscsi_sessions(&self) -> Result<Vec<IscsiSession>> {
        Ok(Vec::new())
    }

    fn nvmet_sessions(&self) -> Result<Vec<NvmetSession>> {
        Ok(Vec::new())
    }
}

/// `zfs`'s words for a dataset that is not there.
fn missing(name: &str) -> BackendError {
    BackendError::new(Refusal::Missing, format!("cannot open '{name}': dataset does not exist"))
}
