//! `nvmet.namespace`

use serde_json::{Value, json};

use super::{Call, Kind, check_reference, nested, text};
use crate::exports;
use crate::failure::{Failure, Item};
use crate::state::{Row, Table};

pub(super) struct Namespace;

/// Fields that may change while the namespace is enabled and the service runs.
const CHANGEABLE: &[&str] = &["enabled", "filesize"];

fn check_device(call: &Call, prefix: &str, row: &Row, own: Option<i64>, findings: &mut Vec<Item>) {
    let at = format!("{prefix}.device_path");
    let path = text(row, "device_path");
    if text(row, "device_type") == "ZVOL" {
        match path.strip_prefix("zvol/") {
            None => findings.push(Item::new(at.clone(), "ZVOL device_path must start with \"zvol/\"")),
            Some(zvol) if own.is_none() && !call.shared.backend.device_ready(zvol) => {
                findings.push(Item::new(at.clone(), format!("Device /dev/{path} does not exist")));
            }
            Some(_) => {}
        }
    } else if !path.starts_with("/mnt/") {
        findings.push(Item::new(at.clone(), "FILE device_path must lie below /mnt"));
    } else if row.get("filesize").is_none_or(Value::is_null) {
        findings.push(Item::new(format!("{prefix}.filesize"), "filesize must be set for a FILE"));
    }
    let (used, extent) = {
        let rows = call.shared.rows();
        let mut others = rows.all(Table::Namespace).filter(|(id, _)| Some(*id) != own);
        let extent = rows.all(Table::IscsiExtent).any(|(_, other)| text(other, "disk") == path);
        (others.any(|(_, other)| text(other, "device_path") == path), extent)
    };
    if extent {
        let words = format!("This device_path is already used by an iSCSI extent: {path}");
        findings.push(Item::new(at.clone(), words));
    }
    if used {
        findings
            .push(Item::new(at, format!("This device_path is already used by another namespace: {path}")));
    }
}

fn check_nsid(call: &Call, prefix: &str, row: &mut Row, own: Option<i64>, findings: &mut Vec<Item>) {
    let subsys = row.get("subsys_id").cloned();
    let used: Vec<i64> = {
        let rows = call.shared.rows();
        let siblings = rows
            .all(Table::Namespace)
            .filter(|(id, other)| Some(*id) != own && other.get("subsys_id") == subsys.as_ref());
        siblings.filter_map(|(_, other)| other.get("nsid")?.as_i64()).collect()
    };
    match row.get("nsid").and_then(Value::as_i64) {
        Some(nsid) if used.contains(&nsid) => {
            findings.push(Item::new(
                format!("{prefix}.nsid"),
                format!("This nsid already exists in subsystem: {nsid}"),
            ));
        }
        Some(_) => {}
        None => {
            let free = (1..).find(|n| !used.contains(n)).unwrap_or(1);
            row.insert("nsid".into(), json!(free));
        }
    }
}

impl Kind for Namespace {
    const TABLE: Table = Table::Namespace;
    const NAME: &'static str = "NVMe-oF Namespace";

    fn check(call: &Call, prefix: &str, row: &mut Row, own: Option<i64>) -> Result<Vec<Item>, Failure> {
        let shared = &call.shared;
        let mut findings = Vec::new();
        if let Some(id) = own {
            let before = super::row_of::<Self>(shared, id)?;
            let serving =
                before.get("enabled") == Some(&json!(true)) && exports::running(&shared.rows(), "nvmet");
            let changed =
                row.iter().find(|(k, v)| before.get(*k) != Some(*v) && !CHANGEABLE.contains(&k.as_str()));
            if let (true, Some((field, _))) = (serving, changed) {
                let words = format!("Cannot change {field} of an enabled namespace while the service runs");
                return Ok(vec![Item::new(format!("{prefix}.{field}"), words)]);
            }
        } else {
            let uuid = uuid::Uuid::new_v4();
            row.insert("device_uuid".into(), uuid.to_string().into());
            row.insert("device_nguid".into(), uuid::Uuid::new_v4().to_string().into());
        }
        check_reference(shared, prefix, row, "subsys_id", Table::Subsys, "subsystem", &mut findings);
        check_device(call, prefix, row, own, &mut findings);
        check_nsid(call, prefix, row, own, &mut findings);
        Ok(findings)
    }

    fn entry(call: &Call, row: &Row) -> Value {
        let mut out = row.clone();
        out.insert("subsys".into(), nested(&call.shared, Table::Subsys, row, "subsys_id"));
        out.remove("subsys_id");
        call.show_place(&mut out, text(row, "device_path"));
        Value::Object(out)
    }

    fn removal(_call: &Call, id: i64) -> Result<Vec<(Table, i64)>, Failure> {
        // At once, whoever uses it.
        Ok(vec![(Table::Namespace, id)])
    }
}
