//! iSCSI over TCP through the host's open-iscsi: logging in and out, and asking a target for its units.
//!
//! Sessions are made under an initiator name and an iface record of our own, so that the host's `initiatorname.iscsi`
//! and the sessions of other software stay out of it. Nothing is discovered: portals and target come with the request.
//! A login goes on in iscsid whoever waits for it. So each is remembered by target and portal until iscsiadm returns;
//! who asks for the same path again joins it; and logging out waits for those that are on their way.
//!
//! Node records live as long as their session, because iscsid reads them when it is restarted, and hold the CHAP
//! secrets of their target; they go with the last session, and after a login that failed. The iface record stays: it
//! starts nothing and holds nothing but the host's own name, and taking it away would race with the next login.

mod chap;
mod exit;
mod initiator;
mod login;
mod multipath;
mod records;
mod session;

pub use chap::{Chap, ChapSecret, Credentials};
pub use initiator::{Answer, HostInitiator, Initiator};
pub use login::Tuning;
pub use records::Records;
pub use session::{Session, SessionState};

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::Detached;
use super::error::AttachError;
use super::running::Running;
use crate::device::{DeviceError, Devices, HostRoot, Iqn, IscsiIdentity, Lun};
use crate::tool::{Output, Tool};
use records::{IFACE, TAG};
use session::ours;

/// Most logins at one time: an appliance that is away must not fill the host with waiting programs.
const AT_ONCE: usize = 16;
/// Most logins at one time that are tried again beside a path that works: they keep no other volume waiting.
const AGAIN_AT_ONCE: usize = 2;

/// A unit and the portals that lead to its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IscsiTarget {
    /// The unit and its target.
    pub identity: IscsiIdentity,
    /// Every portal, resolved and allowed.
    pub portals: Vec<SocketAddr>,
    /// CHAP, when the target asks for it.
    pub chap: Option<Chap>,
}

/// iSCSI on this host. Cheap to clone; clones share what is running.
#[derive(Clone)]
pub struct Iscsi {
    devices: Devices,
    /// This host as targets know it.
    name: Iqn,
    records: Records,
    tuning: Tuning,
    host: Arc<dyn Initiator>,
    slots: Arc<Semaphore>,
    slots_again: Arc<Semaphore>,
    /// Held while the iface record is made or changed.
    iface: Arc<Mutex<()>>,
    running: Running,
}

impl fmt::Debug for Iscsi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iscsi")
            .field("name", &self.name)
            .field("tuning", &self.tuning)
            .finish_non_exhaustive()
    }
}

impl Iscsi {
    /// iSCSI with the programs of this host ([`HostInitiator`]), or others in tests.
    #[must_use]
    pub fn new(
        devices: Devices,
        name: Iqn,
        records: Records,
        tuning: Tuning,
        host: Arc<dyn Initiator>,
    ) -> Self {
        Self {
            devices,
            name,
            records,
            tuning,
            host,
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            slots_again: Arc::new(Semaphore::new(AGAIN_AT_ONCE)),
            iface: Arc::default(),
            running: Running::default(),
        }
    }

    /// Whether this host can log in: iscsiadm is there, and the kernel has the transport or a module for it. Reads
    /// files.
    #[must_use]
    pub fn is_available(&self, kernel: &str) -> bool {
        let root = self.devices.host();
        let loaded = root.sys("module/iscsi_tcp").exists();
        self.host.has(Tool::Iscsiadm) && (loaded || has_module(root, kernel))
    }

    /// The sessions of this host to a target.
    ///
    /// # Errors
    /// [`DeviceError`] when sysfs cannot be read.
    pub async fn sessions(&self, target: &Iqn) -> Result<Vec<Session>, DeviceError> {
        let (root, target, name) = (self.devices.host().clone(), target.clone(), self.name.clone());
        tokio::task::spawn_blocking(move || ours(&root, &target, &name, IFACE)).await?
    }

    /// Ends every session of ours to a target, waits until they are gone, and takes away their records.
    ///
    /// # Errors
    /// [`AttachError::InUse`] before any effect when a disk of the target is used; [`AttachError::Deadline`] while a
    /// login or logout is still going on (a retry goes on).
    pub async fn disconnect(&self, target: &Iqn, deadline: Instant) -> Result<Detached, AttachError> {
        let late = |what| AttachError::Deadline { what, target: named(target) };
        if !self.sessions(target).await?.is_empty() {
            self.refuse_if_used(target).await?;
        }
        // What is queued never begins; what iscsid works on is waited for, since it cannot be called back.
        self.running.call_off(target.as_str());
        let mut outcome = self.log_out(target, deadline).await?;
        timeout_at(deadline, self.running.idle(target.as_str())).await.map_err(|_| late("logging in"))?;
        if self.log_out(target, deadline).await? == Detached::Done {
            outcome = Detached::Done;
        }
        let (wanted, name) = (target.clone(), self.name.clone());
        let gone: Result<(), ()> = self
            .devices
            .until(deadline, move |root| -> Result<Result<(), ()>, DeviceError> {
                Ok(if ours(root, &wanted, &name, IFACE)?.is_empty() { Ok(()) } else { Err(()) })
            })
            .await?;
        gone.map_err(|()| late("logging out"))?;
        if self.delete_records(target, None, deadline).await? == Detached::Done {
            outcome = Detached::Done;
        }
        Ok(outcome)
    }

    /// Refuses while a disk that hangs on a session of ours, or the multipath device over it, is used.
    async fn refuse_if_used(&self, target: &Iqn) -> Result<(), AttachError> {
        let sessions = self.sessions(target).await?;
        let mut users = Vec::new();
        for disk in self.devices.disks().await? {
            if !sessions.iter().any(|session| session.name == disk.session) {
                continue;
            }
            let maps = self.devices.multipaths_of(&disk).await?;
            let stacked = maps.iter().map(|map| map.name.clone()).collect();
            users.extend(self.devices.users_beside(disk.name, disk.number, stacked).await?);
            for map in maps {
                users.extend(self.devices.users_of(map.name, map.number).await?);
            }
        }
        users.sort();
        users.dedup();
        if users.is_empty() { Ok(()) } else { Err(AttachError::InUse { target: named(target), users }) }
    }

    async fn log_out(&self, target: &Iqn, deadline: Instant) -> Result<Detached, AttachError> {
        let sessions = self.sessions(target).await?;
        if sessions.is_empty() {
            return Ok(Detached::Already);
        }
        // Asked right before each effect, and after the sessions were read: one that a login makes meanwhile, and
        // whose disk may be used at once, is not among those that go.
        self.refuse_if_used(target).await?;
        self.remove_maps(target, &sessions, deadline).await?;
        let mut logouts = JoinSet::new();
        for session in sessions {
            // By its number and not by a record: it goes also when its record was lost.
            let arguments = ["-m", "session", "-r", session.id(), "-u"].map(str::to_owned).to_vec();
            logouts.spawn(self.host.run(Tool::Iscsiadm, arguments, deadline));
        }
        while let Some(ended) = logouts.join_next().await {
            let output = ended??;
            match output.code {
                exit::DONE => {}
                // Gone by itself; whether it is, sysfs shows to the wait that follows.
                exit::NOTHING_FOUND => tracing::warn!(%target, "no session to log out of: {}", said(&output)),
                _ => return Err(refused("logging out", target, &output)),
            }
        }
        Ok(Detached::Done)
    }

    /// Takes away our node records of a target, or of one of its portals, through iscsiadm because it keeps links to
    /// them.
    async fn delete_records(
        &self,
        target: &Iqn,
        portal: Option<SocketAddr>,
        deadline: Instant,
    ) -> Result<Detached, AttachError> {
        let (records, own) = (self.records.clone(), target.clone());
        let there = tokio::task::spawn_blocking(move || !records.nodes(&own, portal).is_empty()).await?;
        if !there {
            return Ok(Detached::Already);
        }
        let which = portal.map(|portal| format!("{portal},{TAG}"));
        let mut arguments = vec!["-m", "node", "-T", target.as_str()];
        arguments.extend(which.iter().flat_map(|which| ["-p", which.as_str()]));
        arguments.extend(["-I", IFACE, "-o", "delete"]);
        let arguments = arguments.into_iter().map(str::to_owned).collect();
        let deleted = self.host.run(Tool::Iscsiadm, arguments, deadline).await;
        if let Ok(output) = &deleted
            && !matches!(output.code, exit::DONE | exit::NOTHING_FOUND)
        {
            tracing::warn!(%target, code = output.code, said = output.stderr, "iscsiadm did not delete a record");
        }
        // Whatever iscsiadm said: a secret does not stay.
        let (records, own) = (self.records.clone(), target.clone());
        tokio::task::spawn_blocking(move || records.sweep(&own, portal)).await??;
        deleted?;
        Ok(Detached::Done)
    }

    /// Asks every session that works for the unit and its size: a disk that is there for its size, a session without
    /// it for that one unit. A multipath device takes over its paths' size.
    ///
    /// # Errors
    /// [`AttachError`] when sysfs cannot be read or written.
    pub async fn rescan(&self, identity: &IscsiIdentity, deadline: Instant) -> Result<(), AttachError> {
        let target = &identity.target;
        let sessions = self.sessions(target).await?;
        let mut scans: JoinSet<Result<(), AttachError>> = sessions
            .into_iter()
            .filter(|session| session.state == SessionState::LoggedIn)
            .map(|session| self.scan(identity.lun, session))
            .collect();
        while let Some(scanned) = timeout_at(deadline, scans.join_next())
            .await
            .map_err(|_| AttachError::Deadline { what: "rescanning", target: named(target) })?
        {
            scanned??;
        }
        self.resize_map(identity, deadline).await
    }

    /// Asks one session for one unit. What is gone by then is no error.
    fn scan(
        &self,
        lun: Lun,
        session: Session,
    ) -> impl Future<Output = Result<(), AttachError>> + Send + use<> {
        let (root, host) = (self.devices.host().clone(), Arc::clone(&self.host));
        async move {
            let scanned = tokio::task::spawn_blocking(move || {
                let disks = crate::device::scsi::disks(&root)?;
                let known = disks
                    .iter()
                    .find(|disk| disk.session == session.name && disk.lun == u64::from(lun.get()));
                let (path, value) = match (known, &session.host) {
                    (Some(disk), _) => {
                        (root.sys("block").join(&disk.name).join("device/rescan"), "1".to_owned())
                    }
                    // Channel and target are 0 for every session (`drivers/scsi/scsi_transport_iscsi.c`).
                    (None, Some(scsi)) => {
                        (root.sys("class/scsi_host").join(scsi).join("scan"), format!("0 0 {}", lun.get()))
                    }
                    (None, None) => return Ok(()),
                };
                match host.write_attribute(&path, &value) {
                    Err(source) if !is_gone(&source) => Err(AttachError::Attribute { path, source }),
                    _ => Ok(()),
                }
            });
            scanned.await?
        }
    }
}

/// Whether the kernel's modules hold the transport; it is loaded when it is first needed.
fn has_module(root: &HostRoot, kernel: &str) -> bool {
    ["modules.dep", "modules.builtin"].iter().any(|list| {
        let path = root.modules(kernel).join(list);
        std::fs::read_to_string(path).is_ok_and(|text| text.contains("/iscsi_tcp.ko"))
    })
}

fn is_gone(error: &std::io::Error) -> bool {
    use nix::errno::Errno;
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO))
}

/// A target in the words of an error.
fn named(target: &Iqn) -> String {
    format!("iSCSI target {target}")
}

/// iscsiadm's last words with its status.
fn said(output: &Output) -> String {
    // The line with the reason is followed by one that only says how many portals failed.
    let reported = output.stderr.lines().find(|line| line.contains("reported error"));
    let words = reported.or_else(|| output.stderr.lines().last()).unwrap_or_default();
    format!("iscsiadm ended with status {}: {words}", output.code)
}

fn refused(what: &'static str, target: &Iqn, output: &Output) -> AttachError {
    AttachError::Iscsiadm {
        what,
        target: named(target),
        said: said(output),
        reason: exit::reason(output.code),
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
