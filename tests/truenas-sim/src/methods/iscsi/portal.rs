//! `iscsi.portal`

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{Call, Kind};
use crate::appliance::Shared;
use crate::exports;
use crate::failure::{EFAULT, Failure, Item};
use crate::state::{Row, Table};

pub(super) struct Portal;

fn addresses(row: &Row) -> Vec<&str> {
    let listen = row.get("listen").and_then(Value::as_array).into_iter().flatten();
    listen.filter_map(|one| one.get("ip")?.as_str()).collect()
}

fn next_tag(shared: &Shared) -> i64 {
    let rows = shared.rows();
    rows.all(Table::IscsiPortal).filter_map(|(_, row)| row.get("tag")?.as_i64()).max().unwrap_or(0) + 1
}

/// Adds the row of a portal, as the first start does.
pub(crate) fn insert(shared: &Shared, address: &str) -> Result<i64, Failure> {
    let tag = next_tag(shared);
    let row = json!({"listen": [{"ip": address}], "tag": tag, "comment": ""});
    let Value::Object(row) = row else { return Err(Failure::exception("TypeError", "not a row")) };
    Ok(shared.rows().insert(Table::IscsiPortal, row)?)
}

/// `iscsi.portal.listen_ip_choices`
pub(super) fn choices(call: &Call) -> Value {
    let list = call.shared.backend.addresses().into_iter().map(|a| (a.to_string(), json!(a.to_string())));
    let any = ["0.0.0.0", "::"].map(|a| (a.to_owned(), json!(a)));
    Value::Object(any.into_iter().chain(list).collect::<Map<_, _>>())
}

impl Kind for Portal {
    const TABLE: Table = Table::IscsiPortal;
    const NAME: &'static str = "Portal";

    fn check(call: &Call, prefix: &str, row: &mut Row, own: Option<i64>) -> Result<Vec<Item>, Failure> {
        let shared = &call.shared;
        let mut findings = Vec::new();
        if addresses(row).is_empty() {
            findings.push(Item::new(format!("{prefix}.listen"), "At least one portal is required."));
        }
        let known = shared.backend.addresses();
        for (n, address) in addresses(row).into_iter().enumerate() {
            let at = format!("{prefix}.listen.{n}.ip");
            let there = address.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified() || known.contains(&ip));
            if !there {
                findings.push(Item::new(at.clone(), format!("IP {address} not configured on this system.")));
            }
            let rows = shared.rows();
            let mut others = rows.all(Table::IscsiPortal).filter(|(id, _)| Some(*id) != own);
            if others.any(|(_, other)| addresses(other).contains(&address)) {
                findings.push(Item::new(at, format!("{address} is already in use.")));
            }
        }
        if !row.contains_key("tag") {
            row.insert("tag".into(), next_tag(shared).into());
        }
        Ok(findings)
    }

    fn entry(call: &Call, row: &Row) -> Value {
        let port = exports::iscsi_port(&call.shared.rows());
        let listen: Vec<Value> =
            addresses(row).into_iter().map(|ip| json!({"ip": ip, "port": port})).collect();
        let mut out = row.clone();
        out.insert("listen".into(), listen.into());
        Value::Object(out)
    }

    fn removal(call: &Call, id: i64) -> Result<Vec<(Table, i64)>, Failure> {
        if super::target::groups_with(&call.shared, "portal", id) {
            return Err(Failure::call(EFAULT, format!("Portal {id} is used by a target.")));
        }
        Ok(vec![(Table::IscsiPortal, id)])
    }
}
