//! `/metrics` and `/healthz` over HTTP/1.
//!
//! `/healthz` says that this process serves, and nothing about the appliance or the helper: a liveness probe that
//! failed with them would restart a driver that only has to wait.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Metrics;

/// The bound HTTP server.
#[derive(Debug)]
pub struct Monitor {
    listener: TcpListener,
}

impl Monitor {
    /// Binds `address` (host and port; port 0 takes a free one).
    ///
    /// # Errors
    /// The address is taken or not this host's.
    pub async fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("cannot serve metrics on {address}"))?;
        Ok(Monitor { listener })
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// The kernel's.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is cancelled.
    ///
    /// # Errors
    /// The listener failed.
    pub async fn serve(self, metrics: Arc<Metrics>, stop: CancellationToken) -> std::io::Result<()> {
        let router = Router::new()
            .route("/metrics", get(metrics_text))
            .with_state(metrics)
            .route("/healthz", get(async || "ok\n"));
        axum::serve(self.listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

async fn metrics_text(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    match metrics.text() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_and_health_are_served_until_the_end() {
        let monitor = Monitor::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = monitor.address().unwrap();
        let stop = CancellationToken::new();
        let metrics = Arc::new(Metrics::new().unwrap());
        metrics.rpc(crate::observe::Rpc::of_path(""), tonic::Code::Ok, std::time::Duration::ZERO);
        let served = tokio::spawn(monitor.serve(metrics, stop.clone()));
        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/metrics").await.contains("tns_csi_operations_total"));
        assert!(fetch(address, "/else").await.starts_with("HTTP/1.1 404"));
        stop.cancel();
        served.await.unwrap().unwrap();
    }
}
