//! Real sockets: TLS trust, plaintext on loopback, HTTP answers to the upgrade.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;
use truenas::{ApiKey, Client, ConnectionState, Lane, Options};

fn options(url: &str) -> Options {
    Options::new(url.parse().unwrap(), ApiKey::new("1-secret").unwrap())
}

/// The first state that is not `Connecting`.
async fn settled(client: &Client) -> ConnectionState {
    let mut states = client.watch();
    let settled = states.wait_for(|s| !matches!(s, ConnectionState::Connecting { .. }));
    timeout(Duration::from_secs(20), settled).await.expect("no connection and no failure").unwrap().clone()
}

/// Answers a login and pings.
async fn appliance(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let call: Value = serde_json::from_str(&text).unwrap();
        let result = match call["method"].as_str().unwrap() {
            "core.set_options" => json!({"legacy_jobs": true}),
            "auth.login_ex" => json!({"response_type": "SUCCESS"}),
            "system.version" => json!("25.10.5"),
            "failover.status" => json!("SINGLE"),
            "core.ping" => json!("pong"),
            other => panic!("{other}"),
        };
        let answer = json!({"jsonrpc": "2.0", "id": call["id"], "result": result}).to_string();
        socket.send(Message::Text(answer.into())).await.unwrap();
    }
}

/// A certificate authority and an appliance whose certificate names `name`; files in `dir`.
struct Site {
    _dir: tempfile::TempDir,
    ca_file: PathBuf,
    own_file: PathBuf,
    port: u16,
}

async fn site(name: &str) -> Site {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.pem");
    let own_file = dir.path().join("own.pem");
    std::fs::write(&ca_file, ca.pem()).unwrap();
    std::fs::write(&own_file, own.pem()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    appliance(stream).await;
                }
            });
        }
    });
    Site { _dir: dir, ca_file, own_file, port }
}

#[tokio::test]
async fn a_certificate_of_the_given_authority_is_accepted() {
    let site = site("127.0.0.1").await;
    let mut options = options(&format!("wss://127.0.0.1:{}", site.port));
    options.ca_file = Some(site.ca_file);
    let client = Client::new(options).unwrap();
    assert!(settled(&client).await.is_connected());
    let calls = client.calls(Lane::Ordinary, Instant::now() + Duration::from_secs(10));
    assert_eq!(calls.ping().await, Ok(()));
}

#[tokio::test]
async fn an_unknown_authority_and_a_foreign_name_are_refused_and_the_key_is_not_sent() {
    let site_a = site("127.0.0.1").await;
    let elsewhere = site("nas.example").await;
    let unknown = options(&format!("wss://127.0.0.1:{}", site_a.port));
    let mut other_ca = unknown.clone();
    other_ca.ca_file = Some(elsewhere.ca_file.clone());
    let mut other_name = options(&format!("wss://127.0.0.1:{}", elsewhere.port));
    other_name.ca_file = Some(elsewhere.ca_file);
    for options in [unknown, other_ca, other_name] {
        // A machine without any system certificate refuses earlier.
        let Ok(client) = Client::new(options) else { continue };
        let state = settled(&client).await;
        let ConnectionState::Unreachable { why, .. } = state else { panic!("{state}") };
        assert!(why.contains("certificate is not accepted"), "{why}");
        assert_eq!(client.counters().messages_sent, 0);
    }
}

#[tokio::test]
async fn any_certificate_passes_only_with_the_switch() {
    let site = site("nas.example").await;
    let mut options = options(&format!("wss://127.0.0.1:{}", site.port));
    options.skip_tls_verify = true;
    assert!(settled(&Client::new(options).unwrap()).await.is_connected());
}

#[tokio::test]
async fn the_appliances_own_certificate_can_be_given_instead_of_an_authority() {
    let site = site("localhost").await;
    let mut options = options(&format!("wss://127.0.0.1:{}", site.port));
    options.ca_file = Some(site.own_file);
    let state = settled(&Client::new(options).unwrap()).await;
    assert!(state.is_connected(), "{state}");
}

#[tokio::test]
async fn plaintext_works_on_loopback_with_the_switch() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(appliance(stream));
        }
    });
    for host in ["127.0.0.1", "localhost"] {
        let mut options = options(&format!("ws://{host}:{port}/api/current"));
        assert!(Client::new(options.clone()).is_err(), "not without the switch");
        options.allow_plaintext_loopback = true;
        assert!(settled(&Client::new(options).unwrap()).await.is_connected());
    }
}

#[tokio::test]
async fn http_answers_to_the_upgrade_are_explained() {
    for (status, words) in
        [("404 Not Found", "API version"), ("502 Bad Gateway", "starting"), ("307 Temporary", "wss://")]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await? > 0);
            stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await?;
            stream.shutdown().await?;
            io::Result::Ok(())
        });
        let mut options = options(&format!("ws://127.0.0.1:{port}/api/current"));
        options.allow_plaintext_loopback = true;
        let state = settled(&Client::new(options).unwrap()).await;
        assert!(state.to_string().contains(words), "{state}");
    }
}

#[tokio::test]
async fn a_refused_port_is_unreachable_and_an_answering_one_is_found_later() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut options = options(&format!("ws://{address}/api/current"));
    options.allow_plaintext_loopback = true;
    options.reconnect.max = Duration::from_millis(100);
    let client = Client::new(options).unwrap();
    assert!(matches!(settled(&client).await, ConnectionState::Unreachable { .. }));
    let Ok(listener) = TcpListener::bind(address).await else { return };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(appliance(stream));
        }
    });
    let calls = client.calls(Lane::Ordinary, Instant::now() + Duration::from_secs(20));
    assert_eq!(calls.ping().await, Ok(()), "a call waits for the connection");
}

#[test]
fn outside_a_runtime_there_is_no_client() {
    let mut options = options("ws://127.0.0.1:1/api/current");
    options.allow_plaintext_loopback = true;
    assert!(matches!(Client::new(options), Err(truenas::ConfigError::NoRuntime)));
}
