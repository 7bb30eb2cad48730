//! What makes a SCSI unit ours: its iSCSI target, its number there, and what it says about itself.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest iSCSI name in bytes (RFC 7143, 4.2.7.1).
const NAME_MAX: usize = 223;
/// Longest unit serial number that is accepted, in bytes.
const SERIAL_MAX: usize = 64;
/// Largest unit number of flat space addressing (SAM-5, 4.7.7.3).
const LUN_MAX: u16 = 16_383;

/// Name of an iSCSI target or initiator in the `iqn.`, `eui.` or `naa.` form (RFC 7143, 4.2.7.3).
///
/// Lower-case letters, digits, dot, hyphen and colon only, as RFC 3722 leaves them: the name becomes a directory of
/// open-iscsi's records and a line in them, so neither a slash nor a line break may come through.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Iqn(String);

impl Iqn {
    /// Checks length, prefix and characters.
    ///
    /// # Errors
    /// [`InvalidUnit`] that says which rule is broken.
    pub fn parse(text: &str) -> Result<Self, InvalidUnit> {
        let prefix = ["iqn.", "eui.", "naa."].iter().any(|prefix| text.starts_with(prefix));
        let bad = text
            .chars()
            .find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | ':')));
        let fault = if text.len() > NAME_MAX {
            Some(format!("it has {} bytes, allowed are {NAME_MAX}", text.len()))
        } else if !prefix || text.len() < 5 {
            Some("it begins with none of \"iqn.\", \"eui.\" and \"naa.\"".to_owned())
        } else {
            bad.map(|c| format!("it holds the character {c:?}"))
        };
        match fault {
            None => Ok(Self(text.to_owned())),
            Some(fault) => Err(InvalidUnit::new("iSCSI name", text, fault)),
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Iqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Iqn {
    type Error = InvalidUnit;

    fn try_from(text: String) -> Result<Self, InvalidUnit> {
        Self::parse(&text)
    }
}

impl From<Iqn> for String {
    fn from(name: Iqn) -> Self {
        name.0
    }
}

/// Number of a unit in its target, 0 to 16,383.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Lun(u16);

impl Lun {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u32> for Lun {
    type Error = InvalidUnit;

    fn try_from(number: u32) -> Result<Self, InvalidUnit> {
        match u16::try_from(number) {
            Ok(small) if small <= LUN_MAX => Ok(Self(small)),
            _ => {
                Err(InvalidUnit::new("unit number", &number.to_string(), format!("the largest is {LUN_MAX}")))
            }
        }
    }
}

impl From<Lun> for u32 {
    fn from(lun: Lun) -> Self {
        Self::from(lun.0)
    }
}

/// Unit serial number as VPD page 0x80 shows it, without the blanks that may pad it (SPC-4, 7.8.15).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial(String);

impl Serial {
    /// 1 to 64 printable ASCII characters without a blank.
    ///
    /// # Errors
    /// [`InvalidUnit`] otherwise.
    pub fn parse(text: &str) -> Result<Self, InvalidUnit> {
        let fits = (1..=SERIAL_MAX).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic());
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            let rule = format!("1 to {SERIAL_MAX} printable characters without blanks are allowed");
            Err(InvalidUnit::new("unit serial number", text, rule))
        }
    }

    /// The number.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Serial {
    type Error = InvalidUnit;

    fn try_from(text: String) -> Result<Self, InvalidUnit> {
        Self::parse(&text)
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> Self {
        serial.0
    }
}

/// NAA identifier of a unit as VPD page 0x83 shows it: 16 or 32 lower-case hexadecimal digits (SPC-4, 7.8.6.6).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Naa(String);

impl Naa {
    /// 16 or 32 lower-case hexadecimal digits, not all 0.
    ///
    /// # Errors
    /// [`InvalidUnit`] otherwise.
    pub fn parse(text: &str) -> Result<Self, InvalidUnit> {
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let zero = text.bytes().all(|byte| byte == b'0');
        if matches!(text.len(), 16 | 32) && digits && !zero {
            Ok(Self(text.to_owned()))
        } else {
            let rule = "16 or 32 lower-case hexadecimal digits are allowed, not all 0".to_owned();
            Err(InvalidUnit::new("NAA identifier", text, rule))
        }
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Naa {
    type Error = InvalidUnit;

    fn try_from(text: String) -> Result<Self, InvalidUnit> {
        Self::parse(&text)
    }
}

impl FromStr for Naa {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        Self::parse(text)
    }
}

impl From<Naa> for String {
    fn from(naa: Naa) -> Self {
        naa.0
    }
}

/// Text that is none of the names of a SCSI unit, with the rule it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {kind}: {fault}")]
pub struct InvalidUnit {
    kind: &'static str,
    text: String,
    fault: String,
}

impl InvalidUnit {
    fn new(kind: &'static str, text: &str, fault: String) -> Self {
        Self { kind, text: text.chars().take(64).collect(), fault }
    }
}

/// Identity of a SCSI unit: its target, its number there, and at least one identifier that the appliance gave it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IscsiIdentity {
    /// The target.
    pub target: Iqn,
    /// Number of the unit.
    pub lun: Lun,
    /// Unit serial number (VPD page 0x80).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Serial>,
    /// NAA identifier (VPD page 0x83).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub naa: Option<Naa>,
}

impl IscsiIdentity {
    /// Whether what a unit reports is this identity. Every identifier named here must be there and equal, and at
    /// least one must be named: target and number alone prove nothing, since the appliance may map another extent.
    #[must_use]
    pub fn matches(&self, target: &str, lun: u64, serial: Option<&str>, naa: &[String]) -> bool {
        let named = self.serial.is_some() || self.naa.is_some();
        named
            && self.target.as_str() == target
            && u64::from(self.lun.get()) == lun
            && self.serial.as_ref().is_none_or(|own| serial == Some(own.as_str()))
            && self.naa.as_ref().is_none_or(|own| naa.iter().any(|found| found == own.as_str()))
    }
}

impl fmt::Display for IscsiIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unit {}", self.lun.get())?;
        if let Some(serial) = &self.serial {
            write!(f, " serial {}", serial.as_str())?;
        }
        if let Some(naa) = &self.naa {
            write!(f, " naa {}", naa.as_str())?;
        }
        write!(f, " of iSCSI target {}", self.target)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::device::DeviceIdentity;

    const TARGET: &str = "iqn.2005-10.org.freenas.ctl:pvc-1";

    fn identity() -> IscsiIdentity {
        IscsiIdentity {
            target: Iqn::parse(TARGET).unwrap(),
            lun: Lun(0),
            serial: Some(Serial::parse("0a1b2c3d4e5f607").unwrap()),
            naa: Some(Naa::parse("6589cfc000000a1b2c3d4e5f60700000").unwrap()),
        }
    }

    #[test]
    fn names_that_could_leave_their_directory_or_line_are_refused() {
        for bad in [
            "",
            "iqn.",
            "nqn.2011-06.com.truenas:a",
            "iqn.2005-10.org.freenas.ctl:../../etc",
            "iqn.2005-10.org.freenas.ctl:a\nnode.startup = automatic",
            "iqn.2005-10.org.freenas.ctl:a b",
            "iqn.2005-10.org.freenas.ctl:A",
            "iqn.2005-10.org.freenas.ctl:a,1",
            "iqn.2005-10.org.freenas.ctl:ä",
        ] {
            assert!(Iqn::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Iqn::parse(&format!("iqn.{}", "a".repeat(219))).is_ok());
        assert!(Iqn::parse(&format!("iqn.{}", "a".repeat(220))).unwrap_err().to_string().contains("224"));
        assert!(Lun::try_from(16_383).is_ok() && Lun::try_from(16_384).is_err());
        for bad in ["", "6589CFC000000A1B", "6589cfc", "0000000000000000", "0x6589cfc000000a1"] {
            assert!(Naa::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "a b", " a", "a\n", &"x".repeat(65)] {
            assert!(Serial::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_named_identifier_must_agree() {
        let own = identity();
        let (serial, naa) = ("0a1b2c3d4e5f607", vec!["6589cfc000000a1b2c3d4e5f60700000".to_owned()]);
        assert!(own.matches(TARGET, 0, Some(serial), &naa));
        assert!(
            !own.matches(TARGET, 0, Some(serial), &[]),
            "an identifier that is not reported does not agree"
        );
        assert!(!own.matches(TARGET, 0, Some("0a1b2c3d4e5f608"), &naa));
        assert!(!own.matches(TARGET, 1, Some(serial), &naa));
        assert!(!own.matches("iqn.2005-10.org.freenas.ctl:pvc-10", 0, Some(serial), &naa));
        let unnamed = IscsiIdentity { serial: None, naa: None, ..own };
        assert!(!unnamed.matches(TARGET, 0, None, &[]), "target and number alone prove nothing");
    }

    #[test]
    fn the_ledger_form_comes_back() {
        let own = DeviceIdentity::Iscsi(identity());
        let text = serde_json::to_string(&own).unwrap();
        assert!(text.contains("\"iscsi\"") && text.contains("\"lun\":0"), "{text}");
        assert_eq!(serde_json::from_str::<DeviceIdentity>(&text).unwrap(), own);
        for (whole, broken) in [(TARGET, "iqn.a/b"), ("\"lun\":0", "\"lun\":70000"), ("6589cfc", "6589CFC")] {
            assert!(
                serde_json::from_str::<DeviceIdentity>(&text.replace(whole, broken)).is_err(),
                "{broken}"
            );
        }
    }

    proptest! {
        #[test]
        fn parsing_never_lets_a_separator_through(text in "(iqn\\.)?.{0,240}") {
            if let Ok(name) = Iqn::parse(&text) {
                prop_assert!(!name.as_str().contains(['/', ',', '\n', ' ', '=', '#']));
                prop_assert_eq!(name.as_str(), text);
            }
        }
    }
}
