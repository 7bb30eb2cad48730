//! `pool.dataset.delete`
//!
//! The rule it keeps: every enabled share and namespace on the dataset is removed, without looking for users, before
//! ZFS is asked; when ZFS then refuses, the exports stay gone. Disabled ones stay behind.

use std::sync::PoisonError;

use serde_json::{Value, json};

use super::{Call, must};
use crate::backend::{Dataset, Refusal};
use crate::exports;
use crate::failure::{EBUSY, EFAULT, ENOTEMPTY, Failure, Item};
use crate::state::Table;

/// Removes the enabled shares and namespaces of the dataset and of everything below it.
fn detach(call: &Call, dataset: &Dataset) -> Result<(), Failure> {
    let shared = &call.shared;
    let under = |path: &str, root: &str| {
        path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let enabled_below = |table: Table, field: &str, root: &str| -> Vec<(Table, i64)> {
        shared
            .rows()
            .all(table)
            .filter(|(_, row)| row.get("enabled") == Some(&json!(true)))
            .filter(|(_, row)| row.get(field).and_then(Value::as_str).is_some_and(|p| under(p, root)))
            .map(|(id, _)| (table, id))
            .collect()
    };
    let (mount, zvol) = (format!("/mnt/{}", dataset.name), format!("zvol/{}", dataset.name));
    {
        let _serial = shared.services.nfs.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = enabled_below(Table::Nfs, "path", &mount);
        if !gone.is_empty() {
            shared.rows().remove(&gone)?;
            exports::apply_nfs(shared)?;
        }
    }
    {
        let _serial = shared.services.smb.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = enabled_below(Table::Smb, "path", &mount);
        if !gone.is_empty() {
            shared.rows().remove(&gone)?;
            exports::apply_smb(shared)?;
        }
    }
    detach_iscsi(call, &zvol)?;
    let _serial = shared.services.nvmet.lock().unwrap_or_else(PoisonError::into_inner);
    let mut gone = enabled_below(Table::Namespace, "device_path", &zvol);
    gone.extend(enabled_below(Table::Namespace, "device_path", &mount));
    if !gone.is_empty() {
        shared.rows().remove(&gone)?;
        exports::apply_nvmet(shared)?;
    }
    Ok(())
}

/// Removes the enabled extents of a zvol and of those below it, their mappings, and targets that are left without any.
fn detach_iscsi(call: &Call, zvol: &str) -> Result<(), Failure> {
    let shared = &call.shared;
    let _serial = shared.services.iscsi.lock().unwrap_or_else(PoisonError::into_inner);
    let gone = {
        let rows = shared.rows();
        let inside =
            |disk: &str| disk.strip_prefix(zvol).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let extents: Vec<i64> = rows
            .all(Table::IscsiExtent)
            .filter(|(_, row)| row.get("enabled") == Some(&json!(true)))
            .filter(|(_, row)| row.get("disk").and_then(Value::as_str).is_some_and(inside))
            .map(|(id, _)| id)
            .collect();
        let number = |row: &crate::state::Row, field: &str| row.get(field).and_then(Value::as_i64);
        let of_extents =
            |row: &crate::state::Row| number(row, "extent").is_some_and(|id| extents.contains(&id));
        let mut gone = Vec::new();
        let mut targets = std::collections::BTreeSet::new();
        for (id, row) in rows.all(Table::IscsiTargetExtent).filter(|(_, row)| of_extents(row)) {
            gone.push((Table::IscsiTargetExtent, id));
            targets.extend(number(row, "target"));
        }
        let keeps = |target: i64| {
            let mut left = rows.all(Table::IscsiTargetExtent).filter(|(_, row)| !of_extents(row));
            left.any(|(_, row)| number(row, "target") == Some(target))
        };
        gone.extend(targets.into_iter().filter(|target| !keeps(*target)).map(|id| (Table::IscsiTarget, id)));
        gone.extend(extents.iter().map(|id| (Table::IscsiExtent, *id)));
        gone
    };
    if !gone.is_empty() {
        shared.rows().remove(&gone)?;
        exports::apply_iscsi(shared)?;
    }
    Ok(())
}

/// The destruction of a dataset.
pub(super) fn delete(call: &Call) -> Result<Value, Failure> {
    let shared = &call.shared;
    let dataset = must(call, call.text(0))?;
    let (recursive, force) = (call.flag(1, "recursive"), call.flag(1, "force"));
    let profile = shared.profile();
    detach(call, &dataset)?;
    let busy_answer = |text: String| {
        if profile.busy_delete_returns_true {
            tracing::warn!(dataset = %dataset.name, "busy dataset is left in place and reported as deleted");
            return Ok(Value::Bool(true));
        }
        Err(Failure::call(EBUSY, text))
    };
    if shared.faults.is_busy(&dataset.name) {
        return busy_answer(format!("cannot destroy '{}': dataset is busy", dataset.name));
    }
    let failed = match shared.backend.destroy_dataset(&dataset.name, recursive, force) {
        Ok(()) => return Ok(Value::Bool(true)),
        Err(failed) => failed,
    };
    let words = format!("Failed to delete dataset: {}", failed.text);
    match failed.kind {
        Refusal::Missing => Err(Failure::not_found("Dataset", &dataset.name)),
        Refusal::HasChildren => Err(Failure::call(ENOTEMPTY, words)),
        Refusal::Busy => busy_answer(words),
        Refusal::HasSnapshots if profile.delete_as_26 => {
            Err(Failure::Invalid(vec![Item { attribute: None, message: words, errno: ENOTEMPTY }]))
        }
        Refusal::HasClones if profile.delete_as_26 && recursive => destroy_with_clones(call, &dataset.name),
        _ => Err(Failure::call(EFAULT, words)),
    }
}

/// What 26 does with a recursive delete: clones of the dataset's snapshots go too, wherever they are.
fn destroy_with_clones(call: &Call, name: &str) -> Result<Value, Failure> {
    let backend = &call.shared.backend;
    let below = format!("{name}/");
    let clones: Vec<String> = backend
        .snapshots(None)?
        .into_iter()
        .filter(|s| s.dataset == name || s.dataset.starts_with(&below))
        .flat_map(|s| s.clones)
        .filter(|clone| clone != name && !clone.starts_with(&below))
        .collect();
    for clone in clones {
        match backend.destroy_dataset(&clone, true, true) {
            Ok(()) => {}
            Err(e) if e.kind == Refusal::Missing => {}
            Err(e) if e.kind == Refusal::HasClones => {
                destroy_with_clones(call, &clone)?;
            }
            Err(e) => return Err(e.into()),
        }
    }
    backend.destroy_dataset(name, true, true)?;
    Ok(Value::Bool(true))
}
