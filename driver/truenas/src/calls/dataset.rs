//! Datasets and zvols: `pool.dataset.*`, and exact reads through `zfs.resource.query`.
//!
//! `pool.dataset.query` walks every dataset of every pool whatever the filter is, so one dataset is read with
//! `zfs.resource.query`, which opens just that path. 25.04 does not have that method and pays for the walk.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::dataset_create::{DatasetCreate, Wire};
use super::query::{Filter, Query};
use super::{Calls, UserProperty};
use crate::error::CallError;

/// File system or zvol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatasetKind {
    /// A file system.
    Filesystem,
    /// A zvol.
    Volume,
}

/// One dataset as read. Sizes are bytes; a property that is absent, zero (quotas) or "none" is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Full path, which is also its TrueNAS id.
    pub name: String,
    /// Pool.
    pub pool: String,
    /// File system or zvol.
    pub kind: DatasetKind,
    /// Own *and inherited* user properties; nothing tells them apart, so a marker must name its dataset.
    pub user_properties: BTreeMap<String, String>,
    /// Size of a zvol.
    pub volsize: Option<u64>,
    /// Block size of a zvol.
    pub volblocksize: Option<u64>,
    /// Limit of the data of this dataset alone.
    pub refquota: Option<u64>,
    /// Limit including descendants and snapshots.
    pub quota: Option<u64>,
    /// Space reserved for the data of this dataset alone (a thick zvol has one).
    pub refreservation: Option<u64>,
    /// What can still be written.
    pub available: Option<u64>,
    /// What it and its descendants and snapshots take.
    pub used: Option<u64>,
    /// Data reachable from it.
    pub referenced: Option<u64>,
    /// Snapshot that it was cloned from.
    pub origin: Option<String>,
    /// Where it is mounted on the appliance, when the read gave it.
    pub mountpoint: Option<String>,
    /// `readonly=on`.
    pub readonly: bool,
    /// Encrypted, and its key is not loaded: nothing of it can be read or served.
    pub locked: bool,
}

impl Dataset {
    /// A user property's value.
    #[must_use]
    pub fn user_property(&self, key: &str) -> Option<&str> {
        self.user_properties.get(key).map(String::as_str)
    }
}

/// One dataset of a listing: little of each, because there may be tens of thousands of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedDataset {
    /// Full path.
    pub name: Box<str>,
    /// File system or zvol.
    pub kind: DatasetKind,
    /// Size in bytes: `volsize` of a zvol, `refquota` of a file system.
    pub capacity: Option<u64>,
    /// As of [`Dataset`].
    pub locked: bool,
    /// Own and inherited user properties, as of [`Dataset`].
    pub user_properties: Box<[(Box<str>, Box<str>)]>,
}

/// One change of a user property.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum PropertyChange {
    /// Sets it.
    Set(UserProperty),
    /// Removes it from this dataset (an inherited one shows again).
    Remove(#[serde(serialize_with = "remove")] String),
}

fn remove<S: serde::Serializer>(key: &str, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeStruct as _;
    let mut entry = serializer.serialize_struct("Remove", 2)?;
    entry.serialize_field("key", key)?;
    entry.serialize_field("remove", &true)?;
    entry.end()
}

/// Changes of a dataset; those that are `None` or empty stay as they are.
///
/// `user_properties` of the API is not offered: on update it replaces the whole set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DatasetUpdate {
    /// Bytes, at least 1 GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refquota: Option<u64>,
    /// Bytes, at least 1 GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
    /// Bytes reserved for the data of this dataset alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refreservation: Option<u64>,
    /// Bytes; a zvol cannot shrink.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volsize: Option<u64>,
    /// Allows more than 80 % of the available space.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_size: Option<bool>,
    /// Free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comments: Option<String>,
    /// Changes of single user properties.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub user_properties_update: Vec<PropertyChange>,
}

/// Properties that every read asks for.
const READ: [&str; 12] = [
    "volsize",
    "volblocksize",
    "refquota",
    "quota",
    "refreservation",
    "available",
    "used",
    "referenced",
    "origin",
    "mountpoint",
    "readonly",
    "keystatus",
];

impl Calls {
    /// Creates a file system or zvol and returns it.
    ///
    /// # Errors
    /// [`CallError`]. No refusal says reliably that the name exists: read it by exact name.
    pub async fn dataset_create(&self, create: &DatasetCreate) -> Result<Dataset, CallError> {
        self.call::<_, PoolDataset>("pool.dataset.create", &(Wire::from(create),)).await.map(Into::into)
    }

    /// Reads one dataset by its exact path; `None` when it does not exist.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn dataset_read(&self, path: &str) -> Result<Option<Dataset>, CallError> {
        let mut found = self.datasets_read(&[path]).await?;
        Ok(found.pop().filter(|d| d.name == path))
    }

    /// Reads datasets by their exact paths; missing ones are left out.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn datasets_read(&self, paths: &[&str]) -> Result<Vec<Dataset>, CallError> {
        if !self.features().await?.exact_reads {
            let named = [Filter::one_of("id", paths.iter().copied())];
            let rows = self.datasets_query(&named, Query::default()).await?;
            return Ok(rows.into_iter().filter(|d| paths.contains(&d.name.as_str())).collect());
        }
        let request = json!({
            "paths": paths, "properties": READ, "get_user_properties": true,
            "get_source": false, "nest_results": false, "get_children": false,
        });
        let rows: Vec<Resource> = self.call("zfs.resource.query", &(request,)).await?;
        Ok(rows.into_iter().filter(|r| paths.contains(&r.name.as_str())).map(Into::into).collect())
    }

    /// Reads a dataset by its exact path, with everything below it; empty when it does not exist.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn dataset_read_tree(&self, path: &str) -> Result<Vec<Dataset>, CallError> {
        let inside =
            |name: &str| name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if !self.features().await?.exact_reads {
            // Also what only begins alike; the name is looked at here.
            let rows = self.datasets_query(&[Filter::starts_with("id", path)], Query::default()).await?;
            return Ok(rows.into_iter().filter(|d| inside(&d.name)).collect());
        }
        let request = json!({
            "paths": [path], "properties": READ, "get_user_properties": true,
            "get_source": false, "nest_results": false, "get_children": true,
        });
        let rows: Vec<Resource> = self.call("zfs.resource.query", &(request,)).await?;
        Ok(rows.into_iter().filter(|r| inside(&r.name)).map(Into::into).collect())
    }

    /// Changes a dataset and returns it.
    ///
    /// # Errors
    /// [`CallError`]; a missing dataset is [`CallError::is_not_found`].
    pub async fn dataset_update(&self, path: &str, update: &DatasetUpdate) -> Result<Dataset, CallError> {
        self.call::<_, PoolDataset>("pool.dataset.update", &(path, update)).await.map(Into::into)
    }

    /// Deletes a dataset; never with descendants. The appliance first removes every *enabled* share, extent and
    /// namespace on it, also when ZFS then refuses; and 26 answers success for a busy one: prove the absence.
    ///
    /// # Errors
    /// [`CallError`]; a missing dataset is [`CallError::is_not_found`].
    pub async fn dataset_delete(&self, path: &str) -> Result<(), CallError> {
        self.call::<_, Option<bool>>("pool.dataset.delete", &(path,)).await.map(|_| ())
    }

    /// Lists datasets of all pools: one walk at the appliance, whatever the filter is.
    ///
    /// `query.select` and `query.extra` are set here. A filter on one of our markers is
    /// `user_properties.tns-csi:managed_by.rawvalue`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn datasets_query(&self, filters: &[Filter], query: Query) -> Result<Vec<Dataset>, CallError> {
        let query = query
            .select(&[
                "id",
                "name",
                "pool",
                "type",
                "mountpoint",
                "user_properties",
                "volsize",
                "volblocksize",
                "refquota",
                "quota",
                "refreservation",
                "available",
                "used",
                "origin",
                "readonly",
                "locked",
            ])
            .extra("retrieve_children", false)
            .extra("flat", true)
            .extra("properties", json!(READ.iter().filter(|p| **p != "mountpoint").collect::<Vec<_>>()));
        self.dataset_rows(&(filters, query)).await
    }

    /// Lists datasets of all pools with little of each: name, kind, size, whether it is locked, and the user properties
    /// `keys` (no dot in them). For listings of tens of thousands, whose answer is one message.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn datasets_listed(
        &self,
        filters: &[Filter],
        keys: &[&str],
    ) -> Result<Vec<ListedDataset>, CallError> {
        // `locked` is in the rows only when a property of encryption is asked for.
        let query = Query::default()
            .select(&["id", "type", "volsize.rawvalue", "refquota.rawvalue", "locked"])
            .extra("retrieve_children", false)
            .extra("flat", true)
            .extra("properties", json!(["volsize", "refquota", "keystatus"]));
        let query = keys.iter().fold(query, |query, key| query.and_select(user_property_path(key)));
        self.dataset_rows(&(filters, query)).await
    }

    /// Queries datasets. A row is many times what is kept of it, so each is reduced before the next is read.
    async fn dataset_rows<T: From<PoolDataset>>(
        &self,
        params: &(&[Filter], Query),
    ) -> Result<Vec<T>, CallError> {
        let rows: Vec<Reduced<T>> = self.call("pool.dataset.query", params).await?;
        Ok(rows.into_iter().map(|Reduced(row)| row).collect())
    }
}

/// What is kept of a row of `pool.dataset.*`.
#[derive(Deserialize)]
#[serde(from = "PoolDataset", bound = "T: From<PoolDataset>")]
struct Reduced<T>(T);

impl<T: From<PoolDataset>> From<PoolDataset> for Reduced<T> {
    fn from(row: PoolDataset) -> Self {
        Self(row.into())
    }
}

/// The path of a user property's value in rows of `pool.dataset.query`, for filters and selections. A dot in `key` would be
/// taken for a step.
#[must_use]
pub fn user_property_path(key: &str) -> String {
    format!("user_properties.{key}.rawvalue")
}

/// A row of `zfs.resource.query`.
#[derive(Deserialize)]
struct Resource {
    name: String,
    pool: String,
    #[serde(rename = "type")]
    kind: WireKind,
    #[serde(default)]
    properties: Option<BTreeMap<String, Property>>,
    #[serde(default)]
    user_properties: Option<BTreeMap<String, String>>,
}

/// A row of `pool.dataset.*`.
#[derive(Deserialize)]
struct PoolDataset {
    id: String,
    #[serde(default)]
    pool: Option<String>,
    #[serde(rename = "type")]
    kind: WireKind,
    #[serde(default)]
    mountpoint: Option<String>,
    #[serde(default)]
    user_properties: Option<BTreeMap<String, Property>>,
    #[serde(default)]
    volsize: Option<Property>,
    #[serde(default)]
    volblocksize: Option<Property>,
    #[serde(default)]
    refquota: Option<Property>,
    #[serde(default)]
    quota: Option<Property>,
    #[serde(default)]
    refreservation: Option<Property>,
    #[serde(default)]
    available: Option<Property>,
    #[serde(default)]
    used: Option<Property>,
    #[serde(default)]
    referenced: Option<Property>,
    #[serde(default)]
    origin: Option<Property>,
    #[serde(default)]
    readonly: Option<Property>,
    #[serde(default)]
    locked: Option<bool>,
}

#[derive(Deserialize, Clone, Copy)]
enum WireKind {
    #[serde(alias = "FILESYSTEM")]
    #[serde(rename = "filesystem")]
    Filesystem,
    #[serde(alias = "VOLUME")]
    #[serde(rename = "volume")]
    Volume,
}

impl From<WireKind> for DatasetKind {
    fn from(kind: WireKind) -> Self {
        match kind {
            WireKind::Filesystem => Self::Filesystem,
            WireKind::Volume => Self::Volume,
        }
    }
}

/// `{raw, value}` of `zfs.resource.query`, `{rawvalue, parsed}` of `pool.dataset.*`. Display text (`value` of the
/// latter) is not read: its sizes are rounded.
#[derive(Deserialize, Default)]
struct Property {
    #[serde(default, alias = "rawvalue")]
    raw: Option<String>,
    #[serde(default)]
    parsed: Option<Value>,
}

impl Property {
    fn number(&self) -> Option<u64> {
        self.raw
            .as_deref()
            .and_then(|r| r.parse().ok())
            .or_else(|| self.parsed.as_ref().and_then(Value::as_u64))
    }

    fn text(&self) -> Option<String> {
        self.raw.clone().filter(|t| !matches!(t.as_str(), "" | "-" | "none"))
    }
}

fn number(property: Option<&Property>) -> Option<u64> {
    property.and_then(Property::number)
}

/// A limit: zero means none.
fn limit(property: Option<&Property>) -> Option<u64> {
    number(property).filter(|n| *n != 0)
}

fn is_on(property: Option<&Property>) -> bool {
    property.and_then(|p| p.raw.as_deref()).is_some_and(|r| r.eq_ignore_ascii_case("on"))
}

impl From<Resource> for Dataset {
    fn from(row: Resource) -> Self {
        let properties = row.properties.unwrap_or_default();
        let get = |name: &str| properties.get(name);
        Self {
            kind: row.kind.into(),
            user_properties: row.user_properties.unwrap_or_default(),
            volsize: number(get("volsize")),
            volblocksize: number(get("volblocksize")),
            refquota: limit(get("refquota")),
            quota: limit(get("quota")),
            refreservation: limit(get("refreservation")),
            available: number(get("available")),
            used: number(get("used")),
            referenced: number(get("referenced")),
            origin: get("origin").and_then(Property::text),
            mountpoint: get("mountpoint").and_then(Property::text),
            readonly: is_on(get("readonly")),
            locked: get("keystatus").and_then(Property::text).as_deref() == Some("unavailable"),
            name: row.name,
            pool: row.pool,
        }
    }
}

/// The user properties of a row. `comments` and its like are reported among them under short names since 25.10; those of
/// ZFS always have a colon.
fn user_properties(reported: Option<BTreeMap<String, Property>>) -> impl Iterator<Item = (String, String)> {
    let reported = reported.unwrap_or_default().into_iter();
    reported.filter(|(key, _)| key.contains(':')).filter_map(|(key, p)| p.raw.map(|value| (key, value)))
}

impl From<PoolDataset> for ListedDataset {
    fn from(row: PoolDataset) -> Self {
        let kind = row.kind.into();
        let properties = user_properties(row.user_properties);
        Self {
            name: row.id.into(),
            kind,
            capacity: match kind {
                DatasetKind::Filesystem => limit(row.refquota.as_ref()),
                DatasetKind::Volume => number(row.volsize.as_ref()),
            },
            locked: row.locked.unwrap_or(false),
            user_properties: properties.map(|(key, value)| (key.into(), value.into())).collect(),
        }
    }
}

impl From<PoolDataset> for Dataset {
    fn from(row: PoolDataset) -> Self {
        let pool = row.pool.unwrap_or_else(|| row.id.split('/').next().unwrap_or_default().to_owned());
        Self {
            kind: row.kind.into(),
            user_properties: user_properties(row.user_properties).collect(),
            volsize: number(row.volsize.as_ref()),
            volblocksize: number(row.volblocksize.as_ref()),
            refquota: limit(row.refquota.as_ref()),
            quota: limit(row.quota.as_ref()),
            refreservation: limit(row.refreservation.as_ref()),
            available: number(row.available.as_ref()),
            used: number(row.used.as_ref()),
            referenced: number(row.referenced.as_ref()),
            origin: row.origin.as_ref().and_then(Property::text),
            mountpoint: row.mountpoint,
            readonly: is_on(row.readonly.as_ref()),
            locked: row.locked.unwrap_or(false),
            name: row.id,
            pool,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zvol_is_read_from_the_resource_query() {
        let row: Resource = serde_json::from_value(json!({
            "createtxg": 1, "guid": 2, "name": "tank/csi/a", "pool": "tank", "type": "VOLUME", "children": null,
            "properties": {"volsize": {"raw": "1073741824", "source": null, "value": 1073741824},
                           "origin": {"raw": "none", "source": null, "value": null},
                           "readonly": {"raw": "off", "source": null, "value": false},
                           "refreservation": {"raw": "0", "source": null, "value": 0}},
            "user_properties": {"tns-csi:managed_by": "tns-csi"}
        }))
        .unwrap();
        let d = Dataset::from(row);
        assert_eq!((d.kind, d.volsize, d.refreservation), (DatasetKind::Volume, Some(1 << 30), None));
        assert_eq!((d.origin, d.readonly), (None, false));
        assert_eq!(d.user_properties.get("tns-csi:managed_by").map(String::as_str), Some("tns-csi"));
    }

    #[test]
    fn a_row_of_the_list_is_read_by_raw_values() {
        let row = serde_json::from_value(json!({
            "id": "tank/csi/a", "type": "FILESYSTEM", "name": "tank/csi/a", "mountpoint": "/mnt/tank/csi/a",
            "refquota": {"parsed": null, "rawvalue": "0", "value": "0", "source": "LOCAL", "source_info": null},
            "quota": {"parsed": 1610612736, "rawvalue": "1610612736", "value": "1.5 GiB", "source": "LOCAL"},
            "available": {"parsed": 5, "rawvalue": null, "value": "5 B"},
            "user_properties": {"comments": {"rawvalue": "x", "parsed": "x"},
                                "tns-csi:volume_id": {"rawvalue": "tank/csi/a", "parsed": "tank/csi/a"}}
        }))
        .unwrap();
        let Reduced::<Dataset>(d) = row;
        assert_eq!(
            (d.pool.as_str(), d.refquota, d.quota, d.available),
            ("tank", None, Some(1_610_612_736), Some(5))
        );
        assert_eq!(d.user_properties.len(), 1);
        assert_eq!(d.user_property("tns-csi:volume_id"), Some("tank/csi/a"));
    }

    #[test]
    fn a_listing_keeps_the_size_that_its_kind_has() {
        let listed = |row: Value| {
            let Reduced::<ListedDataset>(listed) = serde_json::from_value(row).unwrap();
            (listed.kind, listed.capacity, listed.locked, listed.user_properties.len())
        };
        let zvol = json!({"id": "tank/z", "type": "VOLUME", "volsize": {"rawvalue": "1073741824"}, "locked": true,
            "user_properties": {"tns-csi:volume_id": {"rawvalue": "tank/z"}, "comments": {"rawvalue": "x"}}});
        assert_eq!(listed(zvol), (DatasetKind::Volume, Some(1 << 30), true, 1));
        let filesystem = json!({"id": "tank/f", "type": "FILESYSTEM", "refquota": {"rawvalue": "0"}});
        assert_eq!(listed(filesystem), (DatasetKind::Filesystem, None, false, 0));
    }

    #[test]
    fn property_changes_have_the_wire_shape() {
        let update = DatasetUpdate {
            user_properties_update: vec![
                PropertyChange::Set(UserProperty::new("a:b", "c")),
                PropertyChange::Remove("d:e".into()),
            ],
            ..DatasetUpdate::default()
        };
        assert_eq!(
            serde_json::to_value(update).unwrap(),
            json!({"user_properties_update": [{"key": "a:b", "value": "c"}, {"key": "d:e", "remove": true}]})
        );
    }
}
