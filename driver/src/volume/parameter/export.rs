//! What a class says about the export of its volumes, for all protocols.
//!
//! The rule it keeps: the same settings come from the class when a volume is made and from the volume's own record of the
//! request afterwards, so that what is missing of an export can be made again as it was asked for.

use std::collections::BTreeMap;

use truenas::calls::Permissions;

use crate::volume::failure::Failure;
use crate::volume::metadata::{CSI_VOLUME_NAME, Metadata, PVC_NAME, PVC_NAMESPACE};
use crate::volume::parameter::iscsi::{self, Iscsi};
use crate::volume::parameter::nfs::{self, Nfs};
use crate::volume::parameter::nvmeof::Nvmeof;
use crate::volume::parameter::smb::{self, Smb};
use crate::volume::parameter::table;
use crate::volume::template::{Template, Values};

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
    /// What the root directory of a new volume shall be before anybody is let in. A volume that exists has none: its
    /// users may have changed it since.
    pub permissions: Permissions,
}

impl ExportSettings {
    /// Reads the settings from a class's own keys, but for the permissions.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: values that do not go together.
    pub fn read(given: &BTreeMap<String, String>) -> Result<Self, Failure> {
        Ok(ExportSettings {
            nfs: Nfs::read(given)?,
            smb: Smb::read(given)?,
            iscsi: Iscsi::read(given)?,
            nvmeof: Nvmeof::read(given)?,
            permissions: Permissions::default(),
        })
    }

    /// Reads the settings that the volume was made with; a volume that records none has the defaults.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the record was changed to values that do not go together.
    pub fn recorded(metadata: &Metadata) -> Result<Self, Failure> {
        let recorded = table()
            .filter_map(|d| Some((d.name.to_owned(), metadata.requested_parameter(d.name)?.to_owned())));
        let values = Values {
            pvc_name: metadata.get(PVC_NAME),
            pvc_namespace: metadata.get(PVC_NAMESPACE),
            pv_name: metadata.get(CSI_VOLUME_NAME).unwrap_or_default(),
        };
        let read = Self::read(&recorded.collect())?;
        Ok(read.clone().rendered(values).unwrap_or_else(|_| read.without_comments()))
    }

    /// The same without the classes' comments: who may reach the volume does not hang on a claim's name that was lost.
    fn without_comments(mut self) -> Self {
        (self.nfs.comment, self.smb.comment, self.iscsi.comment) = (None, None, None);
        self
    }

    /// The same with the comments filled in for one volume. Names may be long: a comment is cut to the length that a
    /// class may give.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a comment that is no template, or gives what is no comment for this volume.
    pub fn rendered(mut self, values: Values<'_>) -> Result<Self, Failure> {
        let comments = [
            (nfs::COMMENT, &mut self.nfs.comment, nfs::MAX_SHARE_COMMENT),
            (smb::COMMENT, &mut self.smb.comment, nfs::MAX_SHARE_COMMENT),
            (iscsi::COMMENT, &mut self.iscsi.comment, iscsi::MAX_COMMENT),
        ];
        for (key, comment, longest) in comments {
            let Some(text) = comment else { continue };
            // An empty one is valid for iSCSI and asks for nothing.
            if text.is_empty() {
                continue;
            }
            let rendered = Template::parse(text).and_then(|template| template.render(values));
            let rendered = rendered.map_err(|why| Failure::invalid(format!("parameter {key}: {why}")))?;
            let rendered = rendered.chars().take(longest).collect::<String>().trim_end().to_owned();
            if let Some(definition) = table().find(|d| d.name == key && !(d.check)(&rendered)) {
                return Err(Failure::invalid(format!(
                    "parameter {key} gives {:?} for this volume, valid is {}",
                    rendered.chars().take(64).collect::<String>(),
                    definition.values
                )));
            }
            *text = rendered;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::metadata::parameter_property;

    fn recorded(pairs: &[(&str, &str)], others: &[(&str, &str)]) -> ExportSettings {
        let class = pairs.iter().map(|(key, value)| (parameter_property(key), (*value).to_owned()));
        let others = others.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        ExportSettings::recorded(&Metadata::from(class.chain(others).collect::<BTreeMap<_, _>>())).unwrap()
    }

    #[test]
    fn comments_are_filled_in_from_the_volumes_own_record() {
        let class = [(nfs::COMMENT, "{{ .PVCNamespace }}/{{ .PVCName }} {{ .PVName }}")];
        let volume = [(PVC_NAME, "data"), (PVC_NAMESPACE, "team"), (CSI_VOLUME_NAME, "pvc-1")];
        assert_eq!(recorded(&class, &volume).nfs.comment.as_deref(), Some("team/data pvc-1"));
    }

    #[test]
    fn a_comment_of_long_names_is_cut_where_the_appliance_takes_no_more() {
        let name = "ü".repeat(200);
        for (key, longest) in [(nfs::COMMENT, 128), (smb::COMMENT, 128), (iscsi::COMMENT, 120)] {
            let read = recorded(&[(key, "of {{ .PVName }}")], &[(CSI_VOLUME_NAME, &name)]);
            let comment =
                [read.nfs.comment, read.smb.comment, read.iscsi.comment].into_iter().flatten().next();
            assert_eq!(comment.unwrap(), format!("of {}", "ü".repeat(longest - 3)), "{key}");
        }
        let ends_in_a_blank = format!("{} x", "a".repeat(119));
        let read = recorded(&[(iscsi::COMMENT, "{{ .PVName }}")], &[(CSI_VOLUME_NAME, &ends_in_a_blank)]);
        assert_eq!(read.iscsi.comment.as_deref(), Some(ends_in_a_blank.split(' ').next().unwrap()));
    }

    #[test]
    fn a_lost_name_of_the_claim_leaves_access_as_it_was_asked_for() {
        let class = [(iscsi::COMMENT, "{{ .PVCName }}"), ("iscsi.initiators", "iqn.1993-08.org.debian:a")];
        let read = recorded(&class, &[(CSI_VOLUME_NAME, "pvc-1")]);
        assert!(read.iscsi.is_open());
        assert_eq!(read.iscsi.comment, None);
    }

    #[test]
    fn permissions_are_not_taken_from_the_record() {
        let read = recorded(&[("datasetPermissionsMode", "0777")], &[]);
        assert!(read.permissions.is_empty(), "the directory is its users'");
    }

    #[test]
    fn a_comment_that_would_forge_our_mark_is_refused() {
        let mut settings = ExportSettings::default();
        settings.nfs.comment = Some("{{ .PVName }}".to_owned());
        let values = Values { pv_name: "[tns-csi tank/other]", ..Values::default() };
        assert!(settings.rendered(values).unwrap_err().message.contains(nfs::COMMENT));
    }
}
