//! The controller cut off at every call that it makes to the appliance: by a dropped connection, or by its own death.
//!
//! The calls are learned from an undisturbed run. Whatever happens in between, the orchestrator's repeated call ends
//! with the one whole volume, or with none, and never with anything that belongs to nobody.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tonic::Status;

use super::common::{POD, again, is_pending, must_hold_nothing, must_hold_only, nfs, nvmeof};
use crate::data;
use crate::kubelet::{Class, GIB, Kubelet, Volume};
use crate::lab::Lab;
use crate::scenario::{Run, Scenario};

/// How long an operation may take to reach a call.
const REACH_MS: u64 = 30_000;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "controller-killed-creating-nfs",
            about: "the controller dies at any call of creating an NFS volume: one volume, whole",
            run: Run::Chain(|lab| Box::pin(creating(lab, nfs(), Cut::Death))),
        },
        Scenario {
            name: "controller-killed-creating-nvmeof",
            about: "the same for an NVMe-oF volume",
            run: Run::Chain(|lab| Box::pin(creating(lab, nvmeof("ext4"), Cut::Death))),
        },
        Scenario {
            name: "controller-killed-deleting-nfs",
            about: "the controller dies at any call of deleting an NFS volume: nothing is left",
            run: Run::Chain(|lab| Box::pin(deleting(lab, nfs(), Cut::Death))),
        },
        Scenario {
            name: "controller-killed-deleting-nvmeof",
            about: "the same for an NVMe-oF volume",
            run: Run::Chain(|lab| Box::pin(deleting(lab, nvmeof("ext4"), Cut::Death))),
        },
        Scenario {
            name: "connection-dropped-creating-nfs",
            about: "the connection drops before or after any call of creating an NFS volume: one volume, whole",
            run: Run::Chain(|lab| Box::pin(creating(lab, nfs(), Cut::Connection))),
        },
        Scenario {
            name: "connection-dropped-creating-nvmeof",
            about: "the same for an NVMe-oF volume",
            run: Run::Chain(|lab| Box::pin(creating(lab, nvmeof("ext4"), Cut::Connection))),
        },
        Scenario {
            name: "connection-dropped-deleting-nfs",
            about: "the connection drops before or after any call of deleting an NFS volume: nothing is left",
            run: Run::Chain(|lab| Box::pin(deleting(lab, nfs(), Cut::Connection))),
        },
        Scenario {
            name: "connection-dropped-deleting-nvmeof",
            about: "the same for an NVMe-oF volume",
            run: Run::Chain(|lab| Box::pin(deleting(lab, nvmeof("ext4"), Cut::Connection))),
        },
    ]
}

/// What cuts the controller off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// SIGKILL while the call waits at the appliance.
    Death,
    /// The connection ends.
    Connection,
}

/// Before or after the call has had its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Before,
    After,
}

impl When {
    fn word(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// A place where an operation is cut off.
#[derive(Clone, Debug)]
struct Point {
    method: String,
    /// The how many-th call of the method, from 1.
    call: u64,
    when: When,
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.when.word(), self.method, self.call)
    }
}

fn changes(method: &str) -> bool {
    [".create", ".update", ".delete"].iter().any(|verb| method.ends_with(verb))
}

/// The places to cut off an operation that makes these calls: around each effect, and before each kind of question. A
/// death is set by holding a method's calls, so it meets the first of each method.
fn points(calls: &BTreeMap<String, u64>, cut: Cut) -> Vec<Point> {
    let mut points = Vec::new();
    for (method, count) in calls {
        let last = if cut == Cut::Death { 1 } else { *count };
        for call in 1..=last {
            points.push(Point { method: method.clone(), call, when: When::Before });
            if changes(method) {
                points.push(Point { method: method.clone(), call, when: When::After });
            }
        }
    }
    points
}

/// The calls of one undisturbed creation and deletion. A first volume makes the controller read what it keeps: ports,
/// pools, the protocol's services.
async fn undisturbed(
    lab: &Lab,
    class: &Class,
) -> anyhow::Result<(BTreeMap<String, u64>, BTreeMap<String, u64>)> {
    let first = lab.kubelet.create("pvc-cut-first", class, GIB).await.context("CreateVolume")?;
    lab.kubelet.remove(&first).await?;
    lab.control.reset_figures().await?;
    let volume = lab.kubelet.create("pvc-cut-plain", class, GIB).await.context("CreateVolume")?;
    let creating = calls(lab).await?;
    lab.control.reset_figures().await?;
    lab.kubelet.remove(&volume).await?;
    let deleting = calls(lab).await?;
    must_hold_nothing(lab).await?;
    Ok((creating, deleting))
}

async fn creating(lab: &mut Lab, class: Class, cut: Cut) -> anyhow::Result<()> {
    let points = points(&undisturbed(lab, &class).await?.0, cut);
    ensure!(points.len() >= 4, "{points:?}");
    println!("   {} places", points.len());
    for (number, point) in points.iter().enumerate() {
        let name = format!("pvc-cut-{number}");
        let last = number + 1 == points.len();
        created(lab, &name, &class, cut, point, last).await.with_context(|| format!("cut {point}"))?;
    }
    Ok(())
}

async fn deleting(lab: &mut Lab, class: Class, cut: Cut) -> anyhow::Result<()> {
    let points = points(&undisturbed(lab, &class).await?.1, cut);
    ensure!(points.len() >= 4, "{points:?}");
    println!("   {} places", points.len());
    for (number, point) in points.iter().enumerate() {
        let name = format!("pvc-cut-{number}");
        deleted(lab, &name, &class, cut, point).await.with_context(|| format!("cut {point}"))?;
    }
    Ok(())
}

/// Calls per method since the figures were reset, without those that keep the session.
async fn calls(lab: &Lab) -> anyhow::Result<BTreeMap<String, u64>> {
    let answer = lab.control.send(json!({"command": "stats"})).await?;
    let methods = answer.get("methods").and_then(Value::as_object);
    let methods = methods.with_context(|| format!("no methods in {answer}"))?;
    Ok(methods
        .iter()
        .filter(|(method, _)| !method.starts_with("auth.") && !method.starts_with("core."))
        .filter_map(|(method, count)| Some((method.clone(), count.as_u64()?)))
        .collect())
}

async fn created(
    lab: &mut Lab,
    name: &str,
    class: &Class,
    cut: Cut,
    point: &Point,
    used: bool,
) -> anyhow::Result<()> {
    let (owned, asked) = (name.to_owned(), class.clone());
    cut_off(lab, cut, point, |kubelet| async move { kubelet.create(&owned, &asked, GIB).await.map(drop) })
        .await?;
    let kubelet = lab.kubelet.clone();
    let mut volume = again("CreateVolume", async || kubelet.create(name, class, GIB).await).await?;
    must_hold_only(lab, &volume).await?;
    if used {
        let same = kubelet.create(name, class, GIB).await.context("CreateVolume of what is there")?;
        ensure!(same.id == volume.id, "{} and then {}", volume.id, same.id);
        must_hold_only(lab, &volume).await?;
        kubelet.attach(&mut volume).await.context("ControllerPublishVolume")?;
        kubelet.stage(&volume).await.context("NodeStageVolume")?;
        let path = kubelet.publish(&volume, POD, false).await.context("NodePublishVolume")?;
        data::write(&path.join("data"), data::noise(name, 1 << 20)).await?;
        return kubelet.take_down(&volume, POD).await;
    }
    kubelet.remove(&volume).await?;
    must_hold_nothing(lab).await
}

async fn deleted(lab: &mut Lab, name: &str, class: &Class, cut: Cut, point: &Point) -> anyhow::Result<()> {
    let kubelet = lab.kubelet.clone();
    let volume: Volume = again("CreateVolume", async || kubelet.create(name, class, GIB).await).await?;
    let gone = volume.clone();
    cut_off(lab, cut, point, |kubelet| async move { kubelet.delete(&gone).await }).await?;
    kubelet.remove(&volume).await?;
    must_hold_nothing(lab).await
}

/// Begins an operation and cuts the controller off at the point; afterwards the controller runs and nothing is armed.
async fn cut_off<F>(
    lab: &mut Lab,
    cut: Cut,
    point: &Point,
    operation: impl FnOnce(Kubelet) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let drop =
        json!({"command": "drop", "method": point.method, "call": point.call, "when": point.when.word()});
    let running = match cut {
        Cut::Connection => {
            lab.control.send(drop).await?;
            tokio::spawn(operation(lab.kubelet.clone()))
        }
        Cut::Death => {
            // A call that is held before its effect must not have it later either, as if it had never arrived.
            if point.when == When::Before {
                lab.control.send(drop).await?;
            }
            let hold = json!({"command": "hold", "method": point.method, "when": point.when.word()});
            lab.control.send(hold).await?;
            let running = tokio::spawn(operation(lab.kubelet.clone()));
            let held = json!({"command": "wait_held", "method": point.method, "when": point.when.word(),
                              "count": 1, "timeout_ms": REACH_MS});
            let reached = lab.control.send(held).await;
            // Which questions are asked depends on what the controller remembers; effects never do.
            if let (Err(error), true) = (reached, changes(&point.method)) {
                bail!("the call was never made: {error:#}");
            }
            lab.controller.crash().await?;
            lab.control.send(json!({"command": "release", "method": point.method})).await?;
            lab.controller.restart().await?;
            running
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(150), running).await;
    let outcome = outcome.context("the operation hangs")?.context("the operation's task died")?;
    lab.control.send(json!({"command": "clear"})).await?;
    match outcome {
        // What a caller hears of a dead process is its own transport's word, not the driver's.
        Err(status) if cut == Cut::Connection && !is_pending(status.code()) => {
            Err(status).context("a cut was answered as if it were final")
        }
        _ => Ok(()),
    }
}
