//! What the ledger keeps about one volume.

use serde::{Deserialize, Serialize};

use crate::device::{DeviceIdentity, DeviceNumber, VolumeNode};
use crate::source::VolumeId;

/// Form of the files. A file of another form is refused with words, never guessed.
pub(super) const FORM: u32 = 1;

/// How far a volume was meant to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// Staging began; the caller has no success yet.
    Staging,
    /// The caller was told that it is staged.
    Staged,
    /// Unstaging began.
    Unstaging,
    /// Not staged; kept only for the formatting marker.
    Unstaged,
}

/// Where the data comes from, without anything secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RecordedSource {
    /// An NFS export.
    Nfs {
        /// The source as the mount table shows it: `server:/export`.
        device: String,
        /// TCP port of the server.
        port: u16,
    },
    /// An SMB share.
    Smb {
        /// The source as the mount table shows it: `//server/share`.
        device: String,
        /// TCP port of the server.
        port: u16,
        /// User that logged in; empty for a guest.
        user: String,
        /// Domain or workgroup; empty for none.
        domain: String,
    },
    /// A block device.
    Block(DeviceIdentity),
}

impl RecordedSource {
    /// The protocol's name in the helper's API.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        match self {
            Self::Nfs { .. } => "nfs",
            Self::Smb { .. } => "smb",
            Self::Block(DeviceIdentity::Nvme(_)) => "nvmeof",
            Self::Block(DeviceIdentity::Iscsi(_)) => "iscsi",
        }
    }

    /// In words, for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Nfs { device, .. } => format!("NFS export {device}"),
            Self::Smb { device, user, .. } if user.is_empty() => format!("SMB share {device} as guest"),
            Self::Smb { device, user, .. } => format!("SMB share {device} of user {user:?}"),
            Self::Block(identity) => identity.to_string(),
        }
    }
}

/// How the volume is staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Access {
    /// Mounted.
    Filesystem {
        /// ext4, xfs, btrfs, nfs or cifs.
        fs_type: String,
        /// Mount options, one text each, in one order.
        options: Vec<String>,
        /// Whether it is mounted read-only.
        readonly: bool,
        /// Group that its files were given to, or are being given to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<u32>,
    },
    /// Connected only.
    Block {
        /// Whether it was staged read-only.
        readonly: bool,
    },
}

impl Access {
    /// The group that the files were given to.
    #[must_use]
    pub fn group(&self) -> Option<u32> {
        match self {
            Self::Filesystem { group, .. } => *group,
            Self::Block { .. } => None,
        }
    }

    /// The same with another group; a raw block device has none.
    #[must_use]
    pub fn with_group(mut self, wanted: Option<u32>) -> Self {
        if let Self::Filesystem { group, .. } = &mut self {
            *group = wanted;
        }
        self
    }
}

/// The device at the moment of staging.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Its number. Good as long as the device lives.
    pub number: DeviceNumber,
    /// Its size in bytes.
    pub size: u64,
    /// The number that its mounts show, where that is another one: btrfs has an anonymous one for each subvolume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounted: Option<DeviceNumber>,
}

impl Device {
    /// What a mount of it shows as `st_dev`.
    #[must_use]
    pub fn shown(&self) -> DeviceNumber {
        self.mounted.unwrap_or(self.number)
    }
}

impl From<&VolumeNode> for Device {
    fn from(node: &VolumeNode) -> Self {
        Self { number: node.number, size: node.size, mounted: None }
    }
}

/// "Proven blank, formatting": while it stands, this host may format this very device again when no complete file
/// system is found on it. It goes with the first good mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Formatting {
    /// The device that was proven blank.
    pub identity: DeviceIdentity,
    /// Its size then, in bytes.
    pub size: u64,
    /// The file system that is being made.
    pub fs_type: String,
}

/// One target path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Relative to the kubelet root.
    pub target: String,
    /// Bind options, one text each, in one order.
    pub options: Vec<String>,
    /// Whether nothing may be written through it.
    pub readonly: bool,
    /// Whether no other target may exist.
    pub exclusive: bool,
    /// Number that the bind shows: of a raw block device its own, of a file system [`Device::shown`]; absent for file
    /// sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceNumber>,
}

/// Everything the ledger keeps about one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Form of this file.
    pub(super) form: u32,
    /// The CSI volume id.
    pub volume_id: String,
    /// How far it was meant to go.
    pub intent: Intent,
    /// Where the data comes from.
    pub source: RecordedSource,
    /// Staging path, relative to the kubelet root.
    pub staging: String,
    /// How it is staged.
    pub access: Access,
    /// The device, once it was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// Present from the proof that the device is blank until the first good mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub formatting: Option<Formatting>,
    /// Targets that exist or are meant to.
    #[serde(default)]
    pub published: Vec<Published>,
}

impl Record {
    /// A volume whose staging begins.
    #[must_use]
    pub fn staging(volume: &VolumeId, source: RecordedSource, staging: String, access: Access) -> Self {
        Self {
            form: FORM,
            volume_id: volume.as_str().to_owned(),
            intent: Intent::Staging,
            source,
            staging,
            access,
            device: None,
            formatting: None,
            published: Vec::new(),
        }
    }

    /// The entry of a target.
    #[must_use]
    pub fn target(&self, relative: &str) -> Option<&Published> {
        self.published.iter().find(|published| published.target == relative)
    }

    /// The identity of the device behind it; `None` for file sources.
    #[must_use]
    pub fn identity(&self) -> Option<&DeviceIdentity> {
        match &self.source {
            RecordedSource::Block(identity) => Some(identity),
            RecordedSource::Nfs { .. } | RecordedSource::Smb { .. } => None,
        }
    }

    /// Whether it is staged as a raw block device.
    #[must_use]
    pub fn is_raw_block(&self) -> bool {
        matches!(self.access, Access::Block { .. })
    }
}
