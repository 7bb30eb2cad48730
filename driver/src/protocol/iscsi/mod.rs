//! iSCSI: one target with one extent as LUN 0 per volume; who may log in is in an initiator group of the volume's own.
//!
//! The rule it keeps: without a publish the target has no groups, so nobody can log in. Everything that is made for a
//! volume carries its derived name or names it in its comment, and goes with it.

mod access;
mod auth;
mod health;
pub mod portal;
pub(in crate::protocol) mod recent;
mod session;
mod target;

use truenas::Calls;
use truenas::calls::{IscsiAuthMethod, IscsiInitiator, IscsiTarget};

use crate::protocol::appliance::Appliance;
use crate::protocol::call::Answer as _;
use crate::protocol::iscsi::access::Standing;
use crate::protocol::iscsi::portal::Choice;
use crate::protocol::iscsi::recent::Seen;
use crate::protocol::iscsi::target::{Lun, Survey};
use crate::protocol::{
    Attached, Content, Endpoint, Export, Grantee, Granting, Judge, NodeIdentity, Revocation, Volume,
};
use crate::volume::context::Connection;
use crate::volume::failure::{Failure, Kind};
use crate::volume::health::Entry;
use crate::volume::metadata::{ISCSI_IQN, Metadata, NodeRecord};
use crate::volume::parameter::Parameters;
use crate::volume::parameter::export::ExportSettings;
use crate::volume::protocol::Protocol;

/// iSCSI.
pub struct Iscsi;

/// What is there of a target, and what granting needs beside it.
#[derive(Default)]
pub struct Found {
    /// Read when nothing was known of the volume.
    survey: Option<Survey>,
    /// The target by derived name, with what this process saw of the rest a moment ago.
    known: Option<(IscsiTarget, Seen)>,
    lun: Option<Unit>,
    iqn: String,
    choice: Choice,
    row: Option<IscsiInitiator>,
    method: IscsiAuthMethod,
    tag: Option<i64>,
    tidy: bool,
}

/// The target to be opened, and how a node knows its logical unit.
struct Unit {
    target: IscsiTarget,
    lun: u16,
    serial: Option<String>,
    naa: Option<String>,
}

/// The comment of what is made for the volume; brackets keep one id from being the beginning of another.
fn marker(volume: &Volume) -> String {
    format!("[tns-csi {}]", volume.id)
}

fn seen(lun: &Lun, tidy: bool) -> Seen {
    Seen {
        target: lun.target.id,
        extent: lun.extent.id,
        lun: lun.lun,
        serial: lun.extent.serial.clone().filter(|s| !s.is_empty()),
        naa: naa(&lun.extent.naa),
        row: None,
        tidy,
    }
}

/// The NAA identifier as the node sees it; none when it has not the shape of one.
fn naa(text: &str) -> Option<String> {
    let digits = text.strip_prefix("0x").unwrap_or(text).to_ascii_lowercase();
    let is_naa = matches!(digits.len(), 16 | 32) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_naa.then_some(digits)
}

impl Export for Iscsi {
    type Found = Found;
    type Beside = IscsiTarget;
    type Access = Vec<IscsiTarget>;

    const PROTOCOL: Protocol = Protocol::Iscsi;

    fn stable_keys(appliance: &Appliance, volume: &Volume) -> Vec<(&'static str, String)> {
        let facts = appliance.known_iscsi_facts();
        facts.map(|facts| vec![(ISCSI_IQN, facts.iqn(&volume.global))]).unwrap_or_default()
    }

    async fn check(appliance: &Appliance, calls: &Calls, parameters: &Parameters) -> Result<(), Failure> {
        let settings = &parameters.export.iscsi;
        let endpoint = Endpoint { server: parameters.server.clone(), port: parameters.port };
        let chosen = portal::choose(appliance, calls, &endpoint, settings).await;
        // For a new volume the class is what is wrong.
        let (mut facts, _) = chosen.map_err(|failure| match failure.kind {
            Kind::Precondition => Failure::invalid(failure.message),
            _ => failure,
        })?;
        if let Some(id) = settings.initiator_id {
            given_row(calls, id).await.map_err(|failure| match failure.kind {
                Kind::Precondition => Failure::invalid(failure.message),
                _ => failure,
            })?;
        }
        let Some(base) = &settings.iqn_base else { return Ok(()) };
        if facts.basename != *base {
            facts = appliance.read_iscsi_facts(calls).await?;
        }
        if facts.basename != *base {
            return Err(Failure::invalid(format!(
                "parameter iscsi.iqnBase is {base:?}, but the targets of this appliance begin with {:?}; leave the \
                 parameter out, or change the base name under Sharing, iSCSI, Global Target Configuration",
                facts.basename
            )));
        }
        Ok(())
    }

    async fn beside(calls: &Calls, volume: &Volume, settings: &ExportSettings) -> Option<IscsiTarget> {
        calls.iscsi_target_create(&volume.global, &settings.iscsi.networks).await.ok()
    }

    async fn complete(
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
        settings: &ExportSettings,
        beside: Option<IscsiTarget>,
    ) -> Result<(), Failure> {
        if let Some(target) = beside
            && let Some(lun) = target::complete(calls, volume, &settings.iscsi, target).await?
        {
            appliance.iscsi.note(volume, seen(&lun, true));
            return Ok(());
        }
        Self::ensure(appliance, calls, volume, settings, &Metadata::default()).await
    }

    async fn ensure(
        _: &Appliance,
        calls: &Calls,
        volume: &Volume,
        settings: &ExportSettings,
        metadata: &Metadata,
    ) -> Result<(), Failure> {
        target::ensure(calls, volume, &settings.iscsi, metadata, None).await.map(|_| ())
    }

    async fn sweep(calls: &Calls, volume: &Volume) -> Result<(), Failure> {
        // Initiator groups and credentials are made at publish and told by the volume's id alone, which another cluster's
        // volume may have too: what a creation left behind is told by the derived name, which has the cluster in it.
        let survey = target::survey(calls, volume, None).await?;
        target::clear(calls, volume, &survey.attached(volume, None, &[], &[])).await
    }

    async fn attached(appliance: &Appliance, calls: &Calls, volume: &Volume) -> Result<Judge, Failure> {
        let seen = appliance.iscsi.of(volume).filter(|seen| seen.tidy && seen.row.is_none());
        // What follows is a deletion: nothing that is remembered now holds after it.
        appliance.iscsi.forget(volume);
        appliance.iscsi.set_pending(volume, false);
        if let Some(seen) = seen
            && let Some(survey) = target::still_as_seen(calls, volume, &seen).await?
        {
            return Ok(Box::new(move |volume, metadata| survey.attached(volume, metadata, &[], &[])));
        }
        let (survey, satellites) =
            tokio::join!(target::survey(calls, volume, None), target::satellites(calls, volume));
        let (survey, (rows, auths)) = (survey?, satellites?);
        Ok(Box::new(move |volume, metadata| survey.attached(volume, metadata, &rows, &auths)))
    }

    async fn clear(calls: &Calls, volume: &Volume, attached: &Attached) -> Result<(), Failure> {
        target::clear(calls, volume, attached).await
    }

    async fn find(
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
        _: &[NodeIdentity],
    ) -> Result<Found, Failure> {
        if let Some(seen) = appliance.iscsi.of(volume) {
            let targets = target::by_name(calls, volume, None).await?;
            if let Some(target) = targets.into_iter().find(|t| t.id == seen.target) {
                return Ok(Found { known: Some((target, seen)), ..Found::default() });
            }
            appliance.iscsi.forget(volume);
        }
        let survey = target::survey(calls, volume, None).await?;
        Ok(Found { survey: Some(survey), ..Found::default() })
    }

    async fn prepare(
        context: &Granting<'_>,
        metadata: &Metadata,
        found: Found,
        hosts: &[NodeIdentity],
    ) -> Result<Found, Failure> {
        let Granting { appliance, calls, volume, endpoint, settings, chap } = context;
        let settings = &settings.iscsi;
        let method = auth::method(settings.auth_method, *chap)?;
        let (facts, choice) = portal::choose(appliance, calls, endpoint, settings).await?;
        let (target, seen) = match found.known {
            Some(known) => known,
            None => {
                // The survey was made without the recorded name.
                let survey = found.survey.filter(|_| {
                    let derived = facts.iqn(&volume.global);
                    metadata.get(ISCSI_IQN).is_none_or(|iqn| iqn == derived)
                });
                let lun = target::ensure(calls, volume, settings, metadata, survey).await?;
                if !lun.extent.enabled {
                    return Err(Failure::precondition(format!(
                        "extent {:?} on zvol {} was disabled on the appliance; enable it there",
                        lun.extent.name, volume.dataset
                    )));
                }
                let seen = seen(&lun, false);
                appliance.iscsi.note(volume, seen.clone());
                (lun.target, seen)
            }
        };
        let mut tidy = seen.tidy;
        let current = target.groups.iter().find_map(|g| g.auth);
        let row = match access::standing(calls, volume, &target).await? {
            Standing::Ours(row) => {
                // One that another process made: it may have left others.
                tidy &= seen.row == Some(row.id);
                appliance.iscsi.change(volume, |seen| seen.tidy = tidy);
                Some(row)
            }
            Standing::Foreign if settings.initiator_id.is_none() => None,
            _ => {
                // Until the target refers to it, nothing but its comment says what is made now.
                appliance.iscsi.change(volume, |seen| seen.tidy = false);
                Some(match settings.initiator_id {
                    Some(id) => given_row(calls, id).await?,
                    None => {
                        let names = if settings.is_open() {
                            settings.initiators.clone()
                        } else {
                            hosts.iter().map(|h| h.initiator.clone()).collect()
                        };
                        access::create_row(appliance, calls, volume, names).await?
                    }
                })
            }
        };
        let tag = match (method, chap, &row) {
            (IscsiAuthMethod::Chap | IscsiAuthMethod::ChapMutual, Some(chap), Some(_)) => {
                tidy = false;
                appliance.iscsi.change(volume, |seen| seen.tidy = false);
                Some(auth::ensure(calls, volume, chap, current).await?)
            }
            _ => None,
        };
        let iqn = facts.iqn(&target.name);
        let Seen { lun, serial, naa, .. } = seen;
        let unit = Unit { target, lun, serial, naa };
        Ok(Found { lun: Some(unit), iqn, choice, row, method, tag, tidy, ..Found::default() })
    }

    async fn grant(
        context: &Granting<'_>,
        found: &Found,
        grantees: &[Grantee],
        present: &[NodeRecord],
    ) -> Result<(), Failure> {
        access::grant(context, found, grantees, present).await
    }

    async fn reconcile(calls: &Calls, volume: &Volume, recorded: &[NodeRecord]) -> Result<(), Failure> {
        access::reconcile(calls, volume, recorded).await
    }

    fn connection(
        context: &Granting<'_>,
        found: &Found,
        _: &NodeIdentity,
        content: Content,
    ) -> Result<Connection, Failure> {
        let Granting { volume, .. } = context;
        let broken = || Failure::precondition(format!("the iSCSI target of {} has no LUN", volume.id));
        let unit = found.lun.as_ref().ok_or_else(broken)?;
        Ok(Connection::Iscsi {
            portals: found.choice.portals.clone(),
            iqn: found.iqn.clone(),
            lun: unit.lun,
            serial: unit.serial.clone(),
            naa: unit.naa.clone(),
            capacity_bytes: content.capacity_bytes,
            never_format: content.never_format,
        })
    }

    async fn access(calls: &Calls, volume: &Volume) -> Result<Vec<IscsiTarget>, Failure> {
        target::by_name(calls, volume, None).await
    }

    async fn revoke(
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
        metadata: Option<&Metadata>,
        access: Vec<IscsiTarget>,
        revocation: &Revocation,
    ) -> Result<(), Failure> {
        access::revoke(appliance, calls, volume, metadata, access, revocation).await
    }

    type Served = health::Served;

    async fn served(calls: &Calls, of: Option<(&Volume, &Metadata)>) -> Result<Self::Served, Failure> {
        health::read(calls, of).await
    }

    fn health(served: &Self::Served, volume: &Volume, metadata: &Metadata) -> Vec<Entry> {
        health::check(served, volume, metadata)
    }
}

/// The initiator group that the class names.
async fn given_row(calls: &Calls, id: i64) -> Result<IscsiInitiator, Failure> {
    let found = calls.iscsi_initiator_query(&[]).await.or_failed("reading iSCSI initiator groups")?;
    found.iter().find(|row| row.id == id).cloned().ok_or_else(|| {
        let known: Vec<String> = found.iter().map(|row| row.id.to_string()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Failure::precondition(format!(
            "the appliance has no iSCSI initiator group with id {id} (it has {known}); correct the parameter initiatorId"
        ))
    })
}
