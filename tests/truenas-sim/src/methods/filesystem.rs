//! `filesystem.*`: owner and mode of one directory.
//!
//! The rule it keeps: `setperm` on a path with an access list is refused unless the list may go.

use nix::unistd::{Gid, Group, Uid, User};
use serde_json::{Map, Value, json};

use super::{Call, unserved};
use crate::backend::{PermissionChange, Refusal};
use crate::failure::{EFAULT, EINVAL, ENOENT, Failure, Item};

pub(super) fn call(verb: &str, call: &Call) -> Result<Value, Failure> {
    match verb {
        "stat" => stat(call),
        "setperm" | "chown" => change(call, verb),
        _ => Err(unserved(&format!("filesystem.{verb}"))),
    }
}

fn stat(call: &Call) -> Result<Value, Failure> {
    let path = call.text(0);
    let Ok(found) = call.shared.backend.permissions(path) else {
        return Err(Failure::call(ENOENT, format!("Path {path} not found")));
    };
    let user = User::from_uid(Uid::from_raw(found.uid)).ok().flatten().map(|user| user.name);
    let group = Group::from_gid(Gid::from_raw(found.gid)).ok().flatten().map(|group| group.name);
    Ok(json!({
        "realpath": path, "type": "DIRECTORY", "size": 2, "allocation_size": 512, "mode": 0o40000 | found.mode,
        "mount_id": 1, "uid": found.uid, "gid": found.gid, "atime": 0.0, "mtime": 0.0, "ctime": 0.0, "btime": 0.0,
        "dev": 1, "inode": 34, "nlink": 2, "acl": found.acl, "is_mountpoint": true, "is_ctldir": false,
        "attributes": [], "user": user, "group": group,
    }))
}

/// A number as given (-1 is "as it is") or that of a name.
fn id(
    data: &Map<String, Value>,
    keys: (&str, &str),
    number: impl Fn(&str) -> Option<u32>,
    findings: &mut Vec<Item>,
) -> Option<u32> {
    if let Some(name) = data.get(keys.1).and_then(Value::as_str) {
        let found = number(name);
        if found.is_none() {
            findings.push(Item::new(format!("filesystem_setperm.{}", keys.1), format!("{name}: not found")));
        }
        return found;
    }
    data.get(keys.0).and_then(Value::as_i64).and_then(|id| u32::try_from(id).ok())
}

fn change(call: &Call, verb: &str) -> Result<Value, Failure> {
    let data = call.object(0);
    let text = |key: &str| data.get(key).and_then(Value::as_str);
    let path = text("path").unwrap_or_default();
    let mut findings = Vec::new();
    let user = |name: &str| match name {
        "root" => Some(0),
        _ => User::from_name(name).ok().flatten().map(|user| user.uid.as_raw()),
    };
    let group = |name: &str| match name {
        "root" | "wheel" => Some(0),
        _ => Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw()),
    };
    let mut change = PermissionChange {
        uid: id(data, ("uid", "user"), user, &mut findings),
        gid: id(data, ("gid", "group"), group, &mut findings),
        mode: None,
    };
    if let Some(mode) = text("mode") {
        change.mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o777);
        if change.mode.is_none() {
            findings.push(Item::new("filesystem_setperm.mode", "Mode is not an octal number"));
        }
    }
    if !path.starts_with("/mnt/") {
        findings.push(Item::new("filesystem_setperm.path", "Path is outside of /mnt"));
    }
    if !findings.is_empty() {
        return Err(Failure::Invalid(findings));
    }
    let found = call.shared.backend.permissions(path);
    let found = found.map_err(|_| Failure::call(ENOENT, format!("Path {path} not found")))?;
    let strip = data.get("options").and_then(|options| options.get("stripacl")) == Some(&json!(true));
    if verb == "setperm" && found.acl && !strip {
        let words = format!(
            "Non-trivial ACL present on [{path}]. Option \"stripacl\" required to change permission."
        );
        return Err(Failure::call(EINVAL, words));
    }
    match call.shared.backend.set_permissions(path, change) {
        Ok(()) => Ok(Value::Null),
        Err(error) if error.kind == Refusal::Missing => Err(Failure::call(ENOENT, error.text)),
        Err(error) => Err(Failure::call(EFAULT, error.text)),
    }
}
