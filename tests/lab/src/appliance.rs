//! What the lab does at the stand-in appliance besides what the driver does: faults and figures through its control
//! socket, and an administrator's acts on its pool.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::guest::{output, run};

/// The stand-in's control socket: one JSON object per line each way.
#[derive(Clone, Debug)]
pub struct Control {
    socket: PathBuf,
}

/// Calls that the appliance answered since the figures were reset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Number of calls.
    pub calls: u64,
    /// Longest chain of calls of which each began after the one before had ended.
    pub hops: u64,
}

impl Control {
    /// Control through this socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Sends a command and returns its result.
    pub async fn send(&self, command: Value) -> anyhow::Result<Value> {
        let mut answer = truenas_sim::send_control(&self.socket, &command.to_string()).await?;
        if answer.get("ok") != Some(&Value::Bool(true)) {
            bail!("the control command {command} was refused: {answer}");
        }
        Ok(answer.get_mut("result").map(Value::take).unwrap_or_default())
    }

    /// Sets the figures to zero.
    pub async fn reset_figures(&self) -> anyhow::Result<()> {
        self.send(json!({"command": "reset_stats"})).await.map(drop)
    }

    /// Reads the figures.
    pub async fn figures(&self) -> anyhow::Result<Figures> {
        let answer = self.send(json!({"command": "stats"})).await?;
        let number = |name: &str| {
            answer.get(name).and_then(Value::as_u64).with_context(|| format!("no {name} in {answer}"))
        };
        Ok(Figures { calls: number("calls")?, hops: number("hops")? })
    }
}

/// Datasets and zvols below a dataset, itself not counted.
pub fn datasets_below(dataset: &str) -> anyhow::Result<Vec<String>> {
    let text = output("zfs", &["list", "-H", "-r", "-t", "filesystem,volume", "-o", "name", dataset])?;
    Ok(text.lines().filter(|name| *name != dataset).map(str::to_owned).collect())
}

/// A property of a dataset as `zfs get -p` prints it.
pub fn property(dataset: &str, name: &str) -> anyhow::Result<String> {
    Ok(output("zfs", &["get", "-Hp", "-o", "value", name, dataset])?.trim().to_owned())
}

/// Destroys whatever lies below a dataset, with all that depends on it: the lab's own clearing up after a failure.
pub fn destroy_below(dataset: &str) -> anyhow::Result<()> {
    for child in
        output("zfs", &["list", "-H", "-d", "1", "-t", "filesystem,volume,snapshot", "-o", "name", dataset])?
            .lines()
    {
        if child != dataset {
            run("zfs", &["destroy", "-R", "-f", child])?;
        }
    }
    Ok(())
}
