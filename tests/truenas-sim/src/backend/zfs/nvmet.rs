//! The kernel's NVMe target, through configfs.
//!
//! The rule it keeps: after `apply` configfs holds exactly the given target, and what did not change was not touched, so
//! a connected host notices only what was meant for it. Layout: `Documentation/ABI` has none; the attributes are those
//! of `drivers/nvme/target/configfs.c`.
//!
//! Order: what shall go is unlinked from the outside inwards (port links, namespaces, host links, directories), what
//! shall come is made from the inside outwards and the port links last.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::configfs::{
    change, entries, link, make_directory, read, remove_directory, unlink_others, write, write_secret,
};
use crate::backend::{
    NvmetDevice, NvmetHost, NvmetNamespace, NvmetPort, NvmetSession, NvmetSubsystem, NvmetTarget, Result,
};

/// The target of this machine.
#[derive(Debug)]
pub(super) struct Target {
    base: PathBuf,
    /// What stands before `/mnt` in the paths of file namespaces.
    root: PathBuf,
}

impl Target {
    pub(super) fn new(base: &Path, root: &Path) -> Self {
        Self { base: base.to_owned(), root: root.to_owned() }
    }

    /// Makes configfs match.
    pub(super) fn apply(&self, target: &NvmetTarget) -> Result<()> {
        let nothing = NvmetTarget::default();
        let target = if target.running { target } else { &nothing };
        self.take_away(target)?;
        for host in &target.hosts {
            self.host(host)?;
        }
        for subsystem in &target.subsystems {
            self.subsystem(subsystem)?;
        }
        for port in &target.ports {
            self.port(port)?;
        }
        Ok(())
    }

    /// Tells the namespaces on a zvol that it has another size.
    pub(super) fn revalidate(&self, zvol: &str) -> Result<()> {
        let device = self.device(&NvmetDevice::Zvol(zvol.to_owned()));
        for subsystem in entries(&self.base.join("subsystems"))? {
            let namespaces = self.base.join("subsystems").join(subsystem).join("namespaces");
            for namespace in entries(&namespaces)? {
                let namespace = namespaces.join(namespace);
                if read(&namespace.join("device_path"))? == device && read(&namespace.join("enable"))? == "1"
                {
                    write(&namespace.join("revalidate_size"), "1")?;
                }
            }
        }
        Ok(())
    }

    /// Hosts of the target that must be made anew: the kernel takes another key, but never none.
    fn unlocked(&self, target: &NvmetTarget) -> BTreeSet<String> {
        let has = |nqn: &str, file: &str| {
            read(&self.base.join("hosts").join(nqn).join(file)).is_ok_and(|key| !key.is_empty())
        };
        let lost = |host: &&NvmetHost| {
            (host.dhchap_key.is_none() && has(&host.nqn, "dhchap_key"))
                || (host.dhchap_ctrl_key.is_none() && has(&host.nqn, "dhchap_ctrl_key"))
        };
        target.hosts.iter().filter(lost).map(|host| host.nqn.clone()).collect()
    }

    fn take_away(&self, target: &NvmetTarget) -> Result<()> {
        let unlocked = self.unlocked(target);
        let ports = self.base.join("ports");
        for name in entries(&ports)? {
            let wanted = target.ports.iter().find(|port| port.index.to_string() == name);
            let directory = ports.join(&name);
            // The kernel refuses another address while subsystems are linked, so a moved port is made anew.
            let keep = match wanted {
                Some(port) => address_of(&directory)? == address(port),
                None => false,
            };
            let links: BTreeSet<&str> = match wanted {
                Some(port) if keep => port.subsystems.iter().map(String::as_str).collect(),
                _ => BTreeSet::new(),
            };
            unlink_others(&directory.join("subsystems"), &links)?;
            if !keep {
                remove_directory(&directory)?;
            }
        }
        let subsystems = self.base.join("subsystems");
        for nqn in entries(&subsystems)? {
            let wanted = target.subsystems.iter().find(|subsystem| subsystem.nqn == nqn);
            let directory = subsystems.join(&nqn);
            let namespaces = directory.join("namespaces");
            for name in entries(&namespaces)? {
                let present = namespaces.join(&name);
                let namespace = wanted
                    .and_then(|subsystem| subsystem.namespaces.iter().find(|n| n.nsid.to_string() == name));
                let keep = match namespace {
                    Some(namespace) => self.same(&present, namespace)?,
                    None => false,
                };
                if !keep {
                    write(&present.join("enable"), "0")?;
                    remove_directory(&present)?;
                }
            }
            let hosts = wanted.map(|subsystem| {
                let stay = subsystem.allowed_hosts.iter().filter(|nqn| !unlocked.contains(*nqn));
                stay.map(String::as_str).collect()
            });
            unlink_others(&directory.join("allowed_hosts"), &hosts.unwrap_or_default())?;
            if wanted.is_none() {
                remove_directory(&directory)?;
            }
        }
        let hosts = self.base.join("hosts");
        for nqn in entries(&hosts)? {
            if unlocked.contains(&nqn) || !target.hosts.iter().any(|host| host.nqn == nqn) {
                remove_directory(&hosts.join(nqn))?;
            }
        }
        Ok(())
    }

    /// Whether a namespace in configfs has this device and this identity; both are fixed once it has been enabled.
    fn same(&self, present: &Path, wanted: &NvmetNamespace) -> Result<bool> {
        Ok(read(&present.join("device_path"))? == self.device(&wanted.device)
            && read(&present.join("device_uuid"))? == wanted.uuid
            && plain(&read(&present.join("device_nguid"))?) == plain(&wanted.nguid))
    }

    fn host(&self, host: &NvmetHost) -> Result<()> {
        let directory = self.base.join("hosts").join(&host.nqn);
        make_directory(&directory)?;
        // Kernels without in-band authentication lack these files; without keys nothing is missed.
        if let Some(key) = &host.dhchap_key {
            write_secret(&directory.join("dhchap_key"), key)?;
            write(
                &directory.join("dhchap_hash"),
                &format!("hmac({})", host.dhchap_hash.to_lowercase().replace('-', "")),
            )?;
            let group = match host.dhchap_dhgroup.as_deref().and_then(|group| group.strip_suffix("-BIT")) {
                Some(bits) => format!("ffdhe{bits}"),
                None => "null".to_owned(),
            };
            write(&directory.join("dhchap_dhgroup"), &group)?;
        }
        if let Some(key) = &host.dhchap_ctrl_key {
            write_secret(&directory.join("dhchap_ctrl_key"), key)?;
        }
        Ok(())
    }

    fn subsystem(&self, subsystem: &NvmetSubsystem) -> Result<()> {
        let directory = self.base.join("subsystems").join(&subsystem.nqn);
        make_directory(&directory)?;
        change(&directory.join("attr_serial"), &subsystem.serial)?;
        if let Some(maximum) = subsystem.qid_max {
            change(&directory.join("attr_qid_max"), &maximum.to_string())?;
        }
        if let Some(oui) = &subsystem.ieee_oui {
            change(&directory.join("attr_ieee_oui"), oui)?;
        }
        // The kernel refuses `1` while hosts are linked and links while it is `1`.
        change(&directory.join("attr_allow_any_host"), if subsystem.allow_any_host { "1" } else { "0" })?;
        for nqn in &subsystem.allowed_hosts {
            link(&self.base.join("hosts").join(nqn), &directory.join("allowed_hosts").join(nqn))?;
        }
        for namespace in &subsystem.namespaces {
            self.namespace(&directory.join("namespaces").join(namespace.nsid.to_string()), namespace)?;
        }
        Ok(())
    }

    fn namespace(&self, directory: &Path, namespace: &NvmetNamespace) -> Result<()> {
        if !directory.exists() {
            make_directory(directory)?;
            write(&directory.join("device_path"), &self.device(&namespace.device))?;
            write(&directory.join("device_uuid"), &namespace.uuid)?;
            write(&directory.join("device_nguid"), &namespace.nguid)?;
        }
        change(&directory.join("enable"), if namespace.enabled { "1" } else { "0" })
    }

    fn port(&self, port: &NvmetPort) -> Result<()> {
        let directory = self.base.join("ports").join(port.index.to_string());
        if !directory.exists() {
            make_directory(&directory)?;
            let [transport, family, address, service] = address(port);
            write(&directory.join("addr_trtype"), &transport)?;
            write(&directory.join("addr_adrfam"), &family)?;
            write(&directory.join("addr_traddr"), &address)?;
            write(&directory.join("addr_trsvcid"), &service)?;
        }
        for nqn in &port.subsystems {
            link(&self.base.join("subsystems").join(nqn), &directory.join("subsystems").join(nqn))?;
        }
        Ok(())
    }

    fn device(&self, device: &NvmetDevice) -> String {
        match device {
            NvmetDevice::Zvol(dataset) => format!("/dev/zvol/{dataset}"),
            NvmetDevice::File(path) => self.root.join(path.trim_start_matches('/')).display().to_string(),
        }
    }
}

/// Controllers as the target's debugfs shows them: `<subsystem>/ctrl<id>/{hostnqn,host_traddr,port}`. Kernels without
/// it show none.
pub(super) fn sessions(debugfs: &Path) -> Vec<NvmetSession> {
    let mut sessions = Vec::new();
    let list = |path: &Path| entries(path).unwrap_or_default();
    for subsystem in list(debugfs) {
        for name in list(&debugfs.join(&subsystem)) {
            let directory = debugfs.join(&subsystem).join(&name);
            let Some(controller) = name.strip_prefix("ctrl").and_then(|number| number.parse().ok()) else {
                continue;
            };
            let value = |file: &str| read(&directory.join(file)).unwrap_or_default();
            sessions.push(NvmetSession {
                host_nqn: value("hostnqn"),
                host_address: value("host_traddr"),
                subsystem_nqn: subsystem.clone(),
                port_index: value("port").parse().unwrap_or_default(),
                controller,
            });
        }
    }
    sessions
}

/// Transport, address family, address and port as configfs spells them.
fn address(port: &NvmetPort) -> [String; 4] {
    let family = match port.address {
        IpAddr::V4(_) => "ipv4",
        IpAddr::V6(_) => "ipv6",
    };
    [port.transport.to_lowercase(), family.to_owned(), port.address.to_string(), port.service_id.to_string()]
}

fn address_of(directory: &Path) -> Result<[String; 4]> {
    let value = |name: &str| read(&directory.join(name));
    Ok([value("addr_trtype")?, value("addr_adrfam")?, value("addr_traddr")?, value("addr_trsvcid")?])
}

/// An NGUID without its hyphens: configfs shows it with them and takes both forms.
fn plain(nguid: &str) -> String {
    nguid.replace('-', "").to_lowercase()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NQN: &str = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555";

    fn target(key: Option<&str>) -> NvmetTarget {
        let host = NvmetHost {
            nqn: NQN.into(),
            dhchap_key: key.map(str::to_owned),
            dhchap_ctrl_key: None,
            dhchap_dhgroup: Some("2048-BIT".into()),
            dhchap_hash: "SHA-384".into(),
        };
        NvmetTarget { running: true, hosts: vec![host], ..NvmetTarget::default() }
    }

    /// A directory stands in for configfs; there the files of a host come and go with its directory.
    #[test]
    fn a_host_s_key_goes_to_its_files_in_the_kernel_s_words() {
        let base = tempfile::tempdir().unwrap();
        let hosts = base.path().join("hosts");
        std::fs::create_dir(&hosts).unwrap();
        let configfs = Target::new(base.path(), Path::new("/"));
        configfs.apply(&target(Some("DHHC-1:00:c2VjcmV0:"))).unwrap();
        let host = hosts.join(NQN);
        for (file, value) in [
            ("dhchap_key", "DHHC-1:00:c2VjcmV0:"),
            ("dhchap_hash", "hmac(sha384)"),
            ("dhchap_dhgroup", "ffdhe2048"),
        ] {
            assert_eq!(read(&host.join(file)).unwrap(), value, "{file}");
        }
        assert!(
            configfs.unlocked(&target(Some("DHHC-1:00:b3RoZXI=:"))).is_empty(),
            "another key is written over"
        );
        assert_eq!(configfs.unlocked(&target(None)).len(), 1, "a host that loses its key is made anew");
    }
}
