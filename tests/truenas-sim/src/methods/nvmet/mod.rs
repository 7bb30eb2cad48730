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

use std::sync::PoisonError;

use serde_json::{Map, Value, json};

use super::{Call, merge, unserved};
use crate::appliance::Shared;
use crate::exports;
use crate::failure::{Failure, Item};
use crate::state::{Row, Table};

/// One kind of object: how it is checked, shown and removed.
trait Kind {
    const TABLE: Table;
    /// The type's name in "does not exist".
    const NAME: &'static str;

    /// Checks and completes a row that shall be stored; `own` is its id on update.
    fn check(call: &Call, prefix: &str, row: &mut Row, own: Option<i64>) -> Result<Vec<Item>, Failure>;
    /// The row as the API shows it.
    fn entry(call: &Call, row: &Row) -> Value;
    /// The rows that go with the deletion of this one, itself included, or why it is refused.
    fn removal(call: &Call, id: i64) -> Result<Vec<(Table, i64)>, Failure>;
}

fn row_of<K: Kind>(shared: &Shared, id: i64) -> Result<Row, Failure> {
    shared.rows().get(K::TABLE, id).cloned().ok_or_else(|| Failure::not_found(K::NAME, id))
}

fn crud<K: Kind>(namespace: &str, verb: &str, call: &Call) -> Result<Value, Failure> {
    let shared = &call.shared;
    let lock = || shared.services.nvmet.lock().unwrap_or_else(PoisonError::into_inner);
    let prefix = format!("{}_{verb}", namespace.replace('.', "_"));
    let judge =
        |findings: Vec<Item>| if findings.is_empty() { Ok(()) } else { Err(Failure::Invalid(findings)) };
    match verb {
        "query" => {
            let rows: Vec<Row> = shared.rows().all(K::TABLE).map(|(_, row)| row.clone()).collect();
            call.query().run(rows.iter().map(|row| K::entry(call, row)).collect())
        }
        "get_instance" => Ok(K::entry(call, &row_of::<K>(shared, call.number(0))?)),
        "create" => {
            let _serial = lock();
            let mut row = call.object(0).clone();
            judge(K::check(call, &prefix, &mut row, None)?)?;
            let id = shared.rows().insert(K::TABLE, row)?;
            exports::apply_nvmet(shared)?;
            Ok(K::entry(call, &row_of::<K>(shared, id)?))
        }
        "update" => {
            let _serial = lock();
            let id = call.number(0);
            let mut row = row_of::<K>(shared, id)?;
            merge(&mut row, call.object(1));
            judge(K::check(call, &prefix, &mut row, Some(id))?)?;
            shared.rows().replace(K::TABLE, id, row.clone())?;
            exports::apply_nvmet(shared)?;
            Ok(K::entry(call, &row))
        }
        "delete" => {
            let _serial = lock();
            let id = call.number(0);
            row_of::<K>(shared, id)?;
            let gone = K::removal(call, id)?;
            shared.rows().remove(&gone)?;
            exports::apply_nvmet(shared)?;
            Ok(json!(true))
        }
        _ => Err(unserved(&format!("{namespace}.{verb}"))),
    }
}

/// Ids of the rows of a link table that name `id` in `field`.
fn linked(shared: &Shared, table: Table, field: &str, id: i64) -> Vec<i64> {
    let rows = shared.rows();
    rows.all(table).filter(|(_, row)| row.get(field) == Some(&json!(id))).map(|(link, _)| link).collect()
}

/// Whether another row has this value in this field.
fn taken(shared: &Shared, table: Table, field: &str, value: Option<&Value>, own: Option<i64>) -> bool {
    let Some(value) = value else { return false };
    shared.rows().all(table).any(|(id, row)| Some(id) != own && row.get(field) == Some(value))
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
