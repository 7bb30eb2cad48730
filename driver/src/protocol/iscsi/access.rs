//! Who may log in to a volume's target.
//!
//! The rule it keeps: a target without groups admits nobody; with groups it refers to one initiator group of the volume's
//! own, which is never empty, because an empty one is everyone. An initiator group goes only after the target has stopped
//! referring to it, because the appliance would leave the target open to everyone otherwise. And a group that no target
//! refers to is never used again: its maker may be about to remove it.

use std::collections::BTreeSet;

use truenas::Calls;
use truenas::calls::{Filter, IscsiAuthMethod, IscsiGroup, IscsiInitiator, IscsiTarget};

use crate::protocol::appliance::Appliance;
use crate::protocol::call::{Answer as _, gone};
use crate::protocol::iscsi::session::{cut, end_sessions, live};
use crate::protocol::iscsi::{auth, marker, target};
use crate::protocol::{Grantee, Granting, Revocation, Volume};
use crate::volume::failure::{Failure, Kind};
use crate::volume::metadata::{Metadata, NodeRecord};
use crate::volume::parameter::export::ExportSettings;

/// How often a list that another process overwrote is written again before the call gives up.
const REWRITES: usize = 5;

/// How a target stands.
pub(super) enum Standing {
    /// Nobody can log in.
    Closed,
    /// Whom this initiator group of ours names.
    Ours(IscsiInitiator),
    /// Everyone can, although the target has our name: its initiator group was deleted by somebody.
    Opened,
    /// As somebody else set it up.
    Foreign,
}

/// The initiator groups that a target refers to; none among them is everyone.
fn referred(target: &IscsiTarget) -> BTreeSet<Option<i64>> {
    target.groups.iter().map(|g| g.initiator).collect()
}

/// Reads how a target stands.
pub(super) async fn standing(
    calls: &Calls,
    volume: &Volume,
    target: &IscsiTarget,
) -> Result<Standing, Failure> {
    let referred = referred(target);
    let id = match (referred.first(), referred.len()) {
        (None, _) => return Ok(Standing::Closed),
        (Some(Some(id)), 1) => *id,
        (Some(None), 1) if target.name == volume.global => return Ok(Standing::Opened),
        _ => return Ok(Standing::Foreign),
    };
    let found = calls.iscsi_initiator_query(&[Filter::eq("id", id)]).await;
    let found = found.or_failed(&format!("reading who may log in to the iSCSI target of {}", volume.id))?;
    let ours = found.into_iter().find(|row| row.id == id && is_marked(row, volume));
    Ok(match ours {
        // An empty list of ours was emptied by somebody, for everyone.
        Some(row) if row.initiators.is_empty() && target.name == volume.global => Standing::Opened,
        Some(row) if !row.initiators.is_empty() => Standing::Ours(row),
        _ => Standing::Foreign,
    })
}

/// Whether an initiator group was made for the volume.
fn is_marked(row: &IscsiInitiator, volume: &Volume) -> bool {
    row.comment.starts_with(&marker(volume))
}

/// Makes an initiator group of the volume's own, for a target that refers to none. One that this very process made and
/// did not get to use is used then; those of other processes never are, because their makers may still come to it.
pub(super) async fn create_row(
    appliance: &Appliance,
    calls: &Calls,
    volume: &Volume,
    initiators: Vec<String>,
) -> Result<IscsiInitiator, Failure> {
    let doing = format!("naming who may log in to the iSCSI target of {}", volume.id);
    if initiators.is_empty() {
        return Err(Failure::new(Kind::Internal, format!("{doing}: nobody is named")));
    }
    let mark = appliance.iscsi.mark(volume);
    let made_before = async || {
        let rows = target::rows(calls, volume).await?;
        let Some(row) = rows.into_iter().find(|row| row.comment == mark) else { return Ok(None) };
        write_row(calls, volume, &row, initiators.clone()).await?;
        Ok(Some(IscsiInitiator { initiators: initiators.clone(), ..row }))
    };
    if appliance.iscsi.is_pending(volume)
        && let Some(row) = made_before().await?
    {
        return Ok(row);
    }
    appliance.iscsi.set_pending(volume, true);
    match calls.iscsi_initiator_create(&initiators, &mark).await.definite(&doing)? {
        Ok(row) => Ok(row),
        // A row is stored before the target is reloaded.
        Err(refused) => made_before().await?.ok_or(refused),
    }
}

async fn write_row(
    calls: &Calls,
    volume: &Volume,
    row: &IscsiInitiator,
    initiators: Vec<String>,
) -> Result<(), Failure> {
    let doing = format!("changing who may log in to the iSCSI target of {}", volume.id);
    if initiators.is_empty() {
        return Err(Failure::new(Kind::Internal, format!("{doing}: nobody would be left")));
    }
    if row.initiators == initiators {
        return Ok(());
    }
    calls.iscsi_initiator_update(row.id, &initiators).await.or_failed(&doing).map(|_| ())
}

/// What a target has to refer to.
pub(super) fn groups(
    portals: &[i64],
    row: i64,
    method: IscsiAuthMethod,
    tag: Option<i64>,
) -> Vec<IscsiGroup> {
    let group =
        |portal: &i64| IscsiGroup { portal: *portal, initiator: Some(row), authmethod: method, auth: tag };
    portals.iter().map(group).collect()
}

/// Lets nodes in: names them first, and then makes the target refer to the names.
pub(super) async fn grant(
    context: &Granting<'_>,
    found: &super::Found,
    grantees: &[Grantee],
    present: &[NodeRecord],
) -> Result<(), Failure> {
    let Granting { calls, volume, settings, .. } = context;
    let (Some(lun), Some(row)) = (&found.lun, &found.row) else {
        tracing::warn!(volume = %volume.id, "not fenced: the iSCSI target was opened by somebody else and stays as it is");
        return Ok(());
    };
    if settings.iscsi.is_open() {
        tracing::warn!(volume = %volume.id, "not fenced: the class opens the iSCSI target for good");
    } else {
        let nodes = grantees.iter().map(|g| &g.record).chain(present);
        write_row(calls, volume, row, with(&row.initiators, nodes)).await?;
    }
    refer(context, found, &lun.target, row.id).await
}

fn with<'a>(current: &[String], nodes: impl Iterator<Item = &'a NodeRecord>) -> Vec<String> {
    let mut names = current.to_vec();
    for name in nodes.map(NodeRecord::initiator) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Makes the target refer to an initiator group at all of the chosen portals.
async fn refer(
    context: &Granting<'_>,
    found: &super::Found,
    target: &IscsiTarget,
    row: i64,
) -> Result<(), Failure> {
    let Granting { appliance, calls, volume, .. } = context;
    let wanted = groups(&found.choice.rows, row, found.method, found.tag);
    if is_same(&target.groups, &wanted) {
        return Ok(());
    }
    let doing = format!("opening the iSCSI target of {}", volume.id);
    if let Err(refused) = calls.iscsi_target_update(target.id, &wanted).await.definite(&doing)? {
        // It may have been stored although the reload failed.
        let read = calls.iscsi_target_query(&[Filter::eq("id", target.id)]).await.or_failed(&doing)?;
        if !read.iter().any(|t| t.id == target.id && is_same(&t.groups, &wanted)) {
            // A portal may have been deleted and made anew under another id.
            appliance.forget_facts();
            appliance.iscsi.forget(volume);
            return Err(refused);
        }
    }
    appliance.iscsi.set_pending(volume, false);
    let ours = found.row.as_ref().is_some_and(|row| is_marked(row, volume));
    appliance.iscsi.change(volume, |seen| {
        seen.row = ours.then_some(row);
        seen.tidy |= found.tidy;
    });
    Ok(())
}

fn is_same(a: &[IscsiGroup], b: &[IscsiGroup]) -> bool {
    a.len() == b.len() && a.iter().all(|group| b.contains(group))
}

/// Names all of `recorded`, after another process was seen to write too. Whichever of our initiator groups the target
/// comes to refer to, it names them all.
pub(super) async fn reconcile(
    calls: &Calls,
    volume: &Volume,
    recorded: &[NodeRecord],
) -> Result<(), Failure> {
    for _ in 0..REWRITES {
        let (targets, rows) = tokio::join!(target::by_name(calls, volume, None), target::rows(calls, volume));
        let (targets, rows) = (targets?, rows?);
        if targets.iter().any(|t| t.groups.is_empty()) {
            break;
        }
        let missing = |row: &&IscsiInitiator| row.initiators != with(&row.initiators, recorded.iter());
        let mut done = true;
        for row in rows.iter().filter(|row| !row.initiators.is_empty()).filter(missing) {
            write_row(calls, volume, row, with(&row.initiators, recorded.iter())).await?;
            done = false;
        }
        if done {
            return Ok(());
        }
    }
    let words = format!("another process keeps changing who may log in to the iSCSI target of {}", volume.id);
    Err(Failure::new(Kind::Busy, words))
}

/// Takes access back.
pub(super) async fn revoke(
    appliance: &Appliance,
    calls: &Calls,
    volume: &Volume,
    metadata: Option<&Metadata>,
    mut targets: Vec<IscsiTarget>,
    revocation: &Revocation,
) -> Result<(), Failure> {
    if targets.is_empty() && metadata.is_some() {
        // A recorded target with another name than the derived one.
        targets = target::by_name(calls, volume, metadata).await?;
    }
    if metadata.is_some_and(|m| ExportSettings::recorded(m).is_ok_and(|s| s.iscsi.is_open())) {
        tracing::warn!(volume = %volume.id, "not fenced: the class opens the iSCSI target for good");
        return Ok(());
    }
    for target in &targets {
        revoke_at(appliance, calls, volume, metadata, target, revocation).await?;
    }
    Ok(())
}

async fn revoke_at(
    appliance: &Appliance,
    calls: &Calls,
    volume: &Volume,
    metadata: Option<&Metadata>,
    target: &IscsiTarget,
    revocation: &Revocation,
) -> Result<(), Failure> {
    let (leaving, remaining) = match revocation {
        Revocation::Everyone => {
            // This process made the target refer to that group a moment ago: it is ours.
            let known = appliance.iscsi.of(volume).filter(|s| s.target == target.id).and_then(|s| s.row);
            if known.is_some() && referred(target) == BTreeSet::from([known]) {
                return close(appliance, calls, volume, metadata, target, known).await;
            }
            return match standing(calls, volume, target).await? {
                // Closing it may have been cut short before the sessions were ended.
                Standing::Closed => end_sessions(appliance, calls, volume, metadata, target).await,
                Standing::Ours(row) => {
                    // Another process made it, and may have left others.
                    appliance.iscsi.change(volume, |seen| seen.tidy &= seen.row == Some(row.id));
                    close(appliance, calls, volume, metadata, target, Some(row.id)).await
                }
                Standing::Opened => close(appliance, calls, volume, metadata, target, None).await,
                Standing::Foreign => {
                    not_ours(volume, target);
                    Ok(())
                }
            };
        }
        Revocation::Nodes { leaving, remaining } => (leaving, remaining),
    };
    let row = match standing(calls, volume, target).await? {
        Standing::Closed => return Ok(()),
        Standing::Foreign => {
            not_ours(volume, target);
            return Ok(());
        }
        Standing::Opened => {
            return name_only(appliance, calls, volume, metadata, target, remaining).await;
        }
        Standing::Ours(row) => row,
    };
    let kept: BTreeSet<String> = remaining.iter().map(NodeRecord::initiator).collect();
    let gone_names: BTreeSet<String> =
        leaving.iter().map(NodeRecord::initiator).filter(|name| !kept.contains(name)).collect();
    let mut names = row.initiators.clone();
    names.retain(|name| !gone_names.contains(name));
    let names = with(&names, remaining.iter());
    if names.is_empty() {
        return close(appliance, calls, volume, metadata, target, Some(row.id)).await;
    }
    write_row(calls, volume, &row, names).await?;
    let live = live(appliance, calls, volume, target, |name| gone_names.contains(name)).await?;
    if !live.is_empty() {
        // Cutting it would cut those who keep access too, and whether their devices survive is up to their hosts.
        tracing::warn!(
            volume = %volume.id,
            initiators = live.join(", "),
            "not fenced: a revoked initiator is still logged in; it cannot log in again"
        );
    }
    Ok(())
}

fn not_ours(volume: &Volume, target: &IscsiTarget) {
    tracing::warn!(volume = %volume.id, target = target.name, "not fenced: the iSCSI target was opened by somebody else");
}

/// Shuts out everyone but `remaining`, where everyone could log in.
async fn name_only(
    appliance: &Appliance,
    calls: &Calls,
    volume: &Volume,
    metadata: Option<&Metadata>,
    target: &IscsiTarget,
    remaining: &[NodeRecord],
) -> Result<(), Failure> {
    let names = with(&[], remaining.iter());
    if names.is_empty() {
        return close(appliance, calls, volume, metadata, target, None).await;
    }
    appliance.iscsi.forget(volume);
    let row = create_row(appliance, calls, volume, names).await?;
    let groups: Vec<IscsiGroup> =
        target.groups.iter().map(|g| IscsiGroup { initiator: Some(row.id), ..g.clone() }).collect();
    let doing = format!("shutting the iSCSI target of {}", volume.id);
    calls.iscsi_target_update(target.id, &groups).await.or_failed(&doing)?;
    appliance.iscsi.set_pending(volume, false);
    Ok(())
}

/// Closes the target, removes the initiator group and the credentials, and sees to it that nobody is logged in.
async fn close(
    appliance: &Appliance,
    calls: &Calls,
    volume: &Volume,
    metadata: Option<&Metadata>,
    target: &IscsiTarget,
    row: Option<i64>,
) -> Result<(), Failure> {
    let doing = format!("closing the iSCSI target of {}", volume.id);
    match calls.iscsi_target_update(target.id, &[]).await {
        Err(error) if error.is_not_found() => {}
        other => {
            let closed = other.definite(&doing)?;
            if closed.as_ref().is_ok_and(|t| !t.groups.is_empty()) || closed.is_err() {
                let read =
                    calls.iscsi_target_query(&[Filter::eq("id", target.id)]).await.or_failed(&doing)?;
                if read.iter().any(|t| t.id == target.id && !t.groups.is_empty()) {
                    let words = format!("{doing}: it is still open");
                    return Err(closed.err().unwrap_or_else(|| Failure::new(Kind::Busy, words)));
                }
            }
        }
    }
    let remove_row = async {
        match row {
            Some(row) => gone(calls.iscsi_initiator_delete(row).await, &doing),
            None => Ok(()),
        }
    };
    let (removed, live) = tokio::join!(remove_row, live(appliance, calls, volume, target, |_| true));
    removed?;
    appliance.iscsi.change(volume, |seen| seen.row = None);
    let tags: BTreeSet<i64> = target.groups.iter().filter_map(|g| g.auth).collect();
    for tag in tags {
        auth::forget(calls, volume, tag).await?;
    }
    if live?.is_empty() {
        return Ok(());
    }
    cut(appliance, calls, volume, metadata, target).await
}
