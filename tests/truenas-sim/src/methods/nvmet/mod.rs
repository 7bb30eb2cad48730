//! `nvmet.*`: subsystems, namespaces, ports, hosts and the links between them.
//!
//! Rows hold plain ids (`subsys_id`); answers nest the objects they name. Every mutation is serialised with the others
//! and renders the whole target.

mod global;
mod host;
mod links;
mod namespace;
pub(crate) mod port;
mod subsys;

use serde_json::{Map, Value};

use super::crud::{Kind, Service, linked, row_of, taken};
use super::{Call, merge, unserved};
use crate::appliance::Shared;
use crate::exports;
use crate::failure::{Failure, Item};
use crate::state::{Row, Table};

/// The NVMe target's service.
const SERVICE: Service = Service { lock: |services| &services.nvmet, apply: exports::apply_nvmet };

fn crud<K: Kind>(namespace: &str, verb: &str, call: &Call) -> Result<Value, Failure> {
    super::crud::crud::<K>(&SERVICE, namespace, verb, call)
}

/// The row behind an id, without what only its own namespace shows.
fn nested(shared: &Shared, table: Table, row: &Row, field: &str) -> Value {
    let id = row.get(field).and_then(Value::as_i64).unwrap_or_default();
    shared.rows().get(table, id).map_or(Value::Null, |row| Value::Object(shown(table, row)))
}

/// A row of a table that has no references.
fn shown(table: Table, row: &Row) -> Row {
    let mut row = row.clone();
    if table == Table::Subsys {
        for list in ["hosts", "namespaces", "ports"] {
            row.insert(list.into(), Value::Null);
        }
    }
    row
}

/// Checks that a referenced row exists.
fn check_reference(
    shared: &Shared,
    prefix: &str,
    row: &Row,
    field: &str,
    table: Table,
    what: &str,
    findings: &mut Vec<Item>,
) {
    let id = row.get(field).and_then(Value::as_i64).unwrap_or_default();
    if shared.rows().get(table, id).is_none() {
        findings.push(Item::new(format!("{prefix}.{field}"), format!("No {what} with id {id} exists")));
    }
}

fn text<'a>(row: &'a Map<String, Value>, key: &str) -> &'a str {
    row.get(key).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn call(namespace: &str, verb: &str, call: &Call) -> Result<Value, Failure> {
    match (namespace, verb) {
        ("nvmet.global", _) => global::call(verb, call),
        ("nvmet.port", "transport_address_choices") => Ok(port::choices(call)),
        ("nvmet.host", "dhchap_dhgroup_choices" | "dhchap_hash_choices" | "generate_key") => {
            host::call(verb, call)
        }
        ("nvmet.subsys", _) => crud::<subsys::Subsys>(namespace, verb, call),
        ("nvmet.namespace", _) => crud::<namespace::Namespace>(namespace, verb, call),
        ("nvmet.port", _) => crud::<port::Port>(namespace, verb, call),
        ("nvmet.host", _) => crud::<host::Host>(namespace, verb, call),
        ("nvmet.host_subsys", _) => crud::<links::HostSubsys>(namespace, verb, call),
        ("nvmet.port_subsys", _) => crud::<links::PortSubsys>(namespace, verb, call),
        _ => Err(unserved(&format!("{namespace}.{verb}"))),
    }
}
