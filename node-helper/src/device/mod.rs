//! Devices by identity: finding the volume's node, waiting for it, opening it.
//!
//! The rules it keeps: a device is ours only by what the appliance named (NQN with UUID or NGUID), never by a kernel
//! name, a link, or its size; the answer always comes from sysfs, read anew; a node is used only when its number is
//! the one sysfs gives for the device; what was found is checked once more on the descriptor that is used.

mod error;
mod events;
mod host_root;
mod identity;
mod limits;
mod node;
mod number;
mod nvme;
pub(crate) mod scsi;
pub(crate) mod sysfs;
#[cfg(test)]
pub(crate) mod testing;
mod unit;
mod usage;

pub use error::DeviceError;
pub use events::{Events, Subscription, Trigger};
pub use host_root::HostRoot;
pub use identity::{DeviceIdentity, InvalidNqn, Nqn, NvmeIdentity, parse_nguid};
pub use node::VolumeNode;
pub use number::{DeviceNumber, NotANumber};
pub(crate) use scsi::{Disk, Multipath, Unit};
pub use unit::{InvalidUnit, Iqn, IscsiIdentity, Lun, Naa, Serial};

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;
use tokio::time::Instant;

/// Longest time between two looks while waiting.
///
/// Waits end by an event. The look by timer beside it is for changes that the kernel announces to nobody here: an
/// access state that turns good, a controller that becomes live again, events that stay in another network namespace.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The devices of this host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Devices {
    host: HostRoot,
    events: Events,
}

impl Devices {
    /// Devices seen through `host`; `events` end waits.
    #[must_use]
    pub fn new(host: HostRoot, events: Events) -> Self {
        Self { host, events }
    }

    /// Through which directories the kernel is seen.
    #[must_use]
    pub fn host(&self) -> &HostRoot {
        &self.host
    }

    /// The volume's node at this moment, also while no path to it works ([`VolumeNode::reachable`]); `None` when no
    /// device has the identity.
    ///
    /// # Errors
    /// [`DeviceError`] when sysfs cannot be read, several devices have the identity, or the node under the device
    /// directory leads elsewhere.
    pub async fn find(&self, identity: &DeviceIdentity) -> Result<Option<VolumeNode>, DeviceError> {
        let (host, identity) = (self.host.clone(), identity.clone());
        tokio::task::spawn_blocking(move || look(&host, &identity)).await?
    }

    /// Every device of the identity: one node, or each of several disks of a unit between which nothing decides.
    ///
    /// # Errors
    /// As [`find`](Self::find), without the ambiguity.
    pub async fn every(&self, identity: &DeviceIdentity) -> Result<Vec<VolumeNode>, DeviceError> {
        match (self.find(identity).await, identity) {
            (Err(DeviceError::Ambiguous { .. }), DeviceIdentity::Iscsi(unit)) => {
                let (host, identity, unit) = (self.host.clone(), identity.clone(), unit.clone());
                tokio::task::spawn_blocking(move || {
                    let disks = scsi::disks(&host)?.into_iter().filter(|disk| disk.is(&unit));
                    disks
                        .map(|disk| {
                            let path = host.dev(&disk.name);
                            check_node(&host, &path, disk.number, &identity)?;
                            Ok(VolumeNode {
                                path,
                                number: disk.number,
                                size: disk.size,
                                read_only: disk.read_only,
                                reachable: disk.works,
                                identity: identity.clone(),
                            })
                        })
                        .collect()
                })
                .await?
            }
            (found, _) => Ok(found?.into_iter().collect()),
        }
    }

    /// Opens the volume's node and then makes sure once more that it is the device of its identity: as long as the file
    /// is open the kernel gives the number to no other device, so whatever is done to the number meanwhile is done to
    /// this volume. Others may still open it, exclusively too.
    ///
    /// # Errors
    /// [`DeviceError::Changed`] when number, size or name have gone over to something else since the look.
    pub async fn pin(&self, node: &VolumeNode) -> Result<File, DeviceError> {
        let (host, node) = (self.host.clone(), node.clone());
        tokio::task::spawn_blocking(move || {
            let file = node.open()?;
            let found = match look(&host, &node.identity)? {
                Some(found) if found.number == node.number => return Ok(file),
                Some(found) => format!("{} is {}", node.identity, found.path.display()),
                None => format!("no device of {} is on this host any more", node.identity),
            };
            Err(DeviceError::Changed { path: node.path, found })
        })
        .await?
    }

    /// Keeps the requests to the device, and to each path behind it, so small that every appliance takes them. To be
    /// repeated when a path was added.
    ///
    /// # Errors
    /// [`DeviceError`] when sysfs cannot be read or written: large writes might fail then.
    pub async fn limit_requests(&self, identity: &DeviceIdentity) -> Result<(), DeviceError> {
        let (host, identity) = (self.host.clone(), identity.clone());
        tokio::task::spawn_blocking(move || limits::limit_requests(&host, &identity)).await?
    }

    /// Waits until the device is there with a working path, and a size.
    ///
    /// # Errors
    /// [`DeviceError::Deadline`] with what was there instead, or what [`find`](Self::find) answers that waiting
    /// cannot mend.
    pub async fn wait(
        &self,
        identity: &DeviceIdentity,
        deadline: Instant,
    ) -> Result<VolumeNode, DeviceError> {
        self.wait_size(identity, 1, deadline).await
    }

    /// Waits until the device is there with a working path and at least `bytes` large.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub async fn wait_size(
        &self,
        identity: &DeviceIdentity,
        bytes: u64,
        deadline: Instant,
    ) -> Result<VolumeNode, DeviceError> {
        let wanted =
            if bytes > 1 { format!("a size of at least {bytes} bytes") } else { "a usable device".into() };
        self.wait_for(identity, &wanted, deadline, move |node| match node {
            Some(node) if node.reachable && node.size >= bytes => Ok(node),
            Some(node) if !node.reachable => {
                Err(format!("{} without a working path to the appliance", node.path.display()))
            }
            Some(node) => Err(format!("{} with {} bytes", node.path.display(), node.size)),
            None => Err(String::new()),
        })
        .await
    }

    /// Waits until no device has the identity.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub async fn wait_gone(&self, identity: &DeviceIdentity, deadline: Instant) -> Result<(), DeviceError> {
        self.wait_for(identity, "the device's disappearance", deadline, |node| match node {
            None => Ok(()),
            Some(node) => Err(format!("{} is still there", node.path.display())),
        })
        .await
    }

    async fn wait_for<T: Send + 'static>(
        &self,
        identity: &DeviceIdentity,
        wanted: &str,
        deadline: Instant,
        accept: impl Fn(Option<VolumeNode>) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<T, DeviceError> {
        let own = identity.clone();
        let outcome = self
            .until(deadline, move |host| match look(host, &own) {
                Ok(node) => Ok(accept(node)),
                Err(error) if error.is_transient() => Ok(Err(error.to_string())),
                Err(error) => Err(error),
            })
            .await?;
        match outcome {
            Ok(value) => Ok(value),
            Err(found) => Err(DeviceError::Deadline {
                identity: Box::new(identity.clone()),
                wanted: wanted.to_owned(),
                found: if found.is_empty() { self.describe(identity).await? } else { found },
            }),
        }
    }

    /// Looks (on the blocking pool) until `look` is content, woken by events, at the latest until the deadline; its
    /// last refusal comes back as the inner error. There is always at least one look.
    pub(crate) async fn until<T, R, E, F>(&self, deadline: Instant, look: F) -> Result<Result<T, R>, E>
    where
        T: Send + 'static,
        R: Send + 'static,
        E: From<JoinError> + Send + 'static,
        F: Fn(&HostRoot) -> Result<Result<T, R>, E> + Send + Sync + 'static,
    {
        let mut events = self.events.subscribe();
        let look = Arc::new(look);
        loop {
            let (look, host) = (Arc::clone(&look), self.host.clone());
            let refusal = match tokio::task::spawn_blocking(move || look(&host)).await?? {
                Ok(value) => return Ok(Ok(value)),
                Err(refusal) => refusal,
            };
            let now = Instant::now();
            if now >= deadline {
                return Ok(Err(refusal));
            }
            let latest = now.checked_add(LOOK_AGAIN).map_or(deadline, |again| again.min(deadline));
            // Either way the next step is to look; running out of time leads to the last look.
            let _woken_or_time = tokio::time::timeout_at(latest, events.next()).await;
        }
    }

    /// Who uses the device, in words, as far as the kernel tells: mounts and raw-block binds in this mount
    /// namespace, swap, devices stacked on it or on its partitions. Empty when nobody does.
    ///
    /// # Errors
    /// [`DeviceError::Unreadable`]: then nothing is known, and nobody may conclude that the device is free.
    pub async fn users(&self, node: &VolumeNode) -> Result<Vec<String>, DeviceError> {
        let (host, name, number) = (self.host.clone(), node.kernel_name(), node.number);
        tokio::task::spawn_blocking(move || usage::users(&host, &name, number, &[])).await?
    }

    /// Every usable device of a subsystem, whatever its namespace: kernel name and number.
    pub(crate) async fn of_subsystem(&self, nqn: &Nqn) -> Result<Vec<(String, DeviceNumber)>, DeviceError> {
        let (host, nqn) = (self.host.clone(), nqn.clone());
        tokio::task::spawn_blocking(move || {
            let all = nvme::namespaces(&host)?;
            Ok(all
                .into_iter()
                .filter(|namespace| namespace.subsystem_nqn == nqn.as_str())
                .filter_map(|namespace| Some((namespace.name, namespace.number?)))
                .collect())
        })
        .await?
    }

    /// Every disk behind an iSCSI session of this host.
    pub(crate) async fn disks(&self) -> Result<Vec<Disk>, DeviceError> {
        let host = self.host.clone();
        tokio::task::spawn_blocking(move || scsi::disks(&host)).await?
    }

    /// The multipath devices over a disk.
    pub(crate) async fn multipaths_of(&self, disk: &Disk) -> Result<Vec<Multipath>, DeviceError> {
        let (host, disk) = (self.host.clone(), disk.clone());
        tokio::task::spawn_blocking(move || scsi::multipaths_of(&host, &scsi::disks(&host)?, &disk)).await?
    }

    /// What stands for a SCSI unit at this moment.
    pub(crate) async fn unit(&self, identity: &IscsiIdentity) -> Result<Unit, DeviceError> {
        let (host, identity) = (self.host.clone(), identity.clone());
        tokio::task::spawn_blocking(move || scsi::resolve(&host, &scsi::disks(&host)?, &identity)).await?
    }

    /// As [`users`](Self::users), for a device known by kernel name and number.
    pub(crate) async fn users_of(
        &self,
        name: String,
        number: DeviceNumber,
    ) -> Result<Vec<String>, DeviceError> {
        self.users_beside(name, number, Vec::new()).await
    }

    /// As [`users_of`](Self::users_of), but for devices that may be stacked on it.
    pub(crate) async fn users_beside(
        &self,
        name: String,
        number: DeviceNumber,
        apart_from: Vec<String>,
    ) -> Result<Vec<String>, DeviceError> {
        let host = self.host.clone();
        tokio::task::spawn_blocking(move || usage::users(&host, &name, number, &apart_from)).await?
    }

    async fn describe(&self, identity: &DeviceIdentity) -> Result<String, DeviceError> {
        let (host, identity) = (self.host.clone(), identity.clone());
        tokio::task::spawn_blocking(move || match &identity {
            DeviceIdentity::Nvme(nvme) => Ok(nvme::describe(&nvme::namespaces(&host)?, nvme)),
            DeviceIdentity::Iscsi(unit) => Ok(scsi::describe(&scsi::disks(&host)?, unit)),
        })
        .await?
    }
}

/// One look at sysfs and the node.
fn look(host: &HostRoot, identity: &DeviceIdentity) -> Result<Option<VolumeNode>, DeviceError> {
    match identity {
        DeviceIdentity::Nvme(nvme) => {
            let all = nvme::namespaces(host)?;
            let usable = nvme::usable(&all, nvme);
            let namespace = match usable.as_slice() {
                [] => return Ok(None),
                [one] => *one,
                several => {
                    return Err(DeviceError::Ambiguous {
                        identity: Box::new(identity.clone()),
                        names: several.iter().map(|namespace| namespace.name.clone()).collect(),
                    });
                }
            };
            let Some(number) = namespace.number else { return Ok(None) };
            let path = host.dev(&namespace.name);
            check_node(host, &path, number, identity)?;
            let reachable = nvme::reachable(host, &all, namespace)?;
            Ok(Some(VolumeNode {
                path,
                number,
                size: namespace.size,
                read_only: namespace.read_only,
                reachable,
                identity: identity.clone(),
            }))
        }
        DeviceIdentity::Iscsi(unit) => look_at_unit(host, identity, unit),
    }
}

/// As [`look`], for a SCSI unit.
fn look_at_unit(
    host: &HostRoot,
    identity: &DeviceIdentity,
    unit: &IscsiIdentity,
) -> Result<Option<VolumeNode>, DeviceError> {
    let all = scsi::disks(host)?;
    let (name, number, size, read_only, reachable) = match scsi::resolve(host, &all, unit)? {
        Unit::Absent => return Ok(None),
        Unit::Several(names) => {
            return Err(DeviceError::Ambiguous { identity: Box::new(identity.clone()), names });
        }
        Unit::Disk(disk) => (disk.name, disk.number, disk.size, disk.read_only, disk.works),
        Unit::Multipath(device) => {
            let works = all.iter().any(|disk| disk.works && disk.is(unit));
            (device.name, device.number, device.size, device.read_only, works)
        }
    };
    let path = host.dev(&name);
    check_node(host, &path, number, identity)?;
    Ok(Some(VolumeNode { path, number, size, read_only, reachable, identity: identity.clone() }))
}

/// Refuses a node that does not lead to the device: a stale or foreign entry in the device directory.
fn check_node(
    host: &HostRoot,
    path: &std::path::Path,
    expected: DeviceNumber,
    identity: &DeviceIdentity,
) -> Result<(), DeviceError> {
    let found = match host.node_number(path) {
        Ok(Some(number)) if number == expected => return Ok(()),
        Ok(Some(number)) => format!("has number {number}"),
        Ok(None) => "is missing".to_owned(),
        Err(error) => format!("cannot be used ({error})"),
    };
    Err(DeviceError::NodeMismatch {
        path: path.to_owned(),
        identity: Box::new(identity.clone()),
        expected,
        found,
    })
}

#[cfg(test)]
mod tests;
