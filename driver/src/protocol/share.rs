//! File shares (NFS exports, SMB shares): one share per volume, of the dataset's own directory, with a list of hosts.
//!
//! The rule it keeps: a share is ours when its mark and its path name the volume; a share of tns-csi has no mark, there
//! the record counts, if the share is the only one of its directory. A share that is open (to networks or to everyone)
//! was opened on purpose and stays as it is.
//!
//! What is special to a protocol stands behind [`FileShare`]; everything else is here, for both.

use std::collections::HashMap;
use std::future::Future;

use truenas::Calls;
use truenas::calls::{Filter, NfsShare, Permissions, SmbShare};

use crate::protocol::appliance::Appliance;
use crate::protocol::call::{Answer as _, failed};
use crate::protocol::{
    Attached, Content, Export, Grantee, Granting, Judge, NodeIdentity, Revocation, Volume, health, hosts,
};
use crate::volume::context::{Connection, Portal};
use crate::volume::failure::{Failure, Kind};
use crate::volume::health::{Entry, Status};
use crate::volume::metadata::{Metadata, NodeRecord};
use crate::volume::parameter::Parameters;
use crate::volume::parameter::export::ExportSettings;
use crate::volume::protocol::Protocol;

/// How often a list that another process overwrote is written again before the call gives up.
const REWRITES: usize = 5;

/// A row of the appliance's table of shares.
pub trait Row: Clone + Send + Sync + 'static {
    /// Assigned by the appliance.
    fn id(&self) -> i64;
    /// Shared directory.
    fn path(&self) -> &str;
    /// Hosts let in.
    fn hosts(&self) -> &[String];
    /// Served at all, or only not served for the moment because its clients are being disconnected.
    fn is_enabled(&self) -> bool;
    /// Whether it admits hosts that no publish let in.
    fn is_open(&self) -> bool;
    /// Whether the appliance removes it together with its dataset: it does so with those that are enabled.
    fn goes_with_dataset(&self) -> bool;
    /// It in words, for refusals.
    fn words(&self) -> String;
}

/// What one protocol's shares are to the appliance.
pub trait FileShare {
    /// A share as read.
    type Row: Row;

    /// The protocol.
    const PROTOCOL: Protocol;
    /// What one share is called.
    const WORD: &'static str;
    /// The appliance's service that serves them.
    const SERVICE: &'static str;

    /// Stable keys of a new volume's share as properties of its dataset.
    fn stable_keys(volume: &Volume) -> Vec<(&'static str, String)>;

    /// All shares of this protocol.
    fn all(calls: &Calls) -> impl Future<Output = Result<Vec<Self::Row>, Failure>> + Send;

    /// The shares of exactly this directory.
    fn at(calls: &Calls, path: &str) -> impl Future<Output = Result<Vec<Self::Row>, Failure>> + Send;

    /// Of the shares at and below a directory, those of this protocol and the others in words.
    fn split(nfs: Vec<NfsShare>, smb: Vec<SmbShare>) -> (Vec<Self::Row>, Vec<String>);

    /// Checks that the appliance's version can make what the class asks for.
    fn check(calls: &Calls, parameters: &Parameters) -> impl Future<Output = Result<(), Failure>> + Send {
        let _ = (calls, parameters);
        std::future::ready(Ok(()))
    }

    /// Makes the volume's share; the definite answer.
    fn create(
        calls: &Calls,
        volume: &Volume,
        settings: &ExportSettings,
    ) -> impl Future<Output = Result<Result<(), Failure>, Failure>> + Send;

    /// Writes the list of hosts, if that changes anything. The share is served afterwards if it was enabled.
    fn write_hosts(
        calls: &Calls,
        share: &Self::Row,
        hosts: Vec<String>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Takes everyone off the list and ends what runs.
    fn close(calls: &Calls, share: &Self::Row) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Deletes a share; one that is gone is deleted.
    fn delete(calls: &Calls, id: i64, volume: &Volume) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Whether the share says itself that it is the volume's, and serves the volume's directory.
    fn is_marked(share: &Self::Row, volume: &Volume) -> bool;

    /// Whether tns-csi recorded this share.
    fn is_legacy(share: &Self::Row, metadata: &Metadata) -> bool;

    /// Whether somebody meant a share that is open to be open.
    fn is_open_on_purpose(share: &Self::Row, volume: &Volume) -> bool;

    /// How nodes reach the share.
    fn connection(portal: Portal, volume: &Volume, share: &Self::Row) -> Connection;
}

/// The part of our comments that names the volume; brackets keep one id from being the beginning of another.
pub fn marker(volume: &Volume) -> String {
    format!("[tns-csi {}]", volume.id)
}

/// The shares of one directory.
pub struct Shares<R> {
    all: Vec<R>,
}

impl<R: Row> Shares<R> {
    fn none() -> Self {
        Shares { all: Vec::new() }
    }

    /// Our share, if there is one; of several (made by two processes at once) the one with the lowest id.
    fn ours<F: FileShare<Row = R>>(&self, volume: &Volume, metadata: Option<&Metadata>) -> Option<&R> {
        let marked = self.all.iter().filter(|s| F::is_marked(s, volume)).min_by_key(|s| s.id());
        marked.or_else(|| match self.all.as_slice() {
            [only] => metadata.is_some_and(|m| F::is_legacy(only, m)).then_some(only),
            _ => None,
        })
    }
}

/// The shares of the appliance by directory, and what is wrong with the service.
pub struct Served<R> {
    by_path: HashMap<String, Shares<R>>,
    service: Option<Entry>,
}

/// Writes the list of recorded nodes to a share of ours that lets everyone in and that nobody meant to.
async fn close_if_open<F: FileShare>(
    calls: &Calls,
    volume: &Volume,
    share: &F::Row,
    metadata: &Metadata,
) -> Result<(), Failure> {
    if !share.is_open() || F::is_open_on_purpose(share, volume) {
        return Ok(());
    }
    let recorded: Vec<NodeRecord> =
        metadata.nodes(&volume.id.to_string()).into_values().filter_map(Result::ok).collect();
    F::write_hosts(calls, share, hosts::with(&hosts::nobody(), &recorded)).await
}

async fn shares_at<F: FileShare>(calls: &Calls, volume: &Volume) -> Result<Shares<F::Row>, Failure> {
    Ok(Shares { all: F::at(calls, &volume.path()).await? })
}

/// Gives the root directory of a new volume its owner and mode.
async fn permit(calls: &Calls, volume: &Volume, asked: &Permissions) -> Result<(), Failure> {
    if asked.is_empty() {
        return Ok(());
    }
    let path = volume.path();
    let doing = format!("setting owner and mode of {path}");
    let done = calls.filesystem_set_permissions(&path, asked).await;
    done.map_err(|error| match (failed(&doing, &error), error.refused()) {
        // The class names a user, a group or a mode that the appliance does not take.
        (failure, Some(refused)) if failure.kind == Kind::Internal && !refused.fields.is_empty() => {
            Failure::invalid(failure.message)
        }
        (failure, _) => failure,
    })
}

/// The same where an earlier attempt may have done it; the directory tells.
async fn permit_if_needed(calls: &Calls, volume: &Volume, asked: &Permissions) -> Result<(), Failure> {
    if asked.is_empty() {
        return Ok(());
    }
    let path = volume.path();
    let found = calls.filesystem_stat(&path).await.or_failed(&format!("reading owner and mode of {path}"))?;
    if found.satisfies(asked) { Ok(()) } else { permit(calls, volume, asked).await }
}

fn missing<F: FileShare>(volume: &Volume) -> Failure {
    Failure::precondition(format!(
        "the {} of {} is missing or not ours: one of ours has {:?} in its comment",
        F::WORD,
        volume.path(),
        marker(volume)
    ))
}

impl<F: FileShare> Export for F {
    type Found = Shares<F::Row>;
    type Beside = ();
    type Access = Shares<F::Row>;

    const PROTOCOL: Protocol = F::PROTOCOL;

    fn stable_keys(_: &Appliance, volume: &Volume) -> Vec<(&'static str, String)> {
        F::stable_keys(volume)
    }

    async fn check(_: &Appliance, calls: &Calls, parameters: &Parameters) -> Result<(), Failure> {
        F::check(calls, parameters).await
    }

    async fn beside(_: &Calls, _: &Volume, _: &ExportSettings) -> Option<()> {
        Some(())
    }

    async fn complete(
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
        settings: &ExportSettings,
        _: Option<()>,
    ) -> Result<(), Failure> {
        permit(calls, volume, &settings.permissions).await?;
        match F::create(calls, volume, settings).await? {
            Ok(()) => Ok(()),
            Err(_) => <F as Export>::ensure(appliance, calls, volume, settings, &Metadata::default()).await,
        }
    }

    async fn ensure(
        _: &Appliance,
        calls: &Calls,
        volume: &Volume,
        settings: &ExportSettings,
        metadata: &Metadata,
    ) -> Result<(), Failure> {
        if let Some(share) = shares_at::<F>(calls, volume).await?.ours::<F>(volume, Some(metadata)) {
            return close_if_open::<F>(calls, volume, share, metadata).await;
        }
        permit_if_needed(calls, volume, &settings.permissions).await?;
        let Err(refused) = F::create(calls, volume, settings).await? else { return Ok(()) };
        // A row is stored before the service is reloaded: a refusal proves nothing.
        match shares_at::<F>(calls, volume).await?.ours::<F>(volume, Some(metadata)) {
            Some(share) => close_if_open::<F>(calls, volume, share, metadata).await,
            None => Err(refused),
        }
    }

    async fn sweep(_: &Calls, _: &Volume) -> Result<(), Failure> {
        // Nothing is made beside the dataset, and a share on a dataset that is not ours may be another cluster's, whose
        // volume has the same id.
        Ok(())
    }

    async fn attached(_: &Appliance, calls: &Calls, volume: &Volume) -> Result<Judge, Failure> {
        let path = volume.path();
        // Shares of directories below go with the dataset too.
        let below = [Filter::starts_with("path", path.as_str())];
        let (nfs, smb) = tokio::join!(calls.nfs_share_query(&below), calls.smb_share_query(&below));
        let mut nfs = nfs.or_failed(&format!("reading the NFS exports of {path}"))?;
        let mut smb = smb.or_failed(&format!("reading the SMB shares of {path}"))?;
        let inside = |other: &str| {
            other == path || other.strip_prefix(&path).is_some_and(|rest| rest.starts_with('/'))
        };
        nfs.retain(|s| inside(&s.path));
        smb.retain(|s| inside(&s.path));
        let (own, others) = F::split(nfs, smb);
        Ok(Box::new(move |volume, metadata| judge::<F>(volume, metadata, &own, others)))
    }

    async fn clear(calls: &Calls, volume: &Volume, attached: &Attached) -> Result<(), Failure> {
        for id in &attached.ours {
            F::delete(calls, *id, volume).await?;
        }
        Ok(())
    }

    async fn find(
        _: &Appliance,
        calls: &Calls,
        volume: &Volume,
        _: &[NodeIdentity],
    ) -> Result<Self::Found, Failure> {
        shares_at::<F>(calls, volume).await
    }

    async fn prepare(
        context: &Granting<'_>,
        metadata: &Metadata,
        found: Self::Found,
        _: &[NodeIdentity],
    ) -> Result<Self::Found, Failure> {
        let Granting { appliance, calls, volume, settings, .. } = context;
        let found = if found.all.is_empty() {
            <F as Export>::ensure(appliance, calls, volume, settings, metadata).await?;
            shares_at::<F>(calls, volume).await?
        } else {
            found
        };
        let share = found.ours::<F>(volume, Some(metadata)).ok_or_else(|| missing::<F>(volume))?;
        if !share.is_enabled() {
            return Err(Failure::precondition(format!(
                "the {} {} of {} was disabled on the appliance; enable it there",
                F::WORD,
                share.id(),
                share.path()
            )));
        }
        // From here on only ours counts.
        Ok(Shares { all: vec![share.clone()] })
    }

    async fn grant(
        context: &Granting<'_>,
        found: &Self::Found,
        grantees: &[Grantee],
        present: &[NodeRecord],
    ) -> Result<(), Failure> {
        let share = found.all.first().ok_or_else(|| missing::<F>(context.volume))?;
        if F::is_open_on_purpose(share, context.volume) {
            tracing::warn!(volume = %context.volume.id, path = share.path(), "not fenced: the share is open to networks or to everyone");
            return Ok(());
        }
        let all: Vec<NodeRecord> = grantees.iter().map(|g| &g.record).chain(present).cloned().collect();
        F::write_hosts(context.calls, share, hosts::with(share.hosts(), &all)).await
    }

    async fn reconcile(calls: &Calls, volume: &Volume, recorded: &[NodeRecord]) -> Result<(), Failure> {
        for _ in 0..REWRITES {
            let shares = shares_at::<F>(calls, volume).await?;
            let share = match shares.all.as_slice() {
                [only] => only,
                all => all.iter().find(|s| F::is_marked(s, volume)).ok_or_else(|| missing::<F>(volume))?,
            };
            let wanted = hosts::with(share.hosts(), recorded);
            if F::is_open_on_purpose(share, volume) || share.hosts() == wanted {
                return Ok(());
            }
            F::write_hosts(calls, share, wanted).await?;
        }
        let words =
            format!("another process keeps changing the hosts of the {} of {}", F::WORD, volume.path());
        Err(Failure::new(Kind::Busy, words))
    }

    fn connection(
        context: &Granting<'_>,
        found: &Self::Found,
        _: &NodeIdentity,
        _: Content,
    ) -> Result<Connection, Failure> {
        let Granting { volume, endpoint, .. } = context;
        let share = found.all.first().ok_or_else(|| missing::<F>(volume))?;
        let portal = Portal::new(&endpoint.server, endpoint.port_or_default(F::PROTOCOL));
        Ok(F::connection(portal, volume, share))
    }

    async fn access(calls: &Calls, volume: &Volume) -> Result<Self::Access, Failure> {
        shares_at::<F>(calls, volume).await
    }

    async fn revoke(
        _: &Appliance,
        calls: &Calls,
        volume: &Volume,
        metadata: Option<&Metadata>,
        access: Self::Access,
        revocation: &Revocation,
    ) -> Result<(), Failure> {
        let marked = access.all.iter().filter(|s| F::is_marked(s, volume));
        let legacy = access.ours::<F>(volume, metadata).filter(|s| !F::is_marked(s, volume));
        // Every share of ours, should two processes have made one each.
        for share in marked.chain(legacy).filter(|s| !F::is_open_on_purpose(s, volume)) {
            let hosts = match revocation {
                Revocation::Everyone => hosts::nobody(),
                Revocation::Nodes { leaving, remaining } => hosts::without(share.hosts(), leaving, remaining),
            };
            if hosts == hosts::nobody() {
                F::close(calls, share).await?;
            } else {
                F::write_hosts(calls, share, hosts).await?;
            }
        }
        Ok(())
    }

    type Served = Served<F::Row>;

    async fn served(calls: &Calls, of: Option<(&Volume, &Metadata)>) -> Result<Self::Served, Failure> {
        let rows = async {
            match of {
                Some((volume, _)) => F::at(calls, &volume.path()).await,
                None => F::all(calls).await,
            }
        };
        let (rows, service) = tokio::join!(rows, health::of_service(calls, F::SERVICE));
        let mut by_path: HashMap<String, Shares<F::Row>> = HashMap::new();
        for row in rows? {
            by_path.entry(row.path().to_owned()).or_insert_with(Shares::none).all.push(row);
        }
        Ok(Served { by_path, service: service? })
    }

    fn health(served: &Self::Served, volume: &Volume, metadata: &Metadata) -> Vec<Entry> {
        let mut entries = Vec::new();
        let share = served.by_path.get(&volume.path());
        match share.and_then(|shares| shares.ours::<F>(volume, Some(metadata))) {
            None => {
                let words = missing::<F>(volume).message;
                entries.push(Entry::new(Status::Inaccessible, "ShareMissing", words));
            }
            Some(share) if !share.is_enabled() => {
                let words = format!("the {} of {} is disabled on the appliance", F::WORD, share.path());
                entries.push(Entry::new(Status::Inaccessible, "ShareDisabled", words));
            }
            Some(share) if share.is_open() && !F::is_open_on_purpose(share, volume) => {
                let words = format!(
                    "the {} of {} lets every host in, which nobody asked for; the next publish or unpublish closes it",
                    F::WORD,
                    share.path()
                );
                entries.push(Entry::new(Status::Degraded, "ShareOpen", words));
            }
            Some(share) if share.is_open() => {
                let words = format!(
                    "the {} of {} is open to networks or to everyone: unpublishing a node does not keep it out",
                    F::WORD,
                    share.path()
                );
                entries.push(Entry::note("NotFenced", words));
            }
            Some(_) => {}
        }
        entries.extend(served.service.clone());
        entries
    }
}

fn judge<F: FileShare>(
    volume: &Volume,
    metadata: Option<&Metadata>,
    own: &[F::Row],
    others: Vec<String>,
) -> Attached {
    let mut attached = Attached { foreign: others, ..Attached::default() };
    let alone = own.len() == 1;
    for share in own {
        if F::is_marked(share, volume) || (alone && metadata.is_some_and(|m| F::is_legacy(share, m))) {
            let stays = !share.goes_with_dataset() || metadata.is_none();
            attached.ours.extend(stays.then_some(share.id()));
        } else {
            attached.foreign.push(share.words());
        }
    }
    attached
}
