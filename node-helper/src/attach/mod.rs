//! Attaching a volume's device to this host, detaching it, rescanning: one registry of transports.
//!
//! The rules it keeps: only what carries exactly the asked identity and our own host identity is touched; nothing
//! that is in use is detached; one working path suffices; a blocked kernel call is joined and never doubled.

mod error;
pub(crate) mod iscsi;
mod nvme;
mod running;

pub use error::{AttachError, Portals, Reason};
pub use iscsi::{
    Answer, Chap, ChapSecret, Credentials, HostInitiator, Initiator, Iscsi, IscsiTarget, Records, Session,
    SessionState, Tuning as IscsiTuning,
};
pub use nvme::{
    Authentication, Controller, ControllerState, Fabrics, FabricsDevice, Nvme, NvmeHost, NvmeTarget,
    OptionLine, Tuning,
};

use tokio::time::Instant;

use crate::device::{DeviceIdentity, Devices, VolumeNode};

/// What to attach, by transport.
#[derive(Debug, Clone)]
pub enum Target {
    /// A namespace behind NVMe over TCP.
    Nvme(NvmeTarget),
    /// A SCSI unit behind an iSCSI target.
    Iscsi(IscsiTarget),
}

impl Target {
    /// The device that appears when the target is attached.
    #[must_use]
    pub fn identity(&self) -> DeviceIdentity {
        match self {
            Self::Nvme(target) => DeviceIdentity::Nvme(target.identity.clone()),
            Self::Iscsi(target) => DeviceIdentity::Iscsi(target.identity.clone()),
        }
    }
}

/// What attaching came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connected {
    /// A path worked already.
    Already,
    /// A path was made.
    New,
}

/// What detaching came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detached {
    /// Nothing of ours was attached.
    Already,
    /// Everything of ours is gone.
    Done,
}

/// An attached device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The volume's node, with a working path.
    pub node: VolumeNode,
    /// Whether a path had to be made.
    pub connected: Connected,
}

/// The transports of this host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Attachments {
    devices: Devices,
    nvme: Nvme,
    iscsi: Iscsi,
}

impl Attachments {
    /// The transports that this helper serves.
    #[must_use]
    pub fn new(devices: Devices, nvme: Nvme, iscsi: Iscsi) -> Self {
        Self { devices, nvme, iscsi }
    }

    /// The iSCSI transport, for what only it can tell.
    #[must_use]
    pub fn iscsi(&self) -> &Iscsi {
        &self.iscsi
    }

    /// The NVMe transport, for what only it can tell.
    #[must_use]
    pub fn nvme(&self) -> &Nvme {
        &self.nvme
    }

    /// The devices through which attachments are seen.
    #[must_use]
    pub fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Makes sure that a path to the target works and waits for its device. May be repeated.
    ///
    /// # Errors
    /// [`AttachError`]; a path that was made stays, since a retry wants it and [`detach`](Self::detach) undoes it.
    pub async fn attach(&self, target: &Target, deadline: Instant) -> Result<Attached, AttachError> {
        let connected = match target {
            Target::Nvme(target) => self.nvme.connect(target, deadline).await?,
            Target::Iscsi(target) => self.iscsi.connect(target, deadline).await?,
        };
        let identity = target.identity();
        // A namespace that was added while a controller was connected is announced by an event that may have been
        // lost; asking again costs nothing. Absence of a device is no error yet: the wait decides.
        if connected == Connected::Already
            && !matches!(self.devices.find(&identity).await, Ok(Some(node)) if node.reachable)
        {
            self.rescan(&identity, deadline).await?;
        }
        if let Target::Iscsi(target) = target {
            self.iscsi.await_claim(target, deadline).await?;
        }
        let node = self.devices.wait(&identity, deadline).await?;
        self.devices.limit_requests(&identity).await?;
        Ok(Attached { node, connected })
    }

    /// Makes the kernel ask the appliance for new namespaces and sizes. The answer arrives by events.
    ///
    /// # Errors
    /// [`AttachError`] when the kernel's view cannot be read or written.
    pub async fn rescan(&self, identity: &DeviceIdentity, deadline: Instant) -> Result<(), AttachError> {
        match identity {
            DeviceIdentity::Nvme(nvme) => self.nvme.rescan(&nvme.subsystem_nqn, deadline).await,
            DeviceIdentity::Iscsi(unit) => self.iscsi.rescan(unit, deadline).await,
        }
    }

    /// Takes away every path of ours to the device's target, and waits until they are gone. May be repeated.
    ///
    /// # Errors
    /// [`AttachError::InUse`] when any device of the target is mounted, bound, or stacked on; nothing is touched then.
    pub async fn detach(
        &self,
        identity: &DeviceIdentity,
        deadline: Instant,
    ) -> Result<Detached, AttachError> {
        match identity {
            DeviceIdentity::Nvme(nvme) => self.nvme.disconnect(&nvme.subsystem_nqn, deadline).await,
            DeviceIdentity::Iscsi(unit) => self.iscsi.disconnect(&unit.target, deadline).await,
        }
    }
}
