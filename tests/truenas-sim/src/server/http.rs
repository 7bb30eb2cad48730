//! The HTTP in front of the WebSocket: one request head, then an upgrade or a short answer.

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::config::Version;

/// The largest request head that is read.
const LARGEST_HEAD: usize = 16 * 1024;

/// What became of the request.
pub(super) enum Outcome {
    /// A plain answer was sent; the connection is done.
    Answered,
    /// The connection is a WebSocket from here; these bytes were read beyond the head.
    Upgraded(Vec<u8>),
}

struct Head {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
}

impl Head {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.split("\r\n");
        let mut request = lines.next()?.split(' ');
        let (method, target, version) = (request.next()?, request.next()?, request.next()?);
        if !version.starts_with("HTTP/1.") || request.next().is_some() {
            return None;
        }
        let path = target.split('?').next()?.to_owned();
        let headers = lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                line.split_once(':').map(|(k, v)| (k.trim().to_ascii_lowercase(), v.trim().to_owned()))
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Self { method: method.to_owned(), path, headers })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads the head and answers it. While the appliance is down every request gets 502, as the web server in front gives.
pub(super) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    version: Version,
    boot_id: &str,
    down: bool,
) -> anyhow::Result<Outcome> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        anyhow::ensure!(bytes.len() < LARGEST_HEAD, "the request head is longer than {LARGEST_HEAD} bytes");
        let mut chunk = [0_u8; 1024];
        let read = stream.read(&mut chunk).await?;
        anyhow::ensure!(read > 0, "closed before a request");
        bytes.extend_from_slice(chunk.get(..read).unwrap_or_default());
    };
    let rest = bytes.split_off(end + 4);
    let head = Head::parse(&String::from_utf8_lossy(&bytes));
    let Some(head) = head else { return reply(stream, "400 Bad Request", "").await };
    if down {
        return reply(stream, "502 Bad Gateway", "").await;
    }
    if head.method != "GET" {
        return reply(stream, "405 Method Not Allowed", "").await;
    }
    let endpoint = head.path.strip_prefix("/api/").unwrap_or_default();
    match endpoint {
        "versions" => return reply(stream, "200 OK", &json!(version.api_versions()).to_string()).await,
        "boot_id" => return reply(stream, "200 OK", &json!(boot_id).to_string()).await,
        "current" => {}
        // Served although it is not listed.
        known if known == "v24.10" || version.api_versions().contains(&known) => {}
        _ => return reply(stream, "404 Not Found", "").await,
    }
    let upgrades = head.header("upgrade").is_some_and(|v| v.eq_ignore_ascii_case("websocket"));
    match head.header("sec-websocket-key") {
        Some(key) if upgrades => {
            let accept = derive_accept_key(key.as_bytes());
            let words = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            stream.write_all(words.as_bytes()).await?;
            stream.flush().await?;
            Ok(Outcome::Upgraded(rest))
        }
        _ => reply(stream, "400 Bad Request", "").await,
    }
}

async fn reply<S: AsyncWrite + Unpin>(stream: &mut S, status: &str, body: &str) -> anyhow::Result<Outcome> {
    let words = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(words.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(Outcome::Answered)
}
