//! Other spellings of the parameters: those of the drivers that the seeds of this project describe.
//!
//! The rule it keeps: a spelling becomes the one name (and the one value) before anything else looks at it, so the same
//! class in two spellings is the same request; both spellings at once must agree. A spelling whose meaning stands
//! elsewhere is refused with the place, and what stood there is never shown: it may be a secret.

use std::collections::BTreeMap;

use crate::volume::failure::Failure;
use crate::volume::parameter::{iscsi, smb, zfs};

/// Spelling and name. The value is the same, but for case and for `true` and `false` in place of `on` and `off`.
const ALIASES: &[(&str, &str)] = &[
    ("root", "parentDataset"),
    ("parent", "parentDataset"),
    ("fstype", "fsType"),
    ("description", "commentTemplate"),
    ("compression", "zfs.compression"),
    ("sync", "zfs.sync"),
    ("deduplication", "zfs.dedup"),
    ("dedup", "zfs.dedup"),
    ("zfs.deduplication", "zfs.dedup"),
    ("recordsize", "zfs.recordsize"),
    ("volblocksize", "zfs.volblocksize"),
    ("sparse", "zfs.sparse"),
    ("zvolCompression", "zfs.compression"),
    ("zvolDedup", "zfs.dedup"),
    ("zvolBlocksize", "zfs.volblocksize"),
    // The opposite meaning: see `value`.
    ("zvolEnableReservation", "zfs.sparse"),
    ("encryption.enabled", "encryption"),
    ("encryption.algorithm", "encryptionAlgorithm"),
    ("encryption.generateKey", "encryptionGenerateKey"),
    ("shareAllowedNetworks", "nfs.networks"),
    ("shareAllowedHosts", "nfs.hosts"),
    ("shareMaprootUser", "nfs.maprootUser"),
    ("shareMaprootGroup", "nfs.maprootGroup"),
    ("shareMapallUser", "nfs.mapallUser"),
    ("shareMapallGroup", "nfs.mapallGroup"),
    ("shareGuestOk", "smb.guest"),
    ("shareRecycleBin", "smb.recycleBin"),
    ("shareBrowsable", "smb.browsable"),
    ("shareAccessBasedEnumeration", "smb.accessBasedEnumeration"),
    ("targetPortals", "iscsi.portals"),
    ("targetGroupPortalGroup", "portalId"),
    ("targetGroupInitiatorGroup", "initiatorId"),
    ("targetGroupAuthType", "iscsi.authMethod"),
    ("iscsi.iqn-base", "iscsi.iqnBase"),
    ("iscsi.iqn-prefix", "iscsi.iqnBase"),
    ("extentBlocksize", "iscsi.blocksize"),
    ("extentInsecureTpc", "iscsi.insecureTpc"),
    ("extentXenCompat", "iscsi.xen"),
    ("extentDisablePhysicalBlocksize", "iscsi.disablePhysicalBlocksize"),
    ("extentRpm", "iscsi.rpm"),
    ("extentAvailThreshold", "iscsi.availThreshold"),
    ("extentCommentTemplate", "iscsi.comment"),
];

/// A spelling that means one name on NFS and another on SMB.
const SHARE_COMMENT: (&str, &str, &str) = ("shareCommentTemplate", "nfs.shareComment", "smb.shareComment");

/// Spellings that are refused, whole or by what they begin with, and what to do instead.
const REFUSED: &[(&str, &str)] = &[
    ("iscsi.chapUser", CHAP),
    ("iscsi.chapSecret", CHAP),
    ("iscsi.chapPeerUser", CHAP),
    ("iscsi.chapPeerSecret", CHAP),
    ("node-db.", CHAP),
    ("chap", CHAP),
    (
        "encryption.passphrase",
        "it is a secret: put it as encryptionPassphrase into the Secret that csi.storage.k8s.io/provisioner-secret-name \
         and -namespace name",
    ),
    ("encryptionPassphrase", ENCRYPTION),
    ("encryption.key", ENCRYPTION),
    ("encryptionKey", ENCRYPTION),
    (
        "encryption.pbkdf2iters",
        "a passphrase is stretched with the appliance's own number of rounds; leave it out",
    ),
    ("nvmeof.dhchapKey", DHCHAP),
    ("nvmeof.dhchapCtrlKey", DHCHAP),
    ("nvmeof.hostNQN", "each node has an NQN of its own; leave it out"),
    ("nfs.mountOptions", "mount options are the class's own list mountOptions beside parameters"),
    (
        "smbCredentialsSecret",
        "name the Secret with csi.storage.k8s.io/node-stage-secret-name and csi.storage.k8s.io/node-stage-secret-namespace",
    ),
    (
        "snapshot.",
        "this driver makes no periodic snapshot tasks: use the appliance's Data Protection, Periodic Snapshot Tasks on \
         parentDataset, or a VolumeSnapshot schedule in the cluster",
    ),
    ("markAdoptable", LATER),
    ("adoptExisting", LATER),
    ("detached", LATER),
    ("promotedVolumesFrom", LATER),
    ("shareAlldirs", "TrueNAS has no such setting any more; leave it out"),
    (
        "shareAuxiliaryConfigurationTemplate",
        "auxiliary Samba parameters need a full administrator; leave it out",
    ),
    ("shareGuestOnly", "use smb.guest"),
    ("shareTimeMachine", "a volume is no Time Machine target; leave it out"),
    ("targetPortal", "the appliance's address is server, its port port, further ones are iscsi.portals"),
    ("targetGroups", "use portalId, initiatorId and iscsi.authMethod"),
    ("datasetParentName", "use parentDataset"),
];

const CHAP: &str = "CHAP credentials are secrets: put them as chapUser, chapSecret, chapPeerUser and chapPeerSecret into \
                    the Secret that csi.storage.k8s.io/node-stage-secret-name and controller-publish-secret-name name";
const ENCRYPTION: &str = "it is a secret: put it under encryptionKey or encryptionPassphrase into the Secret that \
                          csi.storage.k8s.io/provisioner-secret-name and -namespace name";
const DHCHAP: &str =
    "keys of DH-HMAC-CHAP are made at random for each node and volume; say nvmeof.dhchap one-way or mutual";
const LATER: &str = "this version of the driver cannot do that yet; leave it out";

/// Every spelling, for messages and tests: spelling and name.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    let (comment, nfs, smb) = SHARE_COMMENT;
    ALIASES.iter().copied().chain([(comment, nfs), (comment, smb)])
}

/// What to do instead of a spelling that is not read. Never says anything about its value.
pub(super) fn refused(key: &str) -> Option<&'static str> {
    let exact = REFUSED.iter().find(|(spelling, _)| key == *spelling);
    let begins =
        || REFUSED.iter().find(|(spelling, _)| PREFIXES.contains(spelling) && key.starts_with(spelling));
    exact.or_else(begins).map(|(_, words)| *words)
}

/// Those of [`REFUSED`] that stand for everything that begins with them.
const PREFIXES: [&str; 5] = ["node-db.", "chap", "snapshot.", "detached", "promotedVolumesFrom"];

/// The one name of a spelling, which may be that name already.
pub(super) fn name_of<'a>(key: &'a str, protocol: Option<&str>) -> &'a str {
    let (comment, nfs, smb) = SHARE_COMMENT;
    if key == comment {
        return if protocol == Some("smb") { smb } else { nfs };
    }
    ALIASES.iter().find(|(alias, _)| *alias == key).map_or(key, |(_, name)| name)
}

/// Gives each key its one name and each value its one spelling; a value that says "none" in its own spelling is left out.
///
/// # Errors
/// INVALID_ARGUMENT: two spellings of one parameter with different values.
pub(super) fn normalise<'a>(
    parameters: impl Iterator<Item = (&'a String, &'a String)>,
    protocol: Option<&str>,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut known: BTreeMap<&str, (&str, Option<String>)> = BTreeMap::new();
    for (key, given) in parameters {
        let name = name_of(key, protocol);
        let value = value(key, name, given);
        if let Some((other, same)) = known.get(name)
            && *same != value
        {
            return Err(Failure::invalid(format!(
                "parameters {other:?} and {key:?} are two spellings of {name} and differ; keep one"
            )));
        }
        known.insert(name, (key, value));
    }
    Ok(known.into_iter().filter_map(|(name, (_, value))| Some((name.to_owned(), value?))).collect())
}

fn value(key: &str, name: &str, given: &str) -> Option<String> {
    let word = || given.to_ascii_lowercase();
    Some(match (key, given) {
        ("zvolEnableReservation", "true") => "false".to_owned(),
        ("zvolEnableReservation", "false") => "true".to_owned(),
        // democratic-csi: 0 is no threshold.
        ("extentAvailThreshold", "0") => return None,
        ("extentRpm", _) => given.to_ascii_uppercase(),
        ("targetGroupAuthType", _) => iscsi::auth_type(given).map_or_else(|| given.to_owned(), str::to_owned),
        _ if name == smb::PURPOSE => smb::purpose(given).map_or_else(|| given.to_owned(), str::to_owned),
        _ if name == "zfs.sparse" => match word().as_str() {
            "on" => "true".to_owned(),
            "off" => "false".to_owned(),
            word => word.to_owned(),
        },
        _ if zfs::is_word(name) => match word().as_str() {
            "true" => "on".to_owned(),
            "false" => "off".to_owned(),
            word => word.to_owned(),
        },
        ("volblocksize" | "zvolBlocksize" | "recordsize", _) => given.to_ascii_uppercase(),
        _ => given.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::parameter::table;

    fn normal(pairs: &[(&str, &str)]) -> Result<BTreeMap<String, String>, Failure> {
        let all: BTreeMap<String, String> =
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        normalise(all.iter(), None)
    }

    #[test]
    fn every_alias_leads_to_a_parameter_and_hides_none() {
        for (alias, name) in all() {
            assert!(table().any(|d| d.name == name), "{alias} leads to {name}");
            assert!(!table().any(|d| d.name == alias), "{alias} is a parameter itself");
        }
    }

    #[test]
    fn spellings_of_other_drivers_become_one() {
        let one =
            normal(&[("zfs.compression", "lz4"), ("zfs.dedup", "on"), ("zfs.sparse", "false")]).unwrap();
        let hpe = [("compression", "LZ4"), ("deduplication", "true"), ("sparse", "false")];
        assert_eq!(normal(&hpe).unwrap(), one);
        let d = [("compression", "lz4"), ("dedup", "ON"), ("zvolEnableReservation", "true")];
        assert_eq!(normal(&d).unwrap(), one);
    }

    #[test]
    fn two_spellings_must_agree() {
        assert!(normal(&[("sync", "ALWAYS"), ("zfs.sync", "always")]).is_ok());
        let refused = normal(&[("sync", "always"), ("zfs.sync", "disabled")]).unwrap_err();
        assert!(
            refused.message.contains("\"sync\"") && refused.message.contains("\"zfs.sync\""),
            "{refused}"
        );
    }

    #[test]
    fn each_family_of_spellings_leads_to_ours() {
        for (theirs, ours) in [
            (("shareAllowedNetworks", "10.0.0.0/8"), ("nfs.networks", "10.0.0.0/8")),
            (("shareAllowedHosts", "10.0.0.9"), ("nfs.hosts", "10.0.0.9")),
            (("shareMaprootUser", "root"), ("nfs.maprootUser", "root")),
            (("shareMaprootGroup", "wheel"), ("nfs.maprootGroup", "wheel")),
            (("shareMapallUser", "apps"), ("nfs.mapallUser", "apps")),
            (("shareMapallGroup", "apps"), ("nfs.mapallGroup", "apps")),
            (("shareCommentTemplate", "of a"), ("nfs.shareComment", "of a")),
            (("extentInsecureTpc", "true"), ("iscsi.insecureTpc", "true")),
            (("extentXenCompat", "true"), ("iscsi.xen", "true")),
            (("extentDisablePhysicalBlocksize", "true"), ("iscsi.disablePhysicalBlocksize", "true")),
            (("extentBlocksize", "4096"), ("iscsi.blocksize", "4096")),
            (("extentRpm", "ssd"), ("iscsi.rpm", "SSD")),
            (("extentAvailThreshold", "80"), ("iscsi.availThreshold", "80")),
            (
                ("iscsi.iqn-base", "iqn.2005-10.org.freenas.ctl"),
                ("iscsi.iqnBase", "iqn.2005-10.org.freenas.ctl"),
            ),
            (
                ("iscsi.iqn-prefix", "iqn.2005-10.org.freenas.ctl"),
                ("iscsi.iqnBase", "iqn.2005-10.org.freenas.ctl"),
            ),
            (("targetGroupAuthType", "CHAP Mutual"), ("iscsi.authMethod", "mutual")),
            (("smb.purpose", "NO_PRESET"), ("smb.purpose", "LEGACY_SHARE")),
            (("zvolDedup", "ON"), ("zfs.dedup", "on")),
            (("zvolBlocksize", "16k"), ("zfs.volblocksize", "16K")),
        ] {
            assert_eq!(normal(&[theirs]).unwrap(), normal(&[ours]).unwrap(), "{theirs:?}");
            let read = normal(&[theirs]).unwrap();
            let (name, value) = read.iter().next().unwrap();
            let definition = table().find(|d| d.name == name).unwrap();
            assert!((definition.check)(value), "{name}={value} is not valid");
        }
        assert!(normal(&[("extentAvailThreshold", "0")]).unwrap().is_empty(), "none is asked for");
    }

    #[test]
    fn a_share_comment_is_that_of_the_protocol() {
        let given = BTreeMap::from([("shareCommentTemplate".to_owned(), "x".to_owned())]);
        assert!(normalise(given.iter(), Some("smb")).unwrap().contains_key("smb.shareComment"));
    }

    #[test]
    fn what_stands_elsewhere_is_no_parameter_and_no_alias() {
        for (spelling, _) in REFUSED {
            assert!(refused(spelling).is_some());
            assert!(!table().any(|d| d.name == *spelling), "{spelling} is a parameter");
            assert!(!all().any(|(alias, _)| alias == *spelling), "{spelling} is read");
        }
        for definition in table() {
            assert_eq!(refused(definition.name), None, "{}", definition.name);
        }
        for (alias, _) in all() {
            assert_eq!(refused(alias), None, "{alias}");
        }
        for prefix in PREFIXES {
            assert!(REFUSED.iter().any(|(spelling, _)| *spelling == prefix));
        }
    }
}
