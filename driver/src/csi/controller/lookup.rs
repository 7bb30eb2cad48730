//! From a volume id to a dataset that is proven to be ours.

use truenas::Calls;
use truenas::calls::{Dataset, DatasetKind, Filter, Query, user_property_path};

use crate::csi::controller::Inner;
use crate::protocol::appliance::Appliance;
use crate::protocol::{Answer as _, Volume};
use crate::volume::failure::{Failure, Kind};
use crate::volume::id::{self, VolumeId};
use crate::volume::index::Entry;
use crate::volume::metadata::{CSI_VOLUME_NAME, MANAGED_BY, MANAGER, Metadata, VOLUME_ID};
use crate::volume::ownership::{Foreign, Ownership, judge};
use crate::volume::protocol::Protocol;
use crate::volume::record::Record;

/// A dataset that is ours.
#[derive(Clone, Debug)]
pub(super) struct Owned {
    /// What it says about itself.
    pub metadata: Metadata,
    /// How it is served; always one of its kind (files or block).
    pub protocol: Protocol,
    /// Size in bytes: refquota or volsize.
    pub capacity_bytes: u64,
    /// Block size of a zvol in bytes.
    pub volblocksize: Option<u64>,
    /// A zvol without reservation.
    pub sparse: bool,
    /// Bytes reserved for it.
    pub refreservation: Option<u64>,
    /// It does not record its volume id yet.
    pub unstamped: bool,
    /// Encrypted, and its key is not loaded.
    pub locked: bool,
}

/// What a dataset turned out to be.
#[derive(Clone, Debug)]
pub(super) enum Finding {
    /// There is none.
    Absent,
    /// Ours.
    Owned(Box<Owned>),
    /// Somebody's, or not yet seen to be ours.
    Foreign(Foreign),
}

impl Finding {
    /// The volume, for operations to which a foreign dataset is as good as none.
    pub(super) fn owned(self, id: &VolumeId) -> Result<Owned, Failure> {
        match self {
            Finding::Owned(owned) => Ok(*owned),
            Finding::Absent => Err(Failure::volume_not_found(&id.to_string())),
            Finding::Foreign(why) => {
                Err(Failure::new(Kind::VolumeNotFound, format!("volume {id} does not exist: {why}")))
            }
        }
    }
}

impl Inner {
    /// The dataset of a volume id. None: there is no such volume. A legacy id is a bare name and is looked up.
    pub(super) async fn resolve(&self, calls: &Calls, id: &VolumeId) -> Result<Option<Volume>, Failure> {
        if let Some(dataset) = id.dataset() {
            return Ok(Some(self.volume(id, dataset)));
        }
        let filters = [
            Filter::eq(&user_property_path(MANAGED_BY), MANAGER),
            Filter::eq(&user_property_path(CSI_VOLUME_NAME), id.name()),
        ];
        let found = calls
            .datasets_query(&filters, Query::default())
            .await
            .or_failed("looking up a volume by name")?;
        let mut named = found.into_iter().filter(|d| id::leaf(&d.name) == id.name());
        match (named.next(), named.next()) {
            (Some(one), None) => Ok(Some(self.volume(id, &one.name))),
            (None, _) => Ok(None),
            (Some(one), Some(other)) => Err(Failure::precondition(format!(
                "volume {id} is ambiguous: datasets {} and {} both carry this name",
                one.name, other.name
            ))),
        }
    }

    /// Judges what was read at the volume's dataset. Looks above it where the rule for old volumes needs that.
    pub(super) async fn judge(
        &self,
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
        read: Option<Dataset>,
    ) -> Result<Finding, Failure> {
        let Some(dataset) = read else { return Ok(Finding::Absent) };
        let id = volume.id.to_string();
        let (kind, locked) = (dataset.kind, dataset.locked);
        let capacity = match kind {
            DatasetKind::Filesystem => dataset.refquota,
            DatasetKind::Volume => dataset.volsize,
        };
        let (refreservation, volblocksize) = (dataset.refreservation, dataset.volblocksize);
        let metadata = Metadata::from(dataset.user_properties);
        match judge(&volume.id, &volume.dataset, &metadata, self.cluster_id()) {
            Ownership::Ours => {}
            Ownership::Foreign(why) => return Ok(Finding::Foreign(why)),
            Ownership::OursIfNoOwnedAncestor => {
                let above: Vec<&str> = id::ancestors(&volume.dataset).collect();
                let read =
                    calls.datasets_read(&above).await.or_failed("reading the datasets above the volume")?;
                if let Some(owner) =
                    read.iter().find(|d| Metadata::from(d.user_properties.clone()).is_marked())
                {
                    let why = format!(
                        "dataset {} has no {VOLUME_ID}, and {} above it is marked: it may have inherited the marker",
                        volume.dataset, owner.name
                    );
                    return Ok(Finding::Foreign(Foreign { why, settled: false }));
                }
            }
        }
        let protocol = match as_volume(&metadata, kind) {
            Ok(protocol) => protocol,
            Err(why) => {
                let why = format!("dataset {} {why}", volume.dataset);
                return Ok(Finding::Foreign(Foreign { why, settled: true }));
            }
        };
        for bad in Record::of(&metadata).bad_values() {
            tracing::warn!(volume = %volume.id, "{bad}; it is not used");
        }
        let capacity_bytes = capacity.unwrap_or(0);
        appliance.index.seen(&id, Entry { capacity_bytes, protocol: Some(protocol) });
        let unstamped = metadata.get(VOLUME_ID).is_none();
        Ok(Finding::Owned(Box::new(Owned {
            metadata,
            protocol,
            capacity_bytes,
            volblocksize,
            sparse: refreservation.is_none(),
            refreservation,
            unstamped,
            locked,
        })))
    }

    /// Reads and judges a volume.
    pub(super) async fn find(
        &self,
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
    ) -> Result<Finding, Failure> {
        let read = calls.dataset_read(&volume.dataset).await;
        let read = read.or_failed(&format!("reading dataset {}", volume.dataset))?;
        self.judge(appliance, calls, volume, read).await
    }

    /// The appliance and the id of a request's volume, or that there is none.
    pub(super) fn locate(&self, volume_id: &str) -> Option<(&std::sync::Arc<Appliance>, VolumeId)> {
        let id = VolumeId::parse(volume_id)?;
        Some((self.appliance_of(&id)?, id))
    }
}

/// How a dataset that carries our marker about itself is served.
///
/// # Errors
/// It is no volume that this driver can work with; the words follow the dataset's name.
pub(super) fn as_volume(metadata: &Metadata, kind: DatasetKind) -> Result<Protocol, String> {
    let record = Record::of(metadata);
    if let Some(why) = record.unknown_schema() {
        return Err(why);
    }
    if record.may_be_snapshot() {
        return Err("holds the copy of a snapshot and is no volume".to_owned());
    }
    let protocol =
        metadata.protocol().map_err(|unknown| format!("records a protocol that is none: {unknown}"))?;
    let protocol = protocol.ok_or("records no protocol")?;
    if protocol.is_block() != (kind == DatasetKind::Volume) {
        return Err(format!("is recorded as {protocol}, which it is not the kind of dataset for"));
    }
    Ok(protocol)
}
