//! The socket: made safely, guarded by the peer's user id, and left in order.

use std::future::Future;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::{Stream, StreamExt};
use tns_csi_proto::helper::v1::node_helper_server::NodeHelperServer;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use super::Service;
use crate::sandbox::peer::AllowedPeers;
use crate::volume::Volumes;

/// Longest message, in bytes.
const MAX_MESSAGE: usize = 64 * 1024;
/// Requests at once on one connection.
const MAX_REQUESTS: u32 = 64;
/// How long running operations may go on after the end was asked for.
const GRACE: Duration = Duration::from_secs(20);

/// Pause after a connection could not be taken.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);

/// Binds the socket, before privileges are dropped: it is given to user (and group) `owner`, mode 0660. The directory
/// is made with mode 0750 and the same group when absent, and left as it is when present.
///
/// A stale socket is removed only when it is a socket on which nobody answers.
///
/// # Errors
/// In words: somebody else listens, or something else lies there.
pub fn bind(path: &Path, owner: u32) -> anyhow::Result<StdListener> {
    let directory =
        path.parent().filter(|parent| *parent != Path::new("/")).context("the socket needs a directory")?;
    if !directory.exists() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(directory)
            .with_context(|| format!("making socket directory {}", directory.display()))?;
        give(directory, None, owner)?;
    }
    match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("looking at socket {}", path.display())),
        Ok(found) if !found.file_type().is_socket() => {
            anyhow::bail!("{} exists and is not a socket; it is left alone", path.display())
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => anyhow::bail!("another process listens on {}", path.display()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?
            }
            Err(error) => return Err(error).with_context(|| format!("trying socket {}", path.display())),
        },
    }
    let listener = StdListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
    give(path, Some(owner), owner)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Changes owner and group; without the privilege to (tests) only what is ours already can stay so.
fn give(path: &Path, user: Option<u32>, group: u32) -> anyhow::Result<()> {
    match std::os::unix::fs::chown(path, user, Some(group)) {
        Err(error)
            if error.kind() == std::io::ErrorKind::PermissionDenied && !nix::unistd::geteuid().is_root() =>
        {
            Ok(())
        }
        outcome => outcome.with_context(|| format!("giving {} to user id {group}", path.display())),
    }
}

/// Serves until `stop` completes, then lets what runs end.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: StdListener,
    peers: AllowedPeers,
    volumes: Arc<Volumes>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let connections = admitted(UnixListenerStream::new(UnixListener::from_std(listener)?), peers);
    let service = NodeHelperServer::new(Service::new(Arc::clone(&volumes)))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(usize::MAX);
    let server = Server::builder()
        .max_concurrent_streams(MAX_REQUESTS)
        .initial_stream_window_size(u32::try_from(MAX_MESSAGE)?)
        .http2_max_header_list_size(16 * 1024)
        .add_service(service);
    let (begun, asked) = tokio::sync::oneshot::channel();
    let stop = async move {
        stop.await;
        let _nobody_waits = begun.send(());
    };
    let serving = server.serve_with_incoming_shutdown(connections, stop);
    // A client that keeps its connection open must not keep the process.
    let bound = async move {
        let _asked = asked.await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        outcome = serving => outcome?,
        () = bound => tracing::warn!("connections were still open at the end"),
    }
    volumes.finish(GRACE).await;
    Ok(())
}

/// Connections whose peer may call; every other one is closed before a byte is read.
fn admitted(
    connections: UnixListenerStream,
    peers: AllowedPeers,
) -> impl Stream<Item = std::io::Result<UnixStream>> {
    connections.filter_map(move |connection| {
        let peers = peers.clone();
        async move {
            match connection {
                Ok(connection) => match peers.admit(&connection) {
                    Ok(()) => Some(Ok(connection)),
                    Err(reason) => {
                        tracing::warn!(reason, "a connection was refused");
                        None
                    }
                },
                // One connection's failure (it was gone before it was taken, no descriptor is left) is not the listener's;
                // the pause keeps a lasting one from spinning.
                Err(error) => {
                    tracing::warn!(%error, "a connection was lost");
                    tokio::time::sleep(ACCEPT_BACK_OFF).await;
                    None
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_uid() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    #[test]
    fn a_stale_socket_is_replaced_and_anything_else_is_left() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("made/helper.sock");
        let listener = bind(&path, own_uid()).expect("bound");
        let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().expect("a directory"))), (0o660, 0o750));
        let error = bind(&path, own_uid()).expect_err("in use");
        assert!(error.to_string().contains("another process"), "{error}");
        drop(listener);
        bind(&path, own_uid()).expect("nobody answers on it");
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "data").expect("a file");
        assert!(bind(&path, own_uid()).is_err());
        assert_eq!(std::fs::read(&path).expect("still there"), b"data");
    }
}
