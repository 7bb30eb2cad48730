//! Snapshots and clones of the memory pool.

use std::collections::BTreeMap;
use std::time::Instant;

use super::pool::{EMPTY, Frozen, Node, State, put_frozen, remove_frozen};
use crate::backend::{BackendError, Property, Refusal, Result, Snapshot, Source};

impl State {
    /// Datasets that are clones of this snapshot.
    pub fn clones(&self, dataset: &str, snapshot: &str) -> Vec<String> {
        let id = format!("{dataset}@{snapshot}");
        self.nodes
            .iter()
            .filter(|(_, n)| n.origin.as_deref() == Some(&id))
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn frozen_mut(&mut self, dataset: &str, name: &str) -> Result<&mut Frozen> {
        self.frozen.get_mut(dataset).and_then(|s| s.get_mut(name)).ok_or_else(|| {
            let words = format!("cannot open '{dataset}@{name}': snapshot does not exist");
            BackendError::new(Refusal::Missing, words)
        })
    }

    pub fn list_snapshots(&self, of: Option<&str>) -> Vec<Snapshot> {
        let mut clones: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (name, node) in &self.nodes {
            if let Some(origin) = node.origin.as_deref() {
                clones.entry(origin).or_default().push(name.clone());
            }
        }
        let wanted = |dataset: &str| of.is_none_or(|of| of == dataset);
        let mut list: Vec<Snapshot> = self
            .frozen
            .iter()
            .filter(|(dataset, _)| wanted(dataset))
            .flat_map(|(dataset, all)| all.iter().map(move |(name, frozen)| (dataset, name, frozen)))
            .map(|(dataset, name, frozen)| {
                let clones = clones.remove(format!("{dataset}@{name}").as_str()).unwrap_or_default();
                self.describe_snapshot(dataset, name, frozen, clones)
            })
            .collect();
        list.sort_by_key(|s| s.createtxg);
        list
    }

    fn describe_snapshot(&self, dataset: &str, name: &str, frozen: &Frozen, clones: Vec<String>) -> Snapshot {
        let fixed = |raw: String| Property::new(raw, Source::None);
        let mut properties = BTreeMap::from([
            ("creation".to_owned(), fixed(frozen.creation.to_string())),
            ("createtxg".to_owned(), fixed(frozen.createtxg.to_string())),
            ("guid".to_owned(), fixed(frozen.guid.to_string())),
            ("used".to_owned(), fixed("0".into())),
            ("referenced".to_owned(), fixed(EMPTY.to_string())),
            ("clones".to_owned(), fixed(clones.join(","))),
            ("userrefs".to_owned(), fixed(u8::from(frozen.held).to_string())),
            ("defer_destroy".to_owned(), fixed(if frozen.deferred { "on".into() } else { "off".into() })),
        ]);
        if let Some(volsize) = frozen.native.get("volsize") {
            properties.insert("volsize".to_owned(), fixed(volsize.clone()));
        }
        let mut user = self.inherited_user_properties(dataset, true);
        for (key, value) in &frozen.user {
            user.insert(key.clone(), Property::new(value.clone(), Source::Local));
        }
        Snapshot {
            dataset: dataset.to_owned(),
            name: name.to_owned(),
            createtxg: frozen.createtxg,
            properties,
            user_properties: user,
            clones,
            held: frozen.held,
        }
    }

    pub fn snapshot(
        &mut self,
        datasets: &[String],
        name: &str,
        user: &BTreeMap<String, String>,
    ) -> Result<()> {
        for dataset in datasets {
            self.must(dataset)?;
            if self.frozen.get(dataset).is_some_and(|s| s.contains_key(name)) {
                let words = format!("cannot create snapshot '{dataset}@{name}': dataset already exists");
                return Err(BackendError::new(Refusal::Exists, words));
            }
        }
        self.txg += 1;
        let mut changes = Vec::new();
        let mut new = Vec::new();
        for dataset in datasets {
            let node = self.must(dataset)?;
            let taken = |key: &str| node.native.get(key).map(|value| (key.to_owned(), value.clone()));
            let frozen = Frozen {
                guid: rand::random::<u64>() >> 1,
                createtxg: self.txg,
                creation: jiff::Timestamp::now().as_second(),
                user: user.clone(),
                native: ["volsize", "volblocksize"].into_iter().filter_map(taken).collect(),
                held: false,
                deferred: false,
            };
            changes.push(put_frozen(dataset, name, &frozen)?);
            new.push((dataset.clone(), frozen));
        }
        self.commit(changes)?;
        for (dataset, frozen) in new {
            self.frozen.entry(dataset).or_default().insert(name.to_owned(), frozen);
        }
        Ok(())
    }

    pub fn destroy_snapshot(&mut self, dataset: &str, name: &str, defer: bool) -> Result<()> {
        let clones = self.clones(dataset, name);
        let frozen = self.frozen_mut(dataset, name)?;
        if frozen.held && !defer {
            let words = format!("cannot destroy '{dataset}@{name}': snapshot is held");
            return Err(BackendError::new(Refusal::Busy, words));
        }
        if clones.is_empty() && !frozen.held {
            return self.forget_snapshot(dataset, name);
        }
        if !defer {
            let words = format!(
                "cannot destroy '{dataset}@{name}': snapshot has dependent clones: {}",
                clones.join(", ")
            );
            return Err(BackendError::new(Refusal::HasClones, words));
        }
        frozen.deferred = true;
        let change = put_frozen(dataset, name, frozen)?;
        self.commit(vec![change])
    }

    fn forget_snapshot(&mut self, dataset: &str, name: &str) -> Result<()> {
        self.commit(vec![remove_frozen(dataset, name)])?;
        if let Some(snapshots) = self.frozen.get_mut(dataset) {
            snapshots.remove(name);
        }
        Ok(())
    }

    /// Removes a snapshot that waits for its last clone, when that is gone and nothing holds it.
    pub fn drop_deferred(&mut self, id: &str) -> Result<()> {
        let Some((dataset, name)) = id.split_once('@') else { return Ok(()) };
        let waits = self
            .frozen
            .get(dataset)
            .and_then(|s| s.get(name))
            .is_some_and(|frozen| frozen.deferred && !frozen.held);
        if waits && self.clones(dataset, name).is_empty() {
            self.forget_snapshot(dataset, name)
        } else {
            Ok(())
        }
    }

    pub fn clone_snapshot(
        &mut self,
        dataset: &str,
        name: &str,
        to: &str,
        properties: &BTreeMap<String, String>,
        device_at: Instant,
    ) -> Result<()> {
        let kind = self.must(dataset)?.kind;
        let taken = self.frozen_mut(dataset, name)?.native.clone();
        let mut node = Node::new(kind);
        node.native = taken;
        node.native.extend(properties.clone());
        node.origin = Some(format!("{dataset}@{name}"));
        node.device_at = Some(device_at);
        self.add(to, node)
    }

    pub fn hold(&mut self, dataset: &str, name: &str, held: bool) -> Result<()> {
        let frozen = self.frozen_mut(dataset, name)?;
        frozen.held = held;
        let change = put_frozen(dataset, name, frozen)?;
        self.commit(vec![change])?;
        if held { Ok(()) } else { self.drop_deferred(&format!("{dataset}@{name}")) }
    }

    pub fn rollback(&mut self, dataset: &str, name: &str, recursive: bool) -> Result<()> {
        let (txg, native) = {
            let frozen = self.frozen_mut(dataset, name)?;
            (frozen.createtxg, frozen.native.clone())
        };
        let newer: Vec<String> = self
            .frozen
            .get(dataset)
            .into_iter()
            .flatten()
            .filter(|(_, frozen)| frozen.createtxg > txg)
            .map(|(name, _)| name.clone())
            .collect();
        if !newer.is_empty() && !recursive {
            let words =
                format!("cannot rollback to '{dataset}@{name}': more recent snapshots or bookmarks exist");
            return Err(BackendError::new(Refusal::HasSnapshots, words));
        }
        for snapshot in &newer {
            self.destroy_snapshot(dataset, snapshot, false)?;
        }
        let changes =
            native.into_iter().filter(|(key, _)| key == "volsize").map(|(k, v)| (k, Some(v))).collect();
        self.set(dataset, &changes)
    }

    pub fn set_snapshot(
        &mut self,
        dataset: &str,
        name: &str,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<()> {
        let frozen = self.frozen_mut(dataset, name)?;
        for (key, value) in changes {
            match value {
                Some(value) => frozen.user.insert(key.clone(), value.clone()),
                None => frozen.user.remove(key),
            };
        }
        let change = put_frozen(dataset, name, frozen)?;
        self.commit(vec![change])
    }
}
