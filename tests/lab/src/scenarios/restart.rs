//! The helper killed in the middle of a stage, at any of its steps and inside mkfs: the repeated call ends with one mount.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use harness::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Status;

use super::common::{POD, again, mounts_at, must_be_staged_once, nfs, nvmeof};
use crate::data;
use crate::guest::RUN;
use crate::kubelet::{Class, GIB, Volume};
use crate::lab::{Lab, nvme_fabrics_controllers};
use crate::scenario::{Run, Scenario};

/// How long a stage may take to reach a step.
const REACH: Duration = Duration::from_secs(90);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "helper-killed-in-mkfs-ext4",
            about: "the helper dies while mkfs.ext4 writes, and mkfs with it: staging again formats again and mounts once",
            run: Run::Chain(|lab| Box::pin(in_mkfs(lab, "ext4"))),
        },
        Scenario {
            name: "helper-killed-in-mkfs-xfs",
            about: "the same with mkfs.xfs",
            run: Run::Chain(|lab| Box::pin(in_mkfs(lab, "xfs"))),
        },
        Scenario {
            name: "helper-killed-in-stage",
            about: "the helper dies after its record, its connection or its mount: staging again mounts once",
            run: Run::Chain(|lab| Box::pin(in_stage(lab))),
        },
    ]
}

type Staging = tokio::task::JoinHandle<Result<(), Status>>;

fn begin(lab: &Lab, volume: &Volume) -> Staging {
    let (kubelet, volume) = (lab.kubelet.clone(), volume.clone());
    tokio::spawn(async move { kubelet.stage(&volume).await })
}

async fn in_mkfs(lab: &mut Lab, fs_type: &str) -> anyhow::Result<()> {
    let kubelet = lab.kubelet.clone();
    // A mkfs that ended before it could be stopped shows nothing: the next volume is tried.
    for attempt in 0..8 {
        let name = format!("pvc-mkfs-{attempt}");
        let mut volume = kubelet.create(&name, &nvmeof(fs_type), 4 * GIB).await.context("CreateVolume")?;
        kubelet.attach(&mut volume).await.context("ControllerPublishVolume")?;
        let staging = begin(lab, &volume);
        let Some(program) = stop_while_it_writes(lab, fs_type, &staging).await? else {
            staging.await.context("the stage's task died")?.context("NodeStageVolume")?;
            kubelet.unstage(&volume).await.context("NodeUnstageVolume")?;
            kubelet.detach(&volume).await.context("ControllerUnpublishVolume")?;
            kubelet.remove(&volume).await?;
            continue;
        };
        lab.helper.crash().await?;
        let unanswered = staging.await.context("the stage's task died")?;
        ensure!(unanswered.is_err(), "a stage whose helper died was answered");
        // Nobody else ends it, stopped as it is: a mkfs that outlived its helper could write when the volume has data.
        wait::until("the end of mkfs", REACH, || Ok(!lives(program))).await?;
        lab.helper.restart().await?;
        again("NodeStageVolume", async || kubelet.stage(&volume).await).await?;
        return finish(lab, &volume).await;
    }
    bail!("mkfs.{fs_type} always ended before it could be stopped")
}

/// One mount, usable, and everything can be taken down.
async fn finish(lab: &Lab, volume: &Volume) -> anyhow::Result<()> {
    let kubelet = &lab.kubelet;
    must_be_staged_once(lab, volume)?;
    let path = kubelet.publish(volume, POD, false).await.context("NodePublishVolume")?;
    let bytes = data::noise(&volume.name, 1 << 20);
    data::write(&path.join("data"), bytes.clone()).await?;
    data::verify(&path.join("data"), bytes).await?;
    kubelet.take_down(volume, POD).await
}

/// Stops the helper's mkfs once it has begun to write; `None` when it ended first.
async fn stop_while_it_writes(lab: &Lab, fs_type: &str, staging: &Staging) -> anyhow::Result<Option<Pid>> {
    let end = Instant::now() + REACH;
    let program = loop {
        if let Some(pid) = child(lab.helper.pid(), &format!("mkfs.{fs_type}")) {
            break pid;
        }
        if staging.is_finished() {
            return Ok(None);
        }
        ensure!(Instant::now() < end, "no mkfs.{fs_type} below the helper");
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    // Step by step: it runs for a moment, stands still while it is looked at.
    loop {
        if kill(program, Signal::SIGSTOP).is_err() || !lives(program) {
            return Ok(None);
        }
        if written(program) > 0 {
            return Ok(Some(program));
        }
        if kill(program, Signal::SIGCONT).is_err() {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A child of the process with this name. A new child still has its parent's name until it became the program.
fn child(parent: Pid, name: &str) -> Option<Pid> {
    for task in fs::read_dir(format!("/proc/{parent}/task")).ok()?.filter_map(Result::ok) {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for pid in children.split_whitespace() {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if comm.trim() == name {
                return pid.parse().ok().map(Pid::from_raw);
            }
        }
    }
    None
}

/// Whether a process is there and no zombie.
fn lives(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name stands in parentheses and may hold anything.
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !matches!(rest.trim_start().chars().next(), Some('Z' | 'X') | None))
}

/// Bytes that a process has handed to write(2), the few words on its standard output included.
fn written(pid: Pid) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let field = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    // What it says to people is less than a sector.
    field.and_then(|number| number.parse::<u64>().ok()).unwrap_or_default().saturating_sub(512)
}

/// A step of a stage, seen from outside.
#[derive(Clone, Copy, Debug)]
enum Step {
    Recorded,
    Connected,
    Mounted,
}

async fn in_stage(lab: &mut Lab) -> anyhow::Result<()> {
    let cases: [(Class, Step); 5] = [
        (nfs(), Step::Recorded),
        (nfs(), Step::Mounted),
        (nvmeof("ext4"), Step::Recorded),
        (nvmeof("ext4"), Step::Connected),
        (nvmeof("ext4"), Step::Mounted),
    ];
    for (number, (class, step)) in cases.into_iter().enumerate() {
        let kubelet = lab.kubelet.clone();
        let name = format!("pvc-step-{number}");
        let mut volume = kubelet.create(&name, &class, GIB).await.context("CreateVolume")?;
        kubelet.attach(&mut volume).await.context("ControllerPublishVolume")?;
        let staging = begin(lab, &volume);
        let end = Instant::now() + REACH;
        while !reached(lab, &volume, step)? && !staging.is_finished() {
            ensure!(Instant::now() < end, "the stage was never {step:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        lab.helper.crash().await?;
        // It may have been answered in the last moment.
        let _answered = staging.await.context("the stage's task died")?;
        lab.helper.restart().await?;
        again("NodeStageVolume", async || kubelet.stage(&volume).await)
            .await
            .with_context(|| format!("killed when {step:?}"))?;
        finish(lab, &volume).await.with_context(|| format!("killed when {step:?}"))?;
    }
    Ok(())
}

fn reached(lab: &Lab, volume: &Volume, step: Step) -> anyhow::Result<bool> {
    Ok(match step {
        Step::Recorded => fs::read_dir(Path::new(RUN).join("helper/volumes"))
            .map(|entries| entries.filter_map(Result::ok).count() > 0)
            .unwrap_or_default(),
        Step::Connected => !nvme_fabrics_controllers()?.is_empty(),
        Step::Mounted => mounts_at(&lab.kubelet.staging_path(volume))? > 0,
    })
}
