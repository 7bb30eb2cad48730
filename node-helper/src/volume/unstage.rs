//! UnstageVolume: takes away what ledger and mount table agree on, then the connection, then the record.

use std::sync::Arc;

use tokio::time::Instant;

use super::view::{Life, is_staging, is_target};
use super::{Call, Done, Unstage, Volumes, unexpected};
use crate::failure::Failure;
use crate::ledger::{Intent, Record};
use crate::mount::MountTable;
use crate::mount::attach::Removal;
use crate::paths::VolumePath;

impl Volumes {
    /// Unstages a volume. One that is not staged is a success.
    ///
    /// # Errors
    /// `FailedPrecondition` while it is published or in use, or when something else is mounted at its place.
    pub async fn unstage(self: &Arc<Self>, request: Unstage, call: Call) -> Result<String, Failure> {
        let this = Arc::clone(self);
        let volume = request.volume.clone();
        let deadline = call.deadline;
        let work = async move { Box::pin(this.unstage_now(request, deadline)).await.map(Done::Text) };
        match self.operations.run(&volume, "UnstageVolume", call.fingerprint, call.answer_by, work).await? {
            Done::Text(text) => Ok(text),
            _ => Err(unexpected("UnstageVolume")),
        }
    }

    async fn unstage_now(self: &Arc<Self>, request: Unstage, deadline: Instant) -> Result<String, Failure> {
        let volume = &request.volume;
        let Some(mut record) = self.record(volume).await?.filter(|record| record.intent != Intent::Unstaged)
        else {
            return self.nothing_recorded(&request).await;
        };
        let Some(path) = request.staging.filter(|path| path.relative() == record.staging) else {
            return Err(Failure::precondition(format!(
                "volume {volume} is staged at {}, not at the given path; nothing was changed",
                record.staging
            )));
        };
        let table = self.table().await?;
        if let Some(target) = self.published_targets(&record, &table).await.into_iter().next() {
            return Err(Failure::precondition(format!(
                "volume {volume} is still published at {target}; unpublish it there first"
            )));
        }
        record.intent = Intent::Unstaging;
        record.published.clear();
        self.remember(volume, &record).await?;
        // A parent that is gone has nothing mounted in it.
        let place = match self.place(&path).await {
            Ok(place) => Some(place),
            Err(failure) if table.top(&self.parts.root.real_path(&path)).is_some() => return Err(failure),
            Err(_) => None,
        };
        let mut unmounted = false;
        if let Some(place) = place {
            match table.top(place.real()) {
                Some(mount) if is_staging(&record, mount) => {
                    let how = match self.life(&record, deadline).await? {
                        Life::Dead(fault) => {
                            tracing::warn!(volume = %volume, fault, "a dead mount is taken away");
                            Removal::DetachDead
                        }
                        // A silent server may come back with what is unwritten: the unmount waits for it.
                        Life::Device(_) | Life::Export | Life::Silent => Removal::Clean,
                    };
                    let ours = record.clone();
                    self.take_away(place, how, move |mount| is_staging(&ours, mount)).await?;
                    unmounted = true;
                }
                Some(mount) => {
                    return Err(Failure::precondition(format!(
                        "{} is mounted at the staging path of volume {volume}, which this helper did not do; it is \
                         left alone",
                        mount.describe()
                    )));
                }
                None => {}
            }
        }
        if let Some(identity) = record.identity().cloned() {
            self.prove_unused(&identity).await?;
            self.disconnect(volume.as_str(), &identity, deadline).await?;
        }
        let disconnected = record.identity().is_some();
        self.forget(volume, &mut record).await?;
        Ok(match (unmounted, disconnected) {
            (true, true) => "unmounted and disconnected",
            (true, false) => "unmounted",
            (false, true) => "disconnected",
            (false, false) => "not mounted",
        }
        .to_owned())
    }

    /// No record: nothing here is known to be ours. A mount at the volume's own staging path is then somebody else's
    /// work, and calling it a success would let the volume be taken from under it.
    async fn nothing_recorded(self: &Arc<Self>, request: &Unstage) -> Result<String, Failure> {
        if let Some(path) = &request.staging
            && let Some(mount) = self.table().await?.top(&self.parts.root.real_path(path))
        {
            return Err(Failure::precondition(format!(
                "{} is mounted at the staging path of volume {}, but this helper has no record of it; it is left \
                 alone. Unmount it by hand when it is not in use",
                mount.describe(),
                request.volume
            )));
        }
        Ok("not staged".to_owned())
    }

    /// Targets at which the volume really is: ledger and kernel agree.
    pub(super) async fn published_targets(
        self: &Arc<Self>,
        record: &Record,
        table: &MountTable,
    ) -> Vec<String> {
        let mut targets = Vec::new();
        for published in &record.published {
            let Some(path) = VolumePath::from_ledger(&published.target) else { continue };
            let Some(mount) = table.top(&self.parts.root.real_path(&path)) else { continue };
            let contents = match record.is_raw_block() {
                true => self.node_at(&path).await,
                false => None,
            };
            if is_target(record, published, mount, contents) {
                targets.push(published.target.clone());
            }
        }
        targets
    }

    /// What node lies at a raw block target.
    pub(super) async fn node_at(self: &Arc<Self>, path: &VolumePath) -> Option<crate::paths::Contents> {
        let place = self.place(path).await.ok()?;
        Self::contents(place).await.ok().map(|(_, contents)| contents)
    }
}
