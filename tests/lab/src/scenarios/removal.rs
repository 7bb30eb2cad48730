//! A deletion that ZFS or somebody else stands against: it is refused before any effect, and who uses the volume notices
//! nothing. The appliance itself would remove the exports first.

use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::time::Instant;
use tonic::Code;
use truenas::calls::{NfsShare, NfsShareCreate};
use truenas::{ApiKey, Calls, Client, Lane, Options};

use super::common::{POD, drop_caches, nfs, nvmeof, refused};
use crate::data;
use crate::guest::{RUN, run};
use crate::kubelet::{Class, GIB, Volume};
use crate::lab::Lab;
use crate::scenario::{Run, Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "delete-with-snapshot-nfs",
            about: "an NFS volume with a snapshot is not deleted, and its export goes on working",
            run: Run::Chain(|lab| Box::pin(kept(lab, nfs(), Obstacle::Snapshot))),
        },
        Scenario {
            name: "delete-with-snapshot-nvmeof",
            about: "the same for an NVMe-oF volume",
            run: Run::Chain(|lab| Box::pin(kept(lab, nvmeof("ext4"), Obstacle::Snapshot))),
        },
        Scenario {
            name: "delete-with-foreign-share",
            about: "a volume that somebody else exports too is not deleted, and both exports stay",
            run: Run::Chain(|lab| Box::pin(kept(lab, nfs(), Obstacle::Share))),
        },
        Scenario {
            name: "delete-with-child",
            about: "a volume with a dataset below it is not deleted",
            run: Run::Chain(|lab| Box::pin(kept(lab, nfs(), Obstacle::Child))),
        },
    ]
}

/// What stands against a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    Snapshot,
    Share,
    Child,
}

impl Obstacle {
    /// What the refusal must name.
    fn word(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Share => "objects of others",
            Self::Child => "below it",
        }
    }

    async fn put(self, volume: &Volume) -> anyhow::Result<Option<NfsShare>> {
        match self {
            Self::Snapshot => run("zfs", &["snapshot", &format!("{}@keep", volume.id)])?,
            Self::Child => run("zfs", &["create", &format!("{}/child", volume.id)])?,
            Self::Share => {
                let share = NfsShareCreate {
                    path: format!("/mnt/{}", volume.id),
                    comment: "somebody else's".to_owned(),
                    networks: Vec::new(),
                    hosts: vec!["203.0.113.9".to_owned()],
                    ro: true,
                    maproot_user: None,
                    maproot_group: None,
                    mapall_user: None,
                    mapall_group: None,
                    security: Vec::new(),
                    enabled: true,
                };
                return Ok(Some(
                    administrator()?.nfs_share_create(&share).await.context("sharing.nfs.create")?,
                ));
            }
        }
        Ok(None)
    }

    async fn take_away(self, volume: &Volume, share: Option<NfsShare>) -> anyhow::Result<()> {
        match self {
            Self::Snapshot => run("zfs", &["destroy", &format!("{}@keep", volume.id)]),
            Self::Child => run("zfs", &["destroy", &format!("{}/child", volume.id)]),
            Self::Share => {
                let share = share.context("the share was made")?;
                administrator()?.nfs_share_delete(share.id).await.context("sharing.nfs.delete")
            }
        }
    }
}

/// The API as an administrator uses it, beside the driver.
fn administrator() -> anyhow::Result<Calls> {
    let run = std::path::Path::new(RUN);
    let key = ApiKey::from_file(run.join("secret/api-key")).context("reading the API key")?;
    let mut options = Options::new("wss://127.0.0.1:8443/api/current".parse().context("the API's URL")?, key);
    options.ca_file = Some(run.join("tls/ca.pem"));
    let client = Client::new(options).context("the administrator's session")?;
    Ok(client.calls(Lane::Ordinary, Instant::now() + Duration::from_secs(60)))
}

async fn kept(lab: &mut Lab, class: Class, obstacle: Obstacle) -> anyhow::Result<()> {
    let kubelet = lab.kubelet.clone();
    let (mut volume, path) = kubelet.bring_up("pvc-kept", &class, GIB, POD).await?;
    let bytes = data::noise("kept", 4 << 20);
    data::write(&path.join("data"), bytes.clone()).await?;
    let share = obstacle.put(&volume).await?;

    refused(
        "deletion of a volume in use",
        kubelet.delete(&volume).await,
        Code::FailedPrecondition,
        obstacle.word(),
    )?;
    drop_caches()?;
    data::verify(&path.join("data"), bytes.clone()).await.context("after the refused deletion")?;
    data::write(&path.join("more"), bytes.clone()).await.context("after the refused deletion")?;

    kubelet.unpublish(&volume, POD).await.context("NodeUnpublishVolume")?;
    kubelet.unstage(&volume).await.context("NodeUnstageVolume")?;
    kubelet.detach(&volume).await.context("ControllerUnpublishVolume")?;
    for _ in 0..2 {
        refused("deletion", kubelet.delete(&volume).await, Code::FailedPrecondition, obstacle.word())?;
    }
    kubelet.attach(&mut volume).await.context("ControllerPublishVolume after the refused deletion")?;
    kubelet.stage(&volume).await.context("NodeStageVolume after the refused deletion")?;
    kubelet.publish(&volume, POD, false).await.context("NodePublishVolume after the refused deletion")?;
    data::verify(&path.join("data"), bytes).await.context("after the refused deletion and a new mount")?;
    if let Some(share) = &share {
        let left = administrator()?.nfs_shares_at(&share.path).await.context("sharing.nfs.query")?;
        ensure!(left.len() == 2 && left.contains(share), "the foreign share was changed: {left:?}");
    }
    obstacle.take_away(&volume, share).await?;
    kubelet.take_down(&volume, POD).await
}
