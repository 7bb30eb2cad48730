//! A host with open-iscsi and an appliance that behave: iscsiadm keeps records as the real one does, iscsid makes
//! sessions, and the kernel shows them in sysfs.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Answer, Initiator, Iscsi, Records, Tuning};
use crate::device::testing::{PretendHost, PretendSession, iqn, serial};
use crate::device::{Devices, Iqn, Trigger};
use crate::tool::{Output, Tool, ToolError};

pub(crate) const GIB: u64 = 1 << 30;

/// This host's initiator name.
pub(crate) fn initiator() -> Iqn {
    Iqn::parse("iqn.2026-01.io.tns-csi:0123456789ab4cde8f0123456789abcd").unwrap()
}

/// A unit that the appliance has.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) lun: u16,
    pub(crate) serial: String,
    pub(crate) bytes: u64,
}

#[derive(Default)]
pub(crate) struct State {
    next: u32,
    /// Units by target.
    pub(crate) units: HashMap<String, Vec<Disk>>,
    /// Status of a login at a portal; 0 where none is named.
    pub(crate) statuses: HashMap<String, i32>,
    /// Portals that answer nothing.
    pub(crate) unreachable: Vec<String>,
    /// Portals that refuse a connection.
    pub(crate) closed: Vec<String>,
    /// Portals at which a login waits until the door opens.
    doors: HashMap<String, watch::Receiver<bool>>,
    /// User and secret that the target asks for.
    pub(crate) chap: Option<(String, String)>,
    /// Every command line.
    pub(crate) commands: Vec<String>,
    /// Every write to sysfs: the attribute's last two names and the value.
    pub(crate) writes: Vec<String>,
    /// How many times multipathd finds its map in use.
    pub(crate) busy: u32,
    /// multipathd makes a map of the disks, once there are that many.
    pub(crate) claims_from: Option<usize>,
}

struct Inner {
    pretend: PretendHost,
    trigger: Trigger,
    records: PathBuf,
    state: Mutex<State>,
}

/// The host. Clones share it.
#[derive(Clone)]
pub(crate) struct FakeHost(Arc<Inner>);

impl FakeHost {
    /// A host whose appliance has volume 1 as unit 0 of its target.
    pub(crate) fn new(pretend: &PretendHost, trigger: Trigger) -> Self {
        let disk = Disk { lun: 0, serial: serial(1), bytes: GIB };
        let units = HashMap::from([(iqn(1).as_str().to_owned(), vec![disk])]);
        let state = Mutex::new(State { next: 1, units, ..State::default() });
        let records = pretend.path("var/lib/iscsi");
        fs::create_dir_all(&records).unwrap();
        fs::create_dir_all(pretend.path("sys/module/iscsi_tcp")).unwrap();
        Self(Arc::new(Inner { pretend: pretend.handle(), trigger, records, state }))
    }

    /// The transport over this host.
    pub(crate) fn transport(&self, devices: Devices) -> Iscsi {
        self.tuned(devices, Tuning::default())
    }

    /// The transport over this host, with other settings.
    pub(crate) fn tuned(&self, devices: Devices, tuning: Tuning) -> Iscsi {
        let records = Records::at(vec![self.0.records.clone(), self.0.pretend.path("etc/iscsi")]);
        Iscsi::new(devices, initiator(), records, tuning, Arc::new(self.clone()))
    }

    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.state.lock().unwrap())
    }

    /// Holds logins at a portal until the sender says `true`.
    pub(crate) fn hold(&self, portal: &str) -> watch::Sender<bool> {
        let (door, passage) = watch::channel(false);
        self.with(|state| state.doors.insert(portal.to_owned(), passage));
        door
    }

    /// Command lines that hold a word.
    pub(crate) fn commands(&self, word: &str) -> Vec<String> {
        self.with(|state| state.commands.iter().filter(|line| line.contains(word)).cloned().collect())
    }

    pub(crate) fn writes(&self) -> Vec<String> {
        self.with(|state| state.writes.clone())
    }

    /// Every file below the directory of records, relative to it.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut left = vec![self.0.records.clone()];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    left.push(path);
                } else {
                    let name = path.strip_prefix(&self.0.records).unwrap();
                    found.push(name.to_str().unwrap().to_owned());
                }
            }
        }
        found.sort();
        found
    }

    pub(crate) fn record(&self, name: &str) -> PathBuf {
        self.0.records.join(name)
    }

    /// A session of other software to the same target, with its disk.
    pub(crate) fn foreign_session(&self, id: u32, initiator: &str, iface: &str) {
        self.0.pretend.session(&PretendSession {
            id,
            target: iqn(1).as_str(),
            initiator,
            iface,
            address: "192.0.2.7",
            port: 3260,
            state: "LOGGED_IN",
        });
    }

    fn iscsiadm(&self, arguments: &[String]) -> Output {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match arguments.as_slice() {
            ["-m", "iface", "-I", iface, "-o", "new"] => {
                self.keep(&format!("ifaces/{iface}"), &format!("iface.iscsi_ifacename = {iface}\n"));
                ended(0)
            }
            ["-m", "node", "-T", target, "-p", portal, "-I", iface, "-o", "new"] => {
                let Ok(settings) = fs::read_to_string(self.record(&format!("ifaces/{iface}"))) else {
                    return ended(7);
                };
                let text = format!(
                    "# BEGIN RECORD 2.1.11\nnode.name = {target}\nnode.startup = automatic\n\
                     node.session.scan = auto\n{settings}# END RECORD\n"
                );
                self.keep(&record_name(target, portal, iface), &text);
                ended(0)
            }
            ["-m", "node", "-T", target, "-p", portal, "-I", iface, "--login"] => {
                self.log_in(target, portal, iface)
            }
            ["-m", "session", "-r", id, "-u"] => {
                self.0.pretend.remove_session(id.parse().unwrap());
                self.0.trigger.raise();
                ended(0)
            }
            ["-m", "node", "-T", target, "-I", iface, "-o", "delete"] => {
                let all = self.files().into_iter();
                self.delete(all.filter(|file| {
                    file.starts_with(&format!("nodes/{target}/")) && file.ends_with(&format!("/{iface}"))
                }))
            }
            ["-m", "node", "-T", target, "-p", portal, "-I", iface, "-o", "delete"] => {
                let name = record_name(target, portal, iface);
                self.delete(self.files().into_iter().filter(|file| *file == name))
            }
            other => panic!("iscsiadm {other:?}"),
        }
    }

    fn delete(&self, records: impl Iterator<Item = String>) -> Output {
        let mut status = 21;
        for file in records {
            fs::remove_file(self.record(&file)).unwrap();
            status = 0;
        }
        ended(status)
    }

    fn log_in(&self, target: &str, portal: &str, iface: &str) -> Output {
        let Ok(record) = fs::read_to_string(self.record(&record_name(target, portal, iface))) else {
            return ended(21);
        };
        let value = |name: &str| {
            record.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = ")).unwrap_or_default()
        };
        let portal: SocketAddr = portal.rsplit_once(',').unwrap().0.parse().unwrap();
        let mut state = self.0.state.lock().unwrap();
        if let Some(status) = state.statuses.get(&portal.to_string()) {
            return ended(*status);
        }
        if let Some((user, secret)) = &state.chap
            && (value("node.session.auth.authmethod") != "CHAP"
                || value("node.session.auth.username") != user
                || value("node.session.auth.password") != secret)
        {
            return ended(24);
        }
        if !state.units.contains_key(target) {
            return ended(19);
        }
        let id = state.next;
        state.next += 1;
        self.0.pretend.session(&PretendSession {
            id,
            target,
            initiator: value("iface.initiatorname"),
            iface: value("iface.iscsi_ifacename"),
            address: &portal.ip().to_string(),
            port: portal.port(),
            state: "LOGGED_IN",
        });
        if value("node.session.scan") != "manual" {
            let units = state.units[target].clone();
            units.iter().for_each(|unit| self.appear(&mut state, id, unit));
        }
        drop(state);
        self.0.trigger.raise();
        ended(0)
    }

    fn appear(&self, state: &mut State, session: u32, unit: &Disk) {
        let letter = char::from_digit(10 + session, 36).unwrap();
        let name = format!("sd{letter}");
        if self.0.pretend.path(&format!("sys/block/{name}")).exists() {
            return;
        }
        self.0.pretend.scsi_disk(session, unit.lun, &name, 16 * session, &unit.serial, unit.bytes);
        let disks = self.disks();
        if state.claims_from.is_some_and(|least| disks.len() >= least) {
            let names: Vec<&str> = disks.iter().map(String::as_str).collect();
            self.0.pretend.map(0, &names, unit.bytes);
        }
    }

    fn disks(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.pretend.path("sys/block")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("sd")).collect()
    }

    fn keep(&self, name: &str, text: &str) {
        let path = self.record(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// Where the record of a portal lies: `nodes/<target>/<address>,<port>,<tag>/<iface>`.
fn record_name(target: &str, portal: &str, iface: &str) -> String {
    let (portal, tag) = portal.rsplit_once(',').unwrap();
    let portal: SocketAddr = portal.parse().unwrap();
    format!("nodes/{target}/{},{},{tag}/{iface}", portal.ip(), portal.port())
}

fn ended(code: i32) -> Output {
    Output { code, stdout: String::new(), stderr: String::new() }
}

impl Initiator for FakeHost {
    fn run(&self, tool: Tool, arguments: Vec<String>, _: Instant) -> Answer<Result<Output, ToolError>> {
        let own = self.clone();
        Box::pin(async move {
            let line = format!("{tool} {}", arguments.join(" "));
            own.with(|state| state.commands.push(line));
            if tool == Tool::Multipathd {
                match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                    ["resize", "map", "mpath0"] => {
                        let bytes = own.with(|state| state.units[iqn(1).as_str()][0].bytes);
                        own.0.pretend.resize("dm-0", bytes);
                    }
                    ["remove", "map", "mpath0"] if own.with(|state| state.busy > 0) => {
                        own.with(|state| state.busy -= 1);
                        return Ok(Output { stdout: "map or partition in use".to_owned(), ..ended(1) });
                    }
                    ["remove", "map", "mpath0"] => {
                        let disks = own.disks();
                        own.0.pretend.remove_map(0, &disks.iter().map(String::as_str).collect::<Vec<_>>());
                    }
                    other => panic!("multipathd {other:?}"),
                }
                return Ok(Output { stdout: "ok".to_owned(), ..ended(0) });
            }
            if arguments.last().is_some_and(|last| last == "--login") {
                let portal = arguments[5].rsplit_once(',').unwrap().0.to_owned();
                let door = own.with(|state| state.doors.get(&portal).cloned());
                if let Some(mut door) = door {
                    let _ = door.wait_for(|open| *open).await;
                }
            }
            Ok(own.iscsiadm(&arguments))
        })
    }

    fn has(&self, _: Tool) -> bool {
        true
    }

    fn reach(&self, portal: SocketAddr) -> Answer<io::Result<()>> {
        let portal = portal.to_string();
        let (away, closed) =
            self.with(|state| (state.unreachable.contains(&portal), state.closed.contains(&portal)));
        Box::pin(async move {
            if away {
                std::future::pending::<()>().await;
            }
            if closed { Err(Errno::ECONNREFUSED.into()) } else { Ok(()) }
        })
    }

    fn write_attribute(&self, attribute: &Path, value: &str) -> io::Result<()> {
        let names: Vec<&str> = attribute.iter().rev().take(3).map(|part| part.to_str().unwrap()).collect();
        self.with(|state| state.writes.push(format!("{}/{} {value}", names[1], names[0])));
        if !attribute.exists() {
            return Err(Errno::ENOENT.into());
        }
        let mut state = self.0.state.lock().unwrap();
        match names.as_slice() {
            ["scan", host, ..] => {
                let id: u32 = host.strip_prefix("host").unwrap().parse().unwrap();
                let target = fs::read_to_string(
                    self.0.pretend.path(&format!("sys/class/iscsi_session/session{id}/targetname")),
                )?;
                let lun: u16 = value.strip_prefix("0 0 ").unwrap().parse().unwrap();
                let units = state.units.get(target.trim()).cloned().unwrap_or_default();
                for unit in units.iter().filter(|unit| unit.lun == lun) {
                    self.appear(&mut state, id, unit);
                }
            }
            ["rescan", _, disk] => {
                let bytes = state.units[iqn(1).as_str()][0].bytes;
                self.0.pretend.resize(disk, bytes);
            }
            other => panic!("{other:?}"),
        }
        drop(state);
        self.0.trigger.raise();
        Ok(())
    }
}
