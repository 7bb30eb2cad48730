//! `nvmet.subsys`

use serde_json::{Value, json};

use super::{Call, Kind, linked, shown, taken, text};
use crate::failure::{EBUSY, Failure, Item};
use crate::state::{Row, Table};

/// Longest NQN.
const LONGEST_NQN: usize = 223;

pub(super) struct Subsys;

impl Kind for Subsys {
    const TABLE: Table = Table::Subsys;
    const NAME: &'static str = "NVMe-oF Subsystem";

    fn check(call: &Call, prefix: &str, row: &mut Row, own: Option<i64>) -> Result<Vec<Item>, Failure> {
        let shared = &call.shared;
        if row.get("subnqn").is_none_or(Value::is_null) {
            let base = shared
                .rows()
                .get(Table::Config, 1)
                .map(|c| text(c, "basenqn").to_owned())
                .unwrap_or_default();
            let nqn: String = format!("{base}:{}", text(row, "name")).chars().take(LONGEST_NQN).collect();
            row.insert("subnqn".into(), nqn.into());
        }
        if !row.contains_key("serial") {
            row.insert("serial".into(), format!("{:020x}", rand::random::<u128>() >> 48).into());
        }
        let mut findings = Vec::new();
        for field in ["name", "subnqn"] {
            if taken(shared, Table::Subsys, field, row.get(field), own) {
                findings.push(Item::new(
                    format!("{prefix}.{field}"),
                    format!("Object with this {field} already exists"),
                ));
            }
        }
        if row.get("ana").is_some_and(Value::is_boolean) {
            findings.push(Item::new(format!("{prefix}.ana"), "This platform does not support ANA"));
        }
        Ok(findings)
    }

    fn entry(call: &Call, row: &Row) -> Value {
        let mut out = shown(Table::Subsys, row);
        if call.query().extra("verbose") == Some(&Value::Bool(true)) {
            let id = row.get("id").and_then(Value::as_i64).unwrap_or_default();
            let others = |table, field: &str| -> Vec<i64> {
                let links = linked(&call.shared, table, "subsys_id", id);
                let rows = call.shared.rows();
                links.into_iter().filter_map(|l| rows.get(table, l)?.get(field)?.as_i64()).collect()
            };
            out.insert("hosts".into(), json!(others(Table::HostSubsys, "host_id")));
            out.insert("ports".into(), json!(others(Table::PortSubsys, "port_id")));
            out.insert("namespaces".into(), json!(linked(&call.shared, Table::Namespace, "subsys_id", id)));
        }
        Value::Object(out)
    }

    fn removal(call: &Call, id: i64) -> Result<Vec<(Table, i64)>, Failure> {
        let ids = |table| linked(&call.shared, table, "subsys_id", id);
        let (namespaces, ports) = (ids(Table::Namespace), ids(Table::PortSubsys));
        let used = !namespaces.is_empty() || !ports.is_empty();
        if used && !call.flag(1, "force") {
            let words = format!(
                "Subsystem {id} cannot be deleted: it has {} namespace(s) and {} port(s)",
                namespaces.len(),
                ports.len()
            );
            return Err(Failure::call(EBUSY, words));
        }
        let mut gone: Vec<(Table, i64)> = namespaces.into_iter().map(|i| (Table::Namespace, i)).collect();
        gone.extend(ports.into_iter().map(|i| (Table::PortSubsys, i)));
        gone.extend(ids(Table::HostSubsys).into_iter().map(|i| (Table::HostSubsys, i)));
        gone.push((Table::Subsys, id));
        Ok(gone)
    }
}
