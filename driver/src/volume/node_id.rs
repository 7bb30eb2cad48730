//! The CSI node id: everything the controller must know of a node, readable without asking anybody.
//!
//! The rule it keeps: the id alone is enough to grant a node access and to take it back when the node is dead. The
//! text form is `<name>;<host uuid>;<address>[,<address>]*[;<public key>]`:
//!
//! | part | form |
//! |---|---|
//! | name | Kubernetes node name, 1 to 63 bytes of `A-Z a-z 0-9 . _ -`; longer ones end in `-` and a hash |
//! | host uuid | 32 lower-case hexadecimal digits; host NQN and initiator name derive from it |
//! | address | IPv4 or IPv6 literal in its canonical form, in order of preference, at least one |
//! | public key | X25519, 43 characters of base64url without padding; absent when the helper has none |
//!
//! It never exceeds [`MAX_LEN`] bytes. There is exactly one text for one id: whatever does not read back to itself
//! does not parse, and an id that does not parse is an unknown node.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Longest node id in bytes. CSI asks for at least 128 and Kubernetes accepts 192 in every supported release.
pub const MAX_LEN: usize = 192;
/// Longest name inside a node id, in bytes; a longer node name is shortened and gets a hash.
pub const MAX_NAME_LEN: usize = 63;
/// Characters of a hash made by [`hash_of`].
pub const HASH_LEN: usize = 10;

/// Characters of an X25519 public key (32 bytes) in base64url without padding.
const KEY_LEN: usize = 43;
/// Characters of a UUID in its simple form.
const UUID_LEN: usize = 32;

/// A node as the controller knows it, parsed from or written to a CSI node id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeId {
    /// Kubernetes node name, possibly shortened (see [`NodeId::new`]). Names the node in messages and records.
    pub name: String,
    /// The helper's random host UUID.
    pub host: Uuid,
    /// Addresses from which the node reaches the storage, at least one, without duplicates.
    pub addresses: Vec<IpAddr>,
    /// X25519 public key to which secrets for this node's helper are sealed.
    pub public_key: Option<[u8; 32]>,
}

/// Why a node id cannot be made or read. The messages name the part and what was found there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeIdError {
    /// The text is longer than [`MAX_LEN`].
    #[error("node id has {0} bytes, at most {MAX_LEN} are possible")]
    TooLong(usize),
    /// Not three or four parts.
    #[error("node id has {0} parts separated by ';', expected name;uuid;addresses[;key]")]
    Parts(usize),
    /// The name is empty or has characters that no node name has.
    #[error("node name {0:?} is not 1 or more of letters, digits, '.', '_' and '-'")]
    Name(String),
    /// The host UUID is not 32 lower-case hexadecimal digits.
    #[error("host uuid {0:?} is not 32 lower-case hexadecimal digits")]
    Host(String),
    /// An address is no canonical literal, or one that no host can have.
    #[error("storage address {0:?} is not the canonical form of a host's IPv4 or IPv6 address")]
    Address(String),
    /// No address at all.
    #[error("a node id needs at least one storage address")]
    NoAddress,
    /// The public key is not 32 bytes in base64url without padding.
    #[error("public key is not {KEY_LEN} characters of base64url without padding")]
    PublicKey,
    /// Every part is readable but the text is not the one this id is written as.
    #[error("node id is not in its canonical form, expected {0:?}")]
    NotCanonical(String),
}

impl NodeId {
    /// Makes an id that fits: a `name` over [`MAX_NAME_LEN`] bytes keeps its beginning and gets `-` and a hash of the
    /// whole, duplicate addresses are dropped, and addresses that do not fit [`MAX_LEN`] are dropped from the end.
    /// The room for a public key is kept free even without one, so that a key changes no address.
    ///
    /// # Errors
    /// A name with other characters, a nil host UUID, no address, or an address that no host can have.
    pub fn new(
        name: &str,
        host: Uuid,
        addresses: impl IntoIterator<Item = IpAddr>,
        public_key: Option<[u8; 32]>,
    ) -> Result<Self, NodeIdError> {
        let name_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || !name.chars().all(name_char) {
            return Err(NodeIdError::Name(name.to_owned()));
        }
        if host.is_nil() {
            return Err(NodeIdError::Host(host.simple().to_string()));
        }
        let name = shorten(name);
        // What is left for the addresses: two separators, the UUID, and the key with its separator.
        let mut room = MAX_LEN.saturating_sub(name.len() + 2 + UUID_LEN + 1 + KEY_LEN);
        let mut kept: Vec<IpAddr> = Vec::new();
        let mut full = false;
        for address in addresses {
            if address.is_unspecified() || address.is_multicast() {
                return Err(NodeIdError::Address(address.to_string()));
            }
            let needed = address.to_string().len() + usize::from(!kept.is_empty());
            full |= needed > room;
            if full || kept.contains(&address) {
                continue;
            }
            room -= needed;
            kept.push(address);
        }
        if kept.is_empty() {
            return Err(NodeIdError::NoAddress);
        }
        Ok(NodeId { name, host, addresses: kept, public_key })
    }

    /// Reads an id from its text form.
    ///
    /// # Errors
    /// Anything that [`NodeId`]'s `Display` would not have written; callers treat it as an unknown node.
    pub fn parse(text: &str) -> Result<Self, NodeIdError> {
        if text.len() > MAX_LEN {
            return Err(NodeIdError::TooLong(text.len()));
        }
        let parts: Vec<&str> = text.split(';').collect();
        let (name, host, addresses, key) = match parts.as_slice() {
            [name, host, addresses] => (*name, *host, *addresses, None),
            [name, host, addresses, key] => (*name, *host, *addresses, Some(*key)),
            other => return Err(NodeIdError::Parts(other.len())),
        };
        let bad_host = || NodeIdError::Host(host.to_owned());
        if host.len() != UUID_LEN || host.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(bad_host());
        }
        let host = Uuid::try_parse(host).map_err(|_| bad_host())?;
        let addresses = addresses
            .split(',')
            .map(|a| a.parse::<IpAddr>().map_err(|_| NodeIdError::Address(a.to_owned())))
            .collect::<Result<Vec<_>, _>>()?;
        let public_key = key.map(parse_key).transpose()?;
        let id = NodeId::new(name, host, addresses, public_key)?;
        let canonical = id.to_string();
        if canonical == text { Ok(id) } else { Err(NodeIdError::NotCanonical(canonical)) }
    }

    /// Hash of the (shortened) name for the dataset property `tns-csi:node.<hash>` under which a grant to this node is
    /// recorded: [`HASH_LEN`] characters of `a-z2-7`.
    #[must_use]
    pub fn name_hash(&self) -> String {
        hash_of(&self.name)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};{};", self.name, self.host.simple())?;
        for (n, address) in self.addresses.iter().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            write!(f, "{address}")?;
        }
        match self.public_key {
            Some(key) => write!(f, ";{}", URL_SAFE_NO_PAD.encode(key)),
            None => Ok(()),
        }
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        NodeId::parse(text)
    }
}

/// [`HASH_LEN`] characters of `a-z2-7` (50 bits of SHA-256): fit for ZFS property names, NQNs and host names alike.
#[must_use]
pub fn hash_of(text: &str) -> String {
    const ALPHABET: [char; 32] = [
        'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r', 's', 't',
        'u', 'v', 'w', 'x', 'y', 'z', '2', '3', '4', '5', '6', '7',
    ];
    let digest = Sha256::digest(text.as_bytes());
    let bits = digest.iter().take(8).fold(0_u64, |bits, byte| (bits << 8) | u64::from(*byte));
    (0..HASH_LEN).filter_map(|n| ALPHABET.get(((bits >> (59 - 5 * n)) & 31) as usize)).collect()
}

/// A name of at most [`MAX_NAME_LEN`] bytes. `name` is ASCII.
fn shorten(name: &str) -> String {
    if name.len() <= MAX_NAME_LEN {
        return name.to_owned();
    }
    let kept: String = name.chars().take(MAX_NAME_LEN - 1 - HASH_LEN).collect();
    format!("{kept}-{}", hash_of(name))
}

fn parse_key(text: &str) -> Result<[u8; 32], NodeIdError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| NodeIdError::PublicKey)?;
    bytes.try_into().map_err(|_| NodeIdError::PublicKey)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOST: Uuid = Uuid::from_u128(0x0123_4567_89ab_4cde_8f01_2345_6789_abcd);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_id_is_written_as_documented() {
        let id = NodeId::new("worker-1", HOST, [ip("192.0.2.7"), ip("2001:db8::7")], None).unwrap();
        assert_eq!(id.to_string(), "worker-1;0123456789ab4cde8f0123456789abcd;192.0.2.7,2001:db8::7");
        let keyed = NodeId::new("worker-1", HOST, [ip("192.0.2.7")], Some([0xff; 32])).unwrap();
        assert_eq!(
            keyed.to_string(),
            "worker-1;0123456789ab4cde8f0123456789abcd;192.0.2.7;__________________________________________8"
        );
        assert_eq!(NodeId::parse(&keyed.to_string()), Ok(keyed));
    }

    #[test]
    fn a_long_name_is_shortened_and_stays_distinct() {
        let (a, b) = (format!("{}a", "n".repeat(80)), format!("{}b", "n".repeat(80)));
        let id = |name: &str| NodeId::new(name, HOST, [ip("192.0.2.7")], None).unwrap();
        assert_eq!(id(&a).name.len(), MAX_NAME_LEN);
        assert_ne!(id(&a).name, id(&b).name);
        assert_ne!(id(&a).name_hash(), id(&b).name_hash());
        assert_eq!(NodeId::parse(&id(&a).to_string()).unwrap().name_hash(), id(&a).name_hash());
    }

    #[test]
    fn addresses_that_do_not_fit_go_from_the_end() {
        let wide = ip("2001:db8:1111:2222:3333:4444:5555:6661");
        let many = [wide, ip("2001:db8:1111:2222:3333:4444:5555:6662"), ip("10.0.0.1")];
        let id = NodeId::new(&"n".repeat(253), HOST, many, Some([7; 32])).unwrap();
        assert_eq!(id.addresses, [wide], "a later, shorter address does not jump the queue");
        assert!(id.to_string().len() <= MAX_LEN);
    }

    #[test]
    fn a_key_changes_no_address() {
        let many: Vec<IpAddr> = (0..30).map(|n| IpAddr::from([10, 0, 100, n])).collect();
        let without = NodeId::new("n", HOST, many.clone(), None).unwrap();
        let with = NodeId::new("n", HOST, many, Some([9; 32])).unwrap();
        assert_eq!(without.addresses, with.addresses);
    }

    #[test]
    fn what_is_not_an_id_does_not_parse() {
        let uuid = "0123456789ab4cde8f0123456789abcd";
        let cases = [
            String::new(),
            "fake-node-id".to_owned(),
            format!("n;{uuid}"),
            format!("n;{uuid};"),
            format!(";{uuid};192.0.2.1"),
            format!("n m;{uuid};192.0.2.1"),
            format!("n;{};192.0.2.1", uuid.to_uppercase()),
            "n;01234567-89ab-4cde-8f01-23456789abcd;192.0.2.1".to_owned(),
            format!("n;{};192.0.2.1", "0".repeat(32)),
            format!("n;{uuid};192.0.2.1,"),
            format!("n;{uuid};192.0.2.1,192.0.2.1"),
            format!("n;{uuid};192.0.2.01"),
            format!("n;{uuid};2001:DB8::1"),
            format!("n;{uuid};2001:db8:0:0:0:0:0:1"),
            format!("n;{uuid};0.0.0.0"),
            format!("n;{uuid};ff02::1"),
            format!("n;{uuid};192.0.2.1;"),
            format!("n;{uuid};192.0.2.1;short"),
            format!("n;{uuid};192.0.2.1;{}9", "_".repeat(42)),
            format!("n;{uuid};192.0.2.1;{}8;", "_".repeat(42)),
            format!("{};{uuid};192.0.2.1", "n".repeat(64)),
            format!("{};{uuid};192.0.2.1", "n".repeat(500)),
        ];
        for text in cases {
            assert!(NodeId::parse(&text).is_err(), "{text:?} parsed");
        }
    }

    proptest! {
        #[test]
        fn every_id_reads_back_to_itself_and_fits(
            name in "[a-z0-9][a-z0-9.-]{0,252}",
            host in 1_u128..,
            v4 in proptest::collection::vec(0x0100_0000_u32..0xdfff_ffff, 1..6),
            v6 in proptest::collection::vec(1_u128..(0xff_u128 << 120), 0..4),
            key in proptest::option::of(any::<[u8; 32]>()),
        ) {
            let addresses = v6.into_iter().map(|b| IpAddr::from(b.to_be_bytes()))
                .chain(v4.into_iter().map(|b| IpAddr::from(b.to_be_bytes())));
            let id = NodeId::new(&name, Uuid::from_u128(host), addresses, key).unwrap();
            let text = id.to_string();
            prop_assert!(text.len() <= MAX_LEN);
            prop_assert_eq!(NodeId::parse(&text), Ok(id));
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = NodeId::parse(&text);
        }

        #[test]
        fn hashes_have_their_alphabet(text in any::<String>()) {
            let hash = hash_of(&text);
            prop_assert_eq!(hash.len(), HASH_LEN);
            prop_assert!(hash.bytes().all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b)));
        }
    }
}
