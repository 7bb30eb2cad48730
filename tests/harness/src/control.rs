//! The stand-in appliance's control socket: one JSON object per line each way (`truenas-sim --help` lists the commands).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Time an answer may take; `restart` answers when all is served again.
const ANSWER: Duration = Duration::from_secs(120);

/// The stand-in's control socket.
#[derive(Clone, Debug)]
pub struct Control {
    socket: PathBuf,
}

/// What was asked of the appliance since the figures were reset; calls that keep the session are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Figures {
    /// Number of calls.
    pub calls: u64,
    /// Longest chain of calls of which each began after the one before had ended.
    pub hops: u64,
    /// Microseconds from a call's arrival to its answer, summed over all calls that were answered.
    pub served_us: u64,
    /// Calls per method, those that keep the session included.
    pub methods: BTreeMap<String, u64>,
}

impl Figures {
    /// Mean time from a call's arrival to its answer: the latency as the appliance sees it.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        self.served_us.checked_div(self.calls).map(Duration::from_micros)
    }
}

impl Control {
    /// Control through this socket.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Sends a command and returns its result.
    ///
    /// # Errors
    /// Nobody answers there in time, or the command is refused.
    pub async fn send(&self, command: Value) -> anyhow::Result<Value> {
        let doing = || format!("control command {command}");
        let line = timeout(ANSWER, self.exchange(&command)).await.with_context(doing)?.with_context(doing)?;
        answer(&line).with_context(doing)
    }

    async fn exchange(&self, command: &Value) -> anyhow::Result<String> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .with_context(|| format!("connecting to {}", self.socket.display()))?;
        let (reader, mut writer) = stream.into_split();
        writer.write_all(format!("{command}\n").as_bytes()).await.context("sending it")?;
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).await.context("reading the answer")?;
        Ok(line)
    }

    /// Delays every call by whole milliseconds.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn latency(&self, latency: Duration) -> anyhow::Result<()> {
        let ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
        self.send(json!({"command": "latency", "ms": ms})).await.map(drop)
    }

    /// Sets the figures to zero.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn reset_figures(&self) -> anyhow::Result<()> {
        self.send(json!({"command": "reset_stats"})).await.map(drop)
    }

    /// Reads the figures.
    ///
    /// # Errors
    /// As [`Self::send`], and when the answer has none.
    pub async fn figures(&self) -> anyhow::Result<Figures> {
        let result = self.send(json!({"command": "stats"})).await?;
        Figures::deserialize(&result).with_context(|| format!("no figures in {result}"))
    }
}

/// The result in an answer line.
fn answer(line: &str) -> anyhow::Result<Value> {
    let mut answer: Value = serde_json::from_str(line).with_context(|| format!("was answered {line:?}"))?;
    if let Some(error) = answer.get("error") {
        bail!("refused: {error}");
    }
    if answer.get("ok").and_then(Value::as_bool) != Some(true) {
        bail!("was answered {answer}");
    }
    Ok(answer.get_mut("result").map(Value::take).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_result_or_an_error() {
        let good =
            answer("{\"ok\":true,\"result\":{\"calls\":2,\"hops\":1,\"served_us\":90,\"methods\":{}}}\n");
        let figures = Figures::deserialize(&good.unwrap()).unwrap();
        assert_eq!(figures, Figures { calls: 2, hops: 1, served_us: 90, methods: BTreeMap::new() });
        assert_eq!(figures.latency(), Some(Duration::from_micros(45)));
        assert_eq!(Figures::default().latency(), None);
        assert_eq!(answer("{\"ok\":true,\"result\":null}").unwrap(), Value::Null);
        assert!(
            answer("{\"ok\":false,\"error\":\"no such command\"}")
                .unwrap_err()
                .to_string()
                .contains("no such")
        );
        for bad in ["", "{}", "{\"result\":1}"] {
            assert!(answer(bad).is_err(), "{bad}");
        }
    }
}
