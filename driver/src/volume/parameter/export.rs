//! What a class says about the export of its volumes, for all protocols.
//!
//! The rule it keeps: the same settings come from the class when a volume is made and from the volume's own record of the
//! request afterwards, so that what is missing of an export can be made again as it was asked for.

use std::collections::BTreeMap;

use crate::volume::failure::Failure;
use crate::volume::metadata::Metadata;
use crate::volume::parameter::iscsi::Iscsi;
use crate::volume::parameter::nfs::Nfs;
use crate::volume::parameter::nvmeof::Nvmeof;
use crate::volume::parameter::smb::Smb;
use crate::volume::parameter::table;

/// The settings, a group for each protocol; those of the others are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportSettings {
    /// Of NFS exports.
    pub nfs: Nfs,
    /// Of SMB shares.
    pub smb: Smb,
    /// Of iSCSI targets.
    pub iscsi: Iscsi,
    /// Of NVMe-oF subsystems.
    pub nvmeof: Nvmeof,
}

impl ExportSettings {
    /// Reads the settings from a class's own keys.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: values that do not go together.
    pub fn read(given: &BTreeMap<String, String>) -> Result<Self, Failure> {
        Ok(ExportSettings {
            nfs: Nfs::read(given)?,
            smb: Smb::read(given)?,
            iscsi: Iscsi::read(given)?,
            nvmeof: Nvmeof::read(given)?,
        })
    }

    /// Reads the settings that the volume was made with; a volume that records none has the defaults.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the record was changed to values that do not go together.
    pub fn recorded(metadata: &Metadata) -> Result<Self, Failure> {
        let recorded = table()
            .filter_map(|d| Some((d.name.to_owned(), metadata.requested_parameter(d.name)?.to_owned())));
        Self::read(&recorded.collect())
    }
}
