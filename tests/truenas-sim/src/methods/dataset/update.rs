//! `pool.dataset.update`

use std::collections::BTreeMap;

use serde_json::Value;

use super::rules::{acl_inheritance, check_acl, check_recordsize, check_special};
use super::translate::to_zfs;
use super::{Call, LARGEST_SHARE, available, lookup, must, read, refused};
use crate::backend::{Dataset, DatasetKind, Refusal};
use crate::failure::{Failure, Item};

const PREFIX: &str = "pool_dataset_update";
/// Fields that a zvol does not have.
const FILESYSTEM_ONLY: &[&str] = &["quota", "refquota", "recordsize", "aclmode", "acltype", "atime"];
/// Fields that a file system does not have.
const VOLUME_ONLY: &[&str] = &["volsize", "force_size"];

/// The user property changes: the listed ones, or the whole set replaced.
fn user_changes(call: &Call, dataset: &Dataset) -> Result<BTreeMap<String, Option<String>>, Failure> {
    let data = call.object(1);
    let text = |item: &'_ Value, key: &str| item.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut changes = BTreeMap::new();
    match (data.get("user_properties"), data.get("user_properties_update")) {
        (Some(_), Some(_)) => {
            let words = "Should not be specified when \"user_properties_update\" is";
            return Err(Failure::invalid(format!("{PREFIX}.user_properties"), words));
        }
        (Some(Value::Array(whole)), None) => {
            for key in dataset.user_properties.keys() {
                changes.insert(key.clone(), None);
            }
            for item in whole {
                if let (Some(key), Some(value)) = (text(item, "key"), text(item, "value")) {
                    changes.insert(key, Some(value));
                }
            }
        }
        (None, Some(Value::Array(updates))) => {
            for (index, item) in updates.iter().enumerate() {
                let Some(key) = text(item, "key") else { continue };
                let removes = item.get("remove") == Some(&Value::Bool(true));
                match text(item, "value") {
                    Some(value) if !removes => changes.insert(key, Some(value)),
                    None if removes => changes.insert(key, None),
                    _ => {
                        let at = format!("{PREFIX}.user_properties_update.{index}");
                        return Err(Failure::invalid(at, "Exactly one of value and remove must be set"));
                    }
                };
            }
        }
        _ => {}
    }
    Ok(changes)
}

fn check_size(call: &Call, dataset: &Dataset, size: u64, findings: &mut Vec<Item>) {
    let at = format!("{PREFIX}.volsize");
    let (present, block) = (dataset.bytes("volsize"), dataset.bytes("volblocksize").max(512));
    if size < present {
        findings.push(Item::new(at.clone(), "You cannot shrink a zvol from its present size"));
    }
    if !size.is_multiple_of(block) {
        findings.push(Item::new(at.clone(), "Volume size should be a multiple of volume block size"));
    }
    let free = available(call, dataset).saturating_add(dataset.bytes("used"));
    if size > present && !call.flag(1, "force_size") && size > free / 100 * LARGEST_SHARE {
        let words = "It is not recommended to use more than 80% of your available space for VOLUME";
        findings.push(Item::new(at, words));
    }
}

/// The change of a dataset's properties.
pub(super) fn update(call: &Call) -> Result<Value, Failure> {
    let name = call.text(0);
    let dataset = must(call, name)?;
    let data = call.object(1);
    let mut findings = Vec::new();
    let foreign = if dataset.kind == DatasetKind::Volume { FILESYSTEM_ONLY } else { VOLUME_ONLY };
    for field in foreign.iter().filter(|field| data.contains_key(**field)) {
        let words = format!(
            "This field is not valid for {}",
            if dataset.kind == DatasetKind::Volume { "VOLUME" } else { "FILESYSTEM" }
        );
        findings.push(Item::new(format!("{PREFIX}.{field}"), words));
    }
    let size = data.get("volsize").and_then(Value::as_u64);
    if let Some(size) = size.filter(|_| dataset.kind == DatasetKind::Volume) {
        check_size(call, &dataset, size, &mut findings);
    }
    if dataset.kind == DatasetKind::Filesystem {
        let above = name.rsplit_once('/').map(|(up, _)| lookup(call, up)).transpose()?.flatten();
        check_acl(PREFIX, data, &dataset, above.as_ref().unwrap_or(&dataset), &mut findings);
        check_recordsize(PREFIX, data, &mut findings);
    }
    check_special(PREFIX, data, &mut findings);
    if !findings.is_empty() {
        return Err(Failure::Invalid(findings));
    }
    let mut changes = to_zfs(data);
    match changes.get("acltype").cloned() {
        Some(Some(acltype)) => {
            changes.insert("aclinherit".into(), Some(acl_inheritance(&acltype).into()));
            if acltype != "nfsv4" {
                changes.insert("aclmode".into(), Some("discard".into()));
            }
        }
        Some(None) => {
            changes.extend([("aclmode".to_owned(), None), ("aclinherit".to_owned(), None)]);
        }
        None => {}
    }
    changes.extend(user_changes(call, &dataset)?);
    let grows = size.is_some_and(|size| size > dataset.bytes("volsize"));
    if size.is_some() && !grows {
        changes.remove("volsize");
    }
    if grows
        && dataset.bytes("refreservation") >= dataset.bytes("volsize")
        && !changes.contains_key("refreservation")
    {
        // A thick volume stays thick.
        changes.insert("refreservation".into(), Some("auto".into()));
    }
    if !changes.is_empty() {
        apply(call, name, changes)?;
    }
    if grows {
        call.shared.backend.volume_grown(name)?;
    }
    read::instance(call, name)
}

fn apply(call: &Call, name: &str, changes: BTreeMap<String, Option<String>>) -> Result<(), Failure> {
    let needs_space = ["volsize", "refreservation", "reservation"];
    if call.shared.faults.pool_full() && needs_space.iter().any(|p| changes.contains_key(*p)) {
        let words = format!("cannot set property for '{name}': size is greater than available space");
        let error = crate::backend::BackendError::new(Refusal::NoSpace, words);
        return Err(refused("Failed to update dataset", &error));
    }
    call.shared.backend.set_properties(name, &changes).map_err(|e| refused("Failed to update dataset", &e))
}
