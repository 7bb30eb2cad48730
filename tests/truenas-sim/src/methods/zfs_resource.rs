//! `zfs.resource.query`: exactly the paths asked for, properties in ZFS's own names.

use serde_json::{Map, Value, json};

use super::{Call, unserved};
use crate::backend::{Dataset, Property, Scope, Source};
use crate::failure::Failure;

/// Properties that the answer's model does not have, whatever ZFS shows.
const UNLISTED: &[&str] = &["aclinherit_", "key_loaded"];

fn value(property: &Property) -> Value {
    let raw = property.raw.as_str();
    if let Ok(number) = raw.parse::<i64>() {
        return json!(number);
    }
    match raw.parse::<f64>() {
        Ok(number) if raw.contains('.') => json!(number),
        _ if raw.is_empty() || raw == "none" || raw == "-" => Value::Null,
        _ => json!(raw),
    }
}

fn source(property: &Property) -> Value {
    let (kind, from) = match &property.source {
        Source::Local => ("LOCAL", None),
        Source::Default => ("DEFAULT", None),
        Source::None => ("NONE", None),
        Source::Inherited(from) => ("INHERITED", Some(from)),
        Source::Received => ("RECEIVED", None),
    };
    json!({"type": kind, "value": from})
}

fn entry(call: &Call, dataset: &Dataset) -> Value {
    let data = call.object(0);
    let wanted: Option<Vec<&str>> = match data.get("properties") {
        Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(list)) if !list.is_empty() => Some(list.iter().filter_map(Value::as_str).collect()),
        _ => None,
    };
    let with_source = call.flag(0, "get_source");
    let mut properties = Map::new();
    for (name, property) in &dataset.properties {
        if UNLISTED.contains(&name.as_str()) || wanted.as_ref().is_some_and(|w| !w.contains(&name.as_str())) {
            continue;
        }
        let (raw, shown) = if name == "available" && call.shared.faults.pool_full() {
            ("0", json!(0))
        } else {
            (property.raw.as_str(), value(property))
        };
        let source = if with_source { source(property) } else { Value::Null };
        properties.insert(name.clone(), json!({"raw": raw, "value": shown, "source": source}));
    }
    let user = if call.flag(0, "get_user_properties") {
        json!(dataset.user_properties.iter().map(|(k, p)| (k.clone(), json!(p.raw))).collect::<Map<_, _>>())
    } else {
        Value::Null
    };
    json!({
        "name": dataset.name,
        "pool": dataset.pool(),
        "type": dataset.kind,
        "createtxg": dataset.bytes("createtxg"),
        "guid": dataset.bytes("guid"),
        "properties": properties,
        "user_properties": user,
        "children": null,
    })
}

fn name_of(entry: &Value) -> &str {
    entry.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// Puts an entry below the one whose name it starts with.
fn place(level: &mut Vec<Value>, entry: Value) {
    let name = name_of(&entry);
    let inside = level.iter().position(|e| name.starts_with(&format!("{}/", name_of(e))));
    match inside.and_then(|i| level.get_mut(i)?.get_mut("children")?.as_array_mut()) {
        Some(children) => place(children, entry),
        None => level.push(entry),
    }
}

/// Entries ordered by name as trees.
fn nest(entries: Vec<Value>) -> Vec<Value> {
    let mut roots = Vec::new();
    for mut entry in entries {
        if let Some(fields) = entry.as_object_mut() {
            fields.insert("children".into(), json!([]));
        }
        place(&mut roots, entry);
    }
    roots
}

pub(super) fn call(verb: &str, call: &Call) -> Result<Value, Failure> {
    if verb != "query" {
        return Err(unserved(&format!("zfs.resource.{verb}")));
    }
    let paths: Vec<String> = call
        .object(0)
        .get("paths")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|p| p.as_str().map(str::to_owned))
        .collect();
    if let Some(bad) = paths.iter().find(|p| p.contains('@') || p.starts_with('/') || p.ends_with('/')) {
        return Err(Failure::invalid("zfs.resource.query", format!("{bad:?} must be the name of a dataset")));
    }
    let roots: Vec<String>;
    let scope = match (paths.is_empty(), call.flag(0, "get_children")) {
        (false, false) => Scope::Paths(&paths),
        (false, true) => Scope::Below(&paths),
        (true, true) => Scope::All,
        (true, false) => {
            roots = call.shared.backend.pool_names()?;
            Scope::Paths(&roots)
        }
    };
    let found = call.shared.backend.datasets(&scope)?;
    let entries: Vec<Value> = found.iter().map(|dataset| entry(call, dataset)).collect();
    Ok(Value::Array(if call.flag(0, "nest_results") { nest(entries) } else { entries }))
}
