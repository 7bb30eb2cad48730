//! What several scenarios share: calling again as the orchestrator does, counting what is there, and proof that nothing
//! was written.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tns_csi_proto::csi::v1::volume_capability::access_mode::Mode;
use tonic::{Code, Status};

use crate::appliance::{self, datasets_below};
use crate::guest::{KUBELET, PARENT, output, run};
use crate::kubelet::{Class, Volume};
pub(super) use crate::kubelet::{again, is_pending};
use crate::lab::Lab;

/// A pod.
pub(super) const POD: &str = "7d1e1d0b-7f6d-4e0f-8a3f-2d5b0c9e4a01";
/// Another pod of the same node.
pub(super) const OTHER_POD: &str = "7d1e1d0b-7f6d-4e0f-8a3f-2d5b0c9e4a02";
/// Tables of everything that exports a volume.
const TABLES: [&str; 10] = [
    "sharing.nfs",
    "sharing.smb",
    "nvmet.subsys",
    "nvmet.namespace",
    "nvmet.host_subsys",
    "nvmet.port_subsys",
    "iscsi.target",
    "iscsi.extent",
    "iscsi.targetextent",
    "iscsi.initiator",
];

/// An NFS volume for many writers.
pub(super) fn nfs() -> Class {
    Class::mount("nfs", "", Mode::MultiNodeMultiWriter)
}

/// An SMB volume for many writers.
pub(super) fn smb() -> Class {
    crate::lab::with_smb_user(Class::mount("smb", "", Mode::MultiNodeMultiWriter))
}

/// An iSCSI volume with a file system for the pods of one node.
pub(super) fn iscsi(fs_type: &str) -> Class {
    Class::mount("iscsi", fs_type, Mode::SingleNodeMultiWriter)
}

/// An NVMe-oF volume with a file system for the pods of one node, as Kubernetes asks for ReadWriteOnce.
pub(super) fn nvmeof(fs_type: &str) -> Class {
    Class::mount("nvmeof", fs_type, Mode::SingleNodeMultiWriter)
}

/// The call must be refused with this code and words that name `words`.
pub(super) fn refused<T>(
    what: &str,
    answer: Result<T, Status>,
    code: Code,
    words: &str,
) -> anyhow::Result<()> {
    match answer {
        Ok(_) => bail!("{what} was not refused"),
        Err(status) => {
            ensure!(
                status.code() == code && status.message().contains(words),
                "{what} was refused with {:?} {:?} instead of {code:?} and {words:?}",
                status.code(),
                status.message()
            );
            Ok(())
        }
    }
}

/// Rows of one of the appliance's tables.
pub(super) async fn rows(lab: &Lab, table: &str) -> anyhow::Result<Vec<Value>> {
    let answer = lab.control.send(json!({"command": "rows", "table": table})).await?;
    answer.as_array().cloned().with_context(|| format!("rows of {table} are no list: {answer}"))
}

/// Nothing of any volume is on the appliance.
pub(super) async fn must_hold_nothing(lab: &Lab) -> anyhow::Result<()> {
    let datasets = datasets_below(PARENT)?;
    ensure!(datasets.is_empty(), "datasets are left: {datasets:?}");
    for table in TABLES {
        let found = rows(lab, table).await?;
        ensure!(found.is_empty(), "{table} still has {found:?}");
    }
    Ok(())
}

/// The volume is on the appliance, once and whole, nothing beside it, and nobody has access to it.
pub(super) async fn must_hold_only(lab: &Lab, volume: &Volume) -> anyhow::Result<()> {
    let datasets = datasets_below(PARENT)?;
    ensure!(datasets == [volume.id.clone()], "datasets {datasets:?} instead of {} alone", volume.id);
    for (property, value) in [("tns-csi:managed_by", "tns-csi"), ("tns-csi:volume_id", &volume.id)] {
        let found = appliance::property(&volume.id, property)?;
        ensure!(found == value, "{property} of {} is {found:?}", volume.id);
    }
    let protocol = volume.class.protocol();
    for table in TABLES {
        let found = rows(lab, table).await?;
        let of_protocol = match table {
            "sharing.nfs" => "nfs",
            "sharing.smb" => "smb",
            "nvmet.subsys" | "nvmet.namespace" => "nvmeof",
            "iscsi.target" | "iscsi.extent" | "iscsi.targetextent" => "iscsi",
            _ => "none",
        };
        let wanted = usize::from(of_protocol == protocol);
        ensure!(found.len() == wanted, "{wanted} rows of {table} expected, found {found:?}");
        // An empty list of hosts means everyone, a target without groups nobody.
        let nobody = json!(["192.0.2.1"]);
        let closed = |row: &Value| match table {
            "sharing.nfs" => row.get("hosts") == Some(&nobody),
            "sharing.smb" => row.pointer("/options/hostsallow") == Some(&nobody),
            "iscsi.target" => row.get("groups") == Some(&json!([])),
            _ => true,
        };
        ensure!(found.iter().all(closed), "a new export must name nobody: {found:?}");
    }
    Ok(())
}

/// Mounts at exactly this path.
pub(super) fn mounts_at(path: &Path) -> anyhow::Result<usize> {
    let path = path.display().to_string();
    Ok(crate::lab::mounts_below(KUBELET)?.iter().filter(|point| **point == path).count())
}

/// Exactly one mount at the volume's staging path, and at most one connection.
pub(super) fn must_be_staged_once(lab: &Lab, volume: &Volume) -> anyhow::Result<()> {
    let path = lab.kubelet.staging_path(volume);
    let mounts = mounts_at(&path)?;
    ensure!(mounts == 1, "{mounts} mounts at {}", path.display());
    let controllers = crate::lab::nvme_fabrics_controllers()?;
    ensure!(controllers.len() <= 1, "several connections: {controllers:?}");
    Ok(())
}

/// Proof that a dataset was not written since a moment: a snapshot of that moment. Zeroes that overwrite data show in
/// what the snapshot alone still holds, everything else in `written`.
#[derive(Debug)]
pub(super) struct Untouched {
    snapshot: String,
}

impl Untouched {
    /// From here on.
    pub(super) fn since_now(dataset: &str) -> anyhow::Result<Self> {
        let snapshot = format!("{dataset}@lab-untouched");
        run("zfs", &["snapshot", &snapshot])?;
        Ok(Self { snapshot })
    }

    /// Nothing was written; the snapshot goes.
    pub(super) fn must_hold(self) -> anyhow::Result<()> {
        let (dataset, name) = self.snapshot.split_once('@').context("a snapshot has a name")?;
        run("zpool", &["sync"])?;
        let written = appliance::property(dataset, &format!("written@{name}"))?;
        let held = appliance::property(&self.snapshot, "used")?;
        run("zfs", &["destroy", &self.snapshot])?;
        ensure!(
            written == "0" && held == "0",
            "{dataset} was written: {written} bytes new, {held} bytes overwritten"
        );
        Ok(())
    }
}

/// Drops what the node's kernel keeps in memory, so that the next read asks the server.
pub(super) fn drop_caches() -> anyhow::Result<()> {
    output("sync", &[])?;
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("dropping caches")
}
