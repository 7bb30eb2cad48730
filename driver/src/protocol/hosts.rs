//! The host list of a file share: who is on it after a grant or a revocation.
//!
//! The rule it keeps: the list is never empty, because an empty one admits everyone; and an entry that an
//! administrator added stays, unless everyone has to go.

use std::collections::BTreeSet;

use crate::volume::metadata::NodeRecord;

/// The host that stands for nobody (TEST-NET-1, RFC 5737: no host has it).
pub const NOBODY: &str = "192.0.2.1";

/// The list after letting `nodes` in.
#[must_use]
pub fn with(current: &[String], nodes: &[NodeRecord]) -> Vec<String> {
    let mut hosts: Vec<String> = current.iter().filter(|h| *h != NOBODY).cloned().collect();
    for address in addresses(nodes) {
        if !hosts.contains(&address) {
            hosts.push(address);
        }
    }
    or_nobody(hosts)
}

/// The list after taking out what only `leaving` nodes use.
#[must_use]
pub fn without(current: &[String], leaving: &[NodeRecord], remaining: &[NodeRecord]) -> Vec<String> {
    let gone: BTreeSet<String> = addresses(leaving).collect();
    let kept: BTreeSet<String> = addresses(remaining).collect();
    let stays = |host: &&String| *host != NOBODY && (kept.contains(*host) || !gone.contains(*host));
    or_nobody(current.iter().filter(stays).cloned().collect())
}

/// The list that names nobody.
#[must_use]
pub fn nobody() -> Vec<String> {
    vec![NOBODY.to_owned()]
}

fn addresses(nodes: &[NodeRecord]) -> impl Iterator<Item = String> {
    nodes.iter().flat_map(|n| n.addresses.iter().map(ToString::to_string))
}

fn or_nobody(hosts: Vec<String>) -> Vec<String> {
    if hosts.is_empty() { nobody() } else { hosts }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn node(name: &str, addresses: &[&str]) -> NodeRecord {
        NodeRecord {
            volume: "tank/v".to_owned(),
            name: name.to_owned(),
            host: Uuid::max(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            multi_node: true,
            block: false,
        }
    }

    fn list(hosts: &[&str]) -> Vec<String> {
        hosts.iter().map(|h| (*h).to_owned()).collect()
    }

    #[test]
    fn the_first_node_replaces_nobody_and_the_last_brings_it_back() {
        let a = node("a", &["10.0.0.1", "fd00::1"]);
        let one = with(&nobody(), std::slice::from_ref(&a));
        assert_eq!(one, list(&["10.0.0.1", "fd00::1"]));
        assert_eq!(without(&one, &[a], &[]), nobody());
    }

    #[test]
    fn an_address_that_two_nodes_share_stays_until_both_are_gone() {
        let (a, b) = (node("a", &["10.0.0.1"]), node("b", &["10.0.0.1"]));
        let both = with(&nobody(), &[a.clone(), b.clone()]);
        assert_eq!(both, list(&["10.0.0.1"]));
        assert_eq!(without(&both, std::slice::from_ref(&a), std::slice::from_ref(&b)), list(&["10.0.0.1"]));
        assert_eq!(without(&both, &[a, b], &[]), nobody());
    }

    #[test]
    fn what_an_administrator_added_stays() {
        let a = node("a", &["10.0.0.1"]);
        let current = list(&["backup.example.org", "10.0.0.1"]);
        assert_eq!(without(&current, &[a], &[]), list(&["backup.example.org"]));
    }

    proptest! {
        #[test]
        fn the_list_is_never_empty(n in 0_usize..4, m in 0_usize..4) {
            let nodes: Vec<NodeRecord> = (0..4).map(|i| node("x", &[["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"][i]])).collect();
            let list = with(&[], &nodes[..n]);
            prop_assert!(!list.is_empty());
            prop_assert!(!without(&list, &nodes[..m], &nodes[m..]).is_empty());
        }
    }
}
