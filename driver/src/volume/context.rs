//! What a node needs to reach a volume, as the controller hands it over in the publish context.
//!
//! The rule it keeps: a context carries no readable secret, and nothing in it is believed before it has been parsed
//! into [`Connection`]. Keys, all strings (CSI 1.12, `ControllerPublishVolumeResponse.publish_context`; the map stays
//! within CSI's 4 KiB):
//!
//! | key | of | value |
//! |---|---|---|
//! | `protocol` | all | `nfs`, `smb`, `iscsi` or `nvmeof` |
//! | `portal` | nfs, smb | `host:port`, IPv6 in brackets |
//! | `portals` | iscsi, nvmeof | 1 to 16 of `host:port`, separated by commas |
//! | `export` | nfs | absolute path on the server, at most 1,024 bytes |
//! | `share` | smb | share name, at most 80 characters |
//! | `iqn` | iscsi | target name, at most 223 bytes |
//! | `lun` | iscsi | 0 to 16383 |
//! | `serial` | iscsi | unit serial number, at most 64 bytes; this or `naa` |
//! | `naa` | iscsi | 16 or 32 lower-case hexadecimal digits; this or `serial` |
//! | `subsystemNQN` | nvmeof | 11 to 223 bytes |
//! | `namespaceUUID` | nvmeof | 36-character UUID |
//! | `ioQueues` | nvmeof | 1 to 1024; absent: the kernel's default |
//! | `queueSize` | nvmeof | 16 to 1024; absent: the kernel's default |
//! | `sealedDHCHAP` | nvmeof | DH-HMAC-CHAP keys sealed to the node's helper, base64url without padding; absent: none |
//! | `capacityBytes` | iscsi, nvmeof | size of the volume in bytes, more than 0 |
//! | `neverFormat` | iscsi, nvmeof | `true` (the volume has content from elsewhere) or `false` |
//!
//! Unknown keys are ignored, so that a newer controller can serve an older node; what must not be ignored is guarded
//! by the helper's revision.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use crate::volume::protocol::Protocol;

/// Most bytes that keys and values of one context may have together (CSI 1.12, "Size Limits").
pub const MAX_CONTEXT_BYTES: usize = 4096;
/// Most portals of one volume (helper API, `IscsiSource.portals`, `NvmeofSource.portals`).
pub const MAX_PORTALS: usize = 16;
/// Most bytes of sealed DH-HMAC-CHAP keys.
pub const MAX_SEALED_BYTES: usize = 1024;
/// Key of the volume context under which a StorageClass names the file system of its block volumes.
pub const FS_TYPE_KEY: &str = "fsType";
/// Key of the volume context with a StorageClass's options for making that file system, separated by single spaces.
pub const MKFS_OPTIONS_KEY: &str = "mkfsOptions";

const PROTOCOL: &str = "protocol";
const PORTAL: &str = "portal";
const PORTALS: &str = "portals";
const EXPORT: &str = "export";
const SHARE: &str = "share";
const IQN: &str = "iqn";
const LUN: &str = "lun";
const SERIAL: &str = "serial";
const NAA: &str = "naa";
const SUBSYSTEM_NQN: &str = "subsystemNQN";
const NAMESPACE_UUID: &str = "namespaceUUID";
const IO_QUEUES: &str = "ioQueues";
const QUEUE_SIZE: &str = "queueSize";
const SEALED_DHCHAP: &str = "sealedDHCHAP";
const CAPACITY_BYTES: &str = "capacityBytes";
const NEVER_FORMAT: &str = "neverFormat";

/// A TCP endpoint of the appliance: a host (IP literal or name, 1 to 253 bytes) and a port, never 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Portal {
    /// IPv4 or IPv6 literal (without brackets), or a host name.
    pub address: String,
    /// TCP port, 1 to 65535.
    pub port: u16,
}

impl Portal {
    /// A portal from its two parts; they are checked when the context is written.
    #[must_use]
    pub fn new(address: impl Into<String>, port: u16) -> Self {
        Portal { address: address.into(), port }
    }

    fn is_valid(&self) -> bool {
        let host_name = |name: &str| {
            (1..=253).contains(&name.len())
                && name.split('.').all(|label| {
                    (1..=63).contains(&label.len())
                        && !label.starts_with('-')
                        && !label.ends_with('-')
                        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                })
        };
        self.port != 0 && (self.address.parse::<IpAddr>().is_ok() || host_name(&self.address))
    }
}

impl fmt::Display for Portal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.address.parse::<Ipv6Addr>().is_ok() {
            write!(f, "[{}]:{}", self.address, self.port)
        } else {
            write!(f, "{}:{}", self.address, self.port)
        }
    }
}

impl FromStr for Portal {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        let address = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(v6) if v6.parse::<Ipv6Addr>().is_ok() => v6,
            Some(_) => return Err(()),
            None => host,
        };
        let portal = Portal::new(address, port.parse().map_err(|_| ())?);
        // One text per portal: "+80", "080" and an IPv6 literal without brackets do not read back to themselves.
        if portal.is_valid() && portal.to_string() == text { Ok(portal) } else { Err(()) }
    }
}

/// Where a volume's data is reached, one variant per protocol. No field holds a readable secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connection {
    /// An NFS 4 export.
    Nfs {
        /// The server.
        portal: Portal,
        /// Absolute path of the export.
        export: String,
    },
    /// An SMB share; user and password come with the node-stage secret.
    Smb {
        /// The server.
        portal: Portal,
        /// Share name.
        share: String,
    },
    /// A SCSI logical unit.
    Iscsi {
        /// All portals of the target, in order of preference.
        portals: Vec<Portal>,
        /// Target name.
        iqn: String,
        /// Logical unit number.
        lun: u16,
        /// Unit serial number (VPD page 0x80); this or `naa` is required.
        serial: Option<String>,
        /// NAA identifier (VPD page 0x83), lower-case hexadecimal without prefix.
        naa: Option<String>,
        /// Size of the volume in bytes.
        capacity_bytes: u64,
        /// The volume has content from elsewhere: never format it.
        never_format: bool,
    },
    /// An NVMe-oF namespace over TCP.
    Nvmeof {
        /// All portals of the subsystem, in order of preference.
        portals: Vec<Portal>,
        /// Subsystem NQN.
        subsystem_nqn: String,
        /// Namespace UUID.
        namespace_uuid: Uuid,
        /// I/O queues per controller; none leaves the kernel's default.
        io_queues: Option<u16>,
        /// Entries per queue; none leaves the kernel's default.
        queue_size: Option<u16>,
        /// Size of the volume in bytes.
        capacity_bytes: u64,
        /// The volume has content from elsewhere: never format it.
        never_format: bool,
        /// DH-HMAC-CHAP keys sealed to the helper's public key; none when the subsystem asks for none.
        sealed_dhchap: Option<Vec<u8>>,
    },
}

/// What is wrong with a context. Values are shown only for keys that never hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// A key that this protocol needs is absent or empty.
    #[error("publish_context[{0:?}] is missing: the volume was not published by this driver's controller")]
    Missing(&'static str),
    /// A key has a value that cannot be.
    #[error("publish_context[{key:?}] is {value:?}, expected {expected}")]
    Malformed {
        /// The key.
        key: &'static str,
        /// What was found, shortened.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Keys and values are longer than CSI allows.
    #[error(
        "the publish context has {0} bytes, at most {MAX_CONTEXT_BYTES} are possible; use fewer or shorter portals"
    )]
    TooLong(usize),
}

impl Connection {
    /// The protocol, whose name is the value of the key `protocol`.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        match self {
            Connection::Nfs { .. } => Protocol::Nfs,
            Connection::Smb { .. } => Protocol::Smb,
            Connection::Iscsi { .. } => Protocol::Iscsi,
            Connection::Nvmeof { .. } => Protocol::Nvmeof,
        }
    }

    /// Writes the context with the keys of the module's table. The same connection gives the same map, as CSI asks of
    /// a repeated publish.
    ///
    /// # Errors
    /// A field outside the table's ranges, named by its key, or a map over [`MAX_CONTEXT_BYTES`].
    pub fn to_publish_context(&self) -> Result<BTreeMap<String, String>, ContextError> {
        let mut context = BTreeMap::new();
        let mut put = |key: &str, value: String| {
            context.insert(key.to_owned(), value);
        };
        put(PROTOCOL, self.protocol().name().to_owned());
        match self {
            Connection::Nfs { portal, export } => {
                put(PORTAL, portal.to_string());
                put(EXPORT, export.clone());
            }
            Connection::Smb { portal, share } => {
                put(PORTAL, portal.to_string());
                put(SHARE, share.clone());
            }
            Connection::Iscsi { portals, iqn, lun, serial, naa, capacity_bytes, never_format } => {
                put(PORTALS, join(portals));
                put(IQN, iqn.clone());
                put(LUN, lun.to_string());
                serial.iter().for_each(|serial| put(SERIAL, serial.clone()));
                naa.iter().for_each(|naa| put(NAA, naa.clone()));
                put(CAPACITY_BYTES, capacity_bytes.to_string());
                put(NEVER_FORMAT, never_format.to_string());
            }
            Connection::Nvmeof {
                portals,
                subsystem_nqn,
                namespace_uuid,
                io_queues,
                queue_size,
                capacity_bytes,
                never_format,
                sealed_dhchap,
            } => {
                put(PORTALS, join(portals));
                put(SUBSYSTEM_NQN, subsystem_nqn.clone());
                put(NAMESPACE_UUID, namespace_uuid.to_string());
                io_queues.iter().for_each(|queues| put(IO_QUEUES, queues.to_string()));
                queue_size.iter().for_each(|size| put(QUEUE_SIZE, size.to_string()));
                put(CAPACITY_BYTES, capacity_bytes.to_string());
                put(NEVER_FORMAT, never_format.to_string());
                sealed_dhchap.iter().for_each(|sealed| put(SEALED_DHCHAP, URL_SAFE_NO_PAD.encode(sealed)));
            }
        }
        let bytes = context.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > MAX_CONTEXT_BYTES {
            return Err(ContextError::TooLong(bytes));
        }
        // A node must be able to read what is written here: the reader's checks are the writer's.
        Self::from_publish_context(&context)?;
        Ok(context)
    }

    /// Reads a context.
    ///
    /// # Errors
    /// A key that is missing or malformed, by name. Unknown keys are ignored.
    pub fn from_publish_context(context: &BTreeMap<String, String>) -> Result<Self, ContextError> {
        let keys = Keys(context);
        let word = keys.required(PROTOCOL)?;
        let protocol = word.parse().map_err(|_| malformed(PROTOCOL, word, "nfs, smb, iscsi or nvmeof"))?;
        match protocol {
            Protocol::Nfs => Ok(Connection::Nfs {
                portal: keys.portal()?,
                export: keys.checked(EXPORT, "an absolute path of at most 1024 bytes", |path| {
                    path.starts_with('/') && path.len() <= 1024 && !path.contains(char::is_control)
                })?,
            }),
            Protocol::Smb => Ok(Connection::Smb {
                portal: keys.portal()?,
                share: keys.checked(
                    SHARE,
                    "a share name of 1 to 80 characters without slashes",
                    |share| {
                        share.chars().count() <= 80
                            && !share.contains(|c: char| c.is_control() || matches!(c, '/' | '\\'))
                    },
                )?,
            }),
            Protocol::Iscsi => {
                let serial = keys.optional(SERIAL, "1 to 64 printable ASCII characters", |serial| {
                    serial.len() <= 64 && serial.bytes().all(|b| b.is_ascii_graphic())
                })?;
                let naa = keys.optional(NAA, "16 or 32 lower-case hexadecimal digits", |naa| {
                    matches!(naa.len(), 16 | 32)
                        && naa.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
                })?;
                if serial.is_none() && naa.is_none() {
                    return Err(ContextError::Missing(SERIAL));
                }
                Ok(Connection::Iscsi {
                    portals: keys.portals()?,
                    iqn: keys.checked(IQN, "an iSCSI name of at most 223 bytes", |iqn| {
                        iqn.len() <= 223
                            && ["iqn.", "eui.", "naa."].iter().any(|prefix| iqn.starts_with(prefix))
                            && iqn.bytes().all(|b| b.is_ascii_graphic() && b != b',')
                    })?,
                    lun: keys.number(LUN, "0 to 16383", |lun| *lun <= 16383)?,
                    serial,
                    naa,
                    capacity_bytes: keys.capacity()?,
                    never_format: keys.never_format()?,
                })
            }
            Protocol::Nvmeof => Ok(Connection::Nvmeof {
                portals: keys.portals()?,
                subsystem_nqn: keys.checked(SUBSYSTEM_NQN, "an NQN of 11 to 223 bytes", |nqn| {
                    (11..=223).contains(&nqn.len())
                        && nqn.starts_with("nqn.")
                        && nqn.bytes().all(|b| b.is_ascii_graphic() && b != b',')
                })?,
                namespace_uuid: keys.namespace_uuid()?,
                io_queues: keys.optional_number(IO_QUEUES, "1 to 1024", |n| (1..=1024).contains(n))?,
                queue_size: keys.optional_number(QUEUE_SIZE, "16 to 1024", |n| (16..=1024).contains(n))?,
                capacity_bytes: keys.capacity()?,
                never_format: keys.never_format()?,
                sealed_dhchap: keys.sealed()?,
            }),
        }
    }
}

/// The options a StorageClass gives to mkfs, one argument each, from the volume context. The helper has the list of
/// those that are allowed.
#[must_use]
pub fn mkfs_options(volume_context: &BTreeMap<String, String>) -> Vec<String> {
    volume_context
        .get(MKFS_OPTIONS_KEY)
        .map(|options| options.split_whitespace().map(str::to_owned).collect())
        .unwrap_or_default()
}

/// The file system a StorageClass asks for when the volume capability names none, from the volume context.
#[must_use]
pub fn default_fs_type(volume_context: &BTreeMap<String, String>) -> Option<&str> {
    volume_context.get(FS_TYPE_KEY).map(String::as_str).filter(|fs_type| !fs_type.is_empty())
}

fn join(portals: &[Portal]) -> String {
    portals.iter().map(Portal::to_string).collect::<Vec<_>>().join(",")
}

fn malformed(key: &'static str, value: &str, expected: &'static str) -> ContextError {
    ContextError::Malformed { key, value: value.chars().take(64).collect(), expected }
}

/// Typed access to a context; every method names its key in the error.
struct Keys<'a>(&'a BTreeMap<String, String>);

impl Keys<'_> {
    fn get(&self, key: &'static str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn required(&self, key: &'static str) -> Result<&str, ContextError> {
        self.get(key).ok_or(ContextError::Missing(key))
    }

    fn optional(
        &self,
        key: &'static str,
        expected: &'static str,
        valid: impl Fn(&str) -> bool,
    ) -> Result<Option<String>, ContextError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) if valid(value) => Ok(Some(value.to_owned())),
            Some(value) => Err(malformed(key, value, expected)),
        }
    }

    fn checked(
        &self,
        key: &'static str,
        expected: &'static str,
        valid: impl Fn(&str) -> bool,
    ) -> Result<String, ContextError> {
        self.optional(key, expected, valid)?.ok_or(ContextError::Missing(key))
    }

    fn optional_number<N: FromStr + ToString>(
        &self,
        key: &'static str,
        expected: &'static str,
        valid: impl Fn(&N) -> bool,
    ) -> Result<Option<N>, ContextError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.parse::<N>() {
            Ok(number) if valid(&number) && number.to_string() == value => Ok(Some(number)),
            _ => Err(malformed(key, value, expected)),
        }
    }

    fn number<N: FromStr + ToString>(
        &self,
        key: &'static str,
        expected: &'static str,
        valid: impl Fn(&N) -> bool,
    ) -> Result<N, ContextError> {
        self.optional_number(key, expected, valid)?.ok_or(ContextError::Missing(key))
    }

    fn portal(&self) -> Result<Portal, ContextError> {
        let value = self.required(PORTAL)?;
        value.parse().map_err(|()| malformed(PORTAL, value, "host:port, an IPv6 address in brackets"))
    }

    fn portals(&self) -> Result<Vec<Portal>, ContextError> {
        let value = self.required(PORTALS)?;
        let bad = || malformed(PORTALS, value, "1 to 16 of host:port separated by commas");
        let portals =
            value.split(',').map(|p| p.parse().map_err(|()| bad())).collect::<Result<Vec<_>, _>>()?;
        if portals.len() <= MAX_PORTALS { Ok(portals) } else { Err(bad()) }
    }

    fn capacity(&self) -> Result<u64, ContextError> {
        self.number(CAPACITY_BYTES, "the volume's size in bytes, more than 0", |bytes| *bytes > 0)
    }

    fn never_format(&self) -> Result<bool, ContextError> {
        // No default: formatting must never follow from a key that got lost.
        match self.required(NEVER_FORMAT)? {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(malformed(NEVER_FORMAT, other, "true or false")),
        }
    }

    fn namespace_uuid(&self) -> Result<Uuid, ContextError> {
        let value = self.required(NAMESPACE_UUID)?;
        match Uuid::try_parse(value) {
            Ok(uuid) if !uuid.is_nil() && uuid.to_string() == value => Ok(uuid),
            _ => Err(malformed(NAMESPACE_UUID, value, "a lower-case UUID of 36 characters")),
        }
    }

    fn sealed(&self) -> Result<Option<Vec<u8>>, ContextError> {
        let Some(value) = self.get(SEALED_DHCHAP) else { return Ok(None) };
        match URL_SAFE_NO_PAD.decode(value) {
            Ok(bytes) if bytes.len() <= MAX_SEALED_BYTES => Ok(Some(bytes)),
            // Even sealed, the value is not for messages.
            _ => {
                Err(malformed(SEALED_DHCHAP, "[not shown]", "base64url without padding, at most 1024 bytes"))
            }
        }
    }
}

#[cfg(test)]
#[path = "context_tests.rs"]
mod tests;
