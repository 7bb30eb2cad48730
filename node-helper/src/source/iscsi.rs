//! An iSCSI source, parsed.

use tns_csi_proto::helper::v1 as api;

use super::{Endpoint, MAX_PORTALS};
use crate::attach::{Chap, Credentials};
use crate::device::{Iqn, IscsiIdentity, Lun, Naa, Serial};
use crate::failure::Failure;

/// TCP port of iSCSI (RFC 7143, 13).
const ISCSI_PORT: u16 = 3260;

/// A SCSI unit behind an iSCSI target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IscsiSource {
    /// Every portal of the target, at least one.
    pub portals: Vec<Endpoint>,
    /// The unit and its target.
    pub identity: IscsiIdentity,
    /// CHAP, when the target asks for it.
    pub chap: Option<Chap>,
}

pub(super) fn parse(source: &api::IscsiSource) -> Result<IscsiSource, Failure> {
    if source.portals.is_empty() || source.portals.len() > MAX_PORTALS {
        return Err(Failure::invalid(format!(
            "source.iscsi.portals has {} entries; 1 to {MAX_PORTALS} are allowed",
            source.portals.len()
        )));
    }
    let portals = source
        .portals
        .iter()
        .map(|portal| Endpoint::parse(Some(portal), "source.iscsi.portals", ISCSI_PORT))
        .collect::<Result<Vec<_>, _>>()?;
    let refuse =
        |field: &'static str| move |error| Failure::invalid(format!("source.iscsi.{field}: {error}"));
    let named = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let serial = named(&source.serial).map(|text| Serial::parse(&text)).transpose();
    let naa = named(&source.naa).map(|text| Naa::parse(&text)).transpose();
    let identity = IscsiIdentity {
        target: Iqn::parse(&source.iqn).map_err(refuse("iqn"))?,
        lun: Lun::try_from(source.lun).map_err(refuse("lun"))?,
        serial: serial.map_err(refuse("serial"))?,
        naa: naa.map_err(refuse("naa"))?,
    };
    if identity.serial.is_none() && identity.naa.is_none() {
        return Err(Failure::invalid("source.iscsi.serial or naa is required"));
    }
    let chap = source.chap.as_ref().map(parse_chap).transpose()?;
    Ok(IscsiSource { portals, identity, chap })
}

fn parse_chap(chap: &api::IscsiChap) -> Result<Chap, Failure> {
    let refuse =
        |who: &'static str| move |fault| Failure::invalid(format!("source.iscsi.chap, {who}: {fault}"));
    let initiator = Credentials::parse(&chap.username, &chap.secret).map_err(refuse("initiator"))?;
    let target = match (chap.peer_username.as_str(), chap.peer_secret.as_str()) {
        ("", "") => None,
        (user, secret) => Some(Credentials::parse(user, secret).map_err(refuse("target"))?),
    };
    // RFC 7143, 12.1.3: with one secret for both directions the target could be answered with its own challenge.
    if target.as_ref().is_some_and(|target| target.secret() == initiator.secret()) {
        return Err(Failure::invalid(
            "source.iscsi.chap: both directions have the same secret; give them two",
        ));
    }
    Ok(Chap { initiator, target })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> api::IscsiSource {
        api::IscsiSource {
            portals: vec![api::Portal { address: "192.0.2.7".to_owned(), port: 0 }],
            iqn: "iqn.2005-10.org.freenas.ctl:pvc-1".to_owned(),
            lun: 0,
            serial: "0a1b2c3d4e5f607".to_owned(),
            naa: String::new(),
            chap: None,
        }
    }

    fn refusal(change: impl FnOnce(&mut api::IscsiSource)) -> String {
        let mut source = source();
        change(&mut source);
        parse(&source).expect_err("refused").message
    }

    #[test]
    fn a_source_gets_the_default_port_and_every_field_is_named_when_wrong() {
        let parsed = parse(&source()).expect("valid");
        assert_eq!(parsed.portals[0].port, 3260);
        assert!(refusal(|s| s.portals.clear()).contains("source.iscsi.portals"));
        assert!(refusal(|s| s.portals = vec![api::Portal::default(); 17]).contains("17 entries"));
        assert!(refusal(|s| s.iqn = "iqn.x/../y".to_owned()).contains("source.iscsi.iqn"));
        assert!(refusal(|s| s.lun = 16_384).contains("source.iscsi.lun"));
        assert!(refusal(|s| s.serial = "a b".to_owned()).contains("source.iscsi.serial"));
        assert!(refusal(|s| s.naa = "0x6589".to_owned()).contains("source.iscsi.naa"));
        assert!(refusal(|s| s.serial.clear()).contains("serial or naa is required"));
    }

    #[test]
    fn chap_is_checked_and_no_secret_shows() {
        let chap = |secret: &str, peer: (&str, &str)| api::IscsiChap {
            username: "csi".to_owned(),
            secret: secret.to_owned(),
            peer_username: peer.0.to_owned(),
            peer_secret: peer.1.to_owned(),
        };
        let with = |chap| parse(&api::IscsiSource { chap: Some(chap), ..source() });
        let mutual = with(chap("s3cretS3cret", ("nas", "t3rcesT3rces"))).expect("valid");
        assert!(mutual.chap.as_ref().is_some_and(|chap| chap.target.is_some()));
        assert!(!format!("{mutual:?}").contains("3c"), "{mutual:?}");
        assert!(with(chap("s3cretS3cret", ("", ""))).expect("valid").chap.is_some());
        for (secret, peer) in [
            ("s3cret\nS3cret", ("", "")),
            ("", ("", "")),
            ("s3cretS3cret", ("nas", "")),
            ("s3cretS3cret", ("", "t3rcesT3rces")),
            ("s3cretS3cret", ("nas", "s3cretS3cret")),
        ] {
            let failure = with(chap(secret, peer)).expect_err("refused");
            assert!(!failure.message.contains("3cret"), "{failure}");
        }
    }
}
