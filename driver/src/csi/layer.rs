//! What surrounds every RPC: a span, a log line with its duration, its metrics, and the refusal once the end began.
//!
//! The rule it keeps: it sees names, codes and messages, never a request's content; services log that themselves, in
//! the redacted form of `tns_csi_proto`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::codegen::http;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument as _, debug, info_span, warn};

use crate::observe::{Metrics, Rpc};

/// Wraps a server's routes.
#[derive(Clone, Debug)]
pub struct RpcLayer {
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    running: TaskTracker,
}

impl RpcLayer {
    /// A layer that counts into `metrics` and refuses once `stop` is cancelled.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, stop: CancellationToken) -> Self {
        RpcLayer { metrics, stop, running: TaskTracker::new() }
    }

    /// Returns when `stop` was cancelled and no call runs any more.
    pub async fn drained(self) {
        self.stop.cancelled().await;
        self.running.close();
        self.running.wait().await;
    }
}

impl<S> Layer<S> for RpcLayer {
    type Service = RpcService<S>;

    fn layer(&self, inner: S) -> RpcService<S> {
        RpcService { inner, layer: self.clone() }
    }
}

/// The routes with what [`RpcLayer`] puts around them.
#[derive(Clone, Debug)]
pub struct RpcService<S> {
    inner: S,
    layer: RpcLayer,
}

impl<S, B, R> Service<http::Request<B>> for RpcService<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = http::Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let rpc = Rpc::of_path(request.uri().path());
        let span = info_span!("rpc", method = rpc.name());
        let mut running = Running {
            metrics: Arc::clone(&self.layer.metrics),
            rpc,
            since: Instant::now(),
            over: false,
            _token: self.layer.running.token(),
        };
        if self.layer.stop.is_cancelled() {
            let status = Status::unavailable("the driver is shutting down, try again");
            span.in_scope(|| running.end(&status));
            return Box::pin(std::future::ready(Ok(status.into_http())));
        }
        let answer = span.in_scope(|| self.inner.call(request));
        let observed = async move {
            let response = answer.await?;
            // A unary call that failed has its status in the headers, one that succeeded only in the trailers.
            let status = Status::from_header_map(response.headers()).unwrap_or_else(|| Status::ok(""));
            running.end(&status);
            Ok(response)
        };
        Box::pin(observed.instrument(span))
    }
}

/// A call that has not ended. One that is dropped was given up by its caller, and counts as such.
struct Running {
    metrics: Arc<Metrics>,
    rpc: Rpc,
    since: Instant,
    over: bool,
    _token: TaskTrackerToken,
}

impl Running {
    fn end(&mut self, status: &Status) {
        self.over = true;
        let took = self.since.elapsed();
        self.metrics.rpc(self.rpc, status.code(), took);
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        match status.code() {
            Code::Ok => debug!(ms, "served"),
            code => warn!(ms, ?code, message = status.message(), "failed"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            self.end(&Status::cancelled("the caller gave up; work that had begun goes on"));
        }
    }
}
