//! What the namespaces of rows (`nvmet.*`, `iscsi.*`) have in common: query, create, update and delete, serialised with
//! the other mutations of their service, each of which makes the service serve the rows.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::{Call, merge, unserved};
use crate::appliance::{Services, Shared};
use crate::failure::{Failure, Item};
use crate::state::{Row, Table};

/// The service behind a namespace.
pub(super) struct Service {
    /// The lock that serialises its mutations.
    pub lock: fn(&Services) -> &Mutex<()>,
    /// Makes it serve the rows.
    pub apply: fn(&Arc<Shared>) -> Result<(), Failure>,
}

/// One kind of object: how it is checked, shown and removed.
pub(super) trait Kind {
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

pub(super) fn row_of<K: Kind>(shared: &Shared, id: i64) -> Result<Row, Failure> {
    shared.rows().get(K::TABLE, id).cloned().ok_or_else(|| Failure::not_found(K::NAME, id))
}

pub(super) fn crud<K: Kind>(
    service: &Service,
    namespace: &str,
    verb: &str,
    call: &Call,
) -> Result<Value, Failure> {
    let shared = &call.shared;
    let lock = || (service.lock)(&shared.services).lock().unwrap_or_else(PoisonError::into_inner);
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
            (service.apply)(shared)?;
            Ok(K::entry(call, &row_of::<K>(shared, id)?))
        }
        "update" => {
            let _serial = lock();
            let id = call.number(0);
            let mut row = row_of::<K>(shared, id)?;
            merge(&mut row, call.object(1));
            judge(K::check(call, &prefix, &mut row, Some(id))?)?;
            shared.rows().replace(K::TABLE, id, row.clone())?;
            (service.apply)(shared)?;
            Ok(K::entry(call, &row))
        }
        "delete" => {
            let _serial = lock();
            let id = call.number(0);
            row_of::<K>(shared, id)?;
            let gone = K::removal(call, id)?;
            shared.rows().remove(&gone)?;
            (service.apply)(shared)?;
            Ok(json!(true))
        }
        _ => Err(unserved(&format!("{namespace}.{verb}"))),
    }
}

/// Ids of the rows of a link table that name `id` in `field`.
pub(super) fn linked(shared: &Shared, table: Table, field: &str, id: i64) -> Vec<i64> {
    let rows = shared.rows();
    rows.all(table).filter(|(_, row)| row.get(field) == Some(&json!(id))).map(|(link, _)| link).collect()
}

/// Whether another row has this value in this field.
pub(super) fn taken(
    shared: &Shared,
    table: Table,
    field: &str,
    value: Option<&Value>,
    own: Option<i64>,
) -> bool {
    let Some(value) = value else { return false };
    shared.rows().all(table).any(|(id, row)| Some(id) != own && row.get(field) == Some(value))
}
