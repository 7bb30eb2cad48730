//! `pool.snapshot.*`

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::dataset::lookup;
use super::{Call, unserved};
use crate::backend::{BackendError, Property, Refusal, Scope, Snapshot, Source};
use crate::config::Version;
use crate::failure::{EBUSY, EEXIST, EFAULT, EINVAL, Failure, Item};

fn property(property: &Property) -> Value {
    let raw = property.raw.as_str();
    let source = match property.source {
        Source::Local => "LOCAL",
        Source::Default => "DEFAULT",
        Source::None => "NONE",
        Source::Inherited(_) => "INHERITED",
        Source::Received => "RECEIVED",
    };
    let parsed = raw.parse::<i64>().map_or_else(|_| json!(raw), |n| json!(n));
    json!({"value": raw, "rawvalue": raw, "source": source, "parsed": parsed})
}

/// `holds` is part of a query's rows, not of what create and update answer.
fn entry(snapshot: &Snapshot, with_holds: bool) -> Value {
    let all = snapshot.properties.iter().chain(&snapshot.user_properties);
    let properties: Map<String, Value> = all.map(|(key, value)| (key.clone(), property(value))).collect();
    let mut out = json!({
        "id": snapshot.id(),
        "name": snapshot.id(),
        "pool": snapshot.dataset.split('/').next(),
        "type": "SNAPSHOT",
        "snapshot_name": snapshot.name,
        "dataset": snapshot.dataset,
        "createtxg": snapshot.createtxg.to_string(),
        "properties": properties,
    });
    if let (true, Some(fields)) = (with_holds, out.as_object_mut()) {
        fields.insert("holds".into(), if snapshot.held { json!({"truenas": 1}) } else { json!({}) });
    }
    out
}

fn is_26(call: &Call) -> bool {
    call.shared.config.version >= Version::V26
}

/// 26 refuses by a finding that has the errno of the reason.
fn item(attribute: &str, message: String, errno: i32) -> Failure {
    Failure::Invalid(vec![Item { attribute: Some(attribute.to_owned()), message, errno }])
}

fn find(call: &Call, id: &str) -> Result<Snapshot, Failure> {
    let missing = || Failure::not_found("Snapshot", id);
    let (dataset, name) = id.split_once('@').ok_or_else(missing)?;
    if lookup(call, dataset)?.is_none() {
        return Err(missing());
    }
    let all = call.shared.backend.snapshots(Some(dataset))?;
    all.into_iter().find(|s| s.name == name).ok_or_else(missing)
}

fn query(call: &Call) -> Result<Value, Failure> {
    let query = call.query();
    let exact = query.exact("id").or_else(|| query.exact("name")).and_then(Value::as_str);
    let rows = match exact.and_then(|id| id.split_once('@')) {
        Some((dataset, name)) if lookup(call, dataset)?.is_some() => {
            let all = call.shared.backend.snapshots(Some(dataset))?;
            all.into_iter().filter(|s| s.name == name).collect()
        }
        Some(_) => Vec::new(),
        None => call.shared.backend.snapshots(None)?,
    };
    query.run(rows.iter().map(|s| entry(s, true)).collect())
}

fn create(call: &Call) -> Result<Value, Failure> {
    let data = call.object(0);
    let text = |key: &str| data.get(key).and_then(Value::as_str).map(str::to_owned);
    let dataset = text("dataset").unwrap_or_default();
    let Some(name) = text("name") else {
        return Err(Failure::invalid(
            "snapshot_create.naming_schema",
            "the stand-in makes snapshots by name only",
        ));
    };
    if name.is_empty() || name.contains(['@', '/', ' ']) {
        return Err(Failure::invalid("snapshot_create.name", "Invalid snapshot name"));
    }
    let user = data.get("properties").and_then(Value::as_object).into_iter().flatten();
    let user: BTreeMap<String, String> =
        user.map(|(k, v)| (k.clone(), v.as_str().map_or_else(|| v.to_string(), str::to_owned))).collect();
    let root = [dataset.clone()];
    let targets: Vec<String> = if call.flag(0, "recursive") {
        let excluded = data.get("exclude").and_then(Value::as_array).cloned().unwrap_or_default();
        let all = call.shared.backend.datasets(&Scope::Below(&root))?;
        all.into_iter().map(|d| d.name).filter(|n| !excluded.iter().any(|e| e.as_str() == Some(n))).collect()
    } else {
        root.to_vec()
    };
    if targets.is_empty() {
        let words = format!("cannot open '{dataset}': dataset does not exist");
        return Err(Failure::call(if is_26(call) { EINVAL } else { EFAULT }, words));
    }
    match call.shared.backend.create_snapshot(&targets, &name, &user) {
        Ok(()) => Ok(entry(&find(call, &format!("{dataset}@{name}"))?, false)),
        Err(e) if e.kind == Refusal::Exists && is_26(call) => Err(item("snapshot_create", e.text, EEXIST)),
        Err(e) if e.kind == Refusal::Exists => Err(Failure::call(EEXIST, e.text)),
        Err(e) if e.kind == Refusal::Missing && is_26(call) => Err(Failure::call(EINVAL, e.text)),
        Err(e) => Err(Failure::call(EFAULT, format!("Failed to snapshot {dataset}@{name}: {}", e.text))),
    }
}

fn delete(call: &Call) -> Result<Value, Failure> {
    let snapshot = find(call, call.text(0))?;
    let defer = call.flag(1, "defer");
    if is_26(call) && ((!snapshot.clones.is_empty() && !defer) || snapshot.held) {
        return Err(item("options", format!("{} is held or has clones", snapshot.id()), EBUSY));
    }
    if !snapshot.clones.is_empty() && !defer {
        let words = format!(
            "Please set this attribute as '{}' snapshot has dependent clones: {}",
            snapshot.id(),
            snapshot.clones.join(", ")
        );
        return Err(Failure::invalid("options.defer", words));
    }
    let backend = &call.shared.backend;
    let failed = |e: BackendError| Failure::call(EFAULT, format!("Failed to delete snapshot: {}", e.text));
    backend.destroy_snapshot(&snapshot.dataset, &snapshot.name, defer).map_err(failed)?;
    if call.flag(1, "recursive") {
        let below = format!("{}/", snapshot.dataset);
        let same = backend.snapshots(None)?;
        for child in same.into_iter().filter(|s| s.name == snapshot.name && s.dataset.starts_with(&below)) {
            backend.destroy_snapshot(&child.dataset, &child.name, defer).map_err(failed)?;
        }
    }
    Ok(json!(true))
}

fn clone(call: &Call) -> Result<Value, Failure> {
    let data = call.object(0);
    let text = |key: &str| data.get(key).and_then(Value::as_str).unwrap_or_default();
    let (snapshot, target) = (find(call, text("snapshot"))?, text("dataset_dst"));
    let properties: BTreeMap<String, String> = data
        .get("dataset_properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.as_str().map_or_else(|| v.to_string(), str::to_owned)))
        .collect();
    if call.shared.faults.pool_full() {
        return Err(Failure::call(
            EFAULT,
            format!("Failed to clone snapshot: cannot create '{target}': out of space"),
        ));
    }
    call.shared.backend.clone_snapshot(&snapshot.dataset, &snapshot.name, target, &properties).map_err(
        |e| {
            let errno = if is_26(call) && e.kind == Refusal::Exists { EINVAL } else { EFAULT };
            Failure::call(errno, format!("Failed to clone snapshot: {}", e.text))
        },
    )?;
    Ok(json!(true))
}

fn update(call: &Call) -> Result<Value, Failure> {
    let snapshot = find(call, call.text(0))?;
    if is_26(call) {
        // A defect of that release.
        return Ok(Value::Null);
    }
    let data = call.object(1);
    let mut changes = BTreeMap::new();
    for key in data.get("user_properties_remove").and_then(Value::as_array).into_iter().flatten() {
        changes.insert(key.as_str().unwrap_or_default().to_owned(), None);
    }
    for item in data.get("user_properties_update").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        changes.insert(text("key"), Some(text("value")));
    }
    call.shared.backend.set_snapshot_properties(&snapshot.dataset, &snapshot.name, &changes)?;
    Ok(entry(&find(call, call.text(0))?, false))
}

pub(super) fn call(verb: &str, call: &Call) -> Result<Value, Failure> {
    let backend = &call.shared.backend;
    match verb {
        "query" => query(call),
        "get_instance" => Ok(entry(&find(call, call.text(0))?, true)),
        "create" => create(call),
        "update" => update(call),
        "delete" => delete(call),
        "clone" => clone(call),
        "hold" | "release" => {
            let snapshot = find(call, call.text(0))?;
            backend.hold_snapshot(&snapshot.dataset, &snapshot.name, verb == "hold")?;
            Ok(Value::Null)
        }
        "rollback" => {
            let snapshot = find(call, call.text(0))?;
            backend.rollback(&snapshot.dataset, &snapshot.name, call.flag(1, "recursive"))?;
            Ok(Value::Null)
        }
        _ => Err(unserved(&format!("pool.snapshot.{verb}"))),
    }
}
