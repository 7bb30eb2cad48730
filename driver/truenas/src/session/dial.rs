//! Reaching the appliance: TCP, TLS, WebSocket upgrade.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use url::Host;

use crate::options::Endpoint;

/// TCP, TLS and upgrade together.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// A byte stream to the appliance.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// An upgraded connection.
pub(crate) type Socket = WebSocketStream<Box<dyn Io>>;

/// A connection attempt; the error is for the operator.
pub(crate) type DialFuture<'a> = Pin<Box<dyn Future<Output = Result<Socket, String>> + Send + 'a>>;

/// Makes connections to one appliance.
pub(crate) trait Dial: Send + Sync {
    fn dial<'a>(&'a self, to: &'a Endpoint) -> DialFuture<'a>;
}

/// The real network.
pub(crate) struct Network {
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) max_message: usize,
}

/// Small buffers: one connection that rests most of the time.
pub(crate) fn websocket_config(max_message: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(16 << 10)
        .write_buffer_size(0)
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message))
}

impl Dial for Network {
    fn dial<'a>(&'a self, to: &'a Endpoint) -> DialFuture<'a> {
        Box::pin(self.connect(to))
    }
}

impl Network {
    async fn connect(&self, to: &Endpoint) -> Result<Socket, String> {
        let Endpoint { host, port, tls, url } = to;
        let address = match host {
            Host::Domain(name) => (name.clone(), *port),
            Host::Ipv4(ip) => (ip.to_string(), *port),
            Host::Ipv6(ip) => (ip.to_string(), *port),
        };
        let stream = TcpStream::connect(address).await.map_err(|e| format!("{host}:{port}: {e}"))?;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let stream: Box<dyn Io> = match (tls, &self.tls) {
            (true, Some(config)) => Box::new(encrypt(host, Arc::clone(config), stream).await?),
            (true, None) => return Err(format!("TLS with {host} was not set up")),
            (false, _) => {
                // The name was checked when the options were; what it resolved to is checked here.
                let peer = stream.peer_addr().map_err(|e| format!("{host}:{port}: {e}"))?;
                if !peer.ip().is_loopback() {
                    return Err(format!(
                        "{host} is not a loopback address ({peer}); the key is not sent in clear"
                    ));
                }
                Box::new(stream)
            }
        };
        let config = websocket_config(self.max_message);
        match tokio_tungstenite::client_async_with_config(url.as_str(), stream, Some(config)).await {
            Ok((socket, _)) => Ok(socket),
            Err(error) => Err(upgrade_problem(&error)),
        }
    }
}

async fn encrypt(
    host: &Host<String>,
    config: Arc<ClientConfig>,
    stream: TcpStream,
) -> Result<impl Io + use<>, String> {
    let name = match host {
        Host::Domain(name) => {
            ServerName::try_from(name.clone()).map_err(|_| format!("{name} is not a host name"))?
        }
        Host::Ipv4(ip) => ServerName::from(std::net::IpAddr::V4(*ip)),
        Host::Ipv6(ip) => ServerName::from(std::net::IpAddr::V6(*ip)),
    };
    TlsConnector::from(config).connect(name, stream).await.map_err(|e| tls_problem(host, &e))
}

fn tls_problem(host: &Host<String>, error: &io::Error) -> String {
    let certificate = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>())
        .is_some_and(|e| matches!(e, rustls::Error::InvalidCertificate(_)));
    if certificate {
        format!(
            "TLS with {host}: the certificate is not accepted ({error}); give a CA file with its authority (then the URL must use a name that the certificate has) or with this certificate itself"
        )
    } else {
        format!("TLS with {host}: {error}")
    }
}

/// Words for a failed upgrade; statuses as the appliance's nginx gives them.
fn upgrade_problem(error: &WsError) -> String {
    let WsError::Http(response) = error else { return format!("WebSocket upgrade: {error}") };
    let status = response.status().as_u16();
    match status {
        301 | 302 | 307 | 308 => format!("WebSocket upgrade: HTTP {status}, the appliance redirects to HTTPS: use wss://"),
        404 => "WebSocket upgrade: HTTP 404, no such API version on this appliance (or no TrueNAS 25.04 or later)".to_owned(),
        502..=504 => format!("WebSocket upgrade: HTTP {status}, the appliance's API is starting"),
        _ => format!("WebSocket upgrade: HTTP {status}"),
    }
}
