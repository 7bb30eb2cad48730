//! What makes a device ours: names that the appliance gave, never names that the kernel gave.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::unit::IscsiIdentity;

/// NVMe Qualified Name of a subsystem or host (NVMe Base 2.0, 4.7): 11 to 223 bytes that begin with `nqn.`.
///
/// Only printable ASCII without blank, comma, quote, slash and backslash is accepted: the kernel's option line
/// separates by commas and newlines (`drivers/nvme/host/fabrics.c`), and TrueNAS makes no other names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nqn(String);

/// Longest NQN in bytes (`NVMF_NQN_FIELD_LEN` less its terminator and padding, `include/linux/nvme.h`).
const NQN_MAX: usize = 223;
/// Shortest NQN in bytes: `nqn.` and a date.
const NQN_MIN: usize = 11;
/// The subsystem that only lists others.
const DISCOVERY: &str = "nqn.2014-08.org.nvmexpress.discovery";

impl Nqn {
    /// Checks length, prefix and characters.
    ///
    /// # Errors
    /// [`InvalidNqn`] that says which rule is broken.
    pub fn parse(text: &str) -> Result<Self, InvalidNqn> {
        let fault = if text.len() < NQN_MIN || text.len() > NQN_MAX {
            Some(format!("it has {} bytes, allowed are {NQN_MIN} to {NQN_MAX}", text.len()))
        } else if !text.starts_with("nqn.") {
            Some("it does not begin with \"nqn.\"".to_owned())
        } else if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic() || ",\"'\\/".contains(*c)) {
            Some(format!("it holds the character {bad:?}"))
        } else if text == DISCOVERY {
            Some("it names the discovery subsystem, which has no volumes".to_owned())
        } else {
            None
        };
        match fault {
            None => Ok(Self(text.to_owned())),
            Some(fault) => Err(InvalidNqn { text: text.chars().take(64).collect(), fault }),
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Nqn {
    type Err = InvalidNqn;

    fn from_str(text: &str) -> Result<Self, InvalidNqn> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Nqn {
    type Error = InvalidNqn;

    fn try_from(text: String) -> Result<Self, InvalidNqn> {
        Self::parse(&text)
    }
}

impl From<Nqn> for String {
    fn from(nqn: Nqn) -> Self {
        nqn.0
    }
}

/// Text that is no NQN, with the rule it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no NVMe qualified name: {fault}")]
pub struct InvalidNqn {
    text: String,
    fault: String,
}

/// Identity of a namespace: its subsystem's name and at least one of the identifiers that the appliance gave it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NvmeIdentity {
    /// The subsystem.
    pub subsystem_nqn: Nqn,
    /// Namespace UUID (Namespace Identification Descriptor type 3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// Namespace NGUID (type 2), in transmission order. Stored as 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nguid_text")]
    pub nguid: Option<[u8; 16]>,
}

impl NvmeIdentity {
    /// Whether what a namespace reports is this identity. Every identifier named here must be there and equal, and
    /// at least one must be named: the subsystem's name alone proves nothing.
    #[must_use]
    pub fn matches(&self, subsystem_nqn: &str, uuid: Option<Uuid>, nguid: Option<[u8; 16]>) -> bool {
        let named = self.uuid.is_some() || self.nguid.is_some();
        named
            && self.subsystem_nqn.as_str() == subsystem_nqn
            && self.uuid.is_none_or(|own| uuid == Some(own))
            && self.nguid.is_none_or(|own| nguid == Some(own))
    }
}

impl fmt::Display for NvmeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "namespace")?;
        if let Some(uuid) = self.uuid {
            write!(f, " uuid {uuid}")?;
        }
        if let Some(nguid) = self.nguid {
            write!(f, " nguid {:032x}", u128::from_be_bytes(nguid))?;
        }
        write!(f, " of subsystem {}", self.subsystem_nqn)
    }
}

/// Identity of a volume's device, by protocol.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceIdentity {
    /// An NVMe namespace.
    Nvme(NvmeIdentity),
    /// A SCSI unit behind an iSCSI target.
    Iscsi(IscsiIdentity),
}

impl fmt::Display for DeviceIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nvme(identity) => identity.fmt(f),
            Self::Iscsi(identity) => identity.fmt(f),
        }
    }
}

/// Parses an NGUID as sysfs shows it (UUID form) or as 32 hexadecimal digits; zeroes mean that there is none.
#[must_use]
pub fn parse_nguid(text: &str) -> Option<[u8; 16]> {
    let uuid = Uuid::try_parse(text).ok()?;
    let form = text.len() == 32 || text.len() == 36;
    (form && !uuid.is_nil()).then(|| uuid.into_bytes())
}

mod nguid_text {
    use serde::{Deserialize, Deserializer, Serializer};

    // The signature is serde's.
    #[allow(clippy::ref_option)]
    pub(super) fn serialize<S: Serializer>(nguid: &Option<[u8; 16]>, to: S) -> Result<S::Ok, S::Error> {
        match nguid {
            Some(bytes) => to.serialize_some(&format!("{:032x}", u128::from_be_bytes(*bytes))),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<[u8; 16]>, D::Error> {
        let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
        super::parse_nguid(&text)
            .map(Some)
            .ok_or_else(|| serde::de::Error::custom("not an NGUID of 32 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NQN: &str = "nqn.2011-06.com.truenas:uuid:0f4c:pvc-1";

    fn identity() -> NvmeIdentity {
        NvmeIdentity {
            subsystem_nqn: Nqn::parse(NQN).unwrap(),
            uuid: Some(Uuid::from_u128(0x11)),
            nguid: Some([7; 16]),
        }
    }

    #[test]
    fn names_that_could_end_an_option_are_refused() {
        for bad in [
            "",
            "nqn.2011-0",
            "iqn.2011-06.com.truenas:x",
            "nqn.2011-06.com.truenas:a,hostnqn=nqn.2014-08.x",
            "nqn.2011-06.com.truenas:a\nb",
            "nqn.2011-06.com.truenas:a b",
            "nqn.2011-06.com.truenas:ä",
            "nqn.2011-06.com.truenas:../x",
            DISCOVERY,
        ] {
            assert!(Nqn::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Nqn::parse(&format!("nqn.{}", "a".repeat(219))).is_ok());
        assert!(
            Nqn::parse(&format!("nqn.{}", "a".repeat(220))).unwrap_err().to_string().contains("224 bytes")
        );
    }

    #[test]
    fn every_named_identifier_must_agree() {
        let own = identity();
        assert!(own.matches(NQN, own.uuid, own.nguid));
        assert!(!own.matches(NQN, own.uuid, None), "an identifier that is not reported does not agree");
        assert!(!own.matches(NQN, Some(Uuid::from_u128(0x12)), own.nguid));
        assert!(!own.matches("nqn.2011-06.com.truenas:uuid:0f4c:pvc-10", own.uuid, own.nguid));
        let unnamed = NvmeIdentity { uuid: None, nguid: None, ..own.clone() };
        assert!(!unnamed.matches(NQN, None, None), "a subsystem's name alone proves nothing");
    }

    #[test]
    fn an_nguid_of_zeroes_is_none() {
        assert_eq!(parse_nguid("00000000-0000-0000-0000-000000000000"), None);
        assert_eq!(parse_nguid(&"0".repeat(32)), None);
        assert_eq!(parse_nguid("07070707-0707-0707-0707-070707070707"), Some([7; 16]));
        assert_eq!(parse_nguid("{07070707-0707-0707-0707-070707070707}"), None);
    }

    #[test]
    fn the_ledger_form_comes_back() {
        let own = DeviceIdentity::Nvme(identity());
        let text = serde_json::to_string(&own).unwrap();
        assert!(text.contains("07070707070707070707070707070707"), "{text}");
        assert_eq!(serde_json::from_str::<DeviceIdentity>(&text).unwrap(), own);
        let broken = text.replace("nqn.2011", "iqn.2011");
        assert!(serde_json::from_str::<DeviceIdentity>(&broken).is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_lets_a_separator_through(text in ".{0,240}") {
            if let Ok(nqn) = Nqn::parse(&text) {
                prop_assert!(!nqn.as_str().contains([',', '\n', ' ']));
                prop_assert_eq!(nqn.as_str(), text);
            }
        }
    }
}
