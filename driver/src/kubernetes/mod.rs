//! The one question that the driver asks the Kubernetes API: which annotations a PersistentVolumeClaim has.
//!
//! The rule it keeps: nothing is asked unless a class allows its claims to override it, and nothing is ever written. The
//! service account's files are read again for each question, because kubelet renews the token.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::volume::failure::{Failure, Kind};

/// Where kubelet puts the service account's token and the API server's CA.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Largest answer that is read: etcd stores no larger object (1.5 MiB by default).
const MAX_ANSWER: usize = 2 << 20;
/// Longest name of a namespace or a claim (RFC 1123 subdomain).
const MAX_NAME: usize = 253;

/// The API server of the cluster in which this process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    host: String,
    port: u16,
    service_account: PathBuf,
}

/// What is read of a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Tells it from an earlier claim of the same name.
    pub uid: Option<String>,
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Kubernetes {
    /// The API server as kubelet tells a pod: `KUBERNETES_SERVICE_HOST` and `_PORT` and the service account's directory.
    /// None outside a pod.
    #[must_use]
    pub fn in_cluster() -> Option<Self> {
        let host = std::env::var("KUBERNETES_SERVICE_HOST").ok()?;
        let port = std::env::var("KUBERNETES_SERVICE_PORT").ok()?.parse().ok()?;
        Some(Self::new(host, port, SERVICE_ACCOUNT)).filter(|it| it.service_account.join("token").exists())
    }

    /// The API server at an address, with a directory that holds `token` and `ca.crt`.
    pub fn new(host: impl Into<String>, port: u16, service_account: impl Into<PathBuf>) -> Self {
        Kubernetes { host: host.into(), port, service_account: service_account.into() }
    }

    /// Reads one claim.
    ///
    /// # Errors
    /// UNAVAILABLE when the server cannot be asked or is overloaded, FAILED_PRECONDITION when the claim does not exist
    /// or the service account may not read it, INVALID_ARGUMENT for what is no name.
    pub async fn claim(&self, namespace: &str, name: &str, until: Instant) -> Result<Claim, Failure> {
        for text in [namespace, name] {
            if !is_name(text) {
                return Err(Failure::invalid(format!("{text:?} is no name of a namespace or claim")));
            }
        }
        let asked = timeout_at(until, self.get(namespace, name)).await;
        let (status, body) = asked.map_err(|_| self.unavailable("it did not answer in time"))??;
        let what = format!("claim {namespace}/{name}");
        match status {
            StatusCode::OK => {
                let read: Object = serde_json::from_slice(&body)
                    .map_err(|_| self.unavailable(&format!("its answer about {what} is none")))?;
                Ok(Claim {
                    annotations: read.metadata.annotations.unwrap_or_default(),
                    uid: read.metadata.uid,
                })
            }
            StatusCode::NOT_FOUND => Err(Failure::precondition(format!("{what} does not exist"))),
            StatusCode::FORBIDDEN => Err(Failure::precondition(format!(
                "the controller's service account may not read {what}; grant it \"get\" on persistentvolumeclaims"
            ))),
            // The token may just have been renewed.
            StatusCode::UNAUTHORIZED => Err(self.unavailable("it does not know the service account's token")),
            other => Err(self.unavailable(&format!("it answers {other} about {what}"))),
        }
    }

    async fn get(&self, namespace: &str, name: &str) -> Result<(StatusCode, Bytes), Failure> {
        let failed = |what: &str, why: &dyn std::fmt::Display| self.unavailable(&format!("{what}: {why}"));
        let connector = TlsConnector::from(Arc::new(self.tls().await?));
        let server = match self.host.parse::<IpAddr>() {
            Ok(address) => ServerName::from(address),
            Err(_) => ServerName::try_from(self.host.clone()).map_err(|why| failed("its name", &why))?,
        };
        let socket = TcpStream::connect((self.host.as_str(), self.port)).await;
        let socket = socket.map_err(|why| failed("connecting", &why))?;
        let stream = connector.connect(server, socket).await.map_err(|why| failed("TLS", &why))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|why| failed("HTTP", &why))?;
        // It ends with the sender.
        let connection = tokio::spawn(connection);
        let request = Request::get(format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}"))
            .header(HOST, self.authority())
            .header(ACCEPT, "application/json")
            .header(AUTHORIZATION, self.authorization().await?)
            .body(Empty::<Bytes>::new())
            .map_err(|why| failed("the request", &why))?;
        let answer = sender.send_request(request).await.map_err(|why| failed("the request", &why))?;
        let (head, body) = answer.into_parts();
        let body =
            Limited::new(body, MAX_ANSWER).collect().await.map_err(|why| failed("its answer", &why))?;
        connection.abort();
        Ok((head.status, body.to_bytes()))
    }

    /// Trusts the cluster's CA and nobody else.
    async fn tls(&self) -> Result<rustls::ClientConfig, Failure> {
        let pem = self.read("ca.crt").await?;
        let path = self.service_account.join("ca.crt");
        let unusable =
            |why: &dyn std::fmt::Display| Failure::precondition(format!("{}: {why}", path.display()));
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.map_err(|why| unusable(&why))?).map_err(|why| unusable(&why))?;
        }
        if roots.is_empty() {
            return Err(unusable(&"it holds no certificate (PEM is expected)"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|why| unusable(&why))?;
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }

    async fn authorization(&self) -> Result<HeaderValue, Failure> {
        let token = self.read("token").await?;
        let mut value = Zeroizing::new(b"Bearer ".to_vec());
        value.extend_from_slice(token.trim_ascii());
        let mut header = HeaderValue::from_bytes(&value)
            .map_err(|_| Failure::precondition("the service account's token holds what no token may hold"))?;
        header.set_sensitive(true);
        Ok(header)
    }

    async fn read(&self, file: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let path = self.service_account.join(file);
        let read = tokio::fs::read(&path).await.map(Zeroizing::new);
        read.map_err(|why| Failure::precondition(format!("the service account's {}: {why}", path.display())))
    }

    fn authority(&self) -> String {
        let Kubernetes { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    fn unavailable(&self, why: &str) -> Failure {
        Failure::new(
            Kind::Unavailable,
            format!("the Kubernetes API at {} cannot be asked: {why}", self.authority()),
        )
    }
}

/// A name as Kubernetes has them; nothing else may become part of a path.
fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
        && !text.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_become_part_of_a_path() {
        assert!(is_name("data") && is_name("data-0.a1"));
        for bad in ["", ".", "..", "a/b", "a?x", "A", "a b", "a%2f", "-a", &"a".repeat(254)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn an_address_of_version_6_stands_in_brackets() {
        assert_eq!(Kubernetes::new("fd00::1", 443, "/x").authority(), "[fd00::1]:443");
        assert_eq!(Kubernetes::new("10.0.0.1", 443, "/x").authority(), "10.0.0.1:443");
    }
}
