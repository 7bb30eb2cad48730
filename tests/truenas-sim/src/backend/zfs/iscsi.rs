//! Linux's iSCSI target (LIO), through configfs, without `targetcli`.
//!
//! The rule it keeps: after `apply` configfs holds exactly the given targets, and what did not change was not touched, so
//! a session of an initiator that stays notices nothing. Removing an initiator's directory ends its session
//! (`core_tpg_del_initiator_node_acl`). Attributes are those of `drivers/target/target_core_configfs.c` and
//! `drivers/target/iscsi/iscsi_target_configfs.c`.
//!
//! Order: what shall go is taken away from the outside inwards (initiators, units, portals, the target, its store), what
//! shall come is made from the inside outwards, and the target is enabled last.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::configfs::{change, entries, link, make_directory, read, remove_directory, write, write_secret};
use crate::backend::{IscsiChap, IscsiSession, IscsiTarget, IscsiTargetEntry, IscsiUnit, Result};

/// The stores of this backend.
const STORES: &str = "core/iblock_0";
/// Name of the links between units, initiators and stores.
const LINK: &str = "truenas";

/// The target of this machine.
#[derive(Debug)]
pub(super) struct Target {
    base: PathBuf,
}

/// Whom a target admits, with their credentials; none for everyone.
type Admitted<'a> = Option<BTreeMap<&'a str, Option<&'a IscsiChap>>>;

fn admitted(target: &IscsiTargetEntry) -> Admitted<'_> {
    if target.groups.iter().any(|group| group.initiators.is_empty()) {
        return None;
    }
    let each = target
        .groups
        .iter()
        .flat_map(|group| group.initiators.iter().map(move |name| (name.as_str(), group.auth.as_ref())));
    Some(each.collect())
}

fn portals(target: &IscsiTargetEntry) -> BTreeSet<String> {
    let all = target.groups.iter().flat_map(|group| &group.portals);
    all.map(|portal: &SocketAddr| portal.to_string()).collect()
}

impl Target {
    pub(super) fn new(base: &Path) -> Self {
        Self { base: base.to_owned() }
    }

    fn fabric(&self) -> PathBuf {
        self.base.join("iscsi")
    }

    /// Makes configfs match.
    pub(super) fn apply(&self, target: &IscsiTarget) -> Result<()> {
        let nothing = IscsiTarget::default();
        let target = if target.running { target } else { &nothing };
        // Without the kernel's target there is nothing to take away.
        if target.targets.is_empty() && !self.fabric().exists() {
            return Ok(());
        }
        make_directory(&self.fabric())?;
        self.take_away(target)?;
        for entry in &target.targets {
            self.target(entry)?;
        }
        Ok(())
    }

    /// The initiators that are logged in.
    pub(super) fn sessions(&self) -> Result<Vec<IscsiSession>> {
        let mut sessions = Vec::new();
        for iqn in self.targets()? {
            let acls = self.group(&iqn).join("acls");
            for initiator in entries(&acls)? {
                // It may go at this very moment.
                let Ok(info) = read(&acls.join(&initiator).join("info")) else { continue };
                if info.contains("LOGGED_IN") {
                    let address =
                        info.split_whitespace().find_map(|word| word.parse::<std::net::IpAddr>().ok());
                    let address = address.map(|address| address.to_string()).unwrap_or_default();
                    sessions.push(IscsiSession { initiator, address, target: iqn.clone() });
                }
            }
        }
        Ok(sessions)
    }

    fn group(&self, iqn: &str) -> PathBuf {
        self.fabric().join(iqn).join("tpgt_1")
    }

    /// Target names in configfs; the fabric's own directories and files are none.
    fn targets(&self) -> Result<Vec<String>> {
        let names = entries(&self.fabric())?;
        Ok(names.into_iter().filter(|name| name.starts_with("iqn.")).collect())
    }

    fn take_away(&self, target: &IscsiTarget) -> Result<()> {
        for iqn in self.targets()? {
            let wanted = target.targets.iter().find(|entry| entry.iqn == iqn);
            let group = self.group(&iqn);
            if wanted.is_none() && group.exists() {
                change(&group.join("enable"), "0")?;
            }
            let keep = wanted.map(admitted).unwrap_or(Some(BTreeMap::new()));
            for initiator in entries(&group.join("acls"))? {
                if !keep.as_ref().is_some_and(|keep| keep.contains_key(initiator.as_str())) {
                    let directory = group.join("acls").join(&initiator);
                    for lun in units(&directory)? {
                        unlink(&directory.join(&lun).join(LINK))?;
                        remove_directory(&directory.join(&lun))?;
                    }
                    remove_directory(&directory)?;
                }
            }
            let kept: Vec<String> = wanted
                .into_iter()
                .flat_map(|entry| &entry.units)
                .map(|unit| format!("lun_{}", unit.lun))
                .collect();
            for lun in units(&group.join("lun"))? {
                if !kept.contains(&lun) {
                    unlink(&group.join("lun").join(&lun).join(LINK))?;
                    remove_directory(&group.join("lun").join(&lun))?;
                }
            }
            let listen = wanted.map(portals).unwrap_or_default();
            for portal in entries(&group.join("np"))? {
                if !listen.contains(&portal) {
                    remove_directory(&group.join("np").join(portal))?;
                }
            }
            if wanted.is_none() {
                remove_directory(&group)?;
                remove_directory(&self.fabric().join(&iqn))?;
            }
        }
        let used: BTreeSet<&str> =
            target.targets.iter().flat_map(|entry| &entry.units).map(|unit| unit.name.as_str()).collect();
        let stores = self.base.join(STORES);
        for name in entries(&stores)?.into_iter().filter(|name| !name.starts_with("hba_")) {
            if !used.contains(name.as_str()) {
                remove_directory(&stores.join(name))?;
            }
        }
        Ok(())
    }

    fn target(&self, entry: &IscsiTargetEntry) -> Result<()> {
        let group = self.group(&entry.iqn);
        make_directory(&self.fabric().join(&entry.iqn))?;
        make_directory(&group)?;
        for unit in &entry.units {
            self.store(unit)?;
            let directory = group.join("lun").join(format!("lun_{}", unit.lun));
            make_directory(&directory)?;
            link(&self.base.join(STORES).join(&unit.name), &directory.join(LINK))?;
        }
        let admitted = admitted(entry);
        let everyone = admitted.is_none();
        change(&group.join("attrib/generate_node_acls"), if everyone { "1" } else { "0" })?;
        change(&group.join("attrib/demo_mode_write_protect"), "0")?;
        let chap = admitted.iter().flatten().any(|(_, chap)| chap.is_some());
        change(&group.join("attrib/authentication"), if chap { "1" } else { "0" })?;
        for (initiator, chap) in admitted.into_iter().flatten() {
            let directory = group.join("acls").join(initiator);
            make_directory(&directory)?;
            if let Some(chap) = chap {
                let (peer, peer_secret) =
                    chap.peer.as_ref().map_or(("", ""), |(user, secret)| (user, secret));
                for (file, value) in [
                    ("userid", chap.user.as_str()),
                    ("password", &chap.secret),
                    ("userid_mutual", peer),
                    ("password_mutual", peer_secret),
                ] {
                    if !value.is_empty() {
                        write_secret(&directory.join("auth").join(file), value)?;
                    }
                }
            }
            for unit in &entry.units {
                let name = format!("lun_{}", unit.lun);
                make_directory(&directory.join(&name))?;
                link(&group.join("lun").join(&name), &directory.join(&name).join(LINK))?;
            }
        }
        for portal in portals(entry) {
            make_directory(&group.join("np").join(portal))?;
        }
        change(&group.join("enable"), "1")
    }

    /// The store of a unit: the zvol's block device.
    fn store(&self, unit: &IscsiUnit) -> Result<()> {
        make_directory(&self.base.join(STORES))?;
        let directory = self.base.join(STORES).join(&unit.name);
        if directory.exists() {
            return Ok(());
        }
        make_directory(&directory)?;
        let device = format!("/dev/zvol/{}", unit.zvol);
        let read_only = if unit.read_only { ",readonly=1" } else { "" };
        write(&directory.join("control"), &format!("udev_path={device}{read_only}"))?;
        write(&directory.join("udev_path"), &device)?;
        write(&directory.join("enable"), "1")?;
        write(&directory.join("wwn/vpd_unit_serial"), &unit.serial)
    }
}

/// `lun_N` directories.
fn units(directory: &Path) -> Result<Vec<String>> {
    Ok(entries(directory)?.into_iter().filter(|name| name.starts_with("lun_")).collect())
}

fn unlink(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(super::configfs::failed("unlinking", path, &error))
        }
        _ => Ok(()),
    }
}
