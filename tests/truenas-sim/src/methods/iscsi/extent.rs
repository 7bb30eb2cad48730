//! `iscsi.extent` and `iscsi.targetextent`

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Call, Kind, linked, number, refuse_in_use, row_of, taken, text};
use crate::failure::{Failure, Item};
use crate::state::{Row, Table};

pub(super) struct Extent;
pub(super) struct TargetExtent;

/// Hexadecimal digits of a generated serial number.
const SERIAL_DIGITS: u32 = 15;

/// What Linux's target makes of a serial number (VPD page 0x83, NAA type 6, its company id 00 14 05): the kernel takes
/// the serial's hexadecimal digits as the vendor's part.
fn naa_of(serial: &str) -> String {
    let digits: String = serial.chars().filter(char::is_ascii_hexdigit).take(25).collect();
    format!("0x6001405{digits:0<25}").to_lowercase()
}

fn check_disk(call: &Call, prefix: &str, row: &Row, own: Option<i64>, findings: &mut Vec<Item>) {
    let at = format!("{prefix}.disk");
    let disk = text(row, "disk").to_owned();
    let Some(zvol) = disk.strip_prefix("zvol/").map(|name| name.replace('+', " ")) else {
        findings.push(Item::new(at, "Disk name must start with zvol/"));
        return;
    };
    if own.is_none() && !call.shared.backend.device_ready(&zvol) {
        findings
            .push(Item::new(at.clone(), format!("Device '/dev/{disk}' for volume '{zvol}' does not exist")));
    }
    let rows = call.shared.rows();
    if rows.all(Table::IscsiExtent).any(|(id, other)| Some(id) != own && text(other, "disk") == disk) {
        findings.push(Item::new(at.clone(), "Disk currently in use"));
    }
    if rows.all(Table::Namespace).any(|(_, other)| text(other, "device_path") == disk) {
        findings.push(Item::new(at, "Disk currently in use by NVMe-oF"));
    }
}

impl Kind for Extent {
    const TABLE: Table = Table::IscsiExtent;
    const NAME: &'static str = "iSCSI Extent";

    fn check(call: &Call, prefix: &str, row: &mut Row, own: Option<i64>) -> Result<Vec<Item>, Failure> {
        let shared = &call.shared;
        let mut findings = Vec::new();
        let flat = |name: &str| name.replace('.', "_").replace('/', "-");
        let name = flat(text(row, "name"));
        let clash = {
            let rows = shared.rows();
            rows.all(Table::IscsiExtent)
                .any(|(id, other)| Some(id) != own && flat(text(other, "name")) == name)
        };
        if clash {
            findings.push(Item::new(format!("{prefix}.name"), "Extent name must be unique"));
        }
        if text(row, "type") == "DISK" {
            check_disk(call, prefix, row, own, &mut findings);
            row.insert("path".into(), row.get("disk").cloned().unwrap_or(Value::Null));
        } else {
            findings
                .push(Item::new(format!("{prefix}.type"), "The stand-in serves extents of type DISK only"));
        }
        if row.get("serial").is_none_or(|serial| serial.is_null() || serial == "") {
            let serial = format!("{:032x}", rand::random::<u128>());
            let serial: String = serial.chars().take(SERIAL_DIGITS as usize).collect();
            row.insert("serial".into(), serial.into());
        }
        if text(row, "serial").len() > 20 {
            findings
                .push(Item::new(format!("{prefix}.serial"), "Extent serial can not exceed 20 characters"));
        } else if taken(shared, Table::IscsiExtent, "serial", row.get("serial"), own) {
            findings.push(Item::new(format!("{prefix}.serial"), "Serial number must be unique"));
        }
        let naa = naa_of(text(row, "serial"));
        row.insert("naa".into(), naa.into());
        row.insert("vendor".into(), "TrueNAS".into());
        if findings.is_empty() {
            follow_read_only(call, row, own)?;
        }
        Ok(findings)
    }

    fn entry(call: &Call, row: &Row) -> Value {
        let mut out = row.clone();
        call.show_place(&mut out, text(row, "path"));
        Value::Object(out)
    }

    fn removal(call: &Call, id: i64) -> Result<Vec<(Table, i64)>, Failure> {
        let force = call.params.get(2) == Some(&Value::Bool(true));
        let mappings = linked(&call.shared, Table::IscsiTargetExtent, "extent", id);
        if !force {
            refuse_in_use(call, &targets_of(call, &mappings))?;
        }
        let mappings = mappings.into_iter().map(|m| (Table::IscsiTargetExtent, m));
        Ok(mappings.chain([(Table::IscsiExtent, id)]).collect())
    }
}

/// An extent's `ro` is the `readonly` property of its zvol.
fn follow_read_only(call: &Call, row: &Row, own: Option<i64>) -> Result<(), Failure> {
    let before = own.map(|id| row_of::<Extent>(&call.shared, id)).transpose()?;
    if before.is_some_and(|before| before.get("ro") == row.get("ro")) {
        return Ok(());
    }
    let Some(zvol) = text(row, "disk").strip_prefix("zvol/") else { return Ok(()) };
    let value = if row.get("ro") == Some(&Value::Bool(true)) { "on" } else { "off" };
    let change = BTreeMap::from([("readonly".to_owned(), Some(value.to_owned()))]);
    Ok(call.shared.backend.set_properties(zvol, &change)?)
}

fn targets_of(call: &Call, mappings: &[i64]) -> Vec<i64> {
    let rows = call.shared.rows();
    let found = mappings.iter().filter_map(|m| rows.get(Table::IscsiTargetExtent, *m));
    found.filter_map(|row| number(row, "target")).collect()
}

impl Kind for TargetExtent {
    const TABLE: Table = Table::IscsiTargetExtent;
    const NAME: &'static str = "iSCSI Target to Extent Mapping";

    fn check(call: &Call, prefix: &str, row: &mut Row, own: Option<i64>) -> Result<Vec<Item>, Failure> {
        let mut findings = Vec::new();
        let rows = call.shared.rows();
        for (field, table, what) in
            [("target", Table::IscsiTarget, "Target"), ("extent", Table::IscsiExtent, "Extent")]
        {
            if number(row, field).is_none_or(|id| rows.get(table, id).is_none()) {
                findings.push(Item::new(format!("{prefix}.{field}"), format!("{what} does not exist")));
            }
        }
        let others = || rows.all(Table::IscsiTargetExtent).filter(|(id, _)| Some(*id) != own);
        let mine = || others().filter(|(_, other)| other.get("target") == row.get("target"));
        if others().any(|(_, other)| other.get("extent") == row.get("extent")) {
            findings.push(Item::new(format!("{prefix}.extent"), "Extent is already in use"));
        }
        match number(row, "lunid") {
            None => {
                let used: Vec<i64> = mine().filter_map(|(_, other)| number(other, "lunid")).collect();
                let free = (0..).find(|lun| !used.contains(lun)).unwrap_or(0);
                row.insert("lunid".into(), json!(free));
            }
            Some(lun) if mine().any(|(_, other)| number(other, "lunid") == Some(lun)) => {
                findings.push(Item::new(
                    format!("{prefix}.lunid"),
                    "LUN ID is already being used for this target.",
                ));
            }
            Some(_) => {}
        }
        Ok(findings)
    }

    fn entry(_: &Call, row: &Row) -> Value {
        Value::Object(row.clone())
    }

    fn removal(call: &Call, id: i64) -> Result<Vec<(Table, i64)>, Failure> {
        if call.params.get(1) != Some(&Value::Bool(true)) {
            refuse_in_use(call, &targets_of(call, &[id]))?;
        }
        Ok(vec![(Table::IscsiTargetExtent, id)])
    }
}

#[cfg(test)]
mod tests {
    use super::naa_of;

    #[test]
    fn the_name_follows_from_the_serial_number() {
        assert_eq!(naa_of("0123456789abcde"), "0x60014050123456789abcde0000000000");
        assert_eq!(naa_of("0123456789abcde").len(), 2 + 32);
    }
}
