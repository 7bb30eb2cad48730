//! The tree of datasets: space, creation, destruction, renaming and promotion, written through to the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::missing;
use super::properties;
use crate::backend::{
    BackendError, Dataset, DatasetKind, PermissionChange, Permissions, Pool, Refusal, Result, Scope,
};
use crate::state::{Change, Journal, Tables};

const DATASETS: &str = "zfs.dataset";
const SNAPSHOTS: &str = "zfs.snapshot";
const POOL: &str = "zfs.pool";
const DIRECTORIES: &str = "zfs.directory";

/// What an empty dataset occupies (bytes), about what ZFS shows.
pub(super) const EMPTY: u64 = 96 * 1024;

/// One dataset: only what is set on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Node {
    pub kind: DatasetKind,
    pub guid: u64,
    pub createtxg: u64,
    /// Seconds since the epoch.
    pub creation: i64,
    pub native: BTreeMap<String, String>,
    pub user: BTreeMap<String, String>,
    /// `dataset@snapshot` that it is a clone of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Owner and mode of its root directory, once they were set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Permissions>,
    /// When its device appears; only in the process that made it.
    #[serde(skip)]
    pub device_at: Option<Instant>,
}

impl Node {
    pub fn new(kind: DatasetKind) -> Self {
        Self {
            kind,
            guid: rand::random::<u64>() >> 1,
            createtxg: 0,
            creation: jiff::Timestamp::now().as_second(),
            native: BTreeMap::new(),
            user: BTreeMap::new(),
            origin: None,
            root: None,
            device_at: None,
        }
    }

    /// Bytes of a local native property, 0 when it is not set.
    pub fn bytes(&self, property: &str) -> u64 {
        self.native.get(property).and_then(|raw| raw.parse().ok()).unwrap_or(0)
    }

    /// What it takes from the pool: its data or what is reserved for it.
    pub fn charge(&self) -> u64 {
        EMPTY.max(self.bytes("refreservation")).max(self.bytes("reservation"))
    }
}

/// One snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Frozen {
    pub guid: u64,
    pub createtxg: u64,
    pub creation: i64,
    pub user: BTreeMap<String, String>,
    /// Native properties of the dataset that a clone takes over (`volsize`, `volblocksize`).
    pub native: BTreeMap<String, String>,
    pub held: bool,
    /// Destroyed with `defer` while it had clones.
    pub deferred: bool,
}

/// The whole pool.
#[derive(Debug)]
pub(super) struct State {
    pub name: String,
    pub guid: u64,
    size: u64,
    pub txg: u64,
    pub nodes: BTreeMap<String, Node>,
    /// By dataset, then by snapshot name.
    pub frozen: BTreeMap<String, BTreeMap<String, Frozen>>,
    directories: BTreeSet<String>,
    /// Sum of all charges.
    charged: u64,
    journal: Arc<Journal>,
}

impl State {
    pub fn load(pool: &str, size: u64, tables: &Tables, journal: Arc<Journal>) -> anyhow::Result<Self> {
        let mut state = Self {
            name: pool.to_owned(),
            guid: rand::random::<u64>() >> 1,
            size,
            txg: 10,
            nodes: BTreeMap::new(),
            frozen: BTreeMap::new(),
            directories: BTreeSet::new(),
            charged: 0,
            journal,
        };
        for (name, value) in tables.get(DATASETS).into_iter().flatten() {
            let node: Node = serde_json::from_value(value.clone())?;
            state.txg = state.txg.max(node.createtxg);
            state.charged += node.charge();
            state.nodes.insert(name.clone(), node);
        }
        for (id, value) in tables.get(SNAPSHOTS).into_iter().flatten() {
            let frozen: Frozen = serde_json::from_value(value.clone())?;
            let Some((dataset, name)) = id.split_once('@') else {
                anyhow::bail!("{id:?} is no snapshot name")
            };
            state.txg = state.txg.max(frozen.createtxg);
            state.frozen.entry(dataset.to_owned()).or_default().insert(name.to_owned(), frozen);
        }
        for path in tables.get(DIRECTORIES).into_iter().flatten().map(|(path, _)| path) {
            state.directories.insert(path.clone());
        }
        if let Some(guid) = tables.get(POOL).and_then(|t| t.get(pool)).and_then(Value::as_u64) {
            state.guid = guid;
        } else {
            state.journal.commit(&[Change::put(POOL, pool, state.guid.into())])?;
        }
        if !state.nodes.contains_key(pool) {
            let mut root = Node::new(DatasetKind::Filesystem);
            root.native = properties::pool_root();
            state.insert(pool, root).map_err(|e| anyhow::anyhow!("cannot make the pool {pool}: {e}"))?;
        }
        Ok(state)
    }

    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    pub fn must(&self, name: &str) -> Result<&Node> {
        self.nodes.get(name).ok_or_else(|| missing(name))
    }

    /// Commits, then keeps the node.
    fn insert(&mut self, name: &str, node: Node) -> Result<()> {
        self.commit(vec![put_node(name, &node)?])?;
        self.charged += node.charge();
        if let Some(old) = self.nodes.insert(name.to_owned(), node) {
            self.charged = self.charged.saturating_sub(old.charge());
        }
        Ok(())
    }

    pub fn commit(&self, changes: Vec<Change>) -> Result<()> {
        self.journal
            .commit(&changes)
            .map_err(|e| BackendError::new(Refusal::Other, format!("the state cannot be written: {e}")))
    }

    pub fn pool(&self) -> Pool {
        Pool {
            name: self.name.clone(),
            guid: self.guid,
            size: self.size,
            allocated: self.charged,
            free: self.size.saturating_sub(self.charged),
            status: "ONLINE".into(),
        }
    }

    /// Names below `name`, not itself.
    pub fn below<'a>(&'a self, name: &str) -> impl Iterator<Item = (&'a String, &'a Node)> {
        // '0' is the character after '/', so the range is exactly the names that start with `name/`.
        self.nodes.range(format!("{name}/")..format!("{name}0"))
    }

    /// Bytes used by the dataset and everything below it.
    pub fn used(&self, name: &str) -> u64 {
        let own = self.nodes.get(name).map_or(0, Node::charge);
        own + self.below(name).map(|(_, node)| node.charge()).sum::<u64>()
    }

    /// Bytes that can still be written to a dataset: what the pool and every quota above it leave.
    pub fn available(&self, name: &str) -> u64 {
        let mut left = self.size.saturating_sub(self.charged);
        let mut at = Some(name);
        while let Some(path) = at {
            if let Some(node) = self.nodes.get(path) {
                let quota = node.bytes("quota");
                if quota > 0 {
                    left = left.min(quota.saturating_sub(self.used(path)));
                }
                if path == name {
                    let refquota = node.bytes("refquota");
                    if refquota > 0 {
                        left = left.min(refquota.saturating_sub(EMPTY));
                    }
                    if node.kind == DatasetKind::Volume {
                        left += node.charge().saturating_sub(EMPTY);
                    }
                }
            }
            at = path.rsplit_once('/').map(|(parent, _)| parent);
        }
        left
    }

    pub fn datasets(&self, scope: &Scope<'_>) -> Vec<Dataset> {
        match scope {
            Scope::All => self.nodes.iter().map(|(name, node)| self.describe(name, node)).collect(),
            Scope::Paths(paths) => {
                paths.iter().filter_map(|p| self.nodes.get(p).map(|node| self.describe(p, node))).collect()
            }
            Scope::Below(paths) => {
                let mut names: BTreeSet<&str> = BTreeSet::new();
                for path in *paths {
                    if let Some((name, _)) = self.nodes.get_key_value(path) {
                        names.insert(name);
                    }
                    names.extend(self.below(path).map(|(name, _)| name.as_str()));
                }
                names
                    .into_iter()
                    .filter_map(|n| self.nodes.get(n).map(|node| self.describe(n, node)))
                    .collect()
            }
        }
    }

    pub fn add(&mut self, name: &str, mut node: Node) -> Result<()> {
        if self.nodes.contains_key(name) {
            let words = format!("cannot create '{name}': dataset already exists");
            return Err(BackendError::new(Refusal::Exists, words));
        }
        let parent = name.rsplit_once('/').map(|(parent, _)| parent).unwrap_or_default();
        let Some(above) = self.nodes.get(parent) else {
            let words = format!("cannot create '{name}': parent does not exist");
            return Err(BackendError::new(Refusal::Missing, words));
        };
        if above.kind == DatasetKind::Volume {
            let words = format!("cannot create '{name}': parent is not a filesystem");
            return Err(BackendError::new(Refusal::Invalid, words));
        }
        if node.native.get("refreservation").is_some_and(|v| v == "auto") {
            let volsize = node.native.get("volsize").cloned().unwrap_or_default();
            node.native.insert("refreservation".into(), volsize);
        }
        if let Some(words) = properties::refusal(&node.native) {
            return Err(BackendError::new(Refusal::Invalid, format!("cannot create '{name}': {words}")));
        }
        if node.charge() > self.available(parent) {
            return Err(BackendError::new(Refusal::NoSpace, format!("cannot create '{name}': out of space")));
        }
        self.txg += 1;
        node.createtxg = self.txg;
        self.insert(name, node)
    }

    pub fn set(&mut self, name: &str, changes: &BTreeMap<String, Option<String>>) -> Result<()> {
        let mut node = self.must(name)?.clone();
        let before = node.charge();
        for (key, value) in changes {
            let map = if key.contains(':') { &mut node.user } else { &mut node.native };
            match value {
                Some(value) if key == "refreservation" && value == "auto" => {
                    let volsize = map.get("volsize").cloned().unwrap_or_default();
                    map.insert(key.clone(), volsize);
                }
                Some(value) => {
                    map.insert(key.clone(), value.clone());
                }
                None => {
                    map.remove(key);
                }
            }
        }
        let words = properties::refusal(&node.native).or_else(|| {
            let quota = node.bytes("quota");
            let shrinks = changes.contains_key("quota") && quota > 0 && quota < self.used(name);
            shrinks.then(|| "size is less than current used or reserved space".to_owned())
        });
        if let Some(words) = words {
            let words = format!("cannot set property for '{name}': {words}");
            return Err(BackendError::new(Refusal::Invalid, words));
        }
        if node.charge().saturating_sub(before) > self.available(name) {
            let words = format!("cannot set property for '{name}': size is greater than available space");
            return Err(BackendError::new(Refusal::NoSpace, words));
        }
        self.insert(name, node)
    }

    pub fn destroy(&mut self, name: &str, recursive: bool) -> Result<()> {
        self.must(name)?;
        let mut doomed: Vec<String> = self.below(name).map(|(child, _)| child.clone()).collect();
        if !doomed.is_empty() && !recursive {
            let words = format!("cannot destroy '{name}': filesystem has children\nuse '-r' to destroy them");
            return Err(BackendError::new(Refusal::HasChildren, words));
        }
        doomed.push(name.to_owned());
        let has_snapshots = |n: &String| self.frozen.get(n).is_some_and(|s| !s.is_empty());
        if !recursive && doomed.iter().any(has_snapshots) {
            let words = format!("cannot destroy '{name}': it has snapshots\nuse '-r' to destroy them");
            return Err(BackendError::new(Refusal::HasSnapshots, words));
        }
        for dataset in &doomed {
            for (snapshot, frozen) in self.frozen.get(dataset).into_iter().flatten() {
                if frozen.held {
                    let words = format!("cannot destroy '{dataset}@{snapshot}': snapshot is held");
                    return Err(BackendError::new(Refusal::Busy, words));
                }
                if self.clones(dataset, snapshot).iter().any(|clone| !doomed.contains(clone)) {
                    let words = format!("cannot destroy '{name}': filesystem has dependent clones");
                    return Err(BackendError::new(Refusal::HasClones, words));
                }
            }
        }
        let mut changes = Vec::new();
        for dataset in &doomed {
            changes.push(Change::remove(DATASETS, dataset.clone()));
            for snapshot in self.frozen.get(dataset).into_iter().flat_map(BTreeMap::keys) {
                changes.push(Change::remove(SNAPSHOTS, format!("{dataset}@{snapshot}")));
            }
        }
        self.commit(changes)?;
        let origins: Vec<String> = doomed.iter().filter_map(|d| self.nodes.get(d)?.origin.clone()).collect();
        for dataset in &doomed {
            if let Some(node) = self.nodes.remove(dataset) {
                self.charged = self.charged.saturating_sub(node.charge());
            }
            self.frozen.remove(dataset);
        }
        for origin in origins {
            self.drop_deferred(&origin)?;
        }
        Ok(())
    }

    pub fn rename(&mut self, name: &str, to: &str) -> Result<()> {
        self.must(name)?;
        if self.nodes.contains_key(to) {
            let words = format!("cannot rename '{name}': dataset '{to}' already exists");
            return Err(BackendError::new(Refusal::Exists, words));
        }
        let parent = to.rsplit_once('/').map(|(parent, _)| parent).unwrap_or_default();
        if !self.nodes.contains_key(parent) || to.starts_with(&format!("{name}/")) {
            let words = format!("cannot rename '{name}': parent of '{to}' does not exist");
            return Err(BackendError::new(Refusal::Missing, words));
        }
        let moved: Vec<String> =
            std::iter::once(name.to_owned()).chain(self.below(name).map(|(n, _)| n.clone())).collect();
        let renamed = |old: &str| match old.strip_prefix(name) {
            Some(rest) if rest.is_empty() || rest.starts_with(['/', '@']) => Some(format!("{to}{rest}")),
            _ => None,
        };
        let mut changes = Vec::new();
        for old in &moved {
            let Some(new) = renamed(old) else { continue };
            if let Some(node) = self.nodes.remove(old) {
                changes.push(Change::remove(DATASETS, old.clone()));
                changes.push(put_node(&new, &node)?);
                self.nodes.insert(new.clone(), node);
            }
            if let Some(snapshots) = self.frozen.remove(old) {
                for (snapshot, frozen) in &snapshots {
                    changes.push(Change::remove(SNAPSHOTS, format!("{old}@{snapshot}")));
                    changes.push(put_frozen(&new, snapshot, frozen)?);
                }
                self.frozen.insert(new, snapshots);
            }
        }
        for (dataset, node) in &mut self.nodes {
            if let Some(new) = node.origin.as_deref().and_then(renamed) {
                node.origin = Some(new);
                changes.push(put_node(dataset, node)?);
            }
        }
        self.commit(changes)
    }

    pub fn promote(&mut self, name: &str) -> Result<()> {
        let clone = self.must(name)?.clone();
        let Some((parent, snapshot)) = clone.origin.as_deref().and_then(|o| o.split_once('@')) else {
            let words = format!("cannot promote '{name}': not a cloned filesystem");
            return Err(BackendError::new(Refusal::NotAClone, words));
        };
        let limit = self.frozen.get(parent).and_then(|s| s.get(snapshot)).map_or(0, |s| s.createtxg);
        let moving: Vec<String> = self
            .frozen
            .get(parent)
            .into_iter()
            .flatten()
            .filter(|(_, s)| s.createtxg <= limit)
            .map(|(n, _)| n.clone())
            .collect();
        if let Some(clash) = moving.iter().find(|n| self.frozen.get(name).is_some_and(|s| s.contains_key(*n)))
        {
            let words = format!("cannot promote '{name}': conflicting snapshot '{clash}'");
            return Err(BackendError::new(Refusal::Exists, words));
        }
        let mut changes = Vec::new();
        for n in &moving {
            let Some(frozen) = self.frozen.get_mut(parent).and_then(|s| s.remove(n)) else { continue };
            changes.push(Change::remove(SNAPSHOTS, format!("{parent}@{n}")));
            changes.push(put_frozen(name, n, &frozen)?);
            self.frozen.entry(name.to_owned()).or_default().insert(n.clone(), frozen);
        }
        let grand_origin = self.nodes.get(parent).and_then(|n| n.origin.clone());
        for (dataset, node) in &mut self.nodes {
            let new = match node.origin.as_deref().and_then(|o| o.split_once('@')) {
                _ if dataset == name => grand_origin.clone(),
                Some((p, s)) if p == parent && moving.iter().any(|n| n == s) => Some(format!("{name}@{s}")),
                _ if dataset == parent => Some(format!("{name}@{snapshot}")),
                _ => continue,
            };
            node.origin = new;
            changes.push(put_node(dataset, node)?);
        }
        changes.extend(self.move_key(parent, name)?);
        self.commit(changes)
    }

    /// A promoted clone becomes the encryption root in its source's place.
    fn move_key(&mut self, from: &str, to: &str) -> Result<Vec<Change>> {
        let mut moved = BTreeMap::new();
        let mut changes = Vec::new();
        if let Some(source) = self.nodes.get_mut(from) {
            for property in ["encryption", "keyformat", "pbkdf2iters"] {
                moved.extend(source.native.remove_entry(property));
            }
            if !moved.is_empty() {
                changes.push(put_node(from, source)?);
            }
        }
        if let (false, Some(target)) = (moved.is_empty(), self.nodes.get_mut(to)) {
            target.native.extend(moved);
            changes.push(put_node(to, target)?);
        }
        Ok(changes)
    }

    pub fn path_exists(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let mounted = |n: &Node| n.kind == DatasetKind::Filesystem;
        path.strip_prefix("/mnt/").and_then(|name| self.nodes.get(name)).is_some_and(mounted)
            || self.directories.contains(path)
            || path == "/mnt"
    }

    /// Owner and mode of a path. A new file system is root's, and has an access list where that is its ACL type.
    pub fn permissions(&self, path: &str) -> Result<Permissions> {
        let path = path.trim_end_matches('/');
        if !self.path_exists(path) {
            return Err(BackendError::new(Refusal::Missing, format!("{path}: no such file or directory")));
        }
        let node = path.strip_prefix("/mnt/").and_then(|name| self.nodes.get(name));
        let set = node.and_then(|node| node.root);
        Ok(set.unwrap_or_else(|| Permissions {
            uid: 0,
            gid: 0,
            mode: 0o755,
            acl: node.is_some_and(|node| node.native.get("acltype").is_some_and(|kind| kind == "nfsv4")),
        }))
    }

    pub fn set_permissions(&mut self, path: &str, change: PermissionChange) -> Result<()> {
        let present = self.permissions(path)?;
        let name = path.trim_end_matches('/').strip_prefix("/mnt/").unwrap_or_default();
        // Plain directories are root's whatever is asked: nothing lives in them.
        let Some(mut node) = self.nodes.get(name).cloned() else { return Ok(()) };
        node.root = Some(Permissions {
            uid: change.uid.unwrap_or(present.uid),
            gid: change.gid.unwrap_or(present.gid),
            mode: change.mode.unwrap_or(present.mode),
            acl: present.acl && change.mode.is_none(),
        });
        self.insert(name, node)
    }

    pub fn make_directory(&mut self, path: &str) -> Result<()> {
        let path = path.trim_end_matches('/');
        if !self.path_exists(path) {
            self.commit(vec![Change::put(DIRECTORIES, path, Value::Bool(true))])?;
            self.directories.insert(path.to_owned());
        }
        Ok(())
    }
}

fn put_node(name: &str, node: &Node) -> Result<Change> {
    let value = serde_json::to_value(node).map_err(|e| BackendError::new(Refusal::Other, e.to_string()))?;
    Ok(Change::put(DATASETS, name, value))
}

/// The change that stores a snapshot.
pub(super) fn put_frozen(dataset: &str, name: &str, frozen: &Frozen) -> Result<Change> {
    let value = serde_json::to_value(frozen).map_err(|e| BackendError::new(Refusal::Other, e.to_string()))?;
    Ok(Change::put(SNAPSHOTS, format!("{dataset}@{name}"), value))
}

/// The change that removes a snapshot.
pub(super) fn remove_frozen(dataset: &str, name: &str) -> Change {
    Change::remove(SNAPSHOTS, format!("{dataset}@{name}"))
}
