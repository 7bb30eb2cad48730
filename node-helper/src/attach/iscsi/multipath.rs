//! dm-multipath over the disks of a unit, where the host runs multipathd.

use std::time::Duration;

use tokio::time::Instant;

use super::super::AttachError;
use super::{Iscsi, IscsiTarget, Session, named};
use crate::device::{DeviceError, Iqn, IscsiIdentity, Unit};
use crate::tool::Tool;
use crate::work;

/// How long multipathd may take to claim a disk that has appeared. A disk that it leaves alone is used itself then.
const CLAIM: Duration = Duration::from_secs(5);
/// Where multipathd listens (multipath-tools, `libmpathcmd`): an abstract address, a line in `/proc/net/unix`.
const LISTENS: &str = "@/org/kernel/linux/storage/multipathd";

impl Iscsi {
    /// Whether this host runs multipathd.
    pub(super) fn multipath(&self) -> bool {
        let root = self.devices.host();
        let listens = std::fs::read_to_string(root.proc("net/unix")).is_ok_and(|text| text.contains(LISTENS));
        listens && root.sys("module/dm_multipath").exists()
    }

    /// Where multipathd runs: waits until it has claimed the unit's disks, or has left them alone for a while.
    ///
    /// # Errors
    /// [`AttachError`] when sysfs cannot be read.
    pub async fn await_claim(&self, target: &IscsiTarget, deadline: Instant) -> Result<(), AttachError> {
        if !self.multipath() {
            return Ok(());
        }
        let identity = target.identity.clone();
        let claimed: Result<(), ()> = self
            .devices
            .until(work::at_most(deadline, CLAIM), move |root| -> Result<Result<(), ()>, DeviceError> {
                Ok(match crate::device::scsi::resolve(root, &crate::device::scsi::disks(root)?, &identity)? {
                    Unit::Multipath(_) => Ok(()),
                    Unit::Absent | Unit::Disk(_) | Unit::Several(_) => Err(()),
                })
            })
            .await?;
        if claimed.is_err() {
            tracing::info!(target = %target.identity.target, "multipathd does not claim the disks of this target");
        }
        Ok(())
    }

    /// Lets a multipath device take over a size that all its paths have.
    pub(super) async fn resize_map(
        &self,
        identity: &IscsiIdentity,
        deadline: Instant,
    ) -> Result<(), AttachError> {
        let Unit::Multipath(map) = self.devices.unit(identity).await? else { return Ok(()) };
        let disks = self.devices.disks().await?;
        let size = disks.iter().filter(|disk| disk.is(identity)).map(|disk| disk.size).min();
        if size.is_none_or(|size| size <= map.size) {
            return Ok(());
        }
        // Whether it did so, the wait for the size sees.
        self.tell_multipathd("resize", &map.map, deadline).await.map(drop)
    }

    /// Takes away the multipath devices over these sessions' disks: their paths are about to go.
    ///
    /// # Errors
    /// [`AttachError::InUse`] when one is still open: then its paths stay too.
    pub(super) async fn remove_maps(
        &self,
        target: &Iqn,
        sessions: &[Session],
        deadline: Instant,
    ) -> Result<(), AttachError> {
        let mut maps = Vec::new();
        for disk in self.devices.disks().await? {
            if sessions.iter().any(|session| session.name == disk.session) {
                maps.extend(self.devices.multipaths_of(&disk).await?.into_iter().map(|map| map.map));
            }
        }
        maps.sort();
        maps.dedup();
        for map in maps {
            self.remove_map(target, &map, deadline).await?;
        }
        Ok(())
    }

    /// Patient with udev, which looks at a device that was unmounted a moment ago.
    async fn remove_map(&self, target: &Iqn, map: &str, deadline: Instant) -> Result<(), AttachError> {
        for pause in work::pauses() {
            if self.tell_multipathd("remove", map, deadline).await? || !self.has_map(map).await? {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
        }
        let users = vec![format!("multipathd cannot remove its map {map}: something has it open")];
        Err(AttachError::InUse { target: named(target), users })
    }

    async fn has_map(&self, map: &str) -> Result<bool, AttachError> {
        for disk in self.devices.disks().await? {
            if self.devices.multipaths_of(&disk).await?.iter().any(|found| found.map == map) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether multipathd did it.
    async fn tell_multipathd(&self, verb: &str, map: &str, deadline: Instant) -> Result<bool, AttachError> {
        let arguments = [verb, "map", map].map(str::to_owned).to_vec();
        let output = self.host.run(Tool::Multipathd, arguments, deadline).await?;
        // Older ones end with 0 also when they refuse; the word is the answer.
        let done = output.code == 0 && output.stdout == "ok";
        if !done {
            tracing::warn!(verb, map, code = output.code, "multipathd answered {}", output.stdout);
        }
        Ok(done)
    }
}
