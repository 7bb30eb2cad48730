//! `service.*`: state and boot start of the sharing services.

use std::sync::PoisonError;

use serde_json::{Value, json};

use super::{Call, unserved};
use crate::exports;
use crate::failure::{Failure, Item};
use crate::state::{Row, Table};

fn find(call: &Call, wanted: &Value) -> Result<(i64, Row), Failure> {
    let rows = call.shared.rows();
    let field = if wanted.is_i64() { "id" } else { "service" };
    rows.find(Table::Service, field, wanted).map(|(id, row)| (id, row.clone())).ok_or_else(|| {
        let words = wanted.as_str().map_or_else(|| wanted.to_string(), str::to_owned);
        Failure::not_found("Service", words)
    })
}

fn entries(call: &Call) -> Vec<Value> {
    let rows = call.shared.rows();
    rows.all(Table::Service)
        .map(|(_, row)| {
            let mut row = row.clone();
            row.insert("pids".into(), json!([]));
            Value::Object(row)
        })
        .collect()
}

/// Starts, stops or reloads a service and brings its exports to that state.
fn control(call: &Call, verb: &str, service: &str) -> Result<Value, Failure> {
    let known = find(call, &json!(service));
    let (id, mut row) = known.map_err(|_| {
        Failure::Invalid(vec![Item::new("service", format!("Service {service:?} is not known"))])
    })?;
    let state = match verb {
        "START" | "RESTART" => "RUNNING",
        "STOP" => "STOPPED",
        _ => row.get("state").and_then(Value::as_str).unwrap_or("STOPPED"),
    };
    let state = state.to_owned();
    if verb == "RESTART" {
        apply_state(call, id, &mut row, service, "STOPPED")?;
    }
    apply_state(call, id, &mut row, service, &state)?;
    Ok(json!(verb == "STOP" || state == "RUNNING"))
}

fn apply_state(call: &Call, id: i64, row: &mut Row, service: &str, state: &str) -> Result<(), Failure> {
    let services = &call.shared.services;
    let lock = match service {
        "nfs" => &services.nfs,
        "nvmet" => &services.nvmet,
        "iscsitarget" => &services.iscsi,
        _ => &services.smb,
    };
    let _serial = lock.lock().unwrap_or_else(PoisonError::into_inner);
    row.insert("state".into(), state.into());
    call.shared.rows().replace(Table::Service, id, row.clone())?;
    match service {
        "nfs" => exports::apply_nfs(&call.shared),
        "nvmet" => exports::apply_nvmet(&call.shared),
        "cifs" => exports::apply_smb(&call.shared),
        "iscsitarget" => exports::apply_iscsi(&call.shared),
        _ => Ok(()),
    }
}

pub(super) fn call(verb: &str, call: &Call) -> Result<Value, Failure> {
    match verb {
        "query" => call.query().run(entries(call)),
        "get_instance" => {
            let (id, _) = find(call, call.params.first().unwrap_or(&Value::Null))?;
            let found = entries(call).into_iter().find(|row| row.get("id") == Some(&json!(id)));
            found.ok_or_else(|| Failure::not_found("Service", id))
        }
        "update" => {
            let (id, mut row) = find(call, call.params.first().unwrap_or(&Value::Null))?;
            row.insert("enable".into(), json!(call.flag(1, "enable")));
            call.shared.rows().replace(Table::Service, id, row)?;
            Ok(json!(id))
        }
        "control" => control(call, call.text(0), call.text(1)),
        "start" | "stop" | "restart" | "reload" => control(call, &verb.to_uppercase(), call.text(0)),
        "started" => {
            let (_, row) = find(call, &json!(call.text(0)))?;
            Ok(json!(row.get("state") == Some(&json!("RUNNING"))))
        }
        _ => Err(unserved(&format!("service.{verb}"))),
    }
}
