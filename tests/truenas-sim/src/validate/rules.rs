//! Cross-field rules that the request models carry in code, and the checks of names shared by several methods.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::config::Version;
use crate::failure::Item;
use crate::query;

/// Rules that look at the raw parameter before its types are checked.
pub(super) fn before(
    version: Version,
    method: &str,
    parameter: &str,
    value: &mut Value,
    findings: &mut Vec<Item>,
) {
    // 26 chooses the model by the type, and takes a missing one for a file system.
    if version >= Version::V26
        && method == "pool.dataset.create"
        && let Value::Object(data) = value
    {
        data.entry("type").or_insert_with(|| "FILESYSTEM".into());
    }
    if matches!(method, "sharing.smb.create" | "sharing.smb.update")
        && parameter == "data"
        && let Value::Object(data) = value
    {
        smb_purpose(data, findings);
    }
}

/// 26 says the same in fewer findings: what a field may also be is joined to the finding before it.
pub(super) fn in_words_of_26(findings: Vec<Item>) -> Vec<Item> {
    const ABSENT: &str = "Input should be an instance of _NotRequired";
    let mut out: Vec<Item> = Vec::with_capacity(findings.len());
    for mut item in findings {
        let attribute = item.attribute.clone().unwrap_or_default();
        if let (Some(field), Some(last)) =
            (attribute.strip_suffix(".is-instance[_NotRequired]"), out.last_mut())
            && last.attribute.as_deref().is_some_and(|at| at == format!("{field}.literal[0,None]"))
        {
            last.attribute = Some(field.to_owned());
            last.message = format!("{} or {ABSENT}", last.message);
            continue;
        }
        if item.message == "List must be unique" {
            item.message.push_str(" or Input should be a valid set");
        }
        if attribute == "login_data" {
            for mechanism in ["API_KEY_PLAIN", "PASSWORD_PLAIN", "TOKEN_PLAIN", "OTP_TOKEN", "SCRAM"] {
                let shown = format!("<AuthMech.{mechanism}: '{mechanism}'>");
                item.message = item.message.replace(&shown, &format!("'{mechanism}'"));
            }
        }
        out.push(item);
    }
    out
}

/// The purpose is given once, outside; the models copy it into the options to choose their type by it.
fn smb_purpose(data: &mut Map<String, Value>, findings: &mut Vec<Item>) {
    let purpose = data.get("purpose").cloned();
    match (data.get_mut("options"), purpose) {
        (Some(Value::Object(options)), Some(purpose)) => {
            options.insert("purpose".into(), purpose);
        }
        (Some(_), None) => {
            findings.push(Item::new("data", "Value error, You must set `purpose` if you set `options`."));
            data.remove("options");
        }
        _ => {}
    }
}

/// Rules that look at a parameter whose types are right.
pub(super) fn after(method: &str, parameter: &str, value: &Value, findings: &mut Vec<Item>) {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let mut refuse = |attribute: String, words: String| findings.push(Item::new(attribute, words));
    match (method, parameter) {
        (_, "filters" | "query-filters") => {
            if let Err(words) = query::check_filters(value) {
                refuse("filters".into(), format!("Value error, {words}"));
            }
        }
        (_, "options" | "query-options") if value.get("order_by").is_some() => {
            if let Err(words) = query::check_options(value) {
                refuse("options".into(), format!("Value error, {words}"));
            }
        }
        ("sharing.smb.create" | "sharing.smb.update", "data") => {
            if let Some(Err(words)) = text("name").map(check_smb_name) {
                refuse("data.name".into(), format!("Value error, {words}"));
            }
        }
        ("iscsi.target.create" | "iscsi.target.update", _)
            if text("name").is_some_and(|name| !is_target_name(name)) =>
        {
            // The appliance's own words, the missing space among them.
            let words = "Assertion failed, Name can only contain lowercase alphanumeric charactersplus dot (.), \
                         dash (-), and colon (:)";
            refuse(format!("{parameter}.name"), words.into());
        }
        ("nvmet.subsys.create" | "nvmet.subsys.update", _) => {
            if let Some(Err(words)) = text("subnqn").map(check_nqn) {
                refuse(format!("{parameter}.subnqn"), format!("Value error, {words}"));
            }
        }
        ("nvmet.global.update", _) => {
            if let Some(Err(words)) = text("basenqn").map(check_nqn) {
                refuse(format!("{parameter}.basenqn"), format!("Value error, {words}"));
            }
        }
        ("nvmet.host.create" | "nvmet.host.update", _) => {
            if let Some(Err(words)) = text("hostnqn").map(check_nqn) {
                refuse(format!("{parameter}.hostnqn"), format!("Value error, {words}"));
            }
            if method == "nvmet.host.create"
                && text("dhchap_ctrl_key").is_some()
                && text("dhchap_key").is_none()
            {
                let words =
                    "Value error, Cannot configure bi-directional authentication without setting dhchap_key";
                refuse(parameter.to_owned(), words.into());
            }
            for key in ["dhchap_key", "dhchap_ctrl_key"] {
                if text(key).is_some_and(|k| !is_dhchap_key(k)) {
                    refuse(
                        format!("{parameter}.{key}"),
                        "Value error, key is not in the DHHC-1 format".into(),
                    );
                }
            }
        }
        _ => {}
    }
}

/// Whether an iSCSI target may have this name.
pub fn is_target_name(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | ':'))
}

/// Names of sections of Samba's configuration that are no shares.
const RESERVED_SMB_NAMES: &[&str] = &["global", "printers", "homes"];
/// Characters that MS-FSCC 2.1.6 keeps out of a share's name, in the order in which they are named here.
const NOT_IN_SMB_NAMES: &str = "%<>*?|/\\+=;:\",[]";
/// Longest name of a share, in characters.
const LONGEST_SMB_NAME: usize = 80;

/// Checks the name of an SMB share. The error is in the appliance's words.
pub fn check_smb_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("Share name must contain at least one character".into());
    }
    if name.chars().count() > LONGEST_SMB_NAME {
        return Err(format!("{name}: share name must not exceed 80 characters in length"));
    }
    if RESERVED_SMB_NAMES.contains(&name.to_lowercase().as_str()) {
        return Err(format!("{name}: share name is reserved."));
    }
    let bad: Vec<String> =
        NOT_IN_SMB_NAMES.chars().filter(|c| name.contains(*c)).map(|c| c.to_string()).collect();
    if !bad.is_empty() {
        let bad = bad.join(", ");
        return Err(format!("{name}: share name contains the following invalid characters: {bad}"));
    }
    if name.contains(char::is_control) {
        return Err(format!("{name}: share name contains unicode control characters"));
    }
    Ok(())
}

/// `DHHC-1:0x:<base64>:`
fn is_dhchap_key(key: &str) -> bool {
    let mut parts = key.split(':');
    parts.next() == Some("DHHC-1")
        && parts.next().is_some_and(|hash| matches!(hash, "00" | "01" | "02" | "03"))
        && parts.next().is_some_and(|secret| !secret.is_empty() && STANDARD.decode(secret).is_ok())
        && parts.next() == Some("")
        && parts.next().is_none()
}

const UUID_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";

/// Checks an NVMe qualified name: `nqn.YYYY-MM.<reverse domain>:<name>` or the uuid form. The error is in the
/// appliance's words.
fn check_nqn(nqn: &str) -> Result<(), String> {
    let Some(rest) = nqn.strip_prefix("nqn") else {
        return Err(format!("{nqn}: must start with \"nqn\""));
    };
    if let Some(uuid) = nqn.strip_prefix(UUID_PREFIX) {
        if uuid.len() != 36 {
            return Err(format!("{nqn}: uuid is incorrect length"));
        }
        return uuid::Uuid::parse_str(uuid).map(|_| ()).map_err(|_| format!("{nqn}: uuid is not valid"));
    }
    let Some(rest) = rest.strip_prefix('.') else {
        return Err(format!("{nqn}: must start with \"nqn.\""));
    };
    let date_ok = |date: &str| {
        date.split_once('-').is_some_and(|(year, month)| {
            year.len() == 4
                && year.bytes().all(|b| b.is_ascii_digit())
                && month.len() == 2
                && month.parse::<u8>().is_ok_and(|m| (1..=12).contains(&m))
        })
    };
    match rest.split_once('.') {
        Some((date, domain)) if date_ok(date) => match domain.split_once(':') {
            Some((domain, name)) if !domain.is_empty() && !name.is_empty() => Ok(()),
            _ => Err(format!("{nqn}: must have a reverse domain name and a user defined name")),
        },
        _ => Err(format!("{nqn}: must start with \"nqn.YYYY-MM.\"")),
    }
}

/// Whether ZFS takes this as the full name of a dataset below a pool: components of letters, digits, space and
/// `-_.:`, none empty, none `.` or `..`, no trailing space, at most 255 bytes.
pub fn is_dataset_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | ' ');
    name.len() <= 255
        && !name.ends_with(' ')
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != ".." && part.chars().all(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nqns_of_both_forms_are_accepted() {
        for good in [
            "nqn.2024-01.io.example:pvc-1",
            "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555",
            "nqn.2011-06.com.truenas:uuid:4d33:a:b",
        ] {
            assert_eq!(check_nqn(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn malformed_nqns_are_refused() {
        for bad in [
            "",
            "nqn",
            "nqn.2024-13.io.example:x",
            "nqn.24-01.io:x",
            "nqn.2024-01.io.example",
            "nqn.2024-01.:x",
        ] {
            assert!(check_nqn(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn dataset_names_are_those_of_zfs() {
        assert!(is_dataset_name("tank/a b/c-1_2.3:4"));
        for bad in ["tank//a", "tank/a ", "/tank", "tank/a@s", "tank/..", "tank/ü", "1tank/a", "tank/a/", ""]
        {
            assert!(!is_dataset_name(bad), "{bad}");
        }
    }
}
