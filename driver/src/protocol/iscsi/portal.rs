//! At which portals a target is served.

use std::net::IpAddr;

use truenas::Calls;
use truenas::calls::IscsiPortal;

use crate::protocol::Endpoint;
use crate::protocol::appliance::Appliance;
use crate::volume::context::{MAX_PORTALS, Portal};
use crate::volume::failure::Failure;
use crate::volume::parameter::iscsi::Iscsi as Settings;
use crate::volume::protocol::Protocol;

/// What the appliance's iSCSI service is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Prefix of target names.
    pub basename: String,
    /// Its portals.
    pub portals: Vec<IscsiPortal>,
}

impl Facts {
    /// The IQN of a target (`scst.conf.mako` of TrueNAS).
    #[must_use]
    pub fn iqn(&self, target: &str) -> String {
        let whole = ["iqn.", "naa.", "eui."].iter().any(|prefix| target.starts_with(prefix));
        if whole { target.to_owned() } else { format!("{}:{target}", self.basename) }
    }
}

/// Where a target is to be served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// Rows of the portals.
    pub(super) rows: Vec<i64>,
    /// Addresses for the node, in order of preference.
    pub(super) portals: Vec<Portal>,
}

/// The portals for an endpoint; facts that do not have them are read once more.
///
/// # Errors
/// FAILED_PRECONDITION when the appliance has no such portal, saying which it has.
pub(super) async fn choose(
    appliance: &Appliance,
    calls: &Calls,
    endpoint: &Endpoint,
    settings: &Settings,
) -> Result<(std::sync::Arc<Facts>, Choice), Failure> {
    let known = appliance.known_iscsi_facts();
    if let Some(facts) = known
        && let Ok(choice) = among(&facts.portals, endpoint, settings)
    {
        return Ok((facts, choice));
    }
    let facts = appliance.read_iscsi_facts(calls).await?;
    let choice = among(&facts.portals, endpoint, settings)?;
    Ok((facts, choice))
}

fn among(portals: &[IscsiPortal], endpoint: &Endpoint, settings: &Settings) -> Result<Choice, Failure> {
    let server = Portal::new(&endpoint.server, endpoint.port_or_default(Protocol::Iscsi));
    let mut choice = Choice::default();
    if settings.portal_ids.is_empty() {
        choice.add(row_of(portals, &server)?, server);
    } else {
        for id in &settings.portal_ids {
            let row = portals.iter().find(|p| p.id == *id);
            let row = row.ok_or_else(|| missing(portals, &format!("portal with id {id}"), "portalId"))?;
            let wildcard = row.listen.iter().any(|l| is_wildcard(&l.ip) && l.port == server.port);
            let listed = row.listen.iter().filter(|l| !is_wildcard(&l.ip));
            let listed: Vec<Portal> = listed.map(|l| Portal::new(&l.ip, l.port)).collect();
            // The address that the class names goes first.
            if wildcard || listed.iter().any(|p| is_same(p, &server)) {
                choice.add(row.id, server.clone());
            }
            for portal in listed {
                choice.add(row.id, portal);
            }
            if !choice.rows.contains(id) {
                return Err(missing(portals, &format!("port {} at portal {id}", server.port), "port"));
            }
        }
    }
    for portal in &settings.portals {
        choice.add(row_of(portals, portal)?, portal.clone());
    }
    choice.portals.truncate(MAX_PORTALS);
    Ok(choice)
}

impl Choice {
    fn add(&mut self, row: i64, portal: Portal) {
        if !self.rows.contains(&row) {
            self.rows.push(row);
        }
        if !self.portals.iter().any(|p| is_same(p, &portal)) {
            self.portals.push(portal);
        }
    }
}

/// The portal that listens at an address: that very address, else every address; for a host name, whose addresses only
/// nodes know, the first one with this port.
fn row_of(portals: &[IscsiPortal], wanted: &Portal) -> Result<i64, Failure> {
    let listening = |fits: &dyn Fn(&str) -> bool| {
        portals.iter().find(|p| p.listen.iter().any(|l| l.port == wanted.port && fits(&l.ip))).map(|p| p.id)
    };
    let address = wanted.address.parse::<IpAddr>().ok();
    let exact = address.and_then(|a| listening(&|ip| ip.parse::<IpAddr>() == Ok(a)));
    let wildcard = || listening(&|ip| is_wildcard(ip));
    let first = || address.is_none().then(|| listening(&|_| true)).flatten();
    exact
        .or_else(wildcard)
        .or_else(first)
        .ok_or_else(|| missing(portals, &format!("portal {wanted}"), "server and port"))
}

fn is_wildcard(ip: &str) -> bool {
    ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

fn is_same(a: &Portal, b: &Portal) -> bool {
    let ip = |p: &Portal| p.address.parse::<IpAddr>();
    a == b || (a.port == b.port && ip(a).is_ok_and(|ip_a| ip(b) == Ok(ip_a)))
}

fn missing(portals: &[IscsiPortal], what: &str, parameters: &str) -> Failure {
    let listen = |p: &IscsiPortal| {
        p.listen.iter().map(|l| Portal::new(&l.ip, l.port).to_string()).collect::<Vec<_>>().join(" and ")
    };
    let found: Vec<String> = portals.iter().map(|p| format!("id {} at {}", p.id, listen(p))).collect();
    let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
    Failure::precondition(format!(
        "the appliance has no iSCSI {what} (it has {found}); add it under Sharing, iSCSI, Portals, or correct the \
         parameter {parameters}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: i64, listen: &[(&str, u16)]) -> IscsiPortal {
        let listen: Vec<_> =
            listen.iter().map(|(ip, port)| serde_json::json!({"ip": ip, "port": port})).collect();
        serde_json::from_value(serde_json::json!({"id": id, "listen": listen})).unwrap()
    }

    fn chosen(
        portals: &[IscsiPortal],
        server: &str,
        settings: &Settings,
    ) -> Result<(Vec<i64>, Vec<String>), String> {
        let endpoint = Endpoint { server: server.to_owned(), port: None };
        let choice = among(portals, &endpoint, settings).map_err(|f| f.message)?;
        Ok((choice.rows, choice.portals.iter().map(Portal::to_string).collect()))
    }

    #[test]
    fn a_portal_is_found_by_address_then_wildcard_then_as_the_first() {
        let none = Settings::default();
        let both = [row(1, &[("0.0.0.0", 3260)]), row(2, &[("192.0.2.10", 3260)])];
        let at = |server: &str| (server.to_owned() + ":3260", ());
        assert_eq!(chosen(&both, "192.0.2.10", &none), Ok((vec![2], vec![at("192.0.2.10").0])));
        assert_eq!(chosen(&both, "192.0.2.11", &none), Ok((vec![1], vec![at("192.0.2.11").0])));
        let two = [row(7, &[("192.0.2.10", 3260)]), row(8, &[("192.0.2.11", 3260)])];
        assert_eq!(chosen(&two, "nas.example", &none), Ok((vec![7], vec![at("nas.example").0])));
        let refused = chosen(&two, "192.0.2.12", &none).unwrap_err();
        assert!(refused.contains("192.0.2.11:3260"), "{refused}");
        let elsewhere = [row(1, &[("0.0.0.0", 3261)])];
        assert!(chosen(&elsewhere, "192.0.2.10", &none).unwrap_err().contains("0.0.0.0:3261"));
    }

    #[test]
    fn o6_a_portal_is_never_assumed_to_have_the_id_1() {
        let portals =
            [row(5, &[("192.0.2.10", 3260), ("198.51.100.10", 3260)]), row(6, &[("192.0.2.11", 3260)])];
        let chosen_by = |ids: &[i64]| {
            chosen(&portals, "192.0.2.10", &Settings { portal_ids: ids.to_vec(), ..Settings::default() })
        };
        let all = ["192.0.2.10:3260", "198.51.100.10:3260", "192.0.2.11:3260"];
        assert_eq!(chosen_by(&[5, 6]), Ok((vec![5, 6], all.map(str::to_owned).to_vec())));
        assert!(chosen_by(&[1]).unwrap_err().contains("id 5 at 192.0.2.10:3260"));
    }

    #[test]
    fn further_addresses_stand_behind_the_server_with_their_portals() {
        let portals = [row(5, &[("192.0.2.10", 3260)]), row(6, &[("198.51.100.10", 3260)])];
        let more = vec![Portal::new("198.51.100.10", 3260), Portal::new("192.0.2.10", 3260)];
        let settings = Settings { portals: more, ..Settings::default() };
        let expected = ["192.0.2.10:3260", "198.51.100.10:3260"].map(str::to_owned).to_vec();
        assert_eq!(chosen(&portals, "192.0.2.10", &settings), Ok((vec![5, 6], expected)));
    }
}
