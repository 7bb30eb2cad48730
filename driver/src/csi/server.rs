//! The CSI socket: binding it safely, serving on it, and ending without cutting a call off.
//!
//! The rules it keeps: a file at the socket's path is removed only when it is a socket that nobody answers on; once
//! the end has begun, running calls finish within [`DRAIN_WITHIN`] and new ones are UNAVAILABLE.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tracing::warn;

use crate::csi::layer::RpcLayer;
use crate::endpoint::UnixEndpoint;
use crate::observe::Metrics;

/// Mode of the socket: the driver's user and group (the sidecars), and root (kubelet).
const SOCKET_MODE: u32 = 0o660;
/// Longest wait for running calls at the end; Kubernetes gives a pod 30 s by default.
pub const DRAIN_WITHIN: Duration = Duration::from_secs(25);
/// Longest wait, after the last call, for its answer to leave and for callers to close their connections.
const FLUSH_WITHIN: Duration = Duration::from_millis(500);
/// Longest wait for an answer of whoever may listen on a socket that is already there.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// A bound CSI socket. Its file goes when this is dropped, if it is still the same one.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    file: SocketFile,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have taken the path over: its socket stays.
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// Binds the socket, removing a stale one.
    ///
    /// # Errors
    /// Something at the path that is no socket, a socket that somebody answers on, or a directory that is missing or
    /// not writable; in words.
    pub async fn bind(endpoint: &UnixEndpoint) -> anyhow::Result<Self> {
        let path = endpoint.path();
        remove_stale(path).await?;
        let listener = UnixListener::bind(path).with_context(|| {
            format!("cannot listen on {endpoint}: does its directory exist and is it writable?")
        })?;
        let file = SocketFile { path: path.to_owned(), identity: identity(path)? };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))
            .with_context(|| format!("cannot set the mode of {}", path.display()))?;
        Ok(Listener { listener, file })
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

async fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", path.display())),
    };
    if !found.file_type().is_socket() {
        anyhow::bail!(
            "{} exists and is no socket: it was left alone, remove it or use another path",
            path.display()
        );
    }
    match tokio::time::timeout(ANSWER_WITHIN, UnixStream::connect(path)).await {
        // Refused means that no process listens on it any more.
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)
            .with_context(|| format!("cannot remove the stale socket {}", path.display())),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(Ok(_)) | Err(_) => anyhow::bail!("another process serves {}: stop it first", path.display()),
        Ok(Err(error)) => Err(error)
            .with_context(|| format!("{} is a socket of unknown state and was left alone", path.display())),
    }
}

/// Serves `routes` until `stop` is cancelled and the running calls have ended, or [`DRAIN_WITHIN`] has passed since.
///
/// # Errors
/// The socket failed.
pub async fn serve(
    listener: Listener,
    routes: Routes,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let Listener { listener, file } = listener;
    let layer = RpcLayer::new(metrics, stop.clone());
    let calls = layer.clone();
    let server = Server::builder()
        .layer(layer)
        .add_routes(routes)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.clone().cancelled_owned());
    // A caller that keeps an idle connection open must not hold the end up: it is the calls that count.
    let drained = async {
        stop.cancelled().await;
        if tokio::time::timeout(DRAIN_WITHIN, calls.drained()).await.is_err() {
            warn!(seconds = DRAIN_WITHIN.as_secs(), "calls still run at the end, leaving them");
        }
        tokio::time::sleep(FLUSH_WITHIN).await;
    };
    tokio::select! {
        ended = server => ended.context("serving CSI")?,
        () = drained => {}
    }
    drop(file);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(dir: &Path) -> UnixEndpoint {
        format!("unix://{}", dir.join("csi.sock").display()).parse().unwrap()
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_the_own_one_removed_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = endpoint(dir.path());
        drop(std::os::unix::net::UnixListener::bind(endpoint.path()).unwrap());
        assert!(endpoint.path().exists());
        let listener = Listener::bind(&endpoint).await.unwrap();
        let mode = std::fs::metadata(endpoint.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        drop(listener);
        assert!(!endpoint.path().exists());
    }

    #[tokio::test]
    async fn a_socket_in_use_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = endpoint(dir.path());
        let _first = Listener::bind(&endpoint).await.unwrap();
        let error = Listener::bind(&endpoint).await.unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
        assert!(UnixStream::connect(endpoint.path()).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = endpoint(dir.path());
        std::fs::write(endpoint.path(), "precious").unwrap();
        assert!(Listener::bind(&endpoint).await.is_err());
        assert_eq!(std::fs::read_to_string(endpoint.path()).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_socket_that_another_process_put_there_since_stays() {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = endpoint(dir.path());
        let listener = Listener::bind(&endpoint).await.unwrap();
        std::fs::remove_file(endpoint.path()).unwrap();
        let other = std::os::unix::net::UnixListener::bind(endpoint.path()).unwrap();
        drop(listener);
        assert!(endpoint.path().exists());
        drop(other);
    }
}
