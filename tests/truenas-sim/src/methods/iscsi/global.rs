//! `iscsi.global`: configuration and live sessions.

use serde_json::{Map, Value, json};

use super::{Call, merge, text, unserved};
use crate::config::Version;
use crate::exports::{self, ISCSI_CONFIG};
use crate::failure::Failure;
use crate::state::Table;

fn config(call: &Call) -> Value {
    let rows = call.shared.rows();
    let mut out = rows.get(Table::Config, ISCSI_CONFIG).cloned().unwrap_or_default();
    out.insert("id".into(), json!(1));
    if call.shared.config.version >= Version::V26 {
        // SCST, written by way of its configuration file.
        out.entry("mode").or_insert(json!(0));
        out.entry("direct_config").or_insert(json!(false));
    }
    Value::Object(out)
}

fn sessions(call: &Call) -> Result<Vec<Value>, Failure> {
    let found = super::sessions(call)?;
    let rows = call.shared.rows();
    let base = exports::iscsi_base(&rows);
    let shown = found.into_iter().map(|session| {
        let name = session.target.strip_prefix(&format!("{base}:")).unwrap_or(&session.target).to_owned();
        let target = rows.find(Table::IscsiTarget, "name", &name.clone().into());
        let alias = target.map(|(_, row)| text(row, "alias").to_owned()).filter(|alias| !alias.is_empty());
        json!({
            "initiator": session.initiator, "initiator_addr": session.address, "initiator_alias": null,
            "target": session.target, "target_alias": alias.unwrap_or(name), "header_digest": "NONE", "data_digest": "NONE",
            "max_data_segment_length": null, "max_receive_data_segment_length": null,
            "max_xmit_data_segment_length": null, "max_burst_length": null, "first_burst_length": null,
            "immediate_data": true, "iser": false, "offload": false,
        })
    });
    Ok(shown.collect())
}

pub(super) fn call(verb: &str, call: &Call) -> Result<Value, Failure> {
    match verb {
        "config" => Ok(config(call)),
        "sessions" => call.query().run(sessions(call)?),
        "update" => {
            let changes: &Map<String, Value> = call.object(0);
            {
                let mut rows = call.shared.rows();
                let mut row = rows.get(Table::Config, ISCSI_CONFIG).cloned().unwrap_or_default();
                merge(&mut row, changes);
                rows.replace(Table::Config, ISCSI_CONFIG, row)?;
            }
            exports::apply_iscsi(&call.shared)?;
            Ok(config(call))
        }
        _ => Err(unserved(&format!("iscsi.global.{verb}"))),
    }
}
