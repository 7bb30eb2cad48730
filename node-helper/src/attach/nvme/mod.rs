//! NVMe over TCP: connecting, disconnecting and rescanning by the kernel's own interfaces.
//!
//! A connect is one blocking write that nothing can cancel. So each runs on the blocking pool, at most [`AT_ONCE`] of
//! them; it is remembered by subsystem and portal until it returns; who asks for the same path again joins it; and
//! disconnecting waits for those that are on their way, so that none arrives behind its back.

mod authentication;
mod controller;
mod errno;
mod fabrics;
mod options;

pub use authentication::Authentication;
pub use controller::{Controller, ControllerState};
pub use fabrics::{Fabrics, FabricsDevice};
pub use options::{OptionLine, Tuning};

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::error::{AttachError, Portals, Reason};
use super::running::{self, Outcome, Running};
use super::{Connected, Detached};
use crate::device::{DeviceError, Devices, HostRoot, Nqn, NvmeIdentity};
use controller::ours;
use options::parse_reply;

/// Most connects in the kernel at one time: an appliance that is away must not use up the blocking pool.
const AT_ONCE: usize = 16;

/// This host as NVMe subsystems know it. The kernel insists that one NQN always comes with one id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmeHost {
    /// Host NQN.
    pub nqn: Nqn,
    /// Host identifier.
    pub id: Uuid,
}

/// A namespace and the portals that lead to its subsystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmeTarget {
    /// The namespace and its subsystem.
    pub identity: NvmeIdentity,
    /// Every portal, resolved and allowed.
    pub portals: Vec<SocketAddr>,
    /// I/O queues for each path; `None` leaves the kernel's default.
    pub io_queues: Option<u16>,
    /// Entries for each queue; `None` leaves the kernel's default.
    pub queue_size: Option<u16>,
    /// The identity and keys for a subsystem that asks for them; `None` presents the host as itself.
    pub authentication: Option<Authentication>,
}

/// NVMe over TCP on this host. Cheap to clone; clones share what is running.
#[derive(Clone)]
pub struct Nvme {
    devices: Devices,
    host: NvmeHost,
    tuning: Tuning,
    kernel: Arc<dyn Fabrics>,
    slots: Arc<Semaphore>,
    running: Running,
}

impl fmt::Debug for Nvme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nvme").field("host", &self.host).field("tuning", &self.tuning).finish_non_exhaustive()
    }
}

impl Nvme {
    /// NVMe over TCP with the kernel of this host ([`FabricsDevice`] at `/dev/nvme-fabrics`), or another one in tests.
    #[must_use]
    pub fn new(devices: Devices, host: NvmeHost, tuning: Tuning, kernel: Arc<dyn Fabrics>) -> Self {
        Self {
            devices,
            host,
            tuning,
            kernel,
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            running: Running::default(),
        }
    }

    /// Whether the kernel has the transport at this moment: for GetHostInfo. It may still load it when asked.
    #[must_use]
    pub fn is_available(root: &HostRoot) -> bool {
        root.sys("module/nvme_tcp").exists() && root.dev("nvme-fabrics").exists()
    }

    /// The paths of this host to a subsystem.
    ///
    /// # Errors
    /// [`DeviceError`] when sysfs cannot be read.
    pub async fn controllers(&self, nqn: &Nqn) -> Result<Vec<Controller>, DeviceError> {
        let (root, nqn, host) = (self.devices.host().clone(), nqn.clone(), self.host.clone());
        tokio::task::spawn_blocking(move || ours(&root, &nqn, &host)).await?
    }

    /// Makes sure that at least one path is live, trying all portals side by side. The paths that take longer go on
    /// by themselves and are logged.
    ///
    /// # Errors
    /// [`AttachError::NoPath`] with each portal's failure once all have failed, [`AttachError::Deadline`] while some
    /// are still trying.
    pub async fn connect(&self, target: &NvmeTarget, deadline: Instant) -> Result<Connected, AttachError> {
        let nqn = &target.identity.subsystem_nqn;
        if target.portals.is_empty() {
            return Err(AttachError::NoPortal { target: named(nqn) });
        }
        let there = self.controllers(nqn).await?;
        let live = there.iter().any(|controller| controller.state == ControllerState::Live);
        let missing = target.portals.iter().filter(|&portal| {
            !there.iter().any(|controller| controller.portal == Some(*portal) && controller.state.stays())
        });
        let mut portals: Vec<SocketAddr> = missing.copied().collect();
        if !self.multipath() {
            // Each further path would be a device of its own, and two devices of one volume lose data.
            portals.truncate(usize::from(!there.iter().any(|controller| controller.state.stays())));
        }
        let mut attempts = JoinSet::new();
        for portal in portals {
            let mut outcome = self.path(target, portal);
            attempts.spawn(async move { (portal, outcome.wait().await) });
        }
        if live || attempts.is_empty() {
            // Paths that exist are the kernel's to keep; whether one of them works is for the device's wait to see.
            attempts.detach_all();
            return Ok(Connected::Already);
        }
        self.first(nqn, attempts, deadline).await
    }

    /// Waits for the first path that was made.
    async fn first(
        &self,
        nqn: &Nqn,
        mut attempts: JoinSet<(SocketAddr, Outcome)>,
        deadline: Instant,
    ) -> Result<Connected, AttachError> {
        let mut failed = Vec::new();
        loop {
            match timeout_at(deadline, attempts.join_next()).await {
                Err(_elapsed) => {
                    attempts.detach_all();
                    return Err(AttachError::Deadline { what: "connecting to a portal", target: named(nqn) });
                }
                Ok(None) => return Err(AttachError::NoPath { target: named(nqn), portals: Portals(failed) }),
                Ok(Some(attempt)) => match attempt? {
                    (_, Ok(connected)) => {
                        attempts.detach_all();
                        return Ok(connected);
                    }
                    (portal, Err((reason, words))) => failed.push((portal, reason, words)),
                },
            }
        }
    }

    /// Starts making one path, or joins the attempt that runs.
    fn path(&self, target: &NvmeTarget, portal: SocketAddr) -> running::Attempt {
        let nqn = target.identity.subsystem_nqn.clone();
        let line = OptionLine::new(target, &self.host, portal, self.tuning);
        let own = self.clone();
        self.running.join_or_start(nqn.clone().as_str(), portal, move |wanted| async move {
            let Ok(slot) = Arc::clone(&own.slots).acquire_owned().await else {
                return Err((Reason::Other, "the helper is ending".to_owned()));
            };
            // Between queueing and now the volume may have been detached.
            if !wanted.is_wanted() {
                return Err((Reason::Other, "the connect was called off before it began".to_owned()));
            }
            let (kernel, root, host) =
                (Arc::clone(&own.kernel), own.devices.host().clone(), own.host.clone());
            let done = tokio::task::spawn_blocking(move || {
                let answer = kernel.connect(&line);
                drop(slot);
                settle(answer, &root, &nqn, &host, portal)
            });
            let outcome = done.await.unwrap_or_else(|error| Err((Reason::Other, error.to_string())));
            match &outcome {
                Ok(_) => tracing::info!(%portal, "NVMe path connected"),
                Err((reason, words)) => tracing::warn!(%portal, ?reason, "NVMe path not connected: {words}"),
            }
            outcome
        })
    }

    /// Takes away every path of ours to a subsystem, and waits until they are gone.
    ///
    /// # Errors
    /// [`AttachError::InUse`] before any effect when a device of the subsystem is used; [`AttachError::Deadline`]
    /// while the kernel is still at it (a retry goes on).
    pub async fn disconnect(&self, nqn: &Nqn, deadline: Instant) -> Result<Detached, AttachError> {
        // What is queued never begins; what is in the kernel is waited for, since it cannot be called back.
        let late = |what| AttachError::Deadline { what, target: named(nqn) };
        if !self.controllers(nqn).await?.is_empty() {
            self.refuse_if_used(nqn).await?;
        }
        self.running.call_off(nqn.as_str());
        let mut outcome = self.delete_controllers(nqn, deadline).await?;
        timeout_at(deadline, self.running.idle(nqn.as_str()))
            .await
            .map_err(|_| late("connecting to a portal"))?;
        if self.delete_controllers(nqn, deadline).await? == Detached::Done {
            outcome = Detached::Done;
        }
        let (wanted, host) = (nqn.clone(), self.host.clone());
        let gone: Result<(), ()> = self
            .devices
            .until(deadline, move |root| -> Result<Result<(), ()>, DeviceError> {
                Ok(if ours(root, &wanted, &host)?.is_empty() { Ok(()) } else { Err(()) })
            })
            .await?;
        gone.map_err(|()| late("disconnecting"))?;
        Ok(outcome)
    }

    async fn refuse_if_used(&self, nqn: &Nqn) -> Result<(), AttachError> {
        let mut users = Vec::new();
        for (name, number) in self.devices.of_subsystem(nqn).await? {
            users.extend(self.devices.users_of(name, number).await?);
        }
        if users.is_empty() { Ok(()) } else { Err(AttachError::InUse { target: named(nqn), users }) }
    }

    async fn delete_controllers(&self, nqn: &Nqn, deadline: Instant) -> Result<Detached, AttachError> {
        let controllers = self.controllers(nqn).await?;
        if controllers.is_empty() {
            return Ok(Detached::Already);
        }
        // Asked right before each effect, and after the controllers were read: one that a connect makes meanwhile, and
        // whose device may be used at once, is not among those that go.
        self.refuse_if_used(nqn).await?;
        let mut deletions = JoinSet::new();
        for controller in
            controllers.into_iter().filter(|controller| controller.state != ControllerState::Deleting)
        {
            // The write returns when the controller is gone, or waits for its queues.
            deletions.spawn(self.write_attribute(nqn, controller, "delete_controller"));
        }
        while let Some(deleted) = timeout_at(deadline, deletions.join_next())
            .await
            .map_err(|_| AttachError::Deadline { what: "deleting a controller", target: named(nqn) })?
        {
            deleted??;
        }
        Ok(Detached::Done)
    }

    /// Asks every live path for new namespaces and sizes. Namespace events may be lost, so a caller that misses one
    /// asks.
    ///
    /// # Errors
    /// [`AttachError`] when sysfs cannot be read or written.
    pub async fn rescan(&self, nqn: &Nqn, deadline: Instant) -> Result<(), AttachError> {
        let live = self.controllers(nqn).await?.into_iter().filter(|one| one.state == ControllerState::Live);
        let mut scans: JoinSet<Result<(), AttachError>> =
            live.map(|controller| self.write_attribute(nqn, controller, "rescan_controller")).collect();
        while let Some(scanned) = timeout_at(deadline, scans.join_next())
            .await
            .map_err(|_| AttachError::Deadline { what: "rescanning", target: named(nqn) })?
        {
            scanned??;
        }
        Ok(())
    }

    /// Writes `1` to an attribute of a controller of ours. A controller that is gone by then is no error.
    ///
    /// Kernel names are given again, so the controller is compared once more right before the write.
    fn write_attribute(
        &self,
        nqn: &Nqn,
        controller: Controller,
        file: &'static str,
    ) -> impl Future<Output = Result<(), AttachError>> + Send + use<> {
        let (root, nqn, host) = (self.devices.host().clone(), nqn.clone(), self.host.clone());
        let kernel = Arc::clone(&self.kernel);
        async move {
            let written = tokio::task::spawn_blocking(move || {
                if !ours(&root, &nqn, &host)?.iter().any(|one| one.name == controller.name) {
                    return Ok(());
                }
                let path = root.sys("class/nvme").join(&controller.name).join(file);
                match kernel.write_attribute(&path, "1") {
                    Err(source) if !errno::is_gone(&source) => Err(AttachError::Attribute { path, source }),
                    _ => Ok(()),
                }
            });
            written.await?
        }
    }

    /// Whether the kernel joins the paths of a namespace into one device. A kernel without the parameter does not.
    fn multipath(&self) -> bool {
        let parameter = self.devices.host().sys("module/nvme_core/parameters/multipath");
        std::fs::read_to_string(parameter).is_ok_and(|value| value.trim() == "Y")
    }
}

/// A subsystem in the words of an error.
fn named(nqn: &Nqn) -> String {
    format!("subsystem {nqn}")
}

/// Turns the kernel's answer to a connect into an outcome, looking at sysfs where the answer alone does not decide.
fn settle(
    answer: std::io::Result<String>,
    root: &HostRoot,
    nqn: &Nqn,
    host: &NvmeHost,
    portal: SocketAddr,
) -> Outcome {
    let there = || ours(root, nqn, host).map_err(|error| (Reason::Other, error.to_string()));
    match answer {
        Ok(reply) => match parse_reply(&reply) {
            Some(instance)
                if there()?.iter().any(|controller| controller.name == format!("nvme{instance}")) =>
            {
                Ok(Connected::New)
            }
            // The line is the only hint at a kernel that speaks another dialect; what sysfs shows decides.
            _ if there()?
                .iter()
                .any(|controller| controller.portal == Some(portal) && controller.state.stays()) =>
            {
                Ok(Connected::New)
            }
            _ => Err((Reason::Phantom, format!("the kernel answered {reply:?}"))),
        },
        Err(error) if errno::is_duplicate(&error) => {
            let found = there()?;
            if found.iter().any(|controller| controller.portal == Some(portal) && controller.state.stays()) {
                Ok(Connected::Already)
            } else {
                Err((Reason::Phantom, error.to_string()))
            }
        }
        Err(error) => {
            let transport = root.sys("module/nvme_tcp").exists();
            let clash = controller::identity_clash(root, host).unwrap_or(false);
            Err((errno::reason(&error, transport, clash), error.to_string()))
        }
    }
}

#[cfg(test)]
mod tests;
