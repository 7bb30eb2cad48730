//! StageVolume: what is there is compared first, then intent, source, file system, mount.

use std::sync::Arc;

use tns_csi_proto::helper::v1 as api;
use tokio::time::Instant;

use super::view::{Life, is_staging};
use super::{Call, Done, Stage, StageAccess, Volumes, unexpected};
use crate::device::{DeviceIdentity, NvmeIdentity, VolumeNode};
use crate::failure::{Failure, Kind};
use crate::filesystem::FsType;
use crate::ledger::{Access, Intent, Record, RecordedSource};
use crate::mount::attach::Removal;
use crate::mount::{MountOptions, MountTable, cifs, nfs};
use crate::paths::{Contents, Place};
use crate::source::{NfsSource, SmbSource, Source};
use crate::work;

/// What a stage came to.
pub(super) type Staged = api::StageVolumeResponse;

impl Volumes {
    /// Stages a volume.
    ///
    /// # Errors
    /// See [`crate::failure::Kind`]; after a final one nothing partial is left but what the ledger says.
    pub async fn stage(self: &Arc<Self>, request: Stage, call: Call) -> Result<Staged, Failure> {
        let this = Arc::clone(self);
        let volume = request.volume.clone();
        let deadline = call.deadline;
        let work = async move { Box::pin(this.stage_now(request, deadline)).await.map(Done::Staged) };
        match self.operations.run(&volume, "StageVolume", call.fingerprint, call.answer_by, work).await? {
            Done::Staged(staged) => Ok(staged),
            _ => Err(unexpected("StageVolume")),
        }
    }

    async fn stage_now(self: &Arc<Self>, request: Stage, deadline: Instant) -> Result<Staged, Failure> {
        let source = recorded_source(&request.source);
        let access = recorded_access(&request.access);
        let staging = request.staging.0.relative();
        let place = self.place(&request.staging.0).await?;
        let table = self.table().await?;
        let present = self.record(&request.volume).await?;
        let fresh = || Record::staging(&request.volume, source.clone(), staging.clone(), access.clone());
        let mut record = match present {
            None => fresh(),
            Some(mut record) => {
                if let Some(staged) = self.already(&mut record, &request, &place, &table, deadline).await? {
                    return Ok(staged);
                }
                // The marker speaks of a device, not of a stage: it stays while it is about this device. The targets
                // stay too, so that each can be unpublished.
                let marker =
                    record.formatting.take().filter(|marker| Some(&marker.identity) == identity(&source));
                let mut renewed = fresh();
                renewed.formatting = marker;
                renewed.published = record.published;
                renewed
            }
        };
        let place = self.check_empty(place).await?;
        {
            let _one_at_a_time = self.claims.lock().await;
            self.refuse_second_name(&record).await?;
            self.remember(&request.volume, &record).await?;
        }
        let outcome = match (&request.source, &request.access) {
            (Source::Nfs(nfs), StageAccess::Export { options, group, .. }) => {
                self.stage_export(nfs, options, *group, place, deadline).await
            }
            (Source::Smb(smb), StageAccess::Export { options, .. }) => {
                self.stage_share(smb, options, place, deadline).await
            }
            (Source::Nvmeof(_) | Source::Iscsi(_), _) => {
                self.stage_block(&request, &mut record, place, deadline).await
            }
            (Source::Nfs(_) | Source::Smb(_), _) => Err(Failure::invalid("a file source is staged as files")),
        };
        match outcome {
            Ok(outcome) => {
                record.intent = Intent::Staged;
                record.formatting = None;
                self.remember(&request.volume, &record).await?;
                Ok(Staged { outcome: outcome.to_owned(), fs_type: fs_type(&record.access) })
            }
            Err(failure) => {
                if failure.is_final() {
                    self.undo_stage(&request, &mut record).await;
                }
                Err(failure)
            }
        }
    }

    /// Compares a present record with the request. `Some`: it is staged as asked for. `None`: stage it, nothing of it
    /// is mounted at the place any more.
    async fn already(
        self: &Arc<Self>,
        record: &mut Record,
        request: &Stage,
        place: &Place,
        table: &MountTable,
        deadline: Instant,
    ) -> Result<Option<Staged>, Failure> {
        let volume = &request.volume;
        let elsewhere = record.staging != request.staging.0.relative();
        if elsewhere {
            let path = crate::paths::VolumePath::from_ledger(&record.staging);
            let real = path.map(|path| self.parts.root.real_path(&path));
            let mounted =
                real.as_ref().and_then(|real| table.top(real)).is_some_and(|mount| is_staging(record, mount));
            let connected = record.is_raw_block() && record.intent == Intent::Staged;
            if mounted || connected {
                return Err(Failure::precondition(format!(
                    "volume {volume} is staged at {}; unstage it there first",
                    record.staging
                )));
            }
            self.refuse_other_source(record, request, table)?;
            return Ok(None);
        }
        let mounted = match table.top(place.real()) {
            Some(mount) if is_staging(record, mount) => true,
            Some(mount) => {
                return Err(Failure::invalid(
                    place
                        .refuse(format!(
                            "is the mount point of {}, which is not this volume's",
                            mount.describe()
                        ))
                        .to_string(),
                ));
            }
            None => false,
        };
        let staged = mounted || (record.is_raw_block() && record.intent == Intent::Staged);
        if !staged {
            self.refuse_other_source(record, request, table)?;
            return Ok(None);
        }
        let fault = match self.life(record, deadline).await? {
            life @ (Life::Device(_) | Life::Export) => {
                let (source, access) = (recorded_source(&request.source), recorded_access(&request.access));
                let group = access.group();
                // Which group it is decides below.
                let access = access.with_group(record.access.group());
                if record.source != source || record.access != access {
                    return Err(Failure::already_exists(format!(
                        "volume {volume} is already staged with other settings: {}",
                        difference(record, &source, &access)
                    )));
                }
                if let (Life::Device(node), Intent::Staging) = (&life, record.intent) {
                    self.finish_growth(record, node, place, deadline).await?;
                }
                if record.intent != Intent::Staged || record.formatting.is_some() {
                    record.intent = Intent::Staged;
                    record.formatting = None;
                    self.remember(volume, record).await?;
                }
                self.settle_group(record, group, None, table, deadline)
                    .await
                    .map_err(|conflict| conflict.into_failure(Kind::AlreadyExists))?;
                let fs_type = fs_type(&record.access);
                return Ok(Some(Staged { outcome: "already staged".to_owned(), fs_type }));
            }
            Life::Silent => {
                return Err(Failure::unavailable(format!(
                    "volume {volume} is staged, but {} does not answer; its mount is kept",
                    record.source.describe()
                )));
            }
            Life::Dead(fault) => fault,
        };
        tracing::warn!(volume = %volume, fault, "a dead mount is taken away and the volume staged anew");
        if mounted {
            let place = self.place(&request.staging.0).await?;
            let dead = record.clone();
            self.take_away(place, Removal::DetachDead, move |mount| is_staging(&dead, mount)).await?;
        }
        self.refuse_other_source(record, request, table)?;
        Ok(None)
    }

    /// A stage that was cut off after its mount may not have filled the device yet.
    async fn finish_growth(
        &self,
        record: &Record,
        node: &VolumeNode,
        place: &Place,
        deadline: Instant,
    ) -> Result<(), Failure> {
        match &record.access {
            Access::Filesystem { fs_type, readonly: false, .. } if node.reachable => {
                let kind: FsType = fs_type.parse().map_err(|error| Failure::internal(format!("{error}")))?;
                self.grow_at(node, kind, place, deadline).await.map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// A record of another source may be replaced only when nothing of it is left on the host.
    fn refuse_other_source(
        &self,
        record: &Record,
        request: &Stage,
        table: &MountTable,
    ) -> Result<(), Failure> {
        if record.source == recorded_source(&request.source) {
            return Ok(());
        }
        let left = record.published.iter().find(|published| {
            crate::paths::VolumePath::from_ledger(&published.target)
                .is_some_and(|path| table.top(&self.parts.root.real_path(&path)).is_some())
        });
        match left {
            None => Ok(()),
            Some(published) => Err(Failure::precondition(format!(
                "volume {} was {} before and is still published at {}; unpublish it there first",
                request.volume,
                record.source.describe(),
                published.target
            ))),
        }
    }

    /// The staging path must be an empty directory on which nothing is mounted.
    async fn check_empty(&self, place: Place) -> Result<Place, Failure> {
        let table = self.table().await?;
        if let Some(mount) = table.top(place.real()) {
            let fault = format!("is the mount point of {}", mount.describe());
            return Err(Failure::invalid(place.refuse(fault).to_string()));
        }
        let (place, contents) = Self::contents(place).await?;
        match contents {
            Contents::EmptyDirectory => Ok(place),
            Contents::Absent => {
                Err(Failure::invalid(place.refuse("does not exist; the caller makes it").to_string()))
            }
            other => {
                let fault = format!("has to be an empty directory; found {}", other.describe());
                Err(Failure::invalid(place.refuse(fault).to_string()))
            }
        }
    }

    async fn stage_export(
        &self,
        source: &NfsSource,
        options: &MountOptions,
        group: Option<u32>,
        place: Place,
        deadline: Instant,
    ) -> Result<&'static str, Failure> {
        let addresses = self.parts.servers.resolve(&source.server, deadline).await?;
        let server = nfs::reachable("NFS", &addresses, deadline).await?;
        let (own, options) = (source.clone(), options.clone());
        let patience = self.patience(deadline);
        work::run("mounting the export", move || {
            let mount = nfs::mount(&own, server, &options).map_err(|error| nfs::judge(&own, &error))?;
            let group = group.filter(|_| !options.read_only());
            super::group::give(&mount, group, &nfs::device_string(&own), &patience)?;
            mount.attach(&place).map_err(|error| nfs::judge(&own, &error))
        })
        .await??;
        Ok("mounted")
    }

    async fn stage_share(
        &self,
        source: &SmbSource,
        options: &MountOptions,
        place: Place,
        deadline: Instant,
    ) -> Result<&'static str, Failure> {
        let addresses = self.parts.servers.resolve(&source.server, deadline).await?;
        let server = nfs::reachable("SMB", &addresses, deadline).await?;
        let (own, options) = (source.clone(), options.clone());
        work::run("mounting the share", move || cifs::mount(&own, server, &options)?.attach(&place))
            .await?
            .map_err(|error| cifs::judge(source, &error))?;
        Ok("mounted")
    }
}

/// The record's form of a source.
pub(super) fn recorded_source(source: &Source) -> RecordedSource {
    match source {
        Source::Nfs(nfs) => RecordedSource::Nfs { device: nfs::device_string(nfs), port: nfs.server.port },
        Source::Smb(smb) => RecordedSource::Smb {
            device: cifs::device_string(smb),
            port: smb.server.port,
            user: smb.user.as_ref().map_or_else(String::new, |user| user.name.clone()),
            domain: smb.domain.clone().unwrap_or_default(),
        },
        Source::Nvmeof(nvmeof) => RecordedSource::Block(DeviceIdentity::Nvme(NvmeIdentity {
            subsystem_nqn: nvmeof.nqn.clone(),
            uuid: nvmeof.uuid,
            nguid: nvmeof.nguid,
        })),
        Source::Iscsi(iscsi) => RecordedSource::Block(DeviceIdentity::Iscsi(iscsi.identity.clone())),
    }
}

/// The record's form of an access. Files that are mounted read-only are given to no group; only the mount of an SMB
/// share has one nevertheless, as an option.
fn recorded_access(access: &StageAccess) -> Access {
    match access {
        StageAccess::Filesystem { kind, options, group, .. } => Access::Filesystem {
            fs_type: kind.name().to_owned(),
            options: options.texts(),
            readonly: options.read_only(),
            group: group.filter(|_| !options.read_only()),
        },
        StageAccess::Export { fs_type, options, group } => Access::Filesystem {
            fs_type: (*fs_type).to_owned(),
            options: options.texts(),
            readonly: options.read_only(),
            group: group.filter(|_| *fs_type == "cifs" || !options.read_only()),
        },
        StageAccess::RawBlock { readonly } => Access::Block { readonly: *readonly },
    }
}

fn identity(source: &RecordedSource) -> Option<&DeviceIdentity> {
    match source {
        RecordedSource::Block(identity) => Some(identity),
        RecordedSource::Nfs { .. } | RecordedSource::Smb { .. } => None,
    }
}

fn fs_type(access: &Access) -> String {
    match access {
        Access::Filesystem { fs_type, .. } => fs_type.clone(),
        Access::Block { .. } => String::new(),
    }
}

/// What differs between a record and a request, in words.
fn difference(record: &Record, source: &RecordedSource, access: &Access) -> String {
    let show = |access: &Access| match access {
        Access::Filesystem { fs_type, options, .. } => {
            format!("{fs_type} with options {}", options.join(","))
        }
        Access::Block { readonly: true } => "read-only raw block".to_owned(),
        Access::Block { readonly: false } => "raw block".to_owned(),
    };
    if record.source != *source {
        format!("{} instead of {}", record.source.describe(), source.describe())
    } else {
        format!("{} instead of {}", show(&record.access), show(access))
    }
}
