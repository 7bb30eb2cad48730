//! The control socket: one JSON command per line, one JSON answer per line.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::command;
use crate::appliance::Shared;

/// Binds the socket (a stale one of the same path is replaced) and serves it until the appliance stops.
pub(crate) async fn listen(shared: Arc<Shared>, path: &Path) -> anyhow::Result<()> {
    match UnixStream::connect(path).await {
        Ok(_) => anyhow::bail!("the control socket {} is served by another process", path.display()),
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)
        .with_context(|| format!("cannot listen on the control socket {}", path.display()))?;
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = shared.shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            if let Ok((stream, _)) = accepted {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    if let Err(error) = serve(&shared, stream).await {
                        tracing::debug!(%error, "a control connection broke");
                    }
                });
            }
        }
    });
    Ok(())
}

async fn serve(shared: &Arc<Shared>, stream: UnixStream) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        if line.trim().is_empty() {
            continue;
        }
        let outcome = match serde_json::from_str(&line) {
            Ok(command) => command::run(shared, command).await,
            Err(e) => Err(format!("not a command: {e}")),
        };
        let answer = match outcome {
            Ok(result) => json!({"ok": true, "result": result}),
            Err(error) => json!({"ok": false, "error": error}),
        };
        writer.write_all(format!("{answer}\n").as_bytes()).await?;
    }
    Ok(())
}

/// Sends one command to another process's socket and gives its answer.
pub async fn send(path: &Path, command: &str) -> anyhow::Result<Value> {
    let parsed: Value = serde_json::from_str(command).context("the command is not JSON")?;
    let mut stream = UnixStream::connect(path)
        .await
        .with_context(|| format!("cannot reach the control socket {}", path.display()))?;
    stream.write_all(format!("{parsed}\n").as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    serde_json::from_str(&line).context("the answer is not JSON")
}
