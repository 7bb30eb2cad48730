//! `sharing.smb.*`: rows only; nothing is served.

use std::sync::PoisonError;

use serde_json::{Map, Value, json};

use super::{Call, merge, unserved};
use crate::failure::{Failure, Item};
use crate::state::Table;

const LONGEST_NAME: usize = 80;

fn entry(call: &Call, row: &Map<String, Value>) -> Value {
    let mut row = row.clone();
    row.insert("locked".into(), call.locked_info());
    if let Some(Value::Object(options)) = row.get_mut("options") {
        options.remove("purpose");
    }
    Value::Object(row)
}

fn check(call: &Call, prefix: &str, row: &Map<String, Value>, own: Option<i64>) -> Result<(), Failure> {
    let mut findings = Vec::new();
    let text = |key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default();
    let name = text("name").to_lowercase();
    if name.is_empty() || name.chars().count() > LONGEST_NAME {
        findings.push(Item::new(format!("{prefix}.name"), "Share name must have 1 to 80 characters"));
    }
    if matches!(name.as_str(), "global" | "printers" | "homes") {
        findings.push(Item::new(format!("{prefix}.name"), format!("{name} is a reserved section name")));
    }
    let taken = call.shared.rows().all(Table::Smb).any(|(id, other)| {
        Some(id) != own && other.get("name").and_then(Value::as_str).is_some_and(|n| n.to_lowercase() == name)
    });
    if taken {
        findings.push(Item::new(format!("{prefix}.name"), "Share with this name already exists."));
    }
    let path = text("path");
    if path != "EXTERNAL" && !call.shared.backend.path_exists(path) {
        findings.push(Item::new(format!("{prefix}.path"), format!("Path {path} does not exist")));
    }
    if findings.is_empty() { Ok(()) } else { Err(Failure::Invalid(findings)) }
}

pub(super) fn call(verb: &str, call: &Call) -> Result<Value, Failure> {
    let shared = &call.shared;
    let lock = || shared.services.smb.lock().unwrap_or_else(PoisonError::into_inner);
    let row_of = |id: i64| {
        let rows = shared.rows();
        rows.get(Table::Smb, id).cloned().ok_or_else(|| Failure::not_found("Share", id))
    };
    match verb {
        "query" => {
            let rows: Vec<_> = shared.rows().all(Table::Smb).map(|(_, row)| row.clone()).collect();
            call.query().run(rows.iter().map(|row| entry(call, row)).collect())
        }
        "get_instance" => Ok(entry(call, &row_of(call.number(0))?)),
        "create" => {
            let _serial = lock();
            let mut row = call.object(0).clone();
            if !row.get("options").is_some_and(Value::is_object) {
                row.insert(
                    "options".into(),
                    json!({"aapl_name_mangling": false, "hostsallow": [], "hostsdeny": []}),
                );
            }
            check(call, "sharingsmb_create", &row, None)?;
            let id = shared.rows().insert(Table::Smb, row)?;
            Ok(entry(call, &row_of(id)?))
        }
        "update" => {
            let _serial = lock();
            let id = call.number(0);
            let mut row = row_of(id)?;
            merge(&mut row, call.object(1));
            check(call, "sharingsmb_update", &row, Some(id))?;
            shared.rows().replace(Table::Smb, id, row.clone())?;
            Ok(entry(call, &row))
        }
        "delete" => {
            let _serial = lock();
            let id = call.number(0);
            row_of(id)?;
            shared.rows().remove(&[(Table::Smb, id)])?;
            Ok(json!(true))
        }
        _ => Err(unserved(&format!("sharing.smb.{verb}"))),
    }
}
