//! Reads what `zfs get -j -p` and `zpool list -Hp` print.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::backend::{BackendError, Dataset, DatasetKind, Pool, Property, Refusal, Result, Snapshot, Source};

/// The part of `zfs get -j` that matters: objects by name, each with its properties.
#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    datasets: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    properties: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Value {
    value: String,
    source: Origin,
}

#[derive(Deserialize)]
struct Origin {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    data: String,
}

type Properties = BTreeMap<String, Property>;

/// Datasets of a listing, ordered by name, with mount points as the appliance names them.
pub(super) fn datasets(json: &str, root: &Path) -> Result<Vec<Dataset>> {
    let mut datasets = Vec::new();
    for (name, (mut properties, user_properties)) in read(json)? {
        let kind = match properties.get("type").map(|property| property.raw.as_str()) {
            Some("filesystem") => DatasetKind::Filesystem,
            Some("volume") => DatasetKind::Volume,
            other => return Err(odd(&format!("{name} is of type {other:?}"))),
        };
        if let Some(mountpoint) = properties.get_mut("mountpoint")
            && let Ok(inside) = Path::new(&mountpoint.raw).strip_prefix(root)
        {
            mountpoint.raw = format!("/{}", inside.display());
        }
        datasets.push(Dataset { name, kind, properties, user_properties });
    }
    Ok(datasets)
}

/// Snapshots of a listing, ordered by creation.
pub(super) fn snapshots(json: &str) -> Result<Vec<Snapshot>> {
    let mut snapshots = Vec::new();
    for (id, (properties, user_properties)) in read(json)? {
        let (dataset, name) = id.split_once('@').ok_or_else(|| odd(&format!("{id} is no snapshot")))?;
        let raw = |key: &str| properties.get(key).map(|property| property.raw.as_str()).unwrap_or_default();
        let clones = raw("clones").split(',').filter(|clone| !clone.is_empty() && *clone != "-");
        snapshots.push(Snapshot {
            dataset: dataset.to_owned(),
            name: name.to_owned(),
            createtxg: raw("createtxg").parse().unwrap_or_default(),
            clones: clones.map(str::to_owned).collect(),
            held: raw("userrefs").parse::<u64>().is_ok_and(|count| count > 0),
            properties,
            user_properties,
        });
    }
    snapshots.sort_by(|a, b| (a.createtxg, &a.name).cmp(&(b.createtxg, &b.name)));
    Ok(snapshots)
}

/// Pools as `zpool list -Hp -o name,guid,size,alloc,free,health` prints them.
pub(super) fn pools(text: &str) -> Result<Vec<Pool>> {
    let number = |word: &str| word.parse::<u64>().map_err(|_| odd(&format!("{word:?} is no number")));
    text.lines()
        .map(|line| match line.split('\t').collect::<Vec<_>>().as_slice() {
            [name, guid, size, allocated, free, health] => Ok(Pool {
                name: (*name).to_owned(),
                guid: number(guid)?,
                size: number(size)?,
                allocated: number(allocated)?,
                free: number(free)?,
                status: (*health).to_owned(),
            }),
            _ => Err(odd(&format!("zpool list printed {line:?}"))),
        })
        .collect()
}

/// Objects of a listing with native and user properties apart.
fn read(json: &str) -> Result<BTreeMap<String, (Properties, Properties)>> {
    // zfs prints nothing at all when none of the names exists.
    if json.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    let listing: Listing = serde_json::from_str(json)
        .map_err(|error| odd(&format!("zfs get -j printed no listing: {error}")))?;
    let split = |entry: Entry| {
        let properties = entry.properties.into_iter().map(|(key, value)| (key, property(value)));
        let (user, native) = properties.partition(|(key, _)| key.contains(':'));
        (native, user)
    };
    Ok(listing.datasets.into_iter().map(|(name, entry)| (name, split(entry))).collect())
}

fn property(value: Value) -> Property {
    let source = match value.source.kind.as_str() {
        "LOCAL" => Source::Local,
        "DEFAULT" => Source::Default,
        "INHERITED" => Source::Inherited(value.source.data),
        "RECEIVED" => Source::Received,
        _ => Source::None,
    };
    Property::new(value.value, source)
}

fn odd(text: &str) -> BackendError {
    BackendError::new(Refusal::Other, text)
}
