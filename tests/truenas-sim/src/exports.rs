//! From rows to what the servers shall serve. Called under the service's lock after every change.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::appliance::Shared;
use crate::backend::{
    IscsiChap, IscsiGroup, IscsiTarget, IscsiTargetEntry, IscsiUnit, NfsExport, NfsSecurity, NvmetDevice,
    NvmetHost, NvmetNamespace, NvmetPort, NvmetSubsystem, NvmetTarget, SmbShare,
};
use crate::failure::{ESERVICESTARTFAILURE, Failure};
use crate::state::{Row, Rows, Table};

/// How far the exports are up while the appliance boots. TrueNAS renders the NVMe target's port links before its
/// namespaces, so a host that reconnects early is refused or finds no namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Nothing is served.
    Down,
    /// NVMe ports answer, no subsystem is behind them.
    Port,
    /// Subsystems are linked to the ports, no host is allowed and no namespace is there.
    Subsystem,
    /// Hosts are allowed, no namespace is there.
    Host,
    /// Everything is served, NFS and SMB too.
    Complete,
}

fn text<'a>(row: &'a Row, key: &str) -> &'a str {
    row.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn owned(row: &Row, key: &str) -> Option<String> {
    row.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn is_on(row: &Row, key: &str) -> bool {
    row.get(key) == Some(&Value::Bool(true))
}

fn number(row: &Row, key: &str) -> i64 {
    row.get(key).and_then(Value::as_i64).unwrap_or(0)
}

fn list(row: &Row, key: &str) -> Vec<String> {
    row.get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect()
}

/// Whether a service runs.
pub(crate) fn running(rows: &Rows, service: &str) -> bool {
    rows.find(Table::Service, "service", &json!(service))
        .is_some_and(|(_, row)| text(row, "state") == "RUNNING")
}

/// The enabled NFS shares, as the server shall export them.
fn nfs_exports(rows: &Rows) -> Vec<NfsExport> {
    rows.all(Table::Nfs)
        .filter(|(_, row)| is_on(row, "enabled"))
        .map(|(id, row)| NfsExport {
            id,
            path: text(row, "path").to_owned(),
            read_only: is_on(row, "ro"),
            hosts: list(row, "hosts"),
            networks: list(row, "networks"),
            maproot: (owned(row, "maproot_user"), owned(row, "maproot_group")),
            mapall: (owned(row, "mapall_user"), owned(row, "mapall_group")),
            security: list(row, "security")
                .iter()
                .filter_map(|flavour| match flavour.as_str() {
                    "SYS" => Some(NfsSecurity::Sys),
                    "KRB5" => Some(NfsSecurity::Krb5),
                    "KRB5I" => Some(NfsSecurity::Krb5i),
                    "KRB5P" => Some(NfsSecurity::Krb5p),
                    _ => None,
                })
                .collect(),
        })
        .collect()
}

/// The enabled SMB shares of this machine, as the server shall serve them. Fields that only some purposes have are in
/// the options; 25.04 has them in the row itself.
fn smb_shares(rows: &Rows) -> Vec<SmbShare> {
    rows.all(Table::Smb)
        .filter(|(_, row)| is_on(row, "enabled") && text(row, "purpose") != "EXTERNAL_SHARE")
        .map(|(id, row)| {
            let options = row.get("options").and_then(Value::as_object);
            // 25.04 applies a purpose's preset to what it serves; the row keeps what was asked for.
            let is_preset = options.is_none() && text(row, "purpose") == "DEFAULT_SHARE";
            let options = options.unwrap_or(row);
            SmbShare {
                id,
                name: text(row, "name").to_owned(),
                path: text(row, "path").to_owned(),
                comment: text(row, "comment").to_owned(),
                read_only: is_on(row, "readonly") || is_on(row, "ro"),
                browsable: is_on(row, "browsable"),
                access_based: is_on(row, "access_based_share_enumeration") || is_on(row, "abe"),
                hosts_allow: if is_preset { Vec::new() } else { list(options, "hostsallow") },
                hosts_deny: list(options, "hostsdeny"),
                guest_ok: is_on(options, "guestok"),
                auxiliary: text(options, "auxsmbconf").to_owned(),
            }
        })
        .collect()
}

/// The NVMe target as far as the stage lets it be.
fn nvmet_target(rows: &Rows, stage: Stage) -> NvmetTarget {
    let hosts = rows
        .all(Table::Host)
        .map(|(_, row)| NvmetHost {
            nqn: text(row, "hostnqn").to_owned(),
            dhchap_key: owned(row, "dhchap_key"),
            dhchap_ctrl_key: owned(row, "dhchap_ctrl_key"),
            dhchap_dhgroup: owned(row, "dhchap_dhgroup"),
            dhchap_hash: text(row, "dhchap_hash").to_owned(),
        })
        .collect();
    let linked = |table, own: &str, id: i64, other: &str| -> Vec<i64> {
        rows.all(table)
            .filter(|(_, link)| number(link, own) == id)
            .map(|(_, link)| number(link, other))
            .collect()
    };
    let subsystems = rows
        .all(Table::Subsys)
        .map(|(id, row)| NvmetSubsystem {
            nqn: text(row, "subnqn").to_owned(),
            serial: text(row, "serial").to_owned(),
            allow_any_host: is_on(row, "allow_any_host"),
            qid_max: row.get("qid_max").and_then(Value::as_i64),
            ieee_oui: owned(row, "ieee_oui"),
            namespaces: if stage < Stage::Complete {
                Vec::new()
            } else {
                rows.all(Table::Namespace)
                    .filter(|(_, ns)| number(ns, "subsys_id") == id)
                    .filter_map(|(_, ns)| namespace(ns))
                    .collect()
            },
            allowed_hosts: if stage < Stage::Host {
                Vec::new()
            } else {
                linked(Table::HostSubsys, "subsys_id", id, "host_id")
                    .into_iter()
                    .filter_map(|host| rows.get(Table::Host, host).map(|row| text(row, "hostnqn").to_owned()))
                    .collect()
            },
        })
        .collect();
    let ports = rows
        .all(Table::Port)
        .filter(|(_, row)| is_on(row, "enabled"))
        .filter_map(|(id, row)| {
            Some(NvmetPort {
                index: number(row, "index"),
                transport: text(row, "addr_trtype").to_lowercase(),
                address: text(row, "addr_traddr").parse::<IpAddr>().ok()?,
                service_id: u16::try_from(number(row, "addr_trsvcid")).ok()?,
                subsystems: if stage < Stage::Subsystem {
                    Vec::new()
                } else {
                    linked(Table::PortSubsys, "port_id", id, "subsys_id")
                        .into_iter()
                        .filter_map(|s| rows.get(Table::Subsys, s).map(|row| text(row, "subnqn").to_owned()))
                        .collect()
                },
                answers_alone: stage == Stage::Port,
            })
        })
        .collect();
    NvmetTarget { running: running(rows, "nvmet") && stage > Stage::Down, hosts, subsystems, ports }
}

fn namespace(row: &Row) -> Option<NvmetNamespace> {
    let path = text(row, "device_path");
    let device = match path.strip_prefix("zvol/") {
        Some(zvol) => NvmetDevice::Zvol(zvol.to_owned()),
        None => NvmetDevice::File(path.to_owned()),
    };
    Some(NvmetNamespace {
        nsid: u32::try_from(number(row, "nsid")).ok()?,
        device,
        uuid: text(row, "device_uuid").to_owned(),
        nguid: text(row, "device_nguid").to_owned(),
        enabled: is_on(row, "enabled"),
    })
}

fn reload(shared: &Shared) {
    let reload = shared.faults.reload();
    if !reload.is_zero() {
        // Models the time that the service's reload takes, under the service's lock.
        std::thread::sleep(reload);
    }
}

/// Makes the NFS server serve the rows. A failure leaves the rows as they are, as on the appliance.
pub(crate) fn apply_nfs(shared: &Arc<Shared>) -> Result<(), Failure> {
    reload(shared);
    let (is_running, exports) = {
        let rows = shared.rows();
        (running(&rows, "nfs") && shared.stage() == Stage::Complete, nfs_exports(&rows))
    };
    let exports: Vec<NfsExport> =
        exports.into_iter().filter(|export| shared.backend.path_exists(&export.path)).collect();
    shared.backend.apply_nfs(is_running, &exports).map_err(|e| Failure::call(ESERVICESTARTFAILURE, e.text))
}

/// Makes the SMB server serve the rows.
pub(crate) fn apply_smb(shared: &Arc<Shared>) -> Result<(), Failure> {
    reload(shared);
    let (is_running, shares) = {
        let rows = shared.rows();
        (running(&rows, "cifs") && shared.stage() == Stage::Complete, smb_shares(&rows))
    };
    let shares: Vec<SmbShare> =
        shares.into_iter().filter(|share| shared.backend.path_exists(&share.path)).collect();
    shared.backend.apply_smb(is_running, &shares).map_err(|e| Failure::call(ESERVICESTARTFAILURE, e.text))
}

/// Makes the NVMe target serve the rows.
pub(crate) fn apply_nvmet(shared: &Arc<Shared>) -> Result<(), Failure> {
    reload(shared);
    let target = nvmet_target(&shared.rows(), shared.stage());
    shared.backend.apply_nvmet(&target).map_err(|e| Failure::call(ESERVICESTARTFAILURE, e.text))
}

/// Id of the single row of `iscsi.global`.
pub(crate) const ISCSI_CONFIG: i64 = 2;

/// `iscsi.global.config.basename`
pub(crate) fn iscsi_base(rows: &Rows) -> String {
    rows.get(Table::Config, ISCSI_CONFIG).map(|row| text(row, "basename").to_owned()).unwrap_or_default()
}

/// `iscsi.global.config.listen_port`
pub(crate) fn iscsi_port(rows: &Rows) -> u16 {
    let port = rows.get(Table::Config, ISCSI_CONFIG).map(|row| number(row, "listen_port"));
    port.and_then(|port| u16::try_from(port).ok()).unwrap_or(3260)
}

/// The IQN under which a target of this name is served.
pub(crate) fn iqn(rows: &Rows, name: &str) -> String {
    let whole = ["iqn.", "naa.", "eui."].iter().any(|prefix| name.starts_with(prefix));
    if whole { name.to_owned() } else { format!("{}:{name}", iscsi_base(rows)) }
}

/// The iSCSI targets that have logical units and admit somebody.
fn iscsi_target(rows: &Rows, is_running: bool) -> IscsiTarget {
    let port = iscsi_port(rows);
    let portals = |id: i64| -> Vec<SocketAddr> {
        let listen = rows.get(Table::IscsiPortal, id).and_then(|row| row.get("listen")?.as_array());
        let addresses = listen.into_iter().flatten().filter_map(|one| one.get("ip")?.as_str()?.parse().ok());
        addresses.map(|ip: IpAddr| SocketAddr::new(ip, port)).collect()
    };
    let group = |group: &Row| {
        let admitted = group.get("initiator").and_then(Value::as_i64);
        let admitted = admitted.and_then(|id| rows.get(Table::IscsiInitiator, id));
        let method = text(group, "authmethod");
        let tag = group.get("auth").filter(|_| method.starts_with("CHAP"));
        let auth = tag.and_then(|tag| rows.find(Table::IscsiAuth, "tag", tag)).map(|(_, auth)| IscsiChap {
            user: text(auth, "user").to_owned(),
            secret: text(auth, "secret").to_owned(),
            peer: (method == "CHAP_MUTUAL")
                .then(|| (text(auth, "peeruser").to_owned(), text(auth, "peersecret").to_owned())),
        });
        IscsiGroup {
            portals: portals(number(group, "portal")),
            initiators: admitted.map(|row| list(row, "initiators")).unwrap_or_default(),
            auth,
        }
    };
    let unit = |mapping: &Row| {
        let extent = rows.get(Table::IscsiExtent, number(mapping, "extent"))?;
        is_on(extent, "enabled").then(|| {
            Some(IscsiUnit {
                lun: u16::try_from(number(mapping, "lunid")).ok()?,
                name: text(extent, "name").to_owned(),
                zvol: text(extent, "disk").strip_prefix("zvol/")?.to_owned(),
                serial: text(extent, "serial").to_owned(),
                read_only: is_on(extent, "ro"),
            })
        })?
    };
    let targets = rows.all(Table::IscsiTarget).map(|(id, row)| IscsiTargetEntry {
        iqn: iqn(rows, text(row, "name")),
        groups: row
            .get("groups")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|value| value.as_object().map(group))
            .collect(),
        units: rows
            .all(Table::IscsiTargetExtent)
            .filter(|(_, mapping)| number(mapping, "target") == id)
            .filter_map(|(_, mapping)| unit(mapping))
            .collect(),
    });
    // A target without logical units is not served (`scst.conf.mako`).
    let targets = targets.filter(|target| !target.units.is_empty() && !target.groups.is_empty()).collect();
    IscsiTarget { running: is_running, targets }
}

/// Makes the iSCSI target serve the rows.
pub(crate) fn apply_iscsi(shared: &Arc<Shared>) -> Result<(), Failure> {
    reload(shared);
    let target = {
        let rows = shared.rows();
        iscsi_target(&rows, running(&rows, "iscsitarget") && shared.stage() == Stage::Complete)
    };
    shared.backend.apply_iscsi(&target).map_err(|e| Failure::call(ESERVICESTARTFAILURE, e.text))
}
