//! `pool.dataset.create`

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::rules::{acl_inheritance, check_acl, check_recordsize, check_special};
use super::translate::{block_size, to_zfs};
use super::{Call, LARGEST_SHARE, available, encryption, lookup, out_of_space, read, refused};
use crate::backend::{DatasetKind, NewDataset};
use crate::failure::{Failure, Item};
use crate::faults::When;
use crate::validate::is_dataset_name;

const METHOD: &str = "pool.dataset.create";
const PREFIX: &str = "pool_dataset_create";
/// Names reserved for the appliance itself, as the first component below the pool.
const INTERNAL: &[&str] = &[".system", "ix-apps", "ix-applications", ".ix-virt"];
/// `volblocksize` when none is given: 16 KiB.
const BLOCK: u64 = 16 * 1024;

/// What a share type sets, whatever the request says of these fields.
fn preset(share_type: Option<&str>) -> &'static [(&'static str, &'static str)] {
    match share_type {
        Some("SMB") => &[("casesensitivity", "INSENSITIVE"), ("acltype", "NFSV4"), ("aclmode", "RESTRICTED")],
        Some("NFS" | "MULTIPROTOCOL" | "APPS") => &[
            ("casesensitivity", "SENSITIVE"),
            ("atime", "OFF"),
            ("acltype", "NFSV4"),
            ("aclmode", "PASSTHROUGH"),
        ],
        _ => &[],
    }
}

fn user_properties(data: &Map<String, Value>) -> BTreeMap<String, String> {
    let pair = |item: &Value| {
        let text = |key: &str| item.get(key).and_then(Value::as_str).map(str::to_owned);
        Some((text("key")?, text("value")?))
    };
    data.get("user_properties").and_then(Value::as_array).into_iter().flatten().filter_map(pair).collect()
}

/// The creation of a file system or zvol.
pub(super) fn create(call: &Call) -> Result<Value, Failure> {
    let mut data = call.object(0).clone();
    for (field, value) in preset(data.get("share_type").and_then(Value::as_str)) {
        data.insert((*field).to_owned(), (*value).into());
    }
    let data = &data;
    let text = |key: &str| data.get(key).and_then(Value::as_str).unwrap_or_default();
    let name = text("name").to_owned();
    let at = |field: &str| format!("{PREFIX}.{field}");
    let kind = if text("type") == "VOLUME" { DatasetKind::Volume } else { DatasetKind::Filesystem };
    let mut findings = Vec::new();

    let Some((parent, _)) = name.rsplit_once('/') else {
        return Err(Failure::invalid(at("name"), "You need a full name, e.g. pool/newdataset"));
    };
    if !is_dataset_name(&name) {
        return Err(Failure::invalid(at("name"), format!("{name:?} is not a valid dataset name")));
    }
    let inside = name.split('/').nth(1).unwrap_or_default();
    if INTERNAL.contains(&inside) {
        findings.push(Item::new(at("name"), format!("{inside:?} is reserved for the system")));
    }
    if call.shared.backend.path_exists(&format!("/mnt/{name}")) {
        findings.push(Item::new(at("name"), format!("Path /mnt/{name} already exists")));
    }
    let ancestors = data.get("create_ancestors") == Some(&Value::Bool(true));
    let nearest = std::iter::successors(Some(parent), |p| p.rsplit_once('/').map(|(up, _)| up));
    let mut existing = None;
    let mut absent = Vec::new();
    for candidate in nearest {
        match lookup(call, candidate)? {
            Some(found) => {
                existing = Some(found);
                break;
            }
            None => absent.push(candidate.to_owned()),
        }
    }
    let Some(above) = existing else {
        let pool = parent.split('/').next().unwrap_or_default();
        return Err(Failure::invalid(at("name"), format!("zpool ({pool}) does not exist.")));
    };
    if !absent.is_empty() && !ancestors {
        return Err(Failure::invalid(at("name"), format!("Parent dataset ({parent}) does not exist.")));
    }
    if above.kind == DatasetKind::Volume {
        return Err(Failure::invalid(
            at("name"),
            format!("{} is a volume and cannot have children", above.name),
        ));
    }
    if above.raw("readonly") == Some("on") {
        findings.push(Item::new(at("readonly"), format!("Turn off readonly mode on {} first", above.name)));
    }
    let free = available(call, &above);
    if kind == DatasetKind::Volume {
        check_volume(data, free, &mut findings);
    } else {
        for field in ["force_size", "sparse", "volsize", "volblocksize"] {
            if data.contains_key(field) {
                findings.push(Item::new(at(field), "This field is not valid for FILESYSTEM"));
            }
        }
        check_recordsize(PREFIX, data, &mut findings);
        check_acl(PREFIX, data, &above, &above, &mut findings);
    }
    check_special(PREFIX, data, &mut findings);
    let encryption = encryption::of(call, data, &above, &mut findings)?;
    if !findings.is_empty() {
        return Err(Failure::Invalid(findings));
    }

    let mut new =
        NewDataset { name, kind, properties: BTreeMap::new(), user_properties: user_properties(data) };
    for (property, value) in to_zfs(data) {
        let target = if property.contains(':') { &mut new.user_properties } else { &mut new.properties };
        if let Some(value) = value {
            target.insert(property, value);
        }
    }
    if let Some(inherit) = new.properties.get("acltype").map(|acltype| acl_inheritance(acltype)) {
        new.properties.insert("aclinherit".into(), inherit.into());
    }
    if kind == DatasetKind::Volume {
        new.properties.entry("volblocksize".into()).or_insert_with(|| BLOCK.to_string());
        if data.get("sparse") != Some(&Value::Bool(true)) {
            new.properties.entry("refreservation".into()).or_insert_with(|| "auto".into());
        }
    }
    if call.shared.faults.pool_full() {
        return Err(refused("Failed to create dataset", &out_of_space(&new.name)));
    }
    for ancestor in absent.into_iter().rev() {
        let between = NewDataset {
            name: ancestor,
            kind: DatasetKind::Filesystem,
            properties: BTreeMap::new(),
            user_properties: BTreeMap::new(),
        };
        call.shared.backend.create_dataset(&between).map_err(|e| refused("Failed to create dataset", &e))?;
    }
    let faults = &call.shared.faults;
    let later = faults.is_held(METHOD, When::Halfway).then(|| std::mem::take(&mut new.user_properties));
    let backend = &call.shared.backend;
    let made = match &encryption {
        Some(encryption) => backend.create_encrypted(&new, encryption),
        None => backend.create_dataset(&new),
    };
    made.map_err(|e| refused("Failed to create dataset", &e))?;
    if let Some(later) = later {
        tokio::runtime::Handle::current().block_on(faults.pass(METHOD, When::Halfway));
        let later = later.into_iter().map(|(key, value)| (key, Some(value))).collect();
        backend.set_properties(&new.name, &later)?;
    }
    read::instance(call, &new.name)
}

fn check_volume(data: &Map<String, Value>, free: u64, findings: &mut Vec<Item>) {
    for field in ["aclmode", "acltype", "atime", "casesensitivity", "quota", "refquota", "recordsize"] {
        if data.contains_key(field) {
            findings.push(Item::new(format!("{PREFIX}.{field}"), "This field is not valid for VOLUME"));
        }
    }
    let size = data.get("volsize").and_then(Value::as_u64).unwrap_or(0);
    let block = data.get("volblocksize").and_then(Value::as_str).and_then(block_size).unwrap_or(BLOCK);
    if size == 0 || !size.is_multiple_of(block) {
        let words = "Volume size should be a multiple of volume block size";
        findings.push(Item::new(format!("{PREFIX}.volsize"), words));
    }
    let forced = data.get("force_size") == Some(&Value::Bool(true));
    if !forced && size > free / 100 * LARGEST_SHARE {
        let words = "It is not recommended to use more than 80% of your available space for VOLUME";
        findings.push(Item::new(format!("{PREFIX}.volsize"), words));
    }
}
