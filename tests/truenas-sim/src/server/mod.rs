//! The appliance's front: TLS, the few HTTP paths, the WebSocket and its limits, the JSON-RPC frames.

mod connection;
mod http;
mod rpc;
pub(crate) mod session;
pub(crate) mod tls;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::appliance::Shared;

/// Accepts connections until the appliance stops.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    loop {
        let accepted = tokio::select! {
            () = shared.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                continue;
            }
        };
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        tokio::spawn(async move {
            shared.stats.connected();
            if let Err(error) = greet(&shared, stream, peer, tls).await {
                tracing::debug!(%peer, %error, "connection ended");
            }
        });
    }
}

async fn greet(
    shared: &Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    match tls {
        Some(acceptor) => {
            let stream = acceptor.accept(stream).await?;
            speak(shared, stream, peer, true).await
        }
        None => speak(shared, stream, peer, false).await,
    }
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    shared: &Arc<Shared>,
    mut stream: S,
    peer: SocketAddr,
    tls: bool,
) -> anyhow::Result<()> {
    let down = shared.is_down();
    match http::answer(&mut stream, shared.config.version, &shared.boot_id(), down).await? {
        http::Outcome::Answered => Ok(()),
        http::Outcome::Upgraded(rest) => connection::run(shared, stream, rest, peer, tls).await,
    }
}
