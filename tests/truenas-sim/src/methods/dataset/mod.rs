//! `pool.dataset.*`: the file systems and zvols.

mod create;
mod delete;
mod encryption;
mod read;
mod rules;
mod translate;
mod update;

use serde_json::{Value, json};

use super::{Call, unserved};
use crate::backend::{BackendError, Dataset, Refusal, Scope};
use crate::config::Version;
use crate::failure::{EBADMSG, EFAULT, Failure};

/// Share of the free space that a zvol may take without `force_size`, in percent.
const LARGEST_SHARE: u64 = 80;
/// ZFS properties that TrueNAS keeps as user properties, with the names the API gives them.
const MANAGED: &[(&str, &str)] = &[
    ("comments", "org.freenas:description"),
    ("managedby", "org.truenas:managedby"),
    ("quota_warning", "org.freenas:quota_warning"),
    ("quota_critical", "org.freenas:quota_critical"),
    ("refquota_warning", "org.freenas:refquota_warning"),
    ("refquota_critical", "org.freenas:refquota_critical"),
];

/// One dataset by its exact name.
pub(super) fn lookup(call: &Call, name: &str) -> Result<Option<Dataset>, Failure> {
    let paths = [name.to_owned()];
    Ok(call.shared.backend.datasets(&Scope::Paths(&paths))?.pop())
}

fn must(call: &Call, name: &str) -> Result<Dataset, Failure> {
    lookup(call, name)?.ok_or_else(|| Failure::not_found("Dataset", name))
}

/// Bytes that the parent has left; none when the pool is made full.
fn available(call: &Call, dataset: &Dataset) -> u64 {
    if call.shared.faults.pool_full() { 0 } else { dataset.bytes("available") }
}

/// A failed creation or change, in the words of the ZFS plugin.
fn refused(what: &str, error: &BackendError) -> Failure {
    Failure::call(EFAULT, format!("{what}: {}", error.text))
}

fn out_of_space(name: &str) -> BackendError {
    BackendError::new(Refusal::NoSpace, format!("cannot create '{name}': out of space"))
}

pub(super) fn call(verb: &str, call: &Call) -> Result<Value, Failure> {
    match verb {
        "query" => read::query(call),
        "get_instance" => read::instance(call, call.text(0)),
        "create" => create::create(call),
        "update" => update::update(call),
        "delete" => delete::delete(call),
        "snapshot_count" => {
            let dataset = must(call, call.text(0))?;
            Ok(json!(call.shared.backend.snapshots(Some(&dataset.name))?.len()))
        }
        "promote" => {
            let dataset = must(call, call.text(0))?;
            match call.shared.backend.promote(&dataset.name) {
                Ok(()) => Ok(Value::Null),
                Err(e) if e.kind == Refusal::NotAClone && call.shared.config.version >= Version::V26 => {
                    Err(Failure::invalid("pool.dataset.promote.id", e.text))
                }
                Err(e) if e.kind == Refusal::NotAClone => Err(Failure::call(EBADMSG, e.text)),
                Err(e) => Err(e.into()),
            }
        }
        "rename" => rename(call),
        "recommended_zvol_blocksize" => Ok(json!("16K")),
        _ => Err(unserved(&format!("pool.dataset.{verb}"))),
    }
}

fn rename(call: &Call) -> Result<Value, Failure> {
    let dataset = must(call, call.text(0))?;
    if !call.flag(1, "force") {
        let words = "This operation can break shares and other users of the dataset; set force to go on";
        return Err(Failure::invalid("pool.dataset.rename.force", words));
    }
    let to = call.object(1).get("new_name").and_then(Value::as_str).unwrap_or_default();
    call.shared.backend.rename_dataset(&dataset.name, to)?;
    Ok(Value::Null)
}
