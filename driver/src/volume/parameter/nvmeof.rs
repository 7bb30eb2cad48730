//! Parameters of NVMe-oF subsystems and connections.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::volume::failure::Failure;
use crate::volume::parameter::Definition;
use crate::volume::protocol::Protocol;

const NVMEOF: &[Protocol] = &[Protocol::Nvmeof];

const PORT_ID: &str = "portID";
const IO_QUEUES: &str = "nvmeof.nr-io-queues";
const QUEUE_SIZE: &str = "nvmeof.queue-size";
const DHCHAP: &str = "nvmeof.dhchap";
const DHCHAP_HASH: &str = "nvmeof.dhchapHash";
const DHCHAP_GROUP: &str = "nvmeof.dhchapDHGroup";

/// This group's part of the table.
pub(super) const TABLE: &[Definition] = &[
    Definition {
        name: "transport",
        protocols: NVMEOF,
        values: "tcp (RDMA and Fibre Channel need TrueNAS Enterprise and are not served by this driver)",
        check: |v| v == "tcp",
    },
    Definition {
        name: PORT_ID,
        protocols: NVMEOF,
        values: "the number of an NVMe-oF port of the appliance (Sharing, NVMe-oF, Ports)",
        check: |v| v.parse::<i64>().is_ok_and(|id| id > 0 && id.to_string() == v),
    },
    // The volume has a subsystem of its own; the key is in the seeds' examples and is accepted for them.
    Definition {
        name: "subsystemNQN",
        protocols: NVMEOF,
        values: "an NQN of 11 to 223 characters; accepted for old classes and without effect, because each volume has a \
                 subsystem of its own",
        check: is_nqn,
    },
    Definition {
        name: IO_QUEUES,
        protocols: NVMEOF,
        values: "I/O queues for each connection, 1 to 1024",
        check: |v| number(v, 1).is_some(),
    },
    Definition {
        name: QUEUE_SIZE,
        protocols: NVMEOF,
        values: "entries of each queue, 16 to 1024",
        check: |v| number(v, 16).is_some(),
    },
    Definition {
        name: DHCHAP,
        protocols: NVMEOF,
        values: "none, one-way (the node proves itself) or mutual (the appliance too)",
        check: |v| v == "none" || v.parse::<Proof>().is_ok(),
    },
    Definition {
        name: DHCHAP_HASH,
        protocols: NVMEOF,
        values: "SHA-256, SHA-384 or SHA-512",
        check: |v| v.parse::<Hash>().is_ok(),
    },
    Definition {
        name: DHCHAP_GROUP,
        protocols: NVMEOF,
        values: "2048-BIT, 3072-BIT, 4096-BIT, 6144-BIT or 8192-BIT",
        check: |v| DH_GROUPS.contains(&v),
    },
];

/// Finite-field groups that TrueNAS offers (`nvmet.host.dhchap_dhgroup_choices`).
const DH_GROUPS: [&str; 5] = ["2048-BIT", "3072-BIT", "4096-BIT", "6144-BIT", "8192-BIT"];

/// How an NVMe-oF subsystem is made and reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nvmeof {
    /// Id of the appliance's port at which volumes are served; none finds it by address and port number.
    pub port_id: Option<i64>,
    /// I/O queues per controller; none leaves the kernel's default.
    pub io_queues: Option<u16>,
    /// Entries per queue; none leaves the kernel's default.
    pub queue_size: Option<u16>,
    /// DH-HMAC-CHAP; none asks for no authentication beyond the host's name.
    pub dhchap: Option<DhChap>,
}

/// What DH-HMAC-CHAP a class asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhChap {
    /// Who proves itself.
    pub proof: Proof,
    /// Hash of the challenge.
    pub hash: Hash,
    /// Diffie-Hellman group in TrueNAS's spelling; none exchanges none.
    pub dh_group: Option<String>,
}

/// Who proves itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The node.
    OneWay,
    /// Node and appliance.
    Mutual,
}

impl FromStr for Proof {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "one-way" => Ok(Proof::OneWay),
            "mutual" => Ok(Proof::Mutual),
            _ => Err(()),
        }
    }
}

/// Hash function, which also decides the length of the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hash {
    /// 32 bytes.
    #[default]
    Sha256,
    /// 48 bytes.
    Sha384,
    /// 64 bytes.
    Sha512,
}

impl Hash {
    /// TrueNAS's spelling.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Hash::Sha256 => "SHA-256",
            Hash::Sha384 => "SHA-384",
            Hash::Sha512 => "SHA-512",
        }
    }

    /// Bytes of a key.
    #[must_use]
    pub fn key_len(self) -> usize {
        match self {
            Hash::Sha256 => 32,
            Hash::Sha384 => 48,
            Hash::Sha512 => 64,
        }
    }

    /// Number of the hash in the keys' text form (NVMe Base 2.0, 8.13.5.9).
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Hash::Sha256 => 1,
            Hash::Sha384 => 2,
            Hash::Sha512 => 3,
        }
    }
}

impl FromStr for Hash {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Hash::Sha256, Hash::Sha384, Hash::Sha512].into_iter().find(|h| h.name() == text).ok_or(())
    }
}

impl Nvmeof {
    /// Reads the group from a class's own keys, whose values the table has checked one by one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: values that do not go together.
    pub fn read(given: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let get = |key: &str| given.get(key).map(String::as_str);
        let dhchap = match get(DHCHAP).and_then(|text| text.parse::<Proof>().ok()) {
            Some(proof) => Some(DhChap {
                proof,
                hash: get(DHCHAP_HASH).and_then(|text| text.parse().ok()).unwrap_or_default(),
                dh_group: get(DHCHAP_GROUP).map(str::to_owned),
            }),
            None => {
                if let Some(key) =
                    [DHCHAP_HASH, DHCHAP_GROUP].into_iter().find(|key| given.contains_key(*key))
                {
                    return Err(Failure::invalid(format!(
                        "parameter {key} means nothing without {DHCHAP}: give {DHCHAP} one-way or mutual, or leave \
                         {key} out"
                    )));
                }
                None
            }
        };
        Ok(Nvmeof {
            port_id: get(PORT_ID).and_then(|text| text.parse().ok()),
            io_queues: get(IO_QUEUES).and_then(|text| number(text, 1)),
            queue_size: get(QUEUE_SIZE).and_then(|text| number(text, 16)),
            dhchap,
        })
    }
}

/// A decimal number from `least` to 1024.
fn number(text: &str, least: u16) -> Option<u16> {
    text.parse::<u16>().ok().filter(|n| (least..=1024).contains(n) && n.to_string() == text)
}

/// NVMe Base 2.0, 4.7: `nqn.`, a date, a domain.
fn is_nqn(text: &str) -> bool {
    (11..=223).contains(&text.len())
        && text.starts_with("nqn.")
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b',')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::failure::Kind;
    use crate::volume::parameter::Parameters;

    fn class(more: &[(&str, &str)]) -> Result<Nvmeof, Failure> {
        let common = [("protocol", "nvmeof"), ("pool", "tank"), ("server", "192.0.2.10")];
        let all = common.iter().chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Parameters::parse(&all).map(|p| p.export.nvmeof)
    }

    #[test]
    fn t14_transport_port_and_nqn_are_read_and_not_dropped() {
        let read = class(&[
            ("transport", "tcp"),
            ("portID", "7"),
            ("subsystemNQN", "nqn.2011-06.com.truenas:uuid:csi"),
            ("nvmeof.nr-io-queues", "4"),
            ("nvmeof.queue-size", "128"),
        ]);
        let expected = Nvmeof { port_id: Some(7), io_queues: Some(4), queue_size: Some(128), dhchap: None };
        assert_eq!(read.unwrap(), expected);
        assert_eq!(class(&[]).unwrap(), Nvmeof::default());
    }

    #[test]
    fn bad_values_are_named_with_what_is_valid() {
        for (key, value, words) in [
            ("transport", "rdma", "tcp (RDMA"),
            ("portID", "0", "number of an NVMe-oF port"),
            ("portID", "x", "number of an NVMe-oF port"),
            ("subsystemNQN", "csi", "NQN of 11 to 223"),
            ("nvmeof.nr-io-queues", "0", "1 to 1024"),
            ("nvmeof.nr-io-queues", "1025", "1 to 1024"),
            ("nvmeof.queue-size", "15", "16 to 1024"),
            ("nvmeof.queue-size", "016", "16 to 1024"),
            ("nvmeof.dhchap", "both", "one-way"),
            ("nvmeof.dhchapHash", "sha256", "SHA-384"),
            ("nvmeof.dhchapDHGroup", "1024-BIT", "2048-BIT"),
        ] {
            let failure = class(&[(key, value)]).unwrap_err();
            assert_eq!(failure.kind, Kind::InvalidRequest, "{key}");
            assert!(failure.message.contains(key) && failure.message.contains(words), "{}", failure.message);
        }
    }

    #[test]
    fn authentication_is_read_with_its_defaults() {
        assert_eq!(class(&[("nvmeof.dhchap", "none")]).unwrap().dhchap, None);
        let one_way = class(&[("nvmeof.dhchap", "one-way")]).unwrap().dhchap.unwrap();
        assert_eq!(one_way, DhChap { proof: Proof::OneWay, hash: Hash::Sha256, dh_group: None });
        let mutual = [
            ("nvmeof.dhchap", "mutual"),
            ("nvmeof.dhchapHash", "SHA-512"),
            ("nvmeof.dhchapDHGroup", "4096-BIT"),
        ];
        let expected =
            DhChap { proof: Proof::Mutual, hash: Hash::Sha512, dh_group: Some("4096-BIT".to_owned()) };
        assert_eq!(class(&mutual).unwrap().dhchap.unwrap(), expected);
    }

    #[test]
    fn a_hash_without_authentication_is_refused() {
        for off in [
            &[("nvmeof.dhchapHash", "SHA-256")][..],
            &[("nvmeof.dhchap", "none"), ("nvmeof.dhchapDHGroup", "2048-BIT")],
        ] {
            let failure = class(off).unwrap_err();
            assert_eq!(failure.kind, Kind::InvalidRequest);
            assert!(failure.message.contains("without nvmeof.dhchap"), "{}", failure.message);
        }
    }
}
