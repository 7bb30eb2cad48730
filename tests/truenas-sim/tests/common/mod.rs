//! A plain client of the API for tests: one socket, calls by hand.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use truenas_sim::{Appliance, Config};

pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

pub const DEADLINE: Duration = Duration::from_secs(20);

/// The folder of the appliance's API facts beside the repository, when it is there.
pub fn facts() -> Option<PathBuf> {
    let named = std::env::var_os("TNS_CSI_SIM_SCHEMAS").map(PathBuf::from);
    let folder = match named.as_deref().and_then(std::path::Path::parent) {
        Some(parent) => parent.to_owned(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/truenas-api"),
    };
    folder.join("schemas").is_dir().then_some(folder)
}

/// A set-up that checks every message against the appliance's schemas when they are there.
pub fn config() -> Config {
    let schemas = Config::default().schemas.or_else(|| Some(facts()?.join("schemas")));
    if schemas.is_none() {
        eprintln!("NOT CHECKED: the appliance's schemas are not here; messages are not compared with them");
    }
    Config { schemas, ..Config::default() }
}

pub async fn start() -> Appliance {
    Appliance::start(config()).await.unwrap()
}

/// Fails when a request or an answer broke the appliance's schema.
pub fn assert_schemas_kept(appliance: &Appliance) {
    let stats = appliance.control().stats();
    assert_eq!(stats.schema_violations, Vec::<String>::new());
}

pub async fn tls(appliance: &Appliance) -> Box<dyn Wire> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(appliance.ca_pem().as_bytes()).unwrap()).unwrap();
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let stream = TcpStream::connect(appliance.address()).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    Box::new(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap())
}

/// A plain GET over TLS: status line and body.
pub async fn get(appliance: &Appliance, path: &str) -> (String, String) {
    let mut stream = tls(appliance).await;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: sim\r\n\r\n").as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

pub struct Client {
    pub socket: WebSocketStream<Box<dyn Wire>>,
    next: u64,
    /// What arrived while the answer to a call was waited for: events overtake answers.
    early: VecDeque<Value>,
}

impl Client {
    pub async fn open(appliance: &Appliance) -> Self {
        let stream = tls(appliance).await;
        let (socket, _) = tokio_tungstenite::client_async(appliance.url(), stream).await.unwrap();
        Self { socket, next: 1, early: VecDeque::new() }
    }

    pub async fn login(appliance: &Appliance) -> Self {
        let mut client = Self::open(appliance).await;
        let answer = client
            .ok(
                "auth.login_ex",
                json!([{"mechanism": "API_KEY_PLAIN", "username": appliance.api_key_user(),
                    "api_key": appliance.api_key(), "login_options": {"user_info": false}}]),
            )
            .await;
        assert_eq!(answer["response_type"], "SUCCESS");
        client
    }

    /// Sends a call and returns its id.
    pub async fn send(&mut self, method: &str, params: Value) -> u64 {
        let id = self.next;
        self.next += 1;
        let text = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
        self.raw(text).await;
        id
    }

    pub async fn raw(&mut self, text: String) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// The next frame; `None` when the connection has ended.
    pub async fn frame(&mut self) -> Option<Message> {
        tokio::time::timeout(DEADLINE, self.socket.next()).await.expect("no frame in time")?.ok()
    }

    /// The next message that no call has taken.
    pub async fn next(&mut self) -> Option<Value> {
        match self.early.pop_front() {
            Some(message) => Some(message),
            None => self.receive().await,
        }
    }

    /// The next text frame as JSON.
    async fn receive(&mut self) -> Option<Value> {
        loop {
            match self.frame().await? {
                Message::Text(text) => return Some(serde_json::from_str(&text).unwrap()),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    /// Calls and waits for that call's answer; the whole message.
    pub async fn call(&mut self, method: &str, params: Value) -> Option<Value> {
        let id = self.send(method, params).await;
        loop {
            let message = self.receive().await?;
            if message["id"] == id {
                return Some(message);
            }
            self.early.push_back(message);
        }
    }

    pub async fn ok(&mut self, method: &str, params: Value) -> Value {
        let answer = self.call(method, params.clone()).await.expect("the connection ended");
        assert!(answer.get("error").is_none(), "{method} {params}: {}", answer["error"]);
        answer["result"].clone()
    }

    pub async fn err(&mut self, method: &str, params: Value) -> Value {
        let answer = self.call(method, params.clone()).await.expect("the connection ended");
        assert!(answer.get("error").is_some(), "{method} {params} succeeded: {}", answer["result"]);
        answer["error"].clone()
    }
}

/// The first finding of a -32602.
pub fn finding(error: &Value) -> (Option<&str>, &str, i64) {
    assert_eq!(error["code"], -32602, "{error}");
    let item = &error["data"]["extra"][0];
    (item[0].as_str(), item[1].as_str().unwrap(), item[2].as_i64().unwrap())
}
