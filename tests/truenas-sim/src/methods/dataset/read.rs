//! `pool.dataset.query` and `get_instance`.
//!
//! The rule it keeps: the query walks every dataset whatever the filter, `count` ignores the filters, and user
//! properties are shown as LOCAL even where they are inherited.

use serde_json::{Map, Value, json};

use super::translate;
use super::{Call, MANAGED, must};
use crate::backend::{Dataset, DatasetKind, Scope};
use crate::config::Version;
use crate::failure::Failure;
use crate::query::Query;

/// Native properties of the default set, by ZFS name.
/// With one of these in the answer (or all) come the four scalars about encryption.
const ENCRYPTION: [&str; 5] = ["encryption", "encryptionroot", "keyformat", "keylocation", "keystatus"];

const DEFAULT_SET: &[&str] = &[
    "aclmode",
    "acltype",
    "atime",
    "available",
    "casesensitivity",
    "checksum",
    "compression",
    "compressratio",
    "copies",
    "creation",
    "dedup",
    "encryption",
    "exec",
    "keyformat",
    "origin",
    "pbkdf2iters",
    "quota",
    "readonly",
    "recordsize",
    "refquota",
    "refreservation",
    "reservation",
    "snapdev",
    "snapdir",
    "special_small_blocks",
    "sync",
    "used",
    "usedbychildren",
    "usedbydataset",
    "usedbyrefreservation",
    "usedbysnapshots",
    "volblocksize",
    "volsize",
    "xattr",
];
/// Names that the query hides when they occur anywhere in a dataset's name.
const HIDDEN: &[&str] = &["/.system", "/ix-apps", "/ix-applications", "/.ix-virt"];

struct Shape<'a> {
    properties: Option<Vec<&'a str>>,
    user_properties: bool,
    children: bool,
    full: bool,
}

impl<'a> Shape<'a> {
    fn of(query: &Query<'a>, full: bool) -> Self {
        let flag = |key: &str| query.extra(key) != Some(&Value::Bool(false));
        let properties = query
            .extra("properties")
            .and_then(Value::as_array)
            .map(|list| list.iter().filter_map(Value::as_str).collect());
        Self {
            properties,
            user_properties: flag("retrieve_user_props"),
            children: flag("retrieve_children") && query.needs("children"),
            full,
        }
    }

    fn wants(&self, property: &str) -> bool {
        match &self.properties {
            Some(list) => list.contains(&property) || list.contains(&translate::api_name(property)),
            None => DEFAULT_SET.contains(&property),
        }
    }
}

fn entry(dataset: &Dataset, shape: &Shape<'_>, children: Vec<Value>) -> Value {
    let encrypted = dataset.raw("encryption").is_some_and(|e| e != "off");
    let root = dataset.raw("encryptionroot").filter(|r| !r.is_empty());
    let filesystem = dataset.kind == DatasetKind::Filesystem;
    let mut out = Map::new();
    for (key, value) in [
        ("id", json!(dataset.name)),
        ("name", json!(dataset.name)),
        ("pool", json!(dataset.pool())),
        ("type", json!(dataset.kind)),
        ("mountpoint", if filesystem { json!(format!("/mnt/{}", dataset.name)) } else { Value::Null }),
        ("children", json!(children)),
    ] {
        out.insert(key.to_owned(), value);
    }
    if ENCRYPTION.iter().any(|name| shape.wants(name)) {
        let loaded = dataset.raw("keystatus") == Some("available");
        out.insert("encrypted".into(), json!(encrypted));
        out.insert("encryption_root".into(), json!(root));
        out.insert("key_loaded".into(), json!(encrypted && loaded));
        out.insert("locked".into(), json!(encrypted && !loaded));
    }
    for (name, property) in dataset.properties.iter().filter(|(name, _)| shape.wants(name)) {
        let mut shown = translate::entry(name, property);
        if shape.full && name == "available" {
            shown =
                json!({"parsed": 0, "rawvalue": "0", "value": "0B", "source": "NONE", "source_info": null});
        }
        out.insert(translate::api_name(name).to_owned(), shown);
    }
    let mut user = Map::new();
    if shape.user_properties {
        for (key, property) in &dataset.user_properties {
            let short = MANAGED.iter().find(|(_, full)| full == key).map_or(key.as_str(), |(short, _)| short);
            user.insert(short.to_owned(), translate::user_entry(property));
        }
    }
    out.insert("user_properties".into(), Value::Object(user));
    Value::Object(out)
}

/// The children of a dataset as nested entries. `all` is ordered by name, so a tree lies together.
fn nested(all: &[Dataset], parent: &str, shape: &Shape<'_>) -> Vec<Value> {
    let prefix = format!("{parent}/");
    let start = all.partition_point(|d| d.name.as_str() < prefix.as_str());
    all.get(start..)
        .unwrap_or_default()
        .iter()
        .take_while(|d| d.name.starts_with(&prefix))
        .filter(|d| !d.name.get(prefix.len()..).unwrap_or_default().contains('/'))
        .map(|d| entry(d, shape, nested(all, &d.name, shape)))
        .collect()
}

/// `pool.dataset.query`
pub(super) fn query(call: &Call) -> Result<Value, Failure> {
    let query = call.query();
    let all = call.shared.backend.datasets(&Scope::All)?;
    // 25.04 counts what the filters leave.
    if query.counts() && call.shared.config.version > Version::V25_04 {
        return Ok(json!(all.len()));
    }
    let shape = Shape::of(&query, call.shared.faults.pool_full());
    let flat = query.extra("flat") != Some(&Value::Bool(false));
    let rows = all
        .iter()
        .filter(|d| !HIDDEN.iter().any(|hidden| d.name.contains(hidden)))
        .filter(|d| flat || !d.name.contains('/'))
        .map(|d| {
            let children = if shape.children { nested(&all, &d.name, &shape) } else { Vec::new() };
            entry(d, &shape, children)
        })
        .collect();
    query.run(rows)
}

/// The full entry of one dataset, as `get_instance`, `create` and `update` answer it.
pub(super) fn instance(call: &Call, name: &str) -> Result<Value, Failure> {
    must(call, name)?;
    let paths = [name.to_owned()];
    let all = call.shared.backend.datasets(&Scope::Below(&paths))?;
    let own = all.iter().find(|d| d.name == name).ok_or_else(|| Failure::not_found("Dataset", name))?;
    let empty = [Value::Null, Value::Null];
    let shape = Shape::of(&Query::new(&empty), call.shared.faults.pool_full());
    Ok(entry(own, &shape, nested(&all, name, &shape)))
}
