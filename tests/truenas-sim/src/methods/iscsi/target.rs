//! `iscsi.target`

use serde_json::{Map, Value, json};

use super::{Call, Kind, linked, number, refuse_in_use, taken, text};
use crate::appliance::Shared;
use crate::exports;
use crate::failure::{Failure, Item};
use crate::state::{Row, Table};
use crate::validate;

pub(super) struct Target;

/// The groups of a target.
fn groups(row: &Row) -> impl Iterator<Item = &Map<String, Value>> {
    row.get("groups").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
}

/// Whether a group of any target names this id (for `auth`: this tag).
pub(super) fn groups_with(shared: &Shared, field: &str, id: i64) -> bool {
    let rows = shared.rows();
    rows.all(Table::IscsiTarget).any(|(_, row)| groups(row).any(|group| number(group, field) == Some(id)))
}

/// Leaves the groups that name this initiator group without one.
pub(super) fn forget_initiator(shared: &Shared, id: i64) -> Result<(), Failure> {
    let mut rows = shared.rows();
    let naming: Vec<(i64, Row)> = rows
        .all(Table::IscsiTarget)
        .filter(|(_, row)| groups(row).any(|group| number(group, "initiator") == Some(id)))
        .map(|(target, row)| (target, row.clone()))
        .collect();
    for (target, mut row) in naming {
        let mut left: Vec<Map<String, Value>> = groups(&row).cloned().collect();
        for group in left.iter_mut().filter(|group| number(group, "initiator") == Some(id)) {
            group.insert("initiator".into(), Value::Null);
        }
        row.insert("groups".into(), json!(left));
        rows.replace(Table::IscsiTarget, target, row)?;
    }
    Ok(())
}

/// `iscsi.target.validate_name`: the finding, or null.
pub(super) fn validate_name(call: &Call) -> Value {
    let name = call.text(0);
    let own = call.params.get(1).and_then(Value::as_i64);
    if !validate::is_target_name(name) {
        return "Lowercase alphanumeric characters plus dot (.), dash (-), and colon (:) are allowed.".into();
    }
    let used = taken(&call.shared, Table::IscsiTarget, "name", Some(&name.into()), own);
    if used { "Target with this name already exists".into() } else { Value::Null }
}

fn check_groups(call: &Call, prefix: &str, row: &Row, findings: &mut Vec<Item>) {
    let rows = call.shared.rows();
    let mut portals = Vec::new();
    for (n, group) in groups(row).enumerate() {
        let at = |field: &str| format!("{prefix}.groups.{n}.{field}");
        let portal = number(group, "portal").unwrap_or_default();
        if rows.get(Table::IscsiPortal, portal).is_none() {
            findings.push(Item::new(at("portal"), format!("Invalid portal group ID: {portal}")));
        } else if portals.contains(&portal) {
            findings
                .push(Item::new(at("portal"), format!("Portal {portal} cannot be duplicated on a target")));
        }
        portals.push(portal);
        if let Some(initiator) = number(group, "initiator")
            && rows.get(Table::IscsiInitiator, initiator).is_none()
        {
            findings.push(Item::new(at("initiator"), format!("Invalid initiator group ID: {initiator}")));
        }
        let method = text(group, "authmethod");
        match number(group, "auth") {
            None if method.starts_with("CHAP") => {
                findings
                    .push(Item::new(at("auth"), "Authentication group is required for CHAP and CHAP Mutual"));
            }
            None => {}
            Some(tag) => {
                let mut of_tag = rows
                    .all(Table::IscsiAuth)
                    .filter(|(_, auth)| number(auth, "tag") == Some(tag))
                    .peekable();
                if of_tag.peek().is_none() {
                    findings
                        .push(Item::new(at("auth"), format!("Authentication group {tag} does not exist")));
                } else if method == "CHAP_MUTUAL" && !of_tag.any(|(_, a)| !text(a, "peeruser").is_empty()) {
                    let words = format!("Authentication group {tag} does not support CHAP Mutual");
                    findings.push(Item::new(at("auth"), words));
                }
            }
        }
    }
}

impl Kind for Target {
    const TABLE: Table = Table::IscsiTarget;
    const NAME: &'static str = "iSCSI Target";

    fn check(call: &Call, prefix: &str, row: &mut Row, own: Option<i64>) -> Result<Vec<Item>, Failure> {
        let shared = &call.shared;
        let mut findings = Vec::new();
        if taken(shared, Table::IscsiTarget, "name", row.get("name"), own) {
            findings.push(Item::new(format!("{prefix}.name"), "Target with this name already exists"));
        }
        let alias = text(row, "alias").to_owned();
        if !alias.is_empty() {
            if alias == "target" || alias.contains('"') {
                findings.push(Item::new(format!("{prefix}.alias"), "Invalid alias"));
            } else if taken(shared, Table::IscsiTarget, "alias", row.get("alias"), own) {
                findings.push(Item::new(format!("{prefix}.alias"), "Alias already exists"));
            }
        }
        check_groups(call, prefix, row, &mut findings);
        if !row.contains_key("rel_tgt_id") {
            let rows = shared.rows();
            let used: Vec<i64> =
                rows.all(Table::IscsiTarget).filter_map(|(_, other)| number(other, "rel_tgt_id")).collect();
            let free = (1..).find(|id| !used.contains(id)).unwrap_or(1);
            row.insert("rel_tgt_id".into(), json!(free));
        }
        Ok(findings)
    }

    fn entry(_: &Call, row: &Row) -> Value {
        Value::Object(row.clone())
    }

    fn removal(call: &Call, id: i64) -> Result<Vec<(Table, i64)>, Failure> {
        let flag = |index| call.params.get(index) == Some(&Value::Bool(true));
        let (force, with_extents) = (flag(1), flag(2));
        if !force {
            refuse_in_use(call, &[id])?;
        }
        let mappings = linked(&call.shared, Table::IscsiTargetExtent, "target", id);
        let mut gone = Vec::new();
        if with_extents {
            let rows = call.shared.rows();
            let extents = mappings.iter().filter_map(|m| rows.get(Table::IscsiTargetExtent, *m));
            gone.extend(extents.filter_map(|m| number(m, "extent")).map(|e| (Table::IscsiExtent, e)));
        }
        gone.extend(mappings.into_iter().map(|m| (Table::IscsiTargetExtent, m)));
        // Removing a target ends its sessions.
        let rows = call.shared.rows();
        let iqn = rows.get(Table::IscsiTarget, id).map(|row| exports::iqn(&rows, text(row, "name")));
        let logged_in =
            rows.all(Table::IscsiSession).filter(|(_, row)| iqn.as_deref() == Some(text(row, "target")));
        gone.extend(logged_in.map(|(session, _)| (Table::IscsiSession, session)));
        gone.push((Table::IscsiTarget, id));
        Ok(gone)
    }
}
