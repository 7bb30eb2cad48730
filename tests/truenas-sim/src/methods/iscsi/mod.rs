//! `iscsi.*`: portals, initiator groups, CHAP credentials, targets, extents and the mappings between the last two.
//!
//! Rows are as the API shows them: references are plain ids, but for a group's `auth`, which is the *tag* of credentials.
//! Every mutation is serialised with the others and renders the whole target.

mod access;
mod extent;
mod global;
pub(crate) mod portal;
mod target;

use serde_json::{Map, Value};

use super::crud::{Kind, Service, linked, row_of, taken};
use super::{Call, merge, unserved};
use crate::backend::IscsiSession;
use crate::exports;
use crate::failure::{EFAULT, Failure};
use crate::state::Table;

/// The iSCSI target's service.
const SERVICE: Service = Service { lock: |services| &services.iscsi, apply: exports::apply_iscsi };

fn text<'a>(row: &'a Map<String, Value>, key: &str) -> &'a str {
    row.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn number(row: &Map<String, Value>, key: &str) -> Option<i64> {
    row.get(key).and_then(Value::as_i64)
}

/// Who is logged in: at the backend's target, and by seed.
fn sessions(call: &Call) -> Result<Vec<IscsiSession>, Failure> {
    let mut found = call.shared.backend.iscsi_sessions()?;
    let rows = call.shared.rows();
    let own = |row: &Map<String, Value>, field: &str| text(row, field).to_owned();
    found.extend(rows.all(Table::IscsiSession).map(|(_, row)| IscsiSession {
        initiator: own(row, "initiator"),
        address: own(row, "initiator_addr"),
        target: own(row, "target"),
    }));
    Ok(found)
}

/// Refuses what a connected initiator uses.
fn refuse_in_use(call: &Call, targets: &[i64]) -> Result<(), Failure> {
    let sessions = sessions(call)?;
    for id in targets {
        let name = {
            let rows = call.shared.rows();
            rows.get(Table::IscsiTarget, *id).map(|row| text(row, "name").to_owned()).unwrap_or_default()
        };
        let iqn = exports::iqn(&call.shared.rows(), &name);
        if sessions.iter().any(|session| session.target == iqn) {
            return Err(Failure::call(EFAULT, format!("Target {name} is in use.")));
        }
    }
    Ok(())
}

pub(super) fn call(namespace: &str, verb: &str, call: &Call) -> Result<Value, Failure> {
    match (namespace, verb) {
        ("iscsi.global", _) => global::call(verb, call),
        ("iscsi.portal", "listen_ip_choices") => Ok(portal::choices(call)),
        ("iscsi.target", "validate_name") => Ok(target::validate_name(call)),
        ("iscsi.extent", "disk_choices") => Err(unserved("iscsi.extent.disk_choices")),
        ("iscsi.portal", _) => super::crud::crud::<portal::Portal>(&SERVICE, namespace, verb, call),
        ("iscsi.initiator", _) => super::crud::crud::<access::Initiator>(&SERVICE, namespace, verb, call),
        ("iscsi.auth", _) => super::crud::crud::<access::Auth>(&SERVICE, namespace, verb, call),
        ("iscsi.target", _) => super::crud::crud::<target::Target>(&SERVICE, namespace, verb, call),
        ("iscsi.extent", _) => super::crud::crud::<extent::Extent>(&SERVICE, namespace, verb, call),
        ("iscsi.targetextent", _) => {
            super::crud::crud::<extent::TargetExtent>(&SERVICE, namespace, verb, call)
        }
        _ => Err(unserved(&format!("{namespace}.{verb}"))),
    }
}
