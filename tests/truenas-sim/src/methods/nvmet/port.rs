//! `nvmet.port`

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{Call, Kind, linked, text};
use crate::appliance::Shared;
use crate::exports;
use crate::failure::{EBUSY, Failure, Item};
use crate::state::{Row, Table};

pub(super) struct Port;

/// Fields that may change while the port is enabled, has subsystems and the service runs.
const CHANGEABLE: &[&str] = &["enabled"];

fn next_index(shared: &Shared) -> i64 {
    let rows = shared.rows();
    let used: Vec<i64> = rows.all(Table::Port).filter_map(|(_, row)| row.get("index")?.as_i64()).collect();
    (1..).find(|n| !used.contains(n)).unwrap_or(1)
}

/// Adds the row of a TCP port, as the first start does.
pub(crate) fn insert(shared: &Shared, address: &str, port: i64) -> Result<i64, Failure> {
    let family = if address.contains(':') { "IPV6" } else { "IPV4" };
    let index = next_index(shared);
    let Value::Object(row) = json!({
        "index": index, "addr_trtype": "TCP", "addr_trsvcid": port, "addr_traddr": address, "addr_adrfam": family,
        "inline_data_size": null, "max_queue_size": null, "pi_enable": null, "enabled": true,
    }) else {
        return Err(Failure::exception("TypeError", "not a row"));
    };
    Ok(shared.rows().insert(Table::Port, row)?)
}

/// `nvmet.port.transport_address_choices`
pub(super) fn choices(call: &Call) -> Value {
    if call.text(0) != "TCP" {
        return json!({});
    }
    let list = call.shared.backend.addresses().into_iter().map(|a| (a.to_string(), json!(a.to_string())));
    let any = ["0.0.0.0", "::"].map(|a| (a.to_owned(), json!(a)));
    Value::Object(any.into_iter().chain(list).collect::<Map<_, _>>())
}

impl Kind for Port {
    const TABLE: Table = Table::Port;
    const NAME: &'static str = "NVMe-oF Port";

    fn check(call: &Call, prefix: &str, row: &mut Row, own: Option<i64>) -> Result<Vec<Item>, Failure> {
        let shared = &call.shared;
        if let Some(id) = own {
            let before = super::row_of::<Self>(shared, id)?;
            let serving = before.get("enabled") == Some(&json!(true))
                && exports::running(&shared.rows(), "nvmet")
                && !linked(shared, Table::PortSubsys, "port_id", id).is_empty();
            let changed =
                row.iter().find(|(k, v)| before.get(*k) != Some(*v) && !CHANGEABLE.contains(&k.as_str()));
            if let (true, Some((field, _))) = (serving, changed) {
                let words = format!("Cannot change {field} of a port that serves subsystems");
                return Ok(vec![Item::new(format!("{prefix}.{field}"), words)]);
            }
        }
        let mut findings = Vec::new();
        if text(row, "addr_trtype") != "TCP" {
            let words = "This platform does not support this transport";
            findings.push(Item::new(format!("{prefix}.addr_trtype"), words));
        }
        match text(row, "addr_traddr").parse::<IpAddr>() {
            Ok(address) => {
                let known = address.is_unspecified() || shared.backend.addresses().contains(&address);
                if !known {
                    let words = format!("{address} is not an address of this system");
                    findings.push(Item::new(format!("{prefix}.addr_traddr"), words));
                }
                row.insert("addr_adrfam".into(), if address.is_ipv4() { "IPV4" } else { "IPV6" }.into());
            }
            Err(_) => findings.push(Item::new(format!("{prefix}.addr_traddr"), "Not an IP address")),
        }
        let same = |other: &Row| {
            ["addr_trtype", "addr_traddr", "addr_trsvcid"].iter().all(|f| other.get(*f) == row.get(*f))
        };
        if shared.rows().all(Table::Port).any(|(id, other)| Some(id) != own && same(other)) {
            let words = "There already is a port using the same transport and address";
            findings.push(Item::new(format!("{prefix}.addr_traddr"), words));
        }
        if !row.contains_key("index") {
            row.insert("index".into(), next_index(shared).into());
        }
        Ok(findings)
    }

    fn entry(_call: &Call, row: &Row) -> Value {
        Value::Object(row.clone())
    }

    fn removal(call: &Call, id: i64) -> Result<Vec<(Table, i64)>, Failure> {
        let links = linked(&call.shared, Table::PortSubsys, "port_id", id);
        if !links.is_empty() && !call.flag(1, "force") {
            return Err(Failure::call(EBUSY, format!("Port {id} is used by {} subsystem(s)", links.len())));
        }
        Ok(links.into_iter().map(|l| (Table::PortSubsys, l)).chain([(Table::Port, id)]).collect())
    }
}
