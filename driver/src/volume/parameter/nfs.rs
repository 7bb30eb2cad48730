//! Parameters of NFS exports.
//!
//! The rule it keeps: `nfs.networks` and `nfs.hosts` open the export for good, so that publish adds nobody and unpublish
//! takes nobody away; everything else says how those who are let in are served.

use std::collections::BTreeMap;
use std::net::IpAddr;

use truenas::calls::NfsSecurity;

use crate::volume::failure::Failure;
use crate::volume::parameter::Definition;
use crate::volume::protocol::Protocol;

/// In the comment of an export that its class opened: its list is not ours to change.
pub const OPENED: &str = "[open]";

const NFS: &[Protocol] = &[Protocol::Nfs];
const NETWORKS: &str = "nfs.networks";
const HOSTS: &str = "nfs.hosts";
const MAPROOT_USER: &str = "nfs.maprootUser";
const MAPROOT_GROUP: &str = "nfs.maprootGroup";
const MAPALL_USER: &str = "nfs.mapallUser";
const MAPALL_GROUP: &str = "nfs.mapallGroup";
const ROOT_SQUASH: &str = "nfs.rootSquash";
pub(super) const COMMENT: &str = "nfs.shareComment";
const SECURITY: &str = "nfs.security";
/// Root on the appliance.
const ROOT: &str = "root";
const ACCOUNT: &str = "the name of a user or group of the appliance, 1 to 32 characters";

/// This group's part of the table.
pub(super) const TABLE: &[Definition] = &[
    Definition {
        name: NETWORKS,
        protocols: NFS,
        values: "networks in CIDR form, separated by commas, none inside another (10.244.0.0/16,fd00::/8); they may \
                 mount the volume whether it is published to them or not",
        check: |v| {
            split(v).is_some_and(|all| all.iter().all(|n| parse_network(n).is_some()) && !overlap(&all))
        },
    },
    Definition {
        name: HOSTS,
        protocols: NFS,
        values: "IP addresses or host names that the appliance can resolve, separated by commas, each once; they may \
                 mount the volume whether it is published to them or not",
        check: |v| split(v).is_some_and(|all| all.iter().all(|h| super::is_server(h)) && !repeats(&all)),
    },
    Definition { name: MAPROOT_USER, protocols: NFS, values: ACCOUNT, check: is_account },
    Definition { name: MAPROOT_GROUP, protocols: NFS, values: ACCOUNT, check: is_account },
    Definition { name: MAPALL_USER, protocols: NFS, values: ACCOUNT, check: is_account },
    Definition { name: MAPALL_GROUP, protocols: NFS, values: ACCOUNT, check: is_account },
    Definition {
        name: ROOT_SQUASH,
        protocols: NFS,
        values: "true (root of a node becomes nobody) or false",
        check: |v| matches!(v, "true" | "false"),
    },
    Definition { name: COMMENT, protocols: NFS, values: SHARE_COMMENT, check: is_share_comment },
    // In the documents of tns-csi, whose code never looked at it; a volume has a dataset of its own.
    Definition {
        name: "path",
        protocols: NFS,
        values: "an absolute path; accepted for old classes and without effect, because each volume has a dataset of its \
                 own below parentDataset",
        check: |v| v.starts_with('/') && !v.contains(char::is_control),
    },
    Definition {
        name: SECURITY,
        protocols: NFS,
        values: "sys, krb5, krb5i or krb5p, separated by commas, each once",
        check: |v| split(v).is_some_and(|all| all.iter().all(|s| flavour(s).is_some()) && !repeats(&all)),
    },
];

/// Whom somebody becomes; none stays who he is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// User.
    pub user: Option<String>,
    /// Group.
    pub group: Option<String>,
}

/// How an NFS export is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nfs {
    /// Networks that may mount it at any time.
    pub networks: Vec<String>,
    /// Hosts that may mount it at any time.
    pub hosts: Vec<String>,
    /// Whom root becomes.
    pub maproot: Mapping,
    /// Whom everyone becomes.
    pub mapall: Mapping,
    /// What its comment says beside the volume's id.
    pub comment: Option<String>,
    /// Flavours; empty is the appliance's default.
    pub security: Vec<NfsSecurity>,
}

impl Default for Nfs {
    fn default() -> Self {
        Nfs {
            networks: Vec::new(),
            hosts: Vec::new(),
            // Only user and group together keep root's rights (`exports.mako`): pods change owners in their volume.
            maproot: Mapping { user: Some(ROOT.to_owned()), group: Some(ROOT.to_owned()) },
            mapall: Mapping::default(),
            comment: None,
            security: Vec::new(),
        }
    }
}

impl Nfs {
    /// Whether the class lets in hosts that no publish did.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.networks.is_empty() || !self.hosts.is_empty()
    }

    /// Reads the group from a class's own keys, whose values the table has checked one by one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: values that do not go together.
    pub fn read(given: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let list = |key: &str| given.get(key).and_then(|v| split(v)).unwrap_or_default();
        let owned = |key: &str| list(key).into_iter().map(str::to_owned).collect::<Vec<_>>();
        let mapping = |user: &str, group: &str| {
            let mapping = Mapping { user: given.get(user).cloned(), group: given.get(group).cloned() };
            if mapping.group.is_some() && mapping.user.is_none() {
                return Err(Failure::invalid(format!("parameter {group} needs {user} beside it")));
            }
            Ok(mapping)
        };
        let maproot = mapping(MAPROOT_USER, MAPROOT_GROUP)?;
        let mapall = mapping(MAPALL_USER, MAPALL_GROUP)?;
        let squash = given.get(ROOT_SQUASH).map(String::as_str);
        let excluding = |one: &str, other: &str| {
            Failure::invalid(format!("parameters {one} and {other} exclude each other; give one of them"))
        };
        if maproot.user.is_some() && mapall.user.is_some() {
            return Err(excluding(MAPROOT_USER, MAPALL_USER));
        }
        if squash.is_some() && maproot.user.is_some() {
            return Err(excluding(ROOT_SQUASH, MAPROOT_USER));
        }
        if squash == Some("false") && mapall.user.is_some() {
            return Err(excluding("nfs.rootSquash=false", MAPALL_USER));
        }
        let keep_root = maproot.user.is_none() && mapall.user.is_none() && squash != Some("true");
        Ok(Nfs {
            networks: owned(NETWORKS),
            hosts: owned(HOSTS),
            maproot: if keep_root { Nfs::default().maproot } else { maproot },
            mapall,
            comment: given.get(COMMENT).cloned(),
            security: list(SECURITY).into_iter().filter_map(flavour).collect(),
        })
    }
}

/// Longest comment that a class may give to a share, in characters; our mark comes after it.
pub(super) const MAX_SHARE_COMMENT: usize = 128;

/// What [`is_share_comment`] takes, in words.
pub(super) const SHARE_COMMENT: &str = "1 to 128 characters without brackets and control characters; a template such as \
                                        {{ .PVCNamespace }}/{{ .PVCName }} is filled in";

/// A comment of a share beside our own mark, which stands in brackets.
pub(super) fn is_share_comment(value: &str) -> bool {
    (1..=MAX_SHARE_COMMENT).contains(&value.chars().count())
        && !value.contains(['[', ']'])
        && !value.contains(char::is_control)
        && value.trim() == value
}

/// The parts of a list; none when one is empty.
fn split(value: &str) -> Option<Vec<&str>> {
    let parts: Vec<&str> = value.split(',').map(str::trim).collect();
    parts.iter().all(|p| !p.is_empty()).then_some(parts)
}

fn repeats(all: &[&str]) -> bool {
    all.iter().enumerate().any(|(n, one)| all.iter().take(n).any(|other| other.eq_ignore_ascii_case(one)))
}

/// Address and prefix length of a network without host bits.
fn parse_network(text: &str) -> Option<(u128, u8, bool)> {
    let (address, length) = text.split_once('/')?;
    let length: u8 = length.parse().ok().filter(|l: &u8| l.to_string() == length)?;
    let (bits, width, v6): (u128, u8, bool) = match address.parse::<IpAddr>().ok()? {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32, false),
        IpAddr::V6(v6) => (v6.to_bits(), 128, true),
    };
    let host = width.checked_sub(length)?;
    let clean = prefix(bits, host).checked_shl(u32::from(host)).unwrap_or(0) == bits;
    clean.then_some((bits, length, v6))
}

/// What is left of an address without its host bits.
fn prefix(bits: u128, host: u8) -> u128 {
    bits.checked_shr(u32::from(host)).unwrap_or(0)
}

fn overlap(all: &[&str]) -> bool {
    let read: Vec<_> = all.iter().filter_map(|n| parse_network(n)).collect();
    let meet = |a: &(u128, u8, bool), b: &(u128, u8, bool)| {
        let host = if a.2 { 128 } else { 32 } - a.1.min(b.1);
        a.2 == b.2 && prefix(a.0, host) == prefix(b.0, host)
    };
    read.iter().enumerate().any(|(n, one)| read.iter().take(n).any(|other| meet(one, other)))
}

fn flavour(text: &str) -> Option<NfsSecurity> {
    match text {
        "sys" => Some(NfsSecurity::Sys),
        "krb5" => Some(NfsSecurity::Krb5),
        "krb5i" => Some(NfsSecurity::Krb5i),
        "krb5p" => Some(NfsSecurity::Krb5p),
        _ => None,
    }
}

pub(super) fn is_account(value: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '$' | '@' | '\\');
    (1..=32).contains(&value.len()) && !value.starts_with('-') && value.chars().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid(key: &str, value: &str) -> bool {
        TABLE.iter().find(|d| d.name == key).is_some_and(|d| (d.check)(value))
    }

    fn read(pairs: &[(&str, &str)]) -> Result<Nfs, Failure> {
        Nfs::read(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn networks_are_cidr_without_host_bits_and_overlaps() {
        for good in ["10.244.0.0/16", "10.0.0.0/8, fd00::/8", "0.0.0.0/0", "::/0", "10.0.0.1/32"] {
            assert!(valid(NETWORKS, good), "{good}");
        }
        for bad in [
            "",
            "10.244.0.0",
            "10.244.0.1/16",
            "10.0.0.0/33",
            "10.0.0.0/08",
            "fd00::/129",
            "a/8",
            "10.0.0.0/8,",
            "10.0.0.0/8,10.1.0.0/16",
            "0.0.0.0/0,10.0.0.0/8",
            "10.0.0.0/8,10.0.0.0/8",
        ] {
            assert!(!valid(NETWORKS, bad), "{bad}");
        }
    }

    #[test]
    fn hosts_accounts_and_flavours_are_checked() {
        assert!(valid(HOSTS, "10.0.0.1,backup.example.org") && valid(SECURITY, "sys,krb5p"));
        assert!(!valid(HOSTS, "10.0.0.1,10.0.0.1") && !valid(HOSTS, "a b") && !valid(HOSTS, "*"));
        assert!(!valid(SECURITY, "SYS") && !valid(SECURITY, "sys,sys"));
        assert!(valid(MAPALL_USER, "apps") && !valid(MAPALL_USER, "") && !valid(MAPALL_USER, "a b"));
        assert!(valid(COMMENT, "data of team a") && !valid(COMMENT, "x [tns-csi tank/other]"));
    }

    #[test]
    fn mappings_that_exclude_each_other_are_refused() {
        for (pairs, named) in [
            (&[(MAPROOT_USER, "a"), (MAPALL_USER, "b")][..], MAPALL_USER),
            (&[(MAPROOT_GROUP, "a")][..], MAPROOT_USER),
            (&[(MAPALL_GROUP, "a")][..], MAPALL_USER),
            (&[(ROOT_SQUASH, "true"), (MAPROOT_USER, "a")][..], ROOT_SQUASH),
            (&[(ROOT_SQUASH, "false"), (MAPALL_USER, "a")][..], ROOT_SQUASH),
        ] {
            assert!(read(pairs).unwrap_err().message.contains(named), "{pairs:?}");
        }
        assert_eq!(read(&[(ROOT_SQUASH, "true")]).unwrap().maproot, Mapping::default());
        assert_eq!(read(&[]).unwrap(), Nfs::default());
    }
}
