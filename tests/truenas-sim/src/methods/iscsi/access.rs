//! `iscsi.initiator` (who is admitted) and `iscsi.auth` (CHAP credentials).

use serde_json::{Value, json};

use super::{Call, Kind, number, text};
use crate::failure::{EFAULT, Failure, Item};
use crate::state::{Row, Table};

pub(super) struct Initiator;
pub(super) struct Auth;

impl Kind for Initiator {
    const TABLE: Table = Table::IscsiInitiator;
    const NAME: &'static str = "Initiator";

    fn check(_: &Call, prefix: &str, row: &mut Row, _: Option<i64>) -> Result<Vec<Item>, Failure> {
        let names = row.get("initiators").and_then(Value::as_array).into_iter().flatten();
        let bad = names.filter_map(Value::as_str).enumerate().filter(|(_, name)| {
            name.is_empty() || name.len() > 223 || name.contains(|c: char| c.is_whitespace() || c == '"')
        });
        Ok(bad
            .map(|(n, name)| Item::new(format!("{prefix}.initiators.{n}"), format!("{name}: invalid name")))
            .collect())
    }

    fn entry(_: &Call, row: &Row) -> Value {
        Value::Object(row.clone())
    }

    fn removal(call: &Call, id: i64) -> Result<Vec<(Table, i64)>, Failure> {
        // `ON DELETE SET NULL`: a target group that names it admits everyone from now on.
        super::target::forget_initiator(&call.shared, id)?;
        Ok(vec![(Table::IscsiInitiator, id)])
    }
}

/// Lengths of a CHAP secret in characters.
const SECRET: std::ops::RangeInclusive<usize> = 12..=16;

impl Kind for Auth {
    const TABLE: Table = Table::IscsiAuth;
    const NAME: &'static str = "iSCSI Authorized Access";

    fn check(_: &Call, prefix: &str, row: &mut Row, _: Option<i64>) -> Result<Vec<Item>, Failure> {
        let mut findings = Vec::new();
        let mut check = |field: &str, needed: bool| {
            let value = text(row, field);
            let at = format!("{prefix}.{field}");
            if value.is_empty() && !needed {
                return;
            }
            if !SECRET.contains(&value.chars().count()) {
                findings.push(Item::new(at.clone(), "Secret must be between 12 and 16 characters."));
            }
            if value.trim() != value {
                findings.push(Item::new(at, "Secret can't contain leading or trailing whitespace."));
            }
        };
        check("secret", true);
        let peer = !text(row, "peeruser").is_empty();
        check("peersecret", peer);
        if peer && text(row, "peersecret") == text(row, "secret") {
            let words = "The peer secret cannot be the same as user secret.";
            findings.push(Item::new(format!("{prefix}.peersecret"), words));
        }
        if !peer && !text(row, "peersecret").is_empty() {
            let words = "The peer user is required if you set a peer secret.";
            findings.push(Item::new(format!("{prefix}.peersecret"), words));
        }
        Ok(findings)
    }

    fn entry(_: &Call, row: &Row) -> Value {
        // The key of the stand-in is a full administrator's, who sees secrets.
        Value::Object(row.clone())
    }

    fn removal(call: &Call, id: i64) -> Result<Vec<(Table, i64)>, Failure> {
        let rows = call.shared.rows();
        let tag = rows.get(Table::IscsiAuth, id).and_then(|row| number(row, "tag")).unwrap_or_default();
        let last = !rows
            .all(Table::IscsiAuth)
            .any(|(other, row)| other != id && row.get("tag") == Some(&json!(tag)));
        drop(rows);
        if last && super::target::groups_with(&call.shared, "auth", tag) {
            let words = format!("Authorized access of {id} is being used by following target(s)");
            return Err(Failure::call(EFAULT, words));
        }
        Ok(vec![(Table::IscsiAuth, id)])
    }
}
