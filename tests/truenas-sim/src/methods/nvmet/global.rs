//! `nvmet.global`: configuration and live sessions.

use serde_json::{Map, Value, json};

use super::{Call, merge, unserved};
use crate::failure::Failure;
use crate::state::Table;

const FIELDS: &[&str] = &["basenqn", "kernel", "ana", "rdma", "xport_referral"];

fn config(call: &Call) -> Value {
    let rows = call.shared.rows();
    let mut out = Map::from_iter([("id".to_owned(), json!(1))]);
    for field in FIELDS {
        let value = rows.get(Table::Config, 1).and_then(|row| row.get(*field).cloned());
        out.insert((*field).to_owned(), value.unwrap_or(Value::Null));
    }
    Value::Object(out)
}

fn sessions(call: &Call) -> Result<Vec<Value>, Failure> {
    let found = call.shared.backend.nvmet_sessions()?;
    let rows = call.shared.rows();
    let id = |table, field: &str, value: Value| rows.find(table, field, &value).map(|(id, _)| id);
    let shown = found.into_iter().filter_map(|session| {
        Some(json!({
            "host_traddr": session.host_address,
            "hostnqn": session.host_nqn,
            "subsys_id": id(Table::Subsys, "subnqn", session.subsystem_nqn.into())?,
            "port_id": id(Table::Port, "index", session.port_index.into())?,
            "ctrl": session.controller,
        }))
    });
    Ok(shown.collect())
}

pub(super) fn call(verb: &str, call: &Call) -> Result<Value, Failure> {
    match verb {
        "config" => Ok(config(call)),
        "sessions" => call.query().run(sessions(call)?),
        "update" => {
            let changes = call.object(0);
            for feature in ["ana", "rdma"] {
                if changes.get(feature) == Some(&json!(true)) {
                    let words = "This platform does not support this feature";
                    return Err(Failure::invalid(format!("nvmet_global_update.{feature}"), words));
                }
            }
            {
                let mut rows = call.shared.rows();
                let mut row = rows.get(Table::Config, 1).cloned().unwrap_or_default();
                merge(&mut row, changes);
                rows.replace(Table::Config, 1, row)?;
            }
            Ok(config(call))
        }
        _ => Err(unserved(&format!("nvmet.global.{verb}"))),
    }
}
