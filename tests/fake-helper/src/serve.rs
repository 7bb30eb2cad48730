//! The socket of a fake helper.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tns_csi_proto::helper::v1::node_helper_server::NodeHelperServer;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::FakeHelper;

/// Largest request the helper API allows.
const MAX_MESSAGE: usize = 64 << 10;

/// A fake helper that serves; it ends when this is dropped.
#[derive(Debug)]
pub struct Running {
    socket: PathBuf,
    task: JoinHandle<()>,
}

impl Running {
    /// Path of its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends it as a kill would: running calls are cut off. Returns when nothing serves any more.
    pub async fn kill(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves `helper` at a socket until the returned value is dropped. A socket file that is there is replaced.
///
/// # Errors
/// The socket cannot be made, or something else lies at its path.
pub fn start(helper: FakeHelper, socket: impl Into<PathBuf>) -> anyhow::Result<Running> {
    let socket = socket.into();
    match socket.symlink_metadata() {
        Ok(found) if found.file_type().is_socket() => {
            std::fs::remove_file(&socket)
                .with_context(|| format!("removing the stale {}", socket.display()))?;
        }
        Ok(_) => anyhow::bail!("{} exists and is no socket", socket.display()),
        Err(_) => {}
    }
    let listener =
        UnixListener::bind(&socket).with_context(|| format!("listening at {}", socket.display()))?;
    let task = tokio::spawn(async move {
        let served = Server::builder()
            .add_service(NodeHelperServer::new(helper).max_decoding_message_size(MAX_MESSAGE))
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "the fake helper's server ended");
        }
    });
    Ok(Running { socket, task })
}
