//! Everything that a volume's properties may say (`tns-csi:*`, schema version 1), read into types.
//!
//! The rule it keeps: a value that cannot be read is told as such and never taken for a default. Ids that TrueNAS assigns
//! are read here and written nowhere: an appliance that was restored gives others.

use crate::volume::metadata::{self, Metadata};
use crate::volume::parameter::DeleteStrategy;
use crate::volume::protocol::Protocol;

/// The schema version that this driver knows.
pub const SCHEMA: u32 = 1;

/// Longest part of a bad value that is shown, in characters.
const SHOWN: usize = 64;

/// A property whose value is not of its type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("property {property} is {value:?}, valid is {valid}")]
pub struct BadValue {
    /// The property.
    pub property: &'static str,
    /// Its value, shortened.
    pub value: String,
    /// What would be valid.
    pub valid: &'static str,
}

/// A property: absent, read, or unreadable.
pub type Field<T> = Result<Option<T>, BadValue>;

/// Where a volume's content came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentSource {
    /// A snapshot.
    Snapshot,
    /// Another volume.
    Volume,
}

/// What a volume with foreign content depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloneMode {
    /// It shares blocks with the snapshot that it came from, which cannot go before it.
    Cow,
    /// The dependency was turned around: the source depends on it.
    Promoted,
    /// It is a full copy.
    Detached,
}

/// What the properties of one dataset say. Texts are as they stand there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `schema_version`.
    pub schema_version: Field<u32>,
    /// `csi_volume_name`.
    pub csi_volume_name: Option<String>,
    /// `cluster_id`.
    pub cluster_id: Option<String>,
    /// `protocol`.
    pub protocol: Field<Protocol>,
    /// `capacity_bytes`.
    pub capacity_bytes: Field<u64>,
    /// `created_at`; old releases of tns-csi wrote `provisioned_at`.
    pub created_at: Field<jiff::Timestamp>,
    /// `delete_strategy`.
    pub delete_strategy: Field<DeleteStrategy>,
    /// `adoptable`: somebody else may take the volume over.
    pub adoptable: Field<bool>,
    /// `pvc_name`.
    pub pvc_name: Option<String>,
    /// `pvc_namespace`.
    pub pvc_namespace: Option<String>,
    /// `storage_class`, which external-provisioner tells nobody: this driver cannot write it.
    pub storage_class: Option<String>,
    /// What it is served by.
    pub export: ExportRecord,
    /// Where its content came from.
    pub content: ContentRecord,
    /// What a dataset that holds a snapshot's full copy says about it.
    pub detached: DetachedRecord,
}

/// What a volume is served by, as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportRecord {
    /// `nfs_share_path`.
    pub nfs_share_path: Option<String>,
    /// `nfs_share_id`.
    pub nfs_share_id: Field<i64>,
    /// `smb_share_name`.
    pub smb_share_name: Option<String>,
    /// `smb_share_id`.
    pub smb_share_id: Field<i64>,
    /// `nvmeof_subsystem_nqn`.
    pub nvmeof_subsystem_nqn: Option<String>,
    /// `nvmeof_subsystem_id`.
    pub nvmeof_subsystem_id: Field<i64>,
    /// `nvmeof_namespace_id`.
    pub nvmeof_namespace_id: Field<i64>,
    /// `iscsi_iqn`.
    pub iscsi_iqn: Option<String>,
    /// `iscsi_target_id`.
    pub iscsi_target_id: Field<i64>,
    /// `iscsi_extent_id`.
    pub iscsi_extent_id: Field<i64>,
}

/// Where a volume's content came from, as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentRecord {
    /// `content_source_type`.
    pub kind: Field<ContentSource>,
    /// `content_source_id`.
    pub id: Option<String>,
    /// `clone_mode`.
    pub mode: Field<CloneMode>,
    /// `origin_snapshot`.
    pub origin_snapshot: Option<String>,
}

/// What the full copy of a snapshot says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachedRecord {
    /// `detached_snapshot`.
    pub is_detached: Field<bool>,
    /// `snapshot_id`.
    pub snapshot_id: Option<String>,
    /// `snapshot_csi_name`.
    pub snapshot_name: Option<String>,
    /// `source_volume_id`, or `snapshot_source_volume` where that is absent.
    pub source_volume_id: Option<String>,
    /// `source_dataset`.
    pub source_dataset: Option<String>,
}

struct Reader<'a>(&'a Metadata);

impl Reader<'_> {
    fn text(&self, property: &'static str) -> Option<String> {
        self.0.get(property).map(str::to_owned)
    }

    fn read<T>(
        &self,
        property: &'static str,
        valid: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Field<T> {
        let Some(text) = self.0.get(property) else { return Ok(None) };
        let bad = || BadValue { property, value: text.chars().take(SHOWN).collect(), valid };
        read(text).map(Some).ok_or_else(bad)
    }

    fn id(&self, property: &'static str) -> Field<i64> {
        self.read(property, "the number of a row of the appliance", |t| t.parse().ok().filter(|id| *id >= 0))
    }

    fn flag(&self, property: &'static str) -> Field<bool> {
        self.read(property, "true or false", |t| t.parse().ok())
    }

    fn time(&self, property: &'static str) -> Field<jiff::Timestamp> {
        self.read(property, "a moment as in RFC 3339", |t| t.parse().ok())
    }
}

impl Record {
    /// Reads what a dataset says.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        let reader = Reader(metadata);
        let created_at = match reader.time(metadata::CREATED_AT) {
            Ok(None) => reader.time("tns-csi:provisioned_at"),
            found => found,
        };
        Record {
            schema_version: reader.read(metadata::SCHEMA_VERSION, "1", |t| t.parse().ok()),
            csi_volume_name: reader.text(metadata::CSI_VOLUME_NAME),
            cluster_id: reader.text(metadata::CLUSTER_ID),
            protocol: reader.read(metadata::PROTOCOL, "nfs, smb, iscsi or nvmeof", |t| t.parse().ok()),
            capacity_bytes: reader.read(metadata::CAPACITY_BYTES, "a number of bytes", |t| t.parse().ok()),
            created_at,
            delete_strategy: reader.read(
                metadata::DELETE_STRATEGY,
                "delete or retain",
                DeleteStrategy::parse,
            ),
            adoptable: reader.flag("tns-csi:adoptable"),
            pvc_name: reader.text(metadata::PVC_NAME),
            pvc_namespace: reader.text(metadata::PVC_NAMESPACE),
            storage_class: reader.text("tns-csi:storage_class"),
            export: ExportRecord {
                nfs_share_path: reader.text(metadata::NFS_SHARE_PATH),
                nfs_share_id: reader.id(metadata::NFS_SHARE_ID),
                smb_share_name: reader.text(metadata::SMB_SHARE_NAME),
                smb_share_id: reader.id(metadata::SMB_SHARE_ID),
                nvmeof_subsystem_nqn: reader.text(metadata::NVMEOF_SUBSYSTEM_NQN),
                nvmeof_subsystem_id: reader.id("tns-csi:nvmeof_subsystem_id"),
                nvmeof_namespace_id: reader.id("tns-csi:nvmeof_namespace_id"),
                iscsi_iqn: reader.text(metadata::ISCSI_IQN),
                iscsi_target_id: reader.id("tns-csi:iscsi_target_id"),
                iscsi_extent_id: reader.id("tns-csi:iscsi_extent_id"),
            },
            content: ContentRecord {
                kind: reader.read(metadata::CONTENT_SOURCE_TYPE, "snapshot or volume", |t| match t {
                    "snapshot" => Some(ContentSource::Snapshot),
                    "volume" => Some(ContentSource::Volume),
                    _ => None,
                }),
                id: reader.text("tns-csi:content_source_id"),
                mode: reader.read("tns-csi:clone_mode", "cow, promoted or detached", |t| match t {
                    "cow" => Some(CloneMode::Cow),
                    "promoted" => Some(CloneMode::Promoted),
                    "detached" => Some(CloneMode::Detached),
                    _ => None,
                }),
                origin_snapshot: reader.text("tns-csi:origin_snapshot"),
            },
            detached: DetachedRecord {
                is_detached: reader.flag(metadata::DETACHED_SNAPSHOT),
                snapshot_id: reader.text("tns-csi:snapshot_id"),
                snapshot_name: reader.text("tns-csi:snapshot_csi_name"),
                source_volume_id: reader
                    .text("tns-csi:source_volume_id")
                    .or_else(|| reader.text("tns-csi:snapshot_source_volume")),
                source_dataset: reader.text("tns-csi:source_dataset"),
            },
        }
    }

    /// Why this driver must leave the dataset alone although it is marked: another schema has meanings of its own.
    #[must_use]
    pub fn unknown_schema(&self) -> Option<String> {
        match &self.schema_version {
            Ok(None | Some(SCHEMA)) => None,
            Ok(Some(other)) => Some(format!(
                "records schema version {other}, this driver knows {SCHEMA}; a newer driver may have made it"
            )),
            Err(bad) => Some(format!("cannot be read: {bad}")),
        }
    }

    /// Whether the dataset holds a snapshot's full copy, or may: it is no volume then.
    #[must_use]
    pub fn may_be_snapshot(&self) -> bool {
        self.detached.is_detached != Ok(None) && self.detached.is_detached != Ok(Some(false))
    }

    /// Every value that cannot be read.
    pub fn bad_values(&self) -> impl Iterator<Item = &BadValue> {
        let Record {
            schema_version, protocol, capacity_bytes, created_at, delete_strategy, adoptable, ..
        } = self;
        let Record { export, content, detached, .. } = self;
        let all = [
            schema_version.as_ref().err(),
            protocol.as_ref().err(),
            capacity_bytes.as_ref().err(),
            created_at.as_ref().err(),
            delete_strategy.as_ref().err(),
            adoptable.as_ref().err(),
            export.nfs_share_id.as_ref().err(),
            export.smb_share_id.as_ref().err(),
            export.nvmeof_subsystem_id.as_ref().err(),
            export.nvmeof_namespace_id.as_ref().err(),
            export.iscsi_target_id.as_ref().err(),
            export.iscsi_extent_id.as_ref().err(),
            content.kind.as_ref().err(),
            content.mode.as_ref().err(),
            detached.is_detached.as_ref().err(),
        ];
        all.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn record(pairs: &[(&str, &str)]) -> Record {
        let all = pairs.iter().map(|(key, value)| (format!("tns-csi:{key}"), (*value).to_owned()));
        Record::of(&Metadata::from(all.collect::<BTreeMap<_, _>>()))
    }

    #[test]
    fn every_property_of_schema_version_1_is_read() {
        let read = record(&[
            ("schema_version", "1"),
            ("managed_by", "tns-csi"),
            ("csi_volume_name", "pvc-1"),
            ("cluster_id", "east"),
            ("protocol", "nvmeof"),
            ("capacity_bytes", "1073741824"),
            ("created_at", "2026-01-02T03:04:05Z"),
            ("delete_strategy", "retain"),
            ("adoptable", "true"),
            ("pvc_name", "data"),
            ("pvc_namespace", "team"),
            ("storage_class", "fast"),
            ("nfs_share_path", "/mnt/tank/a"),
            ("nfs_share_id", "1"),
            ("smb_share_name", "a"),
            ("smb_share_id", "2"),
            ("nvmeof_subsystem_nqn", "nqn.2026-02.csi.tns:a"),
            ("nvmeof_subsystem_id", "3"),
            ("nvmeof_namespace_id", "4"),
            ("iscsi_iqn", "iqn.2005-10.org.freenas.ctl:a"),
            ("iscsi_target_id", "5"),
            ("iscsi_extent_id", "6"),
            ("content_source_type", "snapshot"),
            ("content_source_id", "tank/b@s"),
            ("clone_mode", "promoted"),
            ("origin_snapshot", "tank/b@s"),
            ("detached_snapshot", "true"),
            ("snapshot_id", "detached:nfs:tank/b@s"),
            ("snapshot_csi_name", "s"),
            ("source_volume_id", "tank/b"),
            ("source_dataset", "tank/b"),
        ]);
        assert_eq!(read.bad_values().count(), 0);
        assert_eq!((&read.schema_version, &read.protocol), (&Ok(Some(1)), &Ok(Some(Protocol::Nvmeof))));
        assert_eq!((&read.capacity_bytes, &read.adoptable), (&Ok(Some(1 << 30)), &Ok(Some(true))));
        assert_eq!(read.created_at.unwrap().unwrap().to_string(), "2026-01-02T03:04:05Z");
        assert_eq!(read.delete_strategy, Ok(Some(DeleteStrategy::Retain)));
        assert_eq!(
            (read.storage_class.as_deref(), read.pvc_name.as_deref(), read.pvc_namespace.as_deref()),
            (Some("fast"), Some("data"), Some("team"))
        );
        let export = &read.export;
        assert_eq!((&export.nfs_share_id, &export.smb_share_id), (&Ok(Some(1)), &Ok(Some(2))));
        assert_eq!((&export.nvmeof_subsystem_id, &export.nvmeof_namespace_id), (&Ok(Some(3)), &Ok(Some(4))));
        assert_eq!((&export.iscsi_target_id, &export.iscsi_extent_id), (&Ok(Some(5)), &Ok(Some(6))));
        assert_eq!(export.smb_share_name.as_deref(), Some("a"));
        assert_eq!(read.content.kind, Ok(Some(ContentSource::Snapshot)));
        assert_eq!(read.content.mode, Ok(Some(CloneMode::Promoted)));
        assert_eq!(read.content.origin_snapshot.as_deref(), Some("tank/b@s"));
        assert_eq!(read.detached.is_detached, Ok(Some(true)));
        assert_eq!(read.detached.source_volume_id.as_deref(), Some("tank/b"));
    }

    #[test]
    fn what_only_old_releases_wrote_is_read_in_its_place() {
        let read =
            record(&[("provisioned_at", "2026-01-02T03:04:05Z"), ("snapshot_source_volume", "tank/b")]);
        assert!(read.created_at.unwrap().is_some());
        assert_eq!(read.detached.source_volume_id.as_deref(), Some("tank/b"));
    }

    #[test]
    fn a_value_of_another_type_is_told_and_not_taken_for_a_default() {
        let bad = [
            ("schema_version", "one"),
            ("protocol", "ftp"),
            ("capacity_bytes", "1Gi"),
            ("created_at", "yesterday"),
            ("delete_strategy", "archive"),
            ("adoptable", "yes"),
            ("nfs_share_id", "-1"),
            ("smb_share_id", "x"),
            ("nvmeof_subsystem_id", "1.5"),
            ("nvmeof_namespace_id", "x"),
            ("iscsi_target_id", "x"),
            ("iscsi_extent_id", "x"),
            ("content_source_type", "tape"),
            ("clone_mode", "lazy"),
            ("detached_snapshot", "maybe"),
        ];
        let read = record(&bad);
        let told: Vec<String> = read.bad_values().map(ToString::to_string).collect();
        assert_eq!(told.len(), bad.len(), "{told:?}");
        for (key, value) in bad {
            assert!(told.iter().any(|words| words.contains(key) && words.contains(value)), "{key}: {told:?}");
        }
        assert!(read.may_be_snapshot(), "in doubt it is no volume");
        assert!(record(&[("schema_version", "2")]).unknown_schema().unwrap().contains('2'));
        assert!(read.unknown_schema().is_some());
        assert_eq!(record(&[]).unknown_schema(), None, "volumes from before it was recorded");
    }
}
