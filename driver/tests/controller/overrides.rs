//! Claims that override their class, against a small API server that speaks TLS and knows service accounts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use tns_csi::kubernetes::Kubernetes;
use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::csi::v1::controller_server::Controller as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::Code;
use truenas_sim::When;

use crate::rig::{Process, Rig, request};

type Annotations = BTreeMap<String, String>;

/// What the server knows.
#[derive(Default)]
struct Cluster {
    /// By namespace and name.
    claims: Mutex<BTreeMap<(String, String), Annotations>>,
    /// The service account's token of the moment.
    token: Mutex<String>,
    /// Whether the service account may read claims.
    forbidden: Mutex<bool>,
    questions: AtomicUsize,
}

/// An API server, and a service account's directory.
struct Api {
    cluster: Arc<Cluster>,
    directory: tempfile::TempDir,
    port: u16,
}

fn answer(cluster: &Cluster, request: &Request<Incoming>) -> (StatusCode, Value) {
    cluster.questions.fetch_add(1, Ordering::Relaxed);
    let bearer = format!("Bearer {}", cluster.token.lock().unwrap());
    if request.headers().get("authorization").is_none_or(|given| given.as_bytes() != bearer.as_bytes()) {
        return (StatusCode::UNAUTHORIZED, json!({"kind": "Status", "code": 401}));
    }
    let path: Vec<&str> = request.uri().path().split('/').collect();
    let ["", "api", "v1", "namespaces", namespace, "persistentvolumeclaims", name] = path[..] else {
        return (StatusCode::NOT_FOUND, json!({"kind": "Status", "code": 404}));
    };
    if request.method() != Method::GET || *cluster.forbidden.lock().unwrap() {
        return (StatusCode::FORBIDDEN, json!({"kind": "Status", "code": 403}));
    }
    match cluster.claims.lock().unwrap().get(&(namespace.to_owned(), name.to_owned())) {
        Some(annotations) => (
            StatusCode::OK,
            json!({"kind": "PersistentVolumeClaim", "metadata": {"name": name, "annotations": annotations}}),
        ),
        None => (StatusCode::NOT_FOUND, json!({"kind": "Status", "code": 404})),
    }
}

/// A CA in PEM, and a server configuration with a certificate of it for the loopback address.
fn certificates() -> (String, rustls::ServerConfig) {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_key = KeyPair::generate().unwrap();
    let pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let server =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    (pem, config)
}

impl Api {
    async fn start() -> Api {
        let (ca, config) = certificates();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.crt"), ca).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cluster = Arc::new(Cluster::default());
        let api = Api { cluster: Arc::clone(&cluster), directory, port };
        api.renew_token("first");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, cluster) = (acceptor.clone(), Arc::clone(&cluster));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(socket).await else { return };
                    let serve = service_fn(move |request| {
                        let (status, body) = answer(&cluster, &request);
                        let answer = Response::builder().status(status).body(body.to_string());
                        std::future::ready(answer)
                    });
                    // A client that goes away is none of the server's business.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), serve)
                        .await;
                });
            }
        });
        api
    }

    fn renew_token(&self, token: &str) {
        token.clone_into(&mut self.cluster.token.lock().unwrap());
        std::fs::write(self.directory.path().join("token"), format!("{token}\n")).unwrap();
    }

    fn annotate(&self, name: &str, annotations: &[(&str, &str)]) {
        let annotations = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.cluster.claims.lock().unwrap().insert(("team".to_owned(), name.to_owned()), annotations);
    }

    fn questions(&self) -> usize {
        self.cluster.questions.load(Ordering::Relaxed)
    }

    fn kubernetes(&self) -> Kubernetes {
        Kubernetes::new("127.0.0.1", self.port, self.directory.path())
    }

    async fn controller(&self, rig: &Rig) -> Process {
        Process::in_cluster(&rig.appliance, None, Some(self.kubernetes())).await
    }
}

fn of_claim(name: &str, protocol: &str, more: &[(&str, &str)]) -> csi::CreateVolumeRequest {
    let mut asked = request(&format!("pvc-{name}"), protocol, 1);
    asked.parameters.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    for (key, value) in [("pvc/name", name), ("pvc/namespace", "team")] {
        asked.parameters.insert(format!("csi.storage.k8s.io/{key}"), value.to_owned());
    }
    asked
}

async fn held(rig: &Rig, dataset: &str, property: &str) -> String {
    let calls =
        rig.client().calls(truenas::Lane::Ordinary, tokio::time::Instant::now() + crate::rig::DEADLINE);
    let filter = json!([[["id", "=", dataset]], {}]);
    let rows: Vec<Value> = calls.call("pool.dataset.query", &filter).await.unwrap();
    rows[0][property]["rawvalue"].as_str().unwrap_or_default().to_lowercase()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_overrides_what_its_class_allows() {
    let (rig, api) = (Rig::start().await, Api::start().await);
    let controller = api.controller(&rig).await;
    let class =
        [("compression", "lz4"), ("zfs.sync", "always"), ("allowOverrides", "compression,recordsize")];
    api.annotate("data", &[("tns.csi.io/compression", "ZSTD"), ("tns.csi.io/zfs.recordsize", "1M")]);
    let volume = controller.create(of_claim("data", "nfs", &class)).await.unwrap();
    for (property, value) in [("compression", "zstd"), ("recordsize", "1048576"), ("sync", "always")] {
        assert_eq!(held(&rig, &volume.volume_id, property).await, value, "{property}");
    }
    // The claim's words belong to the request.
    controller.create(of_claim("data", "nfs", &class)).await.expect("a replay");
    api.annotate("data", &[("tns.csi.io/compression", "off")]);
    let again = controller.create(of_claim("data", "nfs", &class)).await;
    assert_eq!(again.unwrap(), volume, "what the claim says now is not asked for a volume that is there");
    // A claim without annotations has the class's values.
    api.annotate("plain", &[("other.io/compression", "off")]);
    let plain = controller.create(of_claim("plain", "nfs", &class)).await.unwrap();
    assert_eq!(held(&rig, &plain.volume_id, "compression").await, "lz4");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_class_does_not_allow_is_refused_before_any_effect() {
    let (rig, api) = (Rig::start().await, Api::start().await);
    let controller = api.controller(&rig).await;
    for (annotation, allowed) in [
        ("tns.csi.io/pool", "compression"),
        ("tns.csi.io/sync", "compression"),
        ("tns.csi.io/compresion", "compression"),
        ("tns.csi.io/compression", "pool"),
        ("tns.csi.io/compression", "deleteStrategy,compression"),
    ] {
        api.annotate("data", &[(annotation, "off")]);
        let asked = of_claim("data", "nfs", &[("allowOverrides", allowed)]);
        let refused = controller.create(asked).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{annotation} {allowed}: {refused}");
        assert!(refused.message().contains("allowOverrides"), "{refused}");
    }
    api.annotate("data", &[("tns.csi.io/compression", "best")]);
    let bad =
        controller.create(of_claim("data", "nfs", &[("allowOverrides", "compression")])).await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument, "{bad}");
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_class_that_allows_overrides_asks_the_api() {
    let (rig, api) = (Rig::start().await, Api::start().await);
    let controller = api.controller(&rig).await;
    api.annotate("data", &[("tns.csi.io/compression", "off")]);
    controller.create(of_claim("data", "nfs", &[])).await.unwrap();
    assert_eq!(api.questions(), 0);
    // The controller outside a cluster serves such classes too.
    rig.controller.create(of_claim("other", "nfs", &[])).await.unwrap();
    let refused =
        rig.controller.create(of_claim("third", "nfs", &[("allowOverrides", "sync")])).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("service account"), "{refused}");
    let mut bare = of_claim("third", "nfs", &[("allowOverrides", "sync")]);
    bare.parameters.remove("csi.storage.k8s.io/pvc/name");
    let refused = controller.create(bare).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("--extra-create-metadata"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_token_is_used_and_never_shown() {
    let (rig, api) = (Rig::start().await, Api::start().await);
    let controller = api.controller(&rig).await;
    let class = [("allowOverrides", "sync")];
    api.annotate("a", &[]);
    controller.create(of_claim("a", "nfs", &class)).await.unwrap();
    api.renew_token("second-token");
    api.annotate("b", &[("tns.csi.io/sync", "always")]);
    let volume = controller.create(of_claim("b", "nfs", &class)).await.unwrap();
    assert_eq!(held(&rig, &volume.volume_id, "sync").await, "always");
    "other".clone_into(&mut api.cluster.token.lock().unwrap());
    let refused = controller.create(of_claim("c", "nfs", &class)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(!refused.message().contains("second-token"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_does_not_help_is_told_as_what_it_is() {
    let (rig, api) = (Rig::start().await, Api::start().await);
    let controller = api.controller(&rig).await;
    let asked = || of_claim("data", "nfs", &[("allowOverrides", "sync")]);
    let missing = controller.create(asked()).await.unwrap_err();
    assert_eq!(missing.code(), Code::FailedPrecondition, "{missing}");
    assert!(missing.message().contains("team/data does not exist"), "{missing}");
    *api.cluster.forbidden.lock().unwrap() = true;
    let forbidden = controller.create(asked()).await.unwrap_err();
    assert_eq!(forbidden.code(), Code::FailedPrecondition, "{forbidden}");
    assert!(forbidden.message().contains("persistentvolumeclaims"), "{forbidden}");
    // A server of another CA is not told the token.
    let stranger = Api::start().await;
    let ca: PathBuf = api.directory.path().join("ca.crt");
    std::fs::copy(&ca, stranger.directory.path().join("ca.crt")).unwrap();
    let mistaken = stranger.controller(&rig).await;
    let unknown = mistaken.create(asked()).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unavailable, "{unknown}");
    assert_eq!(stranger.questions(), 0, "the token went to a server that nobody vouches for");
    // Nobody listens any more.
    let gone = Kubernetes::new("127.0.0.1", 1, api.directory.path());
    let alone = Process::in_cluster(&rig.appliance, None, Some(gone)).await;
    assert_eq!(alone.create(asked()).await.unwrap_err().code(), Code::Unavailable);
    rig.assert_empty();
}

/// external-provisioner goes on asking for a volume whose claim was deleted, so that it can delete it: a refusal would leave
/// it behind for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_gone_does_not_leave_its_volume_behind() {
    let (rig, api) = (Rig::start().await, Api::start().await);
    let controller = api.controller(&rig).await;
    let class = [("allowOverrides", "compression")];
    api.annotate("data", &[("tns.csi.io/compression", "zstd")]);
    let asked = || of_claim("data", "nfs", &class);
    controller.create(asked()).await.unwrap();
    api.cluster.claims.lock().unwrap().clear();
    let volume = controller.create(asked()).await.expect("the request is known");
    assert_eq!(held(&rig, &volume.volume_id, "compression").await, "zstd");
    controller.delete(&volume.volume_id).await.unwrap();
    let never = controller.create(asked()).await.unwrap_err();
    assert_eq!(never.code(), Code::FailedPrecondition, "{never}");
    rig.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_goes_while_its_volume_is_made_does_not_leave_it_behind() {
    const CREATE: &str = "pool.dataset.create";
    let (rig, api) = (Rig::start().await, Api::start().await);
    let controller = api.controller(&rig).await;
    let asked = || of_claim("data", "nvmeof", &[("allowOverrides", "compression")]);
    // Running, and ended without an answer of the appliance.
    for (held, lost) in [(When::Before, false), (When::Halfway, true)] {
        api.annotate("data", &[("tns.csi.io/compression", "zstd")]);
        rig.control().hold(CREATE, held);
        let request = tonic::Request::new(asked());
        let first = controller.spawn(|s| async move { s.create_volume(request).await });
        rig.control().wait_held(CREATE, held, 1).await;
        let mut first = Some(first);
        if lost {
            rig.control().disconnect();
            let answer = first.take().unwrap().await.unwrap().unwrap_err();
            assert_eq!(answer.code(), Code::Unavailable, "{answer}");
        }
        api.cluster.claims.lock().unwrap().clear();
        let meanwhile = controller.create(asked()).await.unwrap_err();
        assert_eq!(meanwhile.code(), Code::Unavailable, "{held:?}: {meanwhile}");
        rig.control().release(CREATE);
        if let Some(first) = first {
            first.await.unwrap().unwrap();
        }
        let volume = controller.create(asked()).await.expect("the request is known");
        controller.delete(&volume.volume_id).await.unwrap();
        rig.assert_empty();
    }
}
