//! `sharing.nfs.*` and `nfs.config`.

use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::PoisonError;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::{Call, merge, unserved};
use crate::exports;
use crate::failure::{Failure, Item};
use crate::state::Table;

fn entry(call: &Call, row: &Map<String, Value>) -> Value {
    let path = row.get("path").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut row = row.clone();
    call.show_place(&mut row, &path);
    Value::Object(row)
}

fn list<'a>(row: &'a Map<String, Value>, key: &str) -> Vec<&'a str> {
    row.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn user_exists(name: &str) -> bool {
    name == "root" || matches!(nix::unistd::User::from_name(name), Ok(Some(_)))
}

fn group_exists(name: &str) -> bool {
    // TrueNAS calls the group with gid 0 by both names.
    matches!(name, "root" | "wheel") || matches!(nix::unistd::Group::from_name(name), Ok(Some(_)))
}

fn check_access(prefix: &str, row: &Map<String, Value>, findings: &mut Vec<Item>) {
    for (index, host) in list(row, "hosts").into_iter().enumerate() {
        let at = format!("{prefix}.hosts.{index}");
        if host.contains(|c: char| c.is_whitespace() || c == '"' || c == '\'') {
            findings.push(Item::new(at, "Cannot contain spaces or quotes"));
        } else if host.parse::<IpAddr>().is_err() && (host, 0).to_socket_addrs().is_err() {
            findings.push(Item::new(at, format!("Unable to resolve host {host}")));
        }
    }
    let mut networks: Vec<IpNet> = Vec::new();
    for (index, network) in list(row, "networks").into_iter().enumerate() {
        let at = format!("{prefix}.networks.{index}");
        match network.parse::<IpNet>() {
            Ok(net) if net.addr() != net.network() => {
                findings.push(Item::new(at, format!("{network} has host bits set")));
            }
            Ok(net) if networks.iter().any(|other| other.contains(&net) || net.contains(other)) => {
                findings
                    .push(Item::new(at, format!("{network} overlaps with another network of this share")));
            }
            Ok(net) => networks.push(net),
            Err(_) => findings.push(Item::new(at, format!("{network} is not a network"))),
        }
    }
}

fn check_mapping(prefix: &str, row: &Map<String, Value>, findings: &mut Vec<Item>) {
    let text = |key: &str| row.get(key).and_then(Value::as_str);
    for kind in ["maproot", "mapall"] {
        let (user, group) = (format!("{kind}_user"), format!("{kind}_group"));
        match (text(&user), text(&group)) {
            (None, Some(_)) => {
                let words = "This field is required when map group is specified";
                findings.push(Item::new(format!("{prefix}.{user}"), words));
            }
            (Some(name), _) if !user_exists(name) => {
                findings.push(Item::new(format!("{prefix}.{user}"), "User not found"));
            }
            (_, Some(name)) if !group_exists(name) => {
                findings.push(Item::new(format!("{prefix}.{group}"), "Group not found"));
            }
            _ => {}
        }
    }
    if text("maproot_user").is_some() && text("mapall_user").is_some() {
        findings.push(Item::new(format!("{prefix}.mapall_user"), "maproot_user disqualifies mapall_user"));
    }
}

/// Two shares of one path may not name the same host or overlapping networks, nor both be open to everyone.
fn check_overlap(
    prefix: &str,
    row: &Map<String, Value>,
    other: &Map<String, Value>,
    findings: &mut Vec<Item>,
) {
    let path = row.get("path").and_then(Value::as_str).unwrap_or_default();
    let open = |row: &Map<String, Value>| list(row, "hosts").is_empty() && list(row, "networks").is_empty();
    if open(row) && open(other) {
        let words = format!("Another NFS share already exports {path} for all networks and hosts");
        findings.push(Item::new(format!("{prefix}.path"), words));
    }
    let others = list(other, "hosts");
    for host in list(row, "hosts").into_iter().filter(|host| others.contains(host)) {
        let words = format!("Another NFS share already exports {path} for host {host}");
        findings.push(Item::new(format!("{prefix}.hosts"), words));
    }
    let nets = |row: &Map<String, Value>| -> Vec<IpNet> {
        list(row, "networks").into_iter().filter_map(|n| n.parse().ok()).collect()
    };
    let others = nets(other);
    for net in nets(row).into_iter().filter(|net| others.iter().any(|o| o.contains(net) || net.contains(o))) {
        let words = format!("Another NFS share already exports {path} for network {net}");
        findings.push(Item::new(format!("{prefix}.networks"), words));
    }
}

fn check(call: &Call, prefix: &str, row: &Map<String, Value>, own: Option<i64>) -> Result<(), Failure> {
    let mut findings = Vec::new();
    let path = row.get("path").and_then(Value::as_str).unwrap_or_default();
    let pools = call.shared.backend.pool_names()?;
    let inside = |pool: &str| {
        path.strip_prefix("/mnt/")
            .and_then(|p| p.strip_prefix(pool))
            .is_some_and(|r| r.is_empty() || r.starts_with('/'))
    };
    if !pools.iter().any(|pool| inside(pool)) {
        findings.push(Item::new(format!("{prefix}.path"), "The path must reside within a pool mount point"));
    } else if !call.shared.backend.path_exists(path) {
        findings.push(Item::new(format!("{prefix}.path"), format!("Path {path} does not exist")));
    }
    check_access(prefix, row, &mut findings);
    check_mapping(prefix, row, &mut findings);
    if list(row, "security").iter().any(|flavour| *flavour != "SYS") {
        let words = "Kerberos needs NFSv4 with a keytab, which the stand-in has not";
        findings.push(Item::new(format!("{prefix}.security"), words));
    }
    if row.get("expose_snapshots") == Some(&json!(true)) {
        findings.push(Item::new(format!("{prefix}.expose_snapshots"), "This is an Enterprise feature"));
    }
    if row.get("aliases").and_then(Value::as_array).is_some_and(|a| !a.is_empty()) {
        findings.push(Item::new(format!("{prefix}.aliases"), "This field is now ignored and must be empty"));
    }
    for (id, other) in call.shared.rows().all(Table::Nfs) {
        if Some(id) != own && other.get("path") == row.get("path") {
            check_overlap(prefix, row, other, &mut findings);
        }
    }
    if findings.is_empty() { Ok(()) } else { Err(Failure::Invalid(findings)) }
}

pub(super) fn call(method: &str, call: &Call) -> Result<Value, Failure> {
    let shared = &call.shared;
    let lock = || shared.services.nfs.lock().unwrap_or_else(PoisonError::into_inner);
    let row_of = |id: i64| {
        let rows = shared.rows();
        rows.get(Table::Nfs, id).cloned().ok_or_else(|| Failure::not_found("Share", id))
    };
    match method {
        "sharing.nfs.query" => {
            let rows: Vec<_> = shared.rows().all(Table::Nfs).map(|(_, row)| row.clone()).collect();
            call.query().run(rows.iter().map(|row| entry(call, row)).collect())
        }
        "sharing.nfs.get_instance" => Ok(entry(call, &row_of(call.number(0))?)),
        "sharing.nfs.create" => {
            let _serial = lock();
            let row = call.object(0).clone();
            check(call, "sharingnfs_create", &row, None)?;
            let id = shared.rows().insert(Table::Nfs, row)?;
            exports::apply_nfs(shared)?;
            Ok(entry(call, &row_of(id)?))
        }
        "sharing.nfs.update" => {
            let _serial = lock();
            let id = call.number(0);
            let mut row = row_of(id)?;
            merge(&mut row, call.object(1));
            check(call, "sharingnfs_update", &row, Some(id))?;
            shared.rows().replace(Table::Nfs, id, row.clone())?;
            exports::apply_nfs(shared)?;
            Ok(entry(call, &row))
        }
        "sharing.nfs.delete" => {
            let _serial = lock();
            let id = call.number(0);
            row_of(id)?;
            shared.rows().remove(&[(Table::Nfs, id)])?;
            exports::apply_nfs(shared)?;
            Ok(json!(true))
        }
        "nfs.config" => Ok(json!({
            "id": 1, "servers": 8, "allow_nonroot": false, "protocols": ["NFSV3", "NFSV4"], "v4_krb": false,
            "v4_domain": "", "bindip": [], "mountd_port": null, "rpcstatd_port": null, "rpclockd_port": null,
            "mountd_log": true, "statd_lockd_log": false, "v4_krb_enabled": false, "userd_manage_gids": false,
            "keytab_has_nfs_spn": false, "managed_nfsd": true, "rdma": false,
        })),
        _ => Err(unserved(method)),
    }
}
