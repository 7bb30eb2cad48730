//! `nvmet.host_subsys` (a host is allowed) and `nvmet.port_subsys` (a port serves it).

use serde_json::Value;

use super::{Call, Kind, check_reference, nested};
use crate::failure::{Failure, Item};
use crate::state::{Row, Table};

pub(super) struct HostSubsys;
pub(super) struct PortSubsys;

/// Checks a link between a subsystem and something else.
fn check_link(
    call: &Call,
    prefix: &str,
    row: &Row,
    own: Option<i64>,
    (table, field, other, what): (Table, &str, Table, &str),
) -> Vec<Item> {
    let shared = &call.shared;
    let mut findings = Vec::new();
    check_reference(shared, prefix, row, field, other, what, &mut findings);
    check_reference(shared, prefix, row, "subsys_id", Table::Subsys, "subsystem", &mut findings);
    let same = |o: &Row| [field, "subsys_id"].iter().all(|f| o.get(*f) == row.get(*f));
    if shared.rows().all(table).any(|(id, o)| Some(id) != own && same(o)) {
        let label = if other == Table::Host { "Host ID/Subsystem ID" } else { "Port ID/Subsystem ID" };
        findings
            .push(Item::new(format!("{prefix}.{field}"), format!("This record already exists ({label})")));
    }
    findings
}

fn entry(call: &Call, row: &Row, name: &str, field: &str, table: Table) -> Value {
    let mut out = Row::new();
    out.insert("id".into(), row.get("id").cloned().unwrap_or(Value::Null));
    out.insert(name.into(), nested(&call.shared, table, row, field));
    out.insert("subsys".into(), nested(&call.shared, Table::Subsys, row, "subsys_id"));
    Value::Object(out)
}

impl Kind for HostSubsys {
    const TABLE: Table = Table::HostSubsys;
    const NAME: &'static str = "NVMe-oF Host Subsystem";

    fn check(call: &Call, prefix: &str, row: &mut Row, own: Option<i64>) -> Result<Vec<Item>, Failure> {
        Ok(check_link(call, prefix, row, own, (Table::HostSubsys, "host_id", Table::Host, "host")))
    }

    fn entry(call: &Call, row: &Row) -> Value {
        entry(call, row, "host", "host_id", Table::Host)
    }

    fn removal(_call: &Call, id: i64) -> Result<Vec<(Table, i64)>, Failure> {
        Ok(vec![(Table::HostSubsys, id)])
    }
}

impl Kind for PortSubsys {
    const TABLE: Table = Table::PortSubsys;
    const NAME: &'static str = "NVMe-oF Port Subsystem";

    fn check(call: &Call, prefix: &str, row: &mut Row, own: Option<i64>) -> Result<Vec<Item>, Failure> {
        Ok(check_link(call, prefix, row, own, (Table::PortSubsys, "port_id", Table::Port, "port")))
    }

    fn entry(call: &Call, row: &Row) -> Value {
        entry(call, row, "port", "port_id", Table::Port)
    }

    fn removal(_call: &Call, id: i64) -> Result<Vec<(Table, i64)>, Failure> {
        Ok(vec![(Table::PortSubsys, id)])
    }
}
