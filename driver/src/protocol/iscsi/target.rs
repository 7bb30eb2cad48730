//! Making and taking apart a volume's target: target, extent, and the mapping that makes the extent LUN 0.
//!
//! The rule it keeps: an extent is the volume's when it is on the volume's zvol and has the derived name, or is a logical
//! unit of the recorded target; a target is the volume's by derived name or recorded IQN. Whatever else serves the zvol
//! is somebody's.

use std::collections::{BTreeSet, HashMap};

use truenas::Calls;
use truenas::calls::{
    Filter, IscsiExtent, IscsiExtentCreate, IscsiExtentKind, IscsiGroup, IscsiTarget, IscsiTargetExtent,
};

use crate::protocol::call::{Answer as _, gone};
use crate::protocol::iscsi::{auth, marker};
use crate::protocol::{Attached, Volume, device};
use crate::volume::failure::{Failure, Kind};
use crate::volume::metadata::{ISCSI_IQN, Metadata};
use crate::volume::parameter::iscsi::Iscsi as Settings;

/// The logical unit number of every volume.
const LUN: u16 = 0;
/// Namespaces of the API, as kinds of rows that are cleared.
const TARGET: &str = "iscsi.target";
const EXTENT: &str = "iscsi.extent";
const INITIATOR: &str = "iscsi.initiator";
const AUTH: &str = "iscsi.auth";

/// Everything on the appliance that has to do with a volume's target.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    /// Extents on the volume's zvol or with its derived name.
    pub(super) extents: Vec<IscsiExtent>,
    /// Targets with the derived or recorded name, and those that serve one of the extents.
    pub(super) targets: Vec<IscsiTarget>,
    /// Mappings of these extents and targets.
    pub(super) mappings: Vec<IscsiTargetExtent>,
}

/// A complete target.
#[derive(Clone, Debug)]
pub(super) struct Lun {
    pub(super) target: IscsiTarget,
    pub(super) extent: IscsiExtent,
    pub(super) lun: u16,
}

/// Whether a target is the volume's by name.
pub(super) fn is_ours(target: &IscsiTarget, volume: &Volume, metadata: Option<&Metadata>) -> bool {
    let recorded = || {
        metadata.and_then(|m| m.get(ISCSI_IQN)).is_some_and(|iqn| {
            iqn == target.name
                || iqn.strip_suffix(target.name.as_str()).is_some_and(|base| base.ends_with(':'))
        })
    };
    target.name == volume.global || recorded()
}

fn names(volume: &Volume, metadata: Option<&Metadata>) -> Vec<String> {
    let mut names = vec![volume.global.clone()];
    if let Some(iqn) = metadata.and_then(|m| m.get(ISCSI_IQN)) {
        names.push(iqn.to_owned());
        names.extend(iqn.split_once(':').map(|(_, name)| name.to_owned()));
        names.dedup();
    }
    names
}

/// The targets that are the volume's by name.
pub(super) async fn by_name(
    calls: &Calls,
    volume: &Volume,
    metadata: Option<&Metadata>,
) -> Result<Vec<IscsiTarget>, Failure> {
    let names = names(volume, metadata);
    let filter = match names.as_slice() {
        [one] => Filter::eq("name", one.as_str()),
        several => Filter::one_of("name", several.iter().map(String::as_str)),
    };
    let found = calls.iscsi_target_query(&[filter]).await;
    let found = found.or_failed(&format!("reading the iSCSI target {}", volume.global))?;
    Ok(found.into_iter().filter(|t| names.contains(&t.name)).collect())
}

/// The extents on the volume's zvol, and those elsewhere that have its name.
pub(super) async fn extents(calls: &Calls, volume: &Volume) -> Result<Vec<IscsiExtent>, Failure> {
    let path = IscsiExtentCreate::disk(&volume.dataset);
    let filter =
        Filter::any(vec![Filter::eq("path", path.as_str()), Filter::eq("name", volume.global.as_str())]);
    let found = calls.iscsi_extent_query(&[filter]).await;
    let mut found = found.or_failed(&format!("reading the iSCSI extents of {path}"))?;
    found.retain(|e| e.path.as_deref() == Some(path.as_str()) || e.name == volume.global);
    Ok(found)
}

async fn mappings(
    calls: &Calls,
    volume: &Volume,
    targets: &[i64],
    extents: &[i64],
) -> Result<Vec<IscsiTargetExtent>, Failure> {
    if targets.is_empty() && extents.is_empty() {
        return Ok(Vec::new());
    }
    let any = Filter::any(vec![
        Filter::one_of("target", targets.iter().copied()),
        Filter::one_of("extent", extents.iter().copied()),
    ]);
    let found = calls.iscsi_targetextent_query(&[any]).await;
    let mut found = found.or_failed(&format!("reading the logical units of {}", volume.global))?;
    found.retain(|m| targets.contains(&m.target) || extents.contains(&m.extent));
    Ok(found)
}

/// Reads everything.
pub(super) async fn survey(
    calls: &Calls,
    volume: &Volume,
    metadata: Option<&Metadata>,
) -> Result<Survey, Failure> {
    let (extents, targets) = tokio::join!(extents(calls, volume), by_name(calls, volume, metadata));
    let (extents, mut targets) = (extents?, targets?);
    let target_ids: Vec<i64> = targets.iter().map(|t| t.id).collect();
    let extent_ids: Vec<i64> = extents.iter().map(|e| e.id).collect();
    let mappings = mappings(calls, volume, &target_ids, &extent_ids).await?;
    let others: Vec<i64> = mappings.iter().map(|m| m.target).filter(|t| !target_ids.contains(t)).collect();
    if !others.is_empty() {
        let found = calls.iscsi_target_query(&[Filter::one_of("id", others.iter().copied())]).await;
        let found = found.or_failed(&format!("reading the iSCSI targets of {}", volume.dataset))?;
        targets.extend(found.into_iter().filter(|t| others.contains(&t.id)));
    }
    Ok(Survey { extents, targets, mappings })
}

/// Many surveys in one: everything that the appliance has, to be asked about single volumes.
#[derive(Debug, Default)]
pub(super) struct Surveyed {
    extents: Vec<IscsiExtent>,
    targets: HashMap<i64, IscsiTarget>,
    mappings: Vec<IscsiTargetExtent>,
    /// Places in `extents` by path and by name.
    extents_at: HashMap<String, Vec<usize>>,
    /// Ids of targets by name.
    targets_named: HashMap<String, i64>,
    /// Places in `mappings` by target and by extent.
    of_target: HashMap<i64, Vec<usize>>,
    of_extent: HashMap<i64, Vec<usize>>,
}

impl From<Survey> for Surveyed {
    fn from(found: Survey) -> Self {
        let mut all = Surveyed { extents: found.extents, mappings: found.mappings, ..Surveyed::default() };
        for (place, extent) in all.extents.iter().enumerate() {
            for key in extent.path.iter().chain([&extent.name]) {
                all.extents_at.entry(key.clone()).or_default().push(place);
            }
        }
        for (place, mapping) in all.mappings.iter().enumerate() {
            all.of_target.entry(mapping.target).or_default().push(place);
            all.of_extent.entry(mapping.extent).or_default().push(place);
        }
        all.targets_named = found.targets.iter().map(|t| (t.name.clone(), t.id)).collect();
        all.targets = found.targets.into_iter().map(|t| (t.id, t)).collect();
        all
    }
}

impl Surveyed {
    /// What of it has to do with one volume; the same as a [`survey`] of that volume.
    pub(super) fn of(&self, volume: &Volume, metadata: &Metadata) -> Survey {
        let path = IscsiExtentCreate::disk(&volume.dataset);
        let places = [path.as_str(), volume.global.as_str()].into_iter();
        let extents: BTreeSet<usize> =
            places.filter_map(|key| self.extents_at.get(key)).flatten().copied().collect();
        let extents: Vec<IscsiExtent> =
            extents.into_iter().filter_map(|place| self.extents.get(place)).cloned().collect();
        let names = names(volume, Some(metadata));
        let mut targets: BTreeSet<i64> =
            names.iter().filter_map(|name| self.targets_named.get(name)).copied().collect();
        let by_extent = extents.iter().filter_map(|extent| self.of_extent.get(&extent.id));
        let by_target = targets.iter().filter_map(|target| self.of_target.get(target));
        let mappings: BTreeSet<usize> = by_extent.chain(by_target).flatten().copied().collect();
        let mappings: Vec<IscsiTargetExtent> =
            mappings.into_iter().filter_map(|place| self.mappings.get(place)).cloned().collect();
        targets.extend(mappings.iter().map(|mapping| mapping.target));
        let targets = targets.into_iter().filter_map(|id| self.targets.get(&id)).cloned().collect();
        Survey { extents, targets, mappings }
    }
}

/// Reads everything of all volumes.
pub(super) async fn survey_all(calls: &Calls) -> Result<Surveyed, Failure> {
    let (extents, targets, mappings) = tokio::join!(
        calls.iscsi_extent_query(&[]),
        calls.iscsi_target_query(&[]),
        calls.iscsi_targetextent_query(&[]),
    );
    Ok(Surveyed::from(Survey {
        extents: extents.or_failed("reading iSCSI extents")?,
        targets: targets.or_failed("reading iSCSI targets")?,
        mappings: mappings.or_failed("reading iSCSI logical units")?,
    }))
}

/// Reads again only what could differ from what this process saw a moment ago; none when it does.
pub(super) async fn still_as_seen(
    calls: &Calls,
    volume: &Volume,
    seen: &super::recent::Seen,
) -> Result<Option<Survey>, Failure> {
    let ids = ([seen.target], [seen.extent]);
    let (extents, mappings) = tokio::join!(extents(calls, volume), mappings(calls, volume, &ids.0, &ids.1));
    let (extents, mappings) = (extents?, mappings?);
    let same = matches!(extents.as_slice(), [e] if e.id == seen.extent && is_named(e, volume) && e.enabled)
        && matches!(mappings.as_slice(), [m] if m.target == seen.target && m.extent == seen.extent);
    let target = IscsiTarget {
        id: seen.target,
        name: volume.global.clone(),
        groups: Vec::new(),
        auth_networks: Vec::new(),
    };
    Ok(same.then(|| Survey { extents, targets: vec![target], mappings }))
}

/// On the volume's zvol and with its name.
fn is_named(extent: &IscsiExtent, volume: &Volume) -> bool {
    extent.name == volume.global && is_on_zvol(extent, volume)
}

fn is_on_zvol(extent: &IscsiExtent, volume: &Volume) -> bool {
    extent.path.as_deref() == Some(IscsiExtentCreate::disk(&volume.dataset).as_str())
}

impl Survey {
    /// The target that an extent is a logical unit of.
    fn serving(&self, extent: &IscsiExtent) -> Option<(&IscsiTargetExtent, Option<&IscsiTarget>)> {
        let mapping = self.mappings.iter().find(|m| m.extent == extent.id)?;
        Some((mapping, self.targets.iter().find(|t| t.id == mapping.target)))
    }

    fn is_our_extent(&self, extent: &IscsiExtent, volume: &Volume, metadata: Option<&Metadata>) -> bool {
        let of_ours = || {
            let target = self.serving(extent).and_then(|(_, target)| target);
            target.is_some_and(|t| is_ours(t, volume, metadata))
        };
        is_on_zvol(extent, volume) && (extent.name == volume.global || of_ours())
    }

    /// What stands in the way of the volume's own target, in words.
    fn foreign(&self, volume: &Volume, metadata: Option<&Metadata>) -> Vec<String> {
        let mut foreign = Vec::new();
        for extent in self.extents.iter().filter(|e| is_on_zvol(e, volume)) {
            if !self.is_our_extent(extent, volume, metadata) {
                foreign.push(format!("iSCSI extent {:?} on zvol {}", extent.name, volume.dataset));
            }
            if let Some((mapping, target)) = self.serving(extent)
                && !target.is_some_and(|t| is_ours(t, volume, metadata))
            {
                let name = target.map_or("unknown", |t| t.name.as_str());
                foreign.push(format!(
                    "iSCSI target {name:?}, which serves extent {:?} as LUN {}",
                    extent.name,
                    mapping.lunid.unwrap_or_default()
                ));
            }
        }
        foreign
    }

    /// Whose everything is, for a deletion; `row_ids` and `auth_ids` are our initiator groups and credentials.
    pub(super) fn attached(
        &self,
        volume: &Volume,
        metadata: Option<&Metadata>,
        row_ids: &[i64],
        auth_ids: &[i64],
    ) -> Attached {
        let mut attached = Attached { foreign: self.foreign(volume, metadata), ..Attached::default() };
        let mut ours = Vec::new();
        for extent in self.extents.iter().filter(|e| self.is_our_extent(e, volume, metadata)) {
            ours.push(extent.id);
            // The appliance removes enabled extents with their zvol, and leaves the others.
            if metadata.is_none() || !extent.enabled {
                attached.rows.push((EXTENT, extent.id));
            }
        }
        for target in self.targets.iter().filter(|t| is_ours(t, volume, metadata)) {
            let units: Vec<i64> =
                self.mappings.iter().filter(|m| m.target == target.id).map(|m| m.extent).collect();
            // A target that serves something else too stays; one that loses its last unit goes with the zvol.
            let only_ours = units.iter().all(|extent| ours.contains(extent));
            if only_ours && (units.is_empty() || attached.rows.iter().any(|(_, id)| units.contains(id))) {
                attached.rows.push((TARGET, target.id));
            }
        }
        attached.rows.extend(row_ids.iter().map(|id| (INITIATOR, *id)));
        attached.rows.extend(auth_ids.iter().map(|id| (AUTH, *id)));
        attached
    }
}

/// Ids of the initiator groups and credentials that were made for the volume.
pub(super) async fn satellites(calls: &Calls, volume: &Volume) -> Result<(Vec<i64>, Vec<i64>), Failure> {
    let (rows, auths) = tokio::join!(rows(calls, volume), auth::of_volume(calls, volume));
    Ok((rows?.into_iter().map(|row| row.id).collect(), auths?))
}

/// The initiator groups whose comment begins with the volume's name; its brackets keep one id from being the beginning
/// of another.
pub(super) async fn rows(
    calls: &Calls,
    volume: &Volume,
) -> Result<Vec<truenas::calls::IscsiInitiator>, Failure> {
    let comment = marker(volume);
    let found = calls.iscsi_initiator_query(&[Filter::starts_with("comment", comment.as_str())]).await;
    let found = found.or_failed(&format!("reading the iSCSI initiator groups of {}", volume.id))?;
    Ok(found.into_iter().filter(|row| row.comment.starts_with(&comment)).collect())
}

/// Removes rows of ours that are left: first what refers to others.
pub(super) async fn clear(calls: &Calls, volume: &Volume, attached: &Attached) -> Result<(), Failure> {
    let doing = format!("removing what is left of the iSCSI target {}", volume.global);
    let of = |kind: &'static str| attached.rows.iter().filter(move |(k, _)| *k == kind).map(|(_, id)| *id);
    for id in of(TARGET) {
        // Whoever is still logged in has no data behind it any more.
        gone(calls.iscsi_target_delete(id, true).await, &doing)?;
    }
    for id in of(EXTENT) {
        gone(calls.iscsi_extent_delete(id, true).await, &doing)?;
    }
    let rows: Vec<i64> = of(INITIATOR).collect();
    if !rows.is_empty() {
        // A target that refers to a deleted initiator group admits everyone, whatever its name.
        let refers = |group: &IscsiGroup| group.initiator.is_some_and(|id| rows.contains(&id));
        let all = calls.iscsi_target_query(&[]).await.or_failed(&doing)?;
        for target in all.into_iter().filter(|target| target.groups.iter().any(refers)) {
            let kept: Vec<IscsiGroup> = target.groups.into_iter().filter(|group| !refers(group)).collect();
            calls.iscsi_target_update(target.id, &kept).await.or_failed(&doing)?;
        }
    }
    for id in of(INITIATOR) {
        gone(calls.iscsi_initiator_delete(id).await, &doing)?;
    }
    for id in of(AUTH) {
        auth::remove(calls, id, &doing).await?;
    }
    Ok(())
}

fn extent_of(volume: &Volume, settings: &Settings) -> IscsiExtentCreate {
    let comment = match &settings.comment {
        Some(words) => format!("{words} {}", marker(volume)),
        None => marker(volume),
    };
    IscsiExtentCreate {
        name: volume.global.clone(),
        kind: IscsiExtentKind::Disk,
        disk: IscsiExtentCreate::disk(&volume.dataset),
        blocksize: settings.block_size,
        pblocksize: settings.no_physical_block_size,
        avail_threshold: settings.avail_threshold,
        comment,
        insecure_tpc: settings.insecure_tpc,
        xen: settings.xen,
        rpm: settings.rpm.clone(),
    }
}

async fn create_extent(
    calls: &Calls,
    volume: &Volume,
    settings: &Settings,
) -> Result<Result<IscsiExtent, Failure>, Failure> {
    let extent = extent_of(volume, settings);
    let made = device::once_there(calls, || calls.iscsi_extent_create(&extent)).await;
    made.definite(&format!("serving zvol {} over iSCSI", volume.dataset))
}

async fn map(
    calls: &Calls,
    volume: &Volume,
    target: i64,
    extent: i64,
) -> Result<Result<IscsiTargetExtent, Failure>, Failure> {
    let made = calls.iscsi_targetextent_create(target, LUN, extent).await;
    made.definite(&format!("making zvol {} LUN {LUN} of its iSCSI target", volume.dataset))
}

/// The good path of a creation: extent and mapping behind a target just made. None: look.
pub(super) async fn complete(
    calls: &Calls,
    volume: &Volume,
    settings: &Settings,
    target: IscsiTarget,
) -> Result<Option<Lun>, Failure> {
    let Ok(extent) = create_extent(calls, volume, settings).await? else { return Ok(None) };
    let Ok(mapping) = map(calls, volume, target.id, extent.id).await? else { return Ok(None) };
    Ok(Some(Lun { target, extent, lun: mapping.lunid.unwrap_or(LUN) }))
}

/// Makes what is missing, looking for each object first.
pub(super) async fn ensure(
    calls: &Calls,
    volume: &Volume,
    settings: &Settings,
    metadata: &Metadata,
    found: Option<Survey>,
) -> Result<Lun, Failure> {
    let mut found = match found {
        Some(found) => found,
        None => survey(calls, volume, Some(metadata)).await?,
    };
    loop {
        refuse_foreign(volume, metadata, &found)?;
        let (step, refused) = match parts(&found, volume, metadata) {
            (Some(target), Some(extent), Some(mapping)) => {
                return Ok(Lun {
                    target: target.clone(),
                    extent: extent.clone(),
                    lun: mapping.lunid.unwrap_or(LUN),
                });
            }
            (None, _, _) => {
                let made = calls.iscsi_target_create(&volume.global, &settings.networks).await;
                ("target", made.definite(&format!("creating the iSCSI target {}", volume.global))?.err())
            }
            (Some(_), None, _) => ("extent", create_extent(calls, volume, settings).await?.err()),
            (Some(target), Some(extent), None) => {
                ("mapping", map(calls, volume, target.id, extent.id).await?.err())
            }
        };
        // A row is stored before the target is reloaded: a refusal proves nothing, only reading again does.
        found = survey(calls, volume, Some(metadata)).await?;
        let (target, extent, mapping) = parts(&found, volume, metadata);
        let there = match step {
            "target" => target.is_some(),
            "extent" => extent.is_some(),
            _ => mapping.is_some(),
        };
        if !there {
            refuse_foreign(volume, metadata, &found)?;
            let words = format!("the iSCSI {step} of {} went away", volume.id);
            return Err(refused.unwrap_or_else(|| Failure::new(Kind::Unavailable, words)));
        }
    }
}

/// Our target (the one that serves our extent, else the one with the lowest id), our extent, and its mapping.
fn parts<'a>(
    found: &'a Survey,
    volume: &Volume,
    metadata: &Metadata,
) -> (Option<&'a IscsiTarget>, Option<&'a IscsiExtent>, Option<&'a IscsiTargetExtent>) {
    let extent = found.extents.iter().find(|e| found.is_our_extent(e, volume, Some(metadata)));
    if let Some((mapping, target @ Some(_))) = extent.and_then(|e| found.serving(e)) {
        return (target, extent, Some(mapping));
    }
    let ours = found.targets.iter().filter(|t| is_ours(t, volume, Some(metadata)));
    (ours.min_by_key(|t| t.id), extent, None)
}

fn refuse_foreign(volume: &Volume, metadata: &Metadata, found: &Survey) -> Result<(), Failure> {
    let mut foreign = found.foreign(volume, Some(metadata));
    let namesake = found.extents.iter().filter(|e| !is_on_zvol(e, volume));
    foreign.extend(namesake.map(|e| {
        format!(
            "iSCSI extent {:?} on {}, which has this volume's name",
            e.name,
            e.path.as_deref().unwrap_or("?")
        )
    }));
    if foreign.is_empty() {
        return Ok(());
    }
    Err(Failure::precondition(format!(
        "volume {} cannot be served over iSCSI: objects of others are in the way: {}",
        volume.id,
        foreign.join(", ")
    )))
}
