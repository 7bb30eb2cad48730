//! The request of `pool.dataset.create`.

use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};

/// A user property (key with a colon; value of at most 1,024 characters).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UserProperty {
    /// E.g. `tns-csi:managed_by`.
    pub key: String,
    /// Its value.
    pub value: String,
}

impl UserProperty {
    /// Key and value.
    pub fn new(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into() }
    }
}

/// Preset of a file system (`share_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ShareType {
    /// Touches nothing; the one for NFS with Linux clients, with explicit POSIX ACLs.
    #[default]
    Generic,
    /// Case-insensitive, NFSv4 ACLs; waits for an ACL job.
    Smb,
    /// NFSv4 ACLs, atime off.
    Nfs,
    /// NFS and SMB together.
    Multiprotocol,
}

/// ZFS properties of a new dataset in TrueNAS's spelling (upper case); those that are `None` are inherited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DatasetProperties {
    /// E.g. `LZ4`, `ZSTD`, `OFF`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    /// `STANDARD`, `ALWAYS`, `DISABLED`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync: Option<String>,
    /// E.g. `ON`, `SHA256`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// `ON`, `VERIFY`, `OFF`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deduplication: Option<String>,
    /// 1 to 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies: Option<u8>,
    /// `ON`, `OFF`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readonly: Option<String>,
    /// `ON`, `OFF`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<String>,
    /// `VISIBLE`, `HIDDEN`, `DISABLED`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapdir: Option<String>,
    /// `VISIBLE`, `HIDDEN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapdev: Option<String>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation: Option<u64>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refreservation: Option<u64>,
}

/// A new file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FilesystemCreate {
    /// Bytes, at least 1 GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refquota: Option<u64>,
    /// Bytes, at least 1 GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
    /// Preset.
    pub share_type: ShareType,
    /// `POSIX` (needs `aclmode` `DISCARD`), `NFSV4`, `OFF`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acltype: Option<String>,
    /// `DISCARD`, `PASSTHROUGH`, `RESTRICTED`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aclmode: Option<String>,
    /// `ON`, `OFF`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub atime: Option<String>,
    /// E.g. `128K`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recordsize: Option<String>,
    /// `SENSITIVE`, `INSENSITIVE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub casesensitivity: Option<String>,
}

/// A new zvol.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VolumeCreate {
    /// Bytes, a multiple of the block size.
    pub volsize: u64,
    /// E.g. `16K`; `None` takes the pool's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volblocksize: Option<String>,
    /// Without reservation.
    pub sparse: bool,
    /// Allows more than 80 % of the available space, which also a sparse zvol needs.
    pub force_size: bool,
}

/// A new dataset. Marker, quota and comment travel with the creation, so that no unowned object can exist.
#[derive(Debug, Clone)]
pub struct DatasetCreate {
    /// Full path `pool/...`.
    pub name: String,
    /// Free text.
    pub comments: Option<String>,
    /// Set on the new dataset.
    pub user_properties: Vec<UserProperty>,
    /// ZFS properties common to both kinds.
    pub properties: DatasetProperties,
    /// Its encryption; none is the parent's.
    pub encryption: Option<EncryptionCreate>,
    /// File system or zvol.
    pub kind: CreateKind,
}

/// The key of a new encryption root. TrueNAS takes exactly one source.
#[derive(Debug, Clone)]
pub enum EncryptionKey {
    /// Made and kept by TrueNAS, which unlocks the dataset by itself.
    Generated,
    /// At least 8 characters; not kept, so the dataset is locked after each boot.
    Passphrase(SecretString),
    /// 64 hexadecimal digits; kept by TrueNAS.
    Hex(SecretString),
}

/// Encryption of a new dataset, which becomes an encryption root of its own.
#[derive(Debug, Clone)]
pub struct EncryptionCreate {
    /// E.g. `AES-192-GCM`; none is the appliance's own (`AES-256-GCM`). From 26 on the field does not exist.
    pub algorithm: Option<&'static str>,
    /// Where the key comes from.
    pub key: EncryptionKey,
}

impl Serialize for EncryptionCreate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut options = serializer.serialize_map(None)?;
        if let Some(algorithm) = self.algorithm {
            options.serialize_entry("algorithm", algorithm)?;
        }
        match &self.key {
            EncryptionKey::Generated => options.serialize_entry("generate_key", &true)?,
            EncryptionKey::Passphrase(secret) => {
                options.serialize_entry("passphrase", secret.expose_secret())?;
            }
            EncryptionKey::Hex(secret) => options.serialize_entry("key", secret.expose_secret())?,
        }
        options.end()
    }
}

/// Which kind of dataset to create, with that kind's own fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type")]
pub enum CreateKind {
    /// A file system.
    #[serde(rename = "FILESYSTEM")]
    Filesystem(FilesystemCreate),
    /// A zvol.
    #[serde(rename = "VOLUME")]
    Volume(VolumeCreate),
}

impl DatasetCreate {
    /// A file system with nothing but its name and fields.
    pub fn filesystem(name: impl Into<String>, fields: FilesystemCreate) -> Self {
        Self::new(name.into(), CreateKind::Filesystem(fields))
    }

    /// A zvol with nothing but its name and fields.
    pub fn volume(name: impl Into<String>, fields: VolumeCreate) -> Self {
        Self::new(name.into(), CreateKind::Volume(fields))
    }

    fn new(name: String, kind: CreateKind) -> Self {
        Self {
            name,
            comments: None,
            user_properties: Vec::new(),
            properties: DatasetProperties::default(),
            encryption: None,
            kind,
        }
    }
}

/// The wire shape: one flat object.
#[derive(Serialize)]
pub(super) struct Wire<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    comments: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    user_properties: &'a [UserProperty],
    #[serde(flatten)]
    properties: &'a DatasetProperties,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inherit_encryption: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption_options: Option<&'a EncryptionCreate>,
    #[serde(flatten)]
    kind: &'a CreateKind,
}

impl<'a> From<&'a DatasetCreate> for Wire<'a> {
    fn from(create: &'a DatasetCreate) -> Self {
        Self {
            name: &create.name,
            comments: create.comments.as_deref(),
            user_properties: &create.user_properties,
            properties: &create.properties,
            encryption: create.encryption.as_ref().map(|_| true),
            inherit_encryption: create.encryption.as_ref().map(|_| false),
            encryption_options: create.encryption.as_ref(),
            kind: &create.kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_type_is_always_sent_and_empty_fields_are_not() {
        let mut create = DatasetCreate::volume(
            "tank/csi/a",
            VolumeCreate { volsize: 1 << 30, sparse: true, force_size: true, ..VolumeCreate::default() },
        );
        create.user_properties.push(UserProperty::new("tns-csi:managed_by", "tns-csi"));
        assert_eq!(
            serde_json::to_value(Wire::from(&create)).unwrap(),
            json!({"name": "tank/csi/a", "type": "VOLUME", "volsize": 1073741824, "sparse": true, "force_size": true,
                   "user_properties": [{"key": "tns-csi:managed_by", "value": "tns-csi"}]})
        );
        let mut create = DatasetCreate::filesystem(
            "tank/csi/a",
            FilesystemCreate { refquota: Some(1 << 30), ..FilesystemCreate::default() },
        );
        create.comments = Some("x".into());
        create.properties.compression = Some("LZ4".into());
        assert_eq!(
            serde_json::to_value(Wire::from(&create)).unwrap(),
            json!({"name": "tank/csi/a", "type": "FILESYSTEM", "refquota": 1073741824, "share_type": "GENERIC",
                   "comments": "x", "compression": "LZ4"})
        );
    }

    #[test]
    fn an_encryption_root_inherits_nothing_and_shows_no_key() {
        let secret = "correct horse battery";
        let mut create = DatasetCreate::filesystem("tank/a", FilesystemCreate::default());
        let key = EncryptionKey::Passphrase(secret.into());
        create.encryption = Some(EncryptionCreate { algorithm: Some("AES-192-GCM"), key });
        assert!(!format!("{create:?}").contains(secret));
        assert_eq!(
            serde_json::to_value(Wire::from(&create)).unwrap(),
            json!({"name": "tank/a", "type": "FILESYSTEM", "share_type": "GENERIC", "encryption": true,
                   "inherit_encryption": false,
                   "encryption_options": {"algorithm": "AES-192-GCM", "passphrase": secret}})
        );
    }
}
