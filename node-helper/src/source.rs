//! What a volume is and where its data comes from, parsed once from the request.
//!
//! One file per protocol with credentials.

mod iscsi;
mod smb;

pub use iscsi::IscsiSource;
pub use smb::{Password, SmbSource, SmbUser};

use std::fmt;

use sha2::{Digest, Sha256};
use tns_csi_proto::helper::v1 as api;
use uuid::Uuid;

use crate::device::{Nqn, parse_nguid};
use crate::failure::Failure;

/// Longest volume id, in bytes (CSI, "Size Limits").
const MAX_ID: usize = 128;
/// Longest host name (RFC 1035, 2.3.4), in bytes.
const MAX_HOST: usize = 253;
/// Longest path of an NFS export that is accepted, in bytes.
const MAX_EXPORT: usize = 1024;
/// Most portals of one target.
const MAX_PORTALS: usize = 16;
/// Most bytes of sealed keys.
const MAX_SEALED: usize = 1024;
/// TCP port of NFS 4 (RFC 8881, 2.9.1).
const NFS_PORT: u16 = 2049;
/// TCP port of NVMe over TCP (NVMe/TCP Transport 1.0, 3.1).
const NVME_PORT: u16 = 4420;

/// A CSI volume id: 1 to 128 bytes without control characters. Opaque here.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeId(String);

impl VolumeId {
    /// Checks length and characters.
    ///
    /// # Errors
    /// `InvalidArgument` naming `volume_id`.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        if text.is_empty() {
            return Err(Failure::invalid("volume_id is missing"));
        }
        if text.len() > MAX_ID {
            return Err(Failure::invalid(format!(
                "volume_id has {} bytes; at most {MAX_ID} are allowed",
                text.len()
            )));
        }
        if text.chars().any(char::is_control) {
            return Err(Failure::invalid("volume_id holds a control character"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// SHA-256 of the id, 64 lower-case hexadecimal digits: kubelet names the staging directory by it, the ledger its
    /// file.
    #[must_use]
    pub fn hash(&self) -> String {
        use fmt::Write;
        Sha256::digest(self.0.as_bytes()).iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A TCP endpoint before resolution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Address literal or host name.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Endpoint {
    fn parse(portal: Option<&api::Portal>, field: &str, default_port: u16) -> Result<Self, Failure> {
        let Some(portal) = portal else {
            return Err(Failure::invalid(format!("{field} is missing")));
        };
        let host = portal.address.as_str();
        let literal = host.parse::<std::net::IpAddr>().is_ok();
        let name = !host.is_empty()
            && host.len() <= MAX_HOST
            && host.split('.').all(|label| {
                (1..=63).contains(&label.len())
                    && !label.starts_with('-')
                    && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            });
        if !literal && !name {
            return Err(Failure::invalid(format!(
                "{field}.address {host:?} is neither an IP address nor a host name"
            )));
        }
        let port = match portal.port {
            0 => default_port,
            port => u16::try_from(port)
                .map_err(|_| Failure::invalid(format!("{field}.port {port} is not between 1 and 65535")))?,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

/// An NFS 4 export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NfsSource {
    /// The server.
    pub server: Endpoint,
    /// Absolute path on the server.
    pub export: String,
}

/// A namespace behind NVMe over TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmeofSource {
    /// Every portal of the subsystem, at least one.
    pub portals: Vec<Endpoint>,
    /// The subsystem.
    pub nqn: Nqn,
    /// The namespace's UUID.
    pub uuid: Option<Uuid>,
    /// The namespace's NGUID.
    pub nguid: Option<[u8; 16]>,
    /// I/O queues per controller; `None` leaves the kernel's default.
    pub io_queues: Option<u16>,
    /// Entries per queue; `None` leaves the kernel's default.
    pub queue_size: Option<u16>,
    /// DH-HMAC-CHAP keys, sealed to this host; empty when the subsystem asks for none.
    pub sealed_dhchap: Vec<u8>,
}

/// Where a volume's data comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file source.
    Nfs(NfsSource),
    /// A file source.
    Smb(SmbSource),
    /// A block source.
    Nvmeof(NvmeofSource),
    /// A block source.
    Iscsi(IscsiSource),
}

impl Source {
    /// Parses the request's source.
    ///
    /// # Errors
    /// `InvalidArgument` naming the field; `Unimplemented` for a protocol that this helper does not serve.
    pub fn parse(source: Option<&api::Source>) -> Result<Self, Failure> {
        use api::source::Protocol;
        match source.and_then(|source| source.protocol.as_ref()) {
            None => Err(Failure::invalid("source is missing")),
            Some(Protocol::Nfs(nfs)) => parse_nfs(nfs).map(Self::Nfs),
            Some(Protocol::Nvmeof(nvmeof)) => parse_nvmeof(nvmeof).map(Self::Nvmeof),
            Some(Protocol::Smb(smb)) => smb::parse(smb).map(Self::Smb),
            Some(Protocol::Iscsi(iscsi)) => iscsi::parse(iscsi).map(Self::Iscsi),
        }
    }

    /// Whether the source is a block device.
    #[must_use]
    pub fn is_block(&self) -> bool {
        matches!(self, Self::Nvmeof(_) | Self::Iscsi(_))
    }
}

fn parse_nfs(source: &api::NfsSource) -> Result<NfsSource, Failure> {
    let server = Endpoint::parse(source.portal.as_ref(), "source.nfs.portal", NFS_PORT)?;
    let export = source.export.as_str();
    let fault = if export.is_empty() {
        Some("is missing".to_owned())
    } else if !export.starts_with('/') {
        Some(format!("{export:?} is not an absolute path"))
    } else if export.len() > MAX_EXPORT {
        Some(format!("has {} bytes; at most {MAX_EXPORT} are allowed", export.len()))
    } else if export.chars().any(char::is_control) {
        Some("holds a control character".to_owned())
    } else if export.split('/').any(|part| part == "..") {
        Some(format!("{export:?} leaves its own path with '..'"))
    } else {
        None
    };
    match fault {
        Some(fault) => Err(Failure::invalid(format!("source.nfs.export {fault}"))),
        // The kernel shows the source of a mount without slashes at its end.
        None => {
            let export = match export.trim_end_matches('/') {
                "" => "/",
                export => export,
            };
            Ok(NfsSource { server, export: export.to_owned() })
        }
    }
}

fn parse_nvmeof(source: &api::NvmeofSource) -> Result<NvmeofSource, Failure> {
    if source.sealed_dhchap.len() > MAX_SEALED {
        return Err(Failure::invalid(format!(
            "source.nvmeof.sealed_dhchap has {} bytes; at most {MAX_SEALED} are allowed",
            source.sealed_dhchap.len()
        )));
    }
    if source.portals.is_empty() || source.portals.len() > MAX_PORTALS {
        return Err(Failure::invalid(format!(
            "source.nvmeof.portals has {} entries; 1 to {MAX_PORTALS} are allowed",
            source.portals.len()
        )));
    }
    let portals = source
        .portals
        .iter()
        .map(|portal| Endpoint::parse(Some(portal), "source.nvmeof.portals", NVME_PORT))
        .collect::<Result<Vec<_>, _>>()?;
    let nqn = Nqn::parse(&source.subsystem_nqn)
        .map_err(|error| Failure::invalid(format!("source.nvmeof.subsystem_nqn: {error}")))?;
    let uuid = match source.namespace_uuid.as_str() {
        "" => None,
        text => Some(Uuid::try_parse(text).ok().filter(|uuid| !uuid.is_nil()).ok_or_else(|| {
            Failure::invalid(format!("source.nvmeof.namespace_uuid {text:?} is not a UUID"))
        })?),
    };
    let nguid = match source.namespace_nguid.as_str() {
        "" => None,
        text => Some(parse_nguid(text).filter(|_| text.len() == 32).ok_or_else(|| {
            Failure::invalid(format!("source.nvmeof.namespace_nguid {text:?} is not 32 hexadecimal digits"))
        })?),
    };
    if uuid.is_none() && nguid.is_none() {
        return Err(Failure::invalid("source.nvmeof.namespace_uuid or namespace_nguid is required"));
    }
    Ok(NvmeofSource {
        portals,
        nqn,
        uuid,
        nguid,
        io_queues: bounded(source.io_queues, 1, "source.nvmeof.io_queues")?,
        queue_size: bounded(source.queue_size, 16, "source.nvmeof.queue_size")?,
        sealed_dhchap: source.sealed_dhchap.clone(),
    })
}

fn bounded(value: u32, least: u16, field: &str) -> Result<Option<u16>, Failure> {
    match value {
        0 => Ok(None),
        _ => match u16::try_from(value) {
            Ok(number) if (least..=1024).contains(&number) => Ok(Some(number)),
            _ => Err(Failure::invalid(format!("{field} {value} is not between {least} and 1024"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn portal(address: &str, port: u32) -> Option<api::Portal> {
        Some(api::Portal { address: address.to_owned(), port })
    }

    fn nfs(address: &str, port: u32, export: &str) -> Result<Source, Failure> {
        let nfs = api::NfsSource { portal: portal(address, port), export: export.to_owned() };
        Source::parse(Some(&api::Source { protocol: Some(api::source::Protocol::Nfs(nfs)) }))
    }

    #[test]
    fn volume_ids_are_bounded_and_hashed_as_kubelet_does() {
        assert!(VolumeId::parse("").is_err());
        assert!(VolumeId::parse(&"x".repeat(129)).is_err());
        assert!(VolumeId::parse("tank/a\nb").is_err());
        let id = VolumeId::parse("abc").expect("a plain id");
        assert_eq!(id.hash(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn an_nfs_source_gets_the_default_port_and_refuses_bad_exports() {
        let Ok(Source::Nfs(source)) = nfs("nas.example.net", 0, "/mnt/tank/a") else {
            panic!("valid source")
        };
        assert_eq!(source.server, Endpoint { host: "nas.example.net".to_owned(), port: 2049 });
        for (given, shown) in [("/mnt/tank/a/", "/mnt/tank/a"), ("/mnt//", "/mnt"), ("/", "/")] {
            let Ok(Source::Nfs(source)) = nfs("192.0.2.7", 0, given) else { panic!("valid source") };
            assert_eq!(source.export, shown, "as the mount table shows it");
        }
        for export in ["", "mnt/tank", "/mnt/../etc", "/a\0b", "/a\nb"] {
            assert!(nfs("192.0.2.7", 0, export).is_err(), "{export:?}");
        }
        for address in ["", "a b", "nas/..", "-x", "nas,vers=3", "::1%eth0"] {
            assert!(nfs(address, 0, "/mnt/tank").is_err(), "{address:?}");
        }
        assert!(nfs("192.0.2.7", 65_536, "/mnt/tank").is_err());
        assert!(nfs("2001:db8::7", 2049, "/mnt/tank").is_ok());
    }

    #[test]
    fn a_missing_source_is_named() {
        assert!(Source::parse(None).expect_err("nothing").message.contains("source is missing"));
    }

    #[test]
    fn a_namespace_needs_an_identity() {
        let mut source = api::NvmeofSource {
            portals: vec![api::Portal { address: "192.0.2.7".to_owned(), port: 0 }],
            subsystem_nqn: "nqn.2011-06.com.truenas:uuid:a".to_owned(),
            ..Default::default()
        };
        assert!(parse_nvmeof(&source).expect_err("no identity").message.contains("namespace_uuid"));
        source.namespace_nguid = "0".repeat(32);
        assert!(parse_nvmeof(&source).is_err(), "an NGUID of zeroes is none");
        source.namespace_nguid = "00112233445566778899aabbccddeeff".to_owned();
        assert_eq!(parse_nvmeof(&source).expect("nguid").nguid.expect("nguid")[1], 0x11);
        source.queue_size = 15;
        assert!(parse_nvmeof(&source).expect_err("too small").message.contains("queue_size"));
        source.queue_size = 128;
        source.sealed_dhchap = vec![0; 1025];
        assert!(parse_nvmeof(&source).expect_err("too much").message.contains("sealed_dhchap"));
        source.sealed_dhchap.clear();
        source.portals.clear();
        assert!(parse_nvmeof(&source).expect_err("no portal").message.contains("portals"));
    }
}
