//! `sharing.smb.*` and `smb.config`.
//!
//! The rule it keeps: a share's options are of the type that its purpose has. Given options replace all earlier ones; a
//! new purpose without options takes that purpose's defaults.

use std::sync::PoisonError;

use serde_json::{Map, Value, json};

use super::{Call, merge, unserved};
use crate::config::Version;
use crate::exports;
use crate::failure::{EEXIST, Failure, Item};
use crate::state::Table;
use crate::validate;

/// Parameters that `auxsmbconf` may not carry: wrong values keep smbd from starting, or lead out of the share.
const FORBIDDEN_PARAMETERS: &[&str] = &[
    "include",
    "path",
    "interfaces",
    "bind interfaces only",
    "registry shares",
    "passdb backend",
    "state directory",
];

fn entry(call: &Call, row: &Map<String, Value>) -> Value {
    let path = row.get("path").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut row = row.clone();
    call.show_place(&mut row, &path);
    if let Some(Value::Object(options)) = row.get_mut("options") {
        options.remove("purpose");
    }
    Value::Object(row)
}

fn text<'a>(row: &'a Map<String, Value>, key: &str) -> &'a str {
    row.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn check_path(
    call: &Call,
    at: &str,
    row: &Map<String, Value>,
    findings: &mut Vec<Item>,
) -> Result<(), Failure> {
    let path = text(row, "path");
    let at = format!("{at}.path");
    if text(row, "purpose") == "EXTERNAL_SHARE" {
        if path != "EXTERNAL" {
            findings.push(Item::new(at, format!("{path}: Path must be set to \"EXTERNAL\"")));
        }
        return Ok(());
    }
    if path.starts_with("EXTERNAL") {
        let words = "External paths may only be set for shares with an EXTERNAL_SHARE purpose";
        findings.push(Item::new(at, words));
        return Ok(());
    }
    let pools = call.shared.backend.pool_names()?;
    let inside = |pool: &str| {
        path.strip_prefix("/mnt/")
            .and_then(|p| p.strip_prefix(pool))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if !pools.iter().any(|pool| inside(pool)) {
        findings.push(Item::new(at, "The path must reside within a pool mount point"));
    } else if !call.shared.backend.path_exists(path) {
        findings.push(Item::new(at, "Path does not exist."));
    }
    Ok(())
}

fn check_auxiliary(at: &str, options: &Map<String, Value>, findings: &mut Vec<Item>) {
    let at = format!("{at}.options.auxsmbconf");
    for line in text(options, "auxsmbconf").lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        match line.split_once('=') {
            None => {
                let words = format!("Auxiliary parameters must be in the format of \"key = value\": {line}");
                findings.push(Item::new(at.clone(), words));
            }
            Some((key, _)) if FORBIDDEN_PARAMETERS.contains(&key.trim().to_lowercase().as_str()) => {
                let words = format!(
                    "{key} is a blacklisted auxiliary parameter. Changes to this parameter are not permitted."
                );
                findings.push(Item::new(at.clone(), words));
            }
            Some(_) => {}
        }
    }
}

/// What a purpose needs of the machine: the stand-in has no licence and no Apple extensions.
fn check_purpose(at: &str, row: &Map<String, Value>, findings: &mut Vec<Item>) {
    let words = match text(row, "purpose") {
        "VEEAM_REPOSITORY_SHARE" => "Veeam repository shares require a TrueNAS enterprise license.",
        "TIMEMACHINE_SHARE" | "FCP_SHARE" | "ENHANCED_TIMEMACHINE" => {
            "Apple SMB2/3 protocol extension support is required by this parameter. This feature may be enabled in the \
             general SMB server configuration."
        }
        _ => return,
    };
    findings.push(Item::new(format!("{at}.purpose"), words));
}

/// 25.04 judges the name where it judges the share; later versions do it with the types.
fn check_name_as_25_04(at: &str, name: &str, findings: &mut Vec<Item>) {
    let words = match validate::check_smb_name(name) {
        Ok(()) => return,
        Err(_) if name.is_empty() => "Share name may not be an empty string.".to_owned(),
        Err(words) if words.ends_with("share name is reserved.") => {
            format!("{name} is a reserved section name, please select another one")
        }
        Err(words) => match words.strip_prefix(&format!("{name}: s")) {
            Some(rest) => format!("S{rest}"),
            None => words,
        },
    };
    findings.push(Item::new(format!("{at}.name"), words));
}

fn check(call: &Call, at: &str, row: &mut Map<String, Value>, own: Option<i64>) -> Result<(), Failure> {
    let mut findings = Vec::new();
    let name = text(row, "name").to_lowercase();
    let flat = call.shared.config.version == Version::V25_04;
    if flat {
        check_name_as_25_04(at, text(row, "name"), &mut findings);
    }
    let taken = call
        .shared
        .rows()
        .all(Table::Smb)
        .any(|(id, other)| Some(id) != own && text(other, "name").to_lowercase() == name);
    if taken && flat {
        findings.push(Item {
            attribute: Some(format!("{at}.name")),
            message: "Share with this name already exists.".into(),
            errno: EEXIST,
        });
    } else if taken {
        let words = "Share names are case-insensitive and must be unique";
        findings.push(Item::new(format!("{at}.name"), words));
    }
    check_path(call, at, row, &mut findings)?;
    check_purpose(at, row, &mut findings);
    let audited = row.get("audit").and_then(|audit| audit.get("enable")) == Some(&json!(true));
    let limited = |key: &str| {
        row.get("audit")
            .and_then(|audit| audit.get(key))
            .and_then(Value::as_array)
            .is_some_and(|list| !list.is_empty())
    };
    if audited && !limited("watch_list") && !limited("ignore_list") {
        let words = "Watch list or ignore list is required to enable auditing for an SMB share.";
        findings.push(Item::new(format!("{at}.audit.enable"), words));
    }
    if let Some(Value::Object(options)) = row.get_mut("options") {
        check_auxiliary(at, options, &mut findings);
        if options.get("vuid") == Some(&Value::Null) {
            options.insert("vuid".into(), uuid::Uuid::new_v4().to_string().into());
        } else if let Some(Value::String(vuid)) = options.get("vuid")
            && uuid::Uuid::parse_str(vuid).is_err()
        {
            findings.push(Item::new(format!("{at}.options.vuid"), "Invalid UUID"));
        }
    }
    if findings.is_empty() { Ok(()) } else { Err(Failure::Invalid(findings)) }
}

/// Gives a row without options those of its purpose.
fn fill_options(call: &Call, row: &mut Map<String, Value>) {
    let version = call.shared.config.version;
    if version > Version::V25_04 && !row.get("options").is_some_and(Value::is_object) {
        let options = validate::smb_options(version, text(row, "purpose")).unwrap_or(Value::Null);
        row.insert("options".into(), options);
    }
}

fn config() -> Value {
    json!({
        "id": 1, "netbiosname": "truenas", "netbiosalias": [], "workgroup": "WORKGROUP",
        "description": "TrueNAS Server", "enable_smb1": false, "unixcharset": "UTF-8", "localmaster": true,
        "syslog": false, "aapl_extensions": false, "admin_group": null, "guest": "nobody", "filemask": "DEFAULT",
        "dirmask": "DEFAULT", "ntlmv1_auth": false, "multichannel": false, "encryption": "DEFAULT", "bindip": [],
        "server_sid": null, "smb_options": "", "debug": false,
    })
}

pub(super) fn call(method: &str, call: &Call) -> Result<Value, Failure> {
    let shared = &call.shared;
    let lock = || shared.services.smb.lock().unwrap_or_else(PoisonError::into_inner);
    let row_of = |id: i64| {
        let rows = shared.rows();
        rows.get(Table::Smb, id).cloned().ok_or_else(|| Failure::not_found("Share", id))
    };
    match method {
        "smb.config" => Ok(config()),
        "sharing.smb.query" => {
            let rows: Vec<_> = shared.rows().all(Table::Smb).map(|(_, row)| row.clone()).collect();
            call.query().run(rows.iter().map(|row| entry(call, row)).collect())
        }
        "sharing.smb.get_instance" => Ok(entry(call, &row_of(call.number(0))?)),
        "sharing.smb.create" => {
            let _serial = lock();
            let mut row = call.object(0).clone();
            fill_options(call, &mut row);
            check(call, "sharingsmb_create", &mut row, None)?;
            let id = shared.rows().insert(Table::Smb, row)?;
            exports::apply_smb(shared)?;
            Ok(entry(call, &row_of(id)?))
        }
        "sharing.smb.update" => {
            let _serial = lock();
            let id = call.number(0);
            let mut row = row_of(id)?;
            let changes = call.object(1);
            if changes.get("purpose").is_some_and(|purpose| row.get("purpose") != Some(purpose)) {
                row.remove("options");
            }
            merge(&mut row, changes);
            fill_options(call, &mut row);
            check(call, "sharingsmb_update", &mut row, Some(id))?;
            shared.rows().replace(Table::Smb, id, row.clone())?;
            exports::apply_smb(shared)?;
            Ok(entry(call, &row))
        }
        "sharing.smb.delete" => {
            let _serial = lock();
            let id = call.number(0);
            row_of(id)?;
            shared.rows().remove(&[(Table::Smb, id)])?;
            exports::apply_smb(shared)?;
            Ok(json!(true))
        }
        _ => Err(unserved(method)),
    }
}
