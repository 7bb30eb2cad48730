//! Parameters of SMB shares.
//!
//! The rule it keeps: a class says what the share is for in one set of words, TrueNAS 25.10's, and each version is told in
//! its own; what a purpose does not have is refused rather than left out.
//!
//! `smbCredentialsSecret` of the seeds is a value of the chart, with name and namespace, which it writes into the class as
//! `csi.storage.k8s.io/node-stage-secret-name` and `-namespace`; as a parameter it would do nothing and is refused.

use std::collections::BTreeMap;

use truenas::calls::{SmbPurpose, SmbSettings};

use crate::volume::failure::Failure;
use crate::volume::parameter::Definition;
use crate::volume::parameter::nfs::{SHARE_COMMENT, is_share_comment};
use crate::volume::protocol::Protocol;

const SMB: &[Protocol] = &[Protocol::Smb];

pub(super) const PURPOSE: &str = "smb.purpose";
pub(super) const COMMENT: &str = "smb.shareComment";
const GUEST: &str = "smb.guest";
const RECYCLE_BIN: &str = "smb.recycleBin";
const BROWSABLE: &str = "smb.browsable";
const ACCESS_BASED: &str = "smb.accessBasedEnumeration";
const STREAMS: &str = "smb.streams";
const DURABLE_HANDLES: &str = "smb.durableHandles";
const SHADOW_COPIES: &str = "smb.shadowCopies";
const APPLE_NAMES: &str = "smb.appleNameMangling";
const GRACE_PERIOD: &str = "smb.gracePeriod";

/// Settings that only a share with the purpose `LEGACY_SHARE` has.
const OF_LEGACY: [&str; 5] = [GUEST, RECYCLE_BIN, STREAMS, DURABLE_HANDLES, SHADOW_COPIES];

/// Purposes as 25.10 and 25.04 call them.
const PURPOSES: [(SmbPurpose, &str, &str); 4] = [
    (SmbPurpose::Default, "DEFAULT_SHARE", "DEFAULT_SHARE"),
    (SmbPurpose::Legacy, "LEGACY_SHARE", "NO_PRESET"),
    (SmbPurpose::Multiprotocol, "MULTIPROTOCOL_SHARE", "MULTI_PROTOCOL_NFS"),
    (SmbPurpose::TimeLocked, "TIME_LOCKED_SHARE", "WORM_DROPBOX"),
];

/// This group's part of the table.
pub(super) const TABLE: &[Definition] = &[
    Definition {
        name: PURPOSE,
        protocols: SMB,
        values: "DEFAULT_SHARE, LEGACY_SHARE, MULTIPROTOCOL_SHARE or TIME_LOCKED_SHARE (in TrueNAS 25.04 DEFAULT_SHARE, \
                 NO_PRESET, MULTI_PROTOCOL_NFS or WORM_DROPBOX; either is read with any version)",
        check: |v| purpose(v).is_some(),
    },
    Definition { name: COMMENT, protocols: SMB, values: SHARE_COMMENT, check: is_share_comment },
    Definition { name: GUEST, protocols: SMB, values: BOOL, check: is_bool },
    Definition { name: RECYCLE_BIN, protocols: SMB, values: BOOL, check: is_bool },
    Definition { name: BROWSABLE, protocols: SMB, values: BOOL, check: is_bool },
    Definition { name: ACCESS_BASED, protocols: SMB, values: BOOL, check: is_bool },
    Definition { name: STREAMS, protocols: SMB, values: BOOL, check: is_bool },
    Definition { name: DURABLE_HANDLES, protocols: SMB, values: BOOL, check: is_bool },
    Definition { name: SHADOW_COPIES, protocols: SMB, values: BOOL, check: is_bool },
    Definition { name: APPLE_NAMES, protocols: SMB, values: BOOL, check: is_bool },
    Definition {
        name: GRACE_PERIOD,
        protocols: SMB,
        values: "seconds after which files of a TIME_LOCKED_SHARE become read-only, 60 to 15552000",
        check: |v| v.parse::<u32>().is_ok_and(|s| (60..=15_552_000).contains(&s) && s.to_string() == v),
    },
];

const BOOL: &str = "true or false";

fn is_bool(value: &str) -> bool {
    matches!(value, "true" | "false")
}

/// The one word for a purpose in either version's words.
pub(super) fn purpose(text: &str) -> Option<&'static str> {
    PURPOSES.into_iter().find(|(_, new, old)| text == *new || text == *old).map(|(_, new, _)| new)
}

/// How an SMB share is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Smb {
    /// What the appliance is told.
    pub settings: SmbSettings,
    /// What its comment says beside the volume's id.
    pub comment: Option<String>,
}

impl Smb {
    /// Reads the group from a class's own keys, whose values the table has checked one by one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: values that do not go together.
    pub fn read(given: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let flag = |key: &str| given.get(key).map(|v| v == "true");
        let word = given.get(PURPOSE).and_then(|text| purpose(text));
        let named = PURPOSES.into_iter().find(|(_, new, _)| word == Some(*new));
        let legacy = OF_LEGACY.into_iter().find(|key| given.contains_key(*key));
        let purpose = match (named, legacy) {
            (Some((SmbPurpose::Legacy, ..)), _) => SmbPurpose::Legacy,
            (Some((_, word, _)), Some(key)) => {
                return Err(Failure::invalid(format!(
                    "parameter {key} belongs to {PURPOSE} LEGACY_SHARE, the class says {word}"
                )));
            }
            (Some((purpose, ..)), None) => purpose,
            // The one purpose that has the setting.
            (None, Some(_)) => SmbPurpose::Legacy,
            (None, None) => SmbPurpose::Default,
        };
        let grace_period = given.get(GRACE_PERIOD).and_then(|seconds| seconds.parse().ok());
        if grace_period.is_some() && purpose != SmbPurpose::TimeLocked {
            return Err(Failure::invalid(format!(
                "parameter {GRACE_PERIOD} belongs to {PURPOSE} TIME_LOCKED_SHARE"
            )));
        }
        Ok(Smb {
            settings: SmbSettings {
                purpose,
                browsable: flag(BROWSABLE),
                access_based_enumeration: flag(ACCESS_BASED),
                apple_name_mangling: flag(APPLE_NAMES),
                grace_period,
                guest: flag(GUEST),
                recycle_bin: flag(RECYCLE_BIN),
                streams: flag(STREAMS),
                durable_handles: flag(DURABLE_HANDLES),
                shadow_copies: flag(SHADOW_COPIES),
            },
            comment: given.get(COMMENT).cloned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Smb, Failure> {
        for (key, value) in pairs {
            let definition = TABLE.iter().find(|d| d.name == *key).unwrap();
            assert!((definition.check)(value), "{key}={value}");
        }
        Smb::read(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn a_setting_of_one_purpose_brings_the_purpose() {
        assert_eq!(read(&[]).unwrap(), Smb::default());
        let guest = read(&[(GUEST, "true")]).unwrap().settings;
        assert_eq!((guest.purpose, guest.guest), (SmbPurpose::Legacy, Some(true)));
        let locked = read(&[(PURPOSE, "TIME_LOCKED_SHARE"), (GRACE_PERIOD, "60")]).unwrap().settings;
        assert_eq!((locked.purpose, locked.grace_period), (SmbPurpose::TimeLocked, Some(60)));
    }

    #[test]
    fn what_a_purpose_does_not_have_is_refused() {
        for pairs in [
            &[(PURPOSE, "DEFAULT_SHARE"), (GUEST, "true")][..],
            &[(PURPOSE, "MULTIPROTOCOL_SHARE"), (RECYCLE_BIN, "false")],
            &[(GRACE_PERIOD, "60")],
            &[(PURPOSE, "LEGACY_SHARE"), (GRACE_PERIOD, "60")],
        ] {
            assert!(read(pairs).unwrap_err().message.contains(PURPOSE), "{pairs:?}");
        }
    }

    #[test]
    fn each_value_is_in_the_table_or_refused() {
        let check = |name: &str, value: &str| (TABLE.iter().find(|d| d.name == name).unwrap().check)(value);
        for (_, new, old) in PURPOSES {
            assert!(check(PURPOSE, new) && purpose(old) == Some(new));
        }
        for (name, value) in [
            (PURPOSE, "EXTERNAL_SHARE"),
            (PURPOSE, "default_share"),
            (GUEST, "yes"),
            (GRACE_PERIOD, "59"),
            (GRACE_PERIOD, "15552001"),
            (GRACE_PERIOD, "+60"),
            (COMMENT, "[tns-csi tank/other]"),
        ] {
            assert!(!check(name, value), "{name}={value}");
        }
    }
}
