//! The stand-in's real storage, without the driver: what the other scenarios stand on.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use harness::wait;
use truenas_sim::backend::zfs::{Settings, Zfs};
use truenas_sim::backend::{Backend, DatasetKind, NewDataset, Refusal, Scope};

use crate::guest::{PARENT, POOL};
use crate::scenario::{Run, Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "zfs-backend",
        about: "datasets, zvols, snapshots and clones of the stand-in are ZFS's, and its refusals have the right kinds",
        run: Run::Guest(|| Box::pin(backend())),
    }]
}

fn properties(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

async fn backend() -> anyhow::Result<()> {
    let zfs = Zfs::new(&Settings { pool: POOL.to_owned(), ..Settings::default() })?;
    let pools = zfs.pools()?;
    ensure!(
        pools.iter().any(|pool| pool.name == POOL && pool.status == "ONLINE" && pool.free > 200 << 30),
        "{pools:?}"
    );
    let (file, volume, clone) =
        (format!("{PARENT}/files"), format!("{PARENT}/blocks"), format!("{PARENT}/clone"));
    zfs.create_dataset(&NewDataset {
        name: file.clone(),
        kind: DatasetKind::Filesystem,
        properties: properties(&[("refquota", "1073741824"), ("compression", "lz4")]),
        user_properties: properties(&[
            ("tns-csi:managed_by", "tns-csi"),
            ("lab:odd", "tab\there, 'quote' = \"x\""),
        ]),
    })?;
    zfs.create_dataset(&NewDataset {
        name: volume.clone(),
        kind: DatasetKind::Volume,
        properties: properties(&[("volsize", "1073741824"), ("volblocksize", "16384")]),
        user_properties: BTreeMap::new(),
    })?;
    let found = zfs.datasets(&Scope::Paths(&[file.clone(), volume.clone(), format!("{PARENT}/absent")]))?;
    ensure!(found.len() == 2, "{found:?}");
    let files = found.iter().find(|dataset| dataset.name == file).context("the file system is not listed")?;
    ensure!(
        files.bytes("refquota") == 1 << 30 && files.raw("mountpoint") == Some(&format!("/mnt/{file}")),
        "{files:?}"
    );
    ensure!(
        files.user_properties.get("lab:odd").is_some_and(|p| p.raw == "tab\there, 'quote' = \"x\""),
        "{files:?}"
    );
    ensure!(
        zfs.path_exists(&format!("/mnt/{file}")) && !zfs.path_exists(&format!("/mnt/{PARENT}/absent")),
        "paths"
    );
    wait::until("the zvol's device", Duration::from_secs(60), || Ok(zfs.device_ready(&volume))).await?;
    let sparse = found.iter().find(|dataset| dataset.name == volume).context("the zvol is not listed")?;
    ensure!(sparse.bytes("refreservation") == 0 && sparse.bytes("volsize") == 1 << 30, "{sparse:?}");

    let again = NewDataset {
        name: file.clone(),
        kind: DatasetKind::Filesystem,
        properties: BTreeMap::new(),
        user_properties: BTreeMap::new(),
    };
    refused(zfs.create_dataset(&again), Refusal::Exists)?;
    refused(
        zfs.create_dataset(&NewDataset { name: format!("{PARENT}/no/parent"), ..again }),
        Refusal::Missing,
    )?;
    refused(zfs.destroy_dataset(PARENT, false, false), Refusal::HasChildren)?;
    refused(zfs.promote(&file), Refusal::NotAClone)?;
    zfs.create_snapshot(std::slice::from_ref(&volume), "s1", &properties(&[("lab:mark", "one")]))?;
    refused(zfs.create_snapshot(std::slice::from_ref(&volume), "s1", &BTreeMap::new()), Refusal::Exists)?;
    refused(zfs.destroy_dataset(&volume, false, false), Refusal::HasSnapshots)?;
    zfs.clone_snapshot(&volume, "s1", &clone, &BTreeMap::new())?;
    let snapshots = zfs.snapshots(Some(&volume))?;
    let snapshot = snapshots.first().context("the snapshot is not listed")?;
    ensure!(snapshots.len() == 1 && snapshot.clones == [clone.clone()] && !snapshot.held, "{snapshots:?}");
    ensure!(snapshot.user_properties.get("lab:mark").is_some_and(|p| p.raw == "one"), "{snapshot:?}");
    refused(zfs.destroy_snapshot(&volume, "s1", false), Refusal::HasClones)?;
    refused(zfs.destroy_dataset(&volume, true, false), Refusal::HasClones)?;
    zfs.hold_snapshot(&volume, "s1", true)?;
    ensure!(zfs.snapshots(Some(&volume))?.iter().all(|snapshot| snapshot.held), "not held");
    zfs.hold_snapshot(&volume, "s1", false)?;
    zfs.promote(&clone)?;
    ensure!(
        zfs.snapshots(Some(&clone))?.len() == 1 && zfs.snapshots(Some(&volume))?.is_empty(),
        "promotion moves the snapshot"
    );
    let changes = [("volsize".to_owned(), Some("2147483648".to_owned())), ("lab:mark".to_owned(), None)];
    zfs.set_properties(&volume, &changes.into())?;
    ensure!(Path::new("/dev/zvol").join(&volume).exists(), "the device went away");
    zfs.destroy_dataset(&volume, false, false)?;
    zfs.destroy_dataset(&clone, true, false)?;
    zfs.destroy_dataset(&file, false, false)?;
    refused(zfs.destroy_dataset(&file, false, false), Refusal::Missing)
}

fn refused<T>(result: Result<T, truenas_sim::backend::BackendError>, kind: Refusal) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind == kind => Ok(()),
        Err(error) => anyhow::bail!("refused as {:?} instead of {kind:?}: {error}", error.kind),
        Ok(_) => anyhow::bail!("was not refused as {kind:?}"),
    }
}
