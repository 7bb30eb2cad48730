//! Every metric of the driver, declared here and nowhere else.
//!
//! | metric | labels | of |
//! |---|---|---|
//! | `tns_csi_operations_total` | `method`, `status` | every CSI call, by gRPC code |
//! | `tns_csi_operations_duration_seconds` | `method` | the same |
//! | `tns_volume_operations_total` | `protocol`, `operation`, `status` | what is done to volumes at the appliance |
//! | `tns_volume_operations_duration_seconds` | `protocol`, `operation` | the same |
//! | `tns_websocket_connected` | | 1 while logged in to the appliance, else 0 |
//! | `tns_websocket_reconnects_total` | | logins after the first |
//! | `tns_websocket_messages_total` | `direction` (`sent`, `received`) | messages over the connection |
//! | `tns_websocket_message_duration_seconds` | `method` | calls of the appliance |
//! | `tns_websocket_connection_duration_seconds` | | age of the present connection, 0 without one |
//!
//! Every label comes from a closed set. The rule it keeps: no volume, node or namespace name is a label.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};
use tonic::Code;

use super::labels::{Rpc, VolumeOperation, status};
use super::websocket::WebSocket;
use crate::volume::protocol::Protocol;

/// Upper bounds of the duration buckets in seconds: from a local answer to a sidecar's longest patience.
const SECONDS: [f64; 12] = [0.005, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 120.0];

/// A metric that cannot be declared or written; only a mistake in this file makes one.
pub type MetricsError = prometheus::Error;

/// The driver's metrics. One per process, shared by everything that counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    rpcs: IntCounterVec,
    rpc_seconds: HistogramVec,
    volume_operations: IntCounterVec,
    volume_operation_seconds: HistogramVec,
}

impl Metrics {
    /// All metrics at zero.
    ///
    /// # Errors
    /// A name or label that is declared twice.
    pub fn new() -> Result<Self, MetricsError> {
        let seconds = |name: &str, help: &str| HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        let metrics = Metrics {
            registry: Registry::new(),
            rpcs: IntCounterVec::new(
                Opts::new("tns_csi_operations_total", "CSI calls by method and gRPC status."),
                &["method", "status"],
            )?,
            rpc_seconds: HistogramVec::new(
                seconds("tns_csi_operations_duration_seconds", "Duration of CSI calls."),
                &["method"],
            )?,
            volume_operations: IntCounterVec::new(
                Opts::new("tns_volume_operations_total", "Operations on volumes at the appliance."),
                &["protocol", "operation", "status"],
            )?,
            volume_operation_seconds: HistogramVec::new(
                seconds("tns_volume_operations_duration_seconds", "Duration of operations on volumes."),
                &["protocol", "operation"],
            )?,
        };
        metrics.registry.register(Box::new(metrics.rpcs.clone()))?;
        metrics.registry.register(Box::new(metrics.rpc_seconds.clone()))?;
        metrics.registry.register(Box::new(metrics.volume_operations.clone()))?;
        metrics.registry.register(Box::new(metrics.volume_operation_seconds.clone()))?;
        Ok(metrics)
    }

    /// Adds the connection to the appliance, read at every scrape.
    ///
    /// # Errors
    /// When it was added before.
    pub fn watch_appliance(&self, client: truenas::Client) -> Result<(), MetricsError> {
        self.registry.register(Box::new(WebSocket::new(client)?))
    }

    /// Counts a CSI call that ended.
    pub fn rpc(&self, rpc: Rpc, code: Code, took: Duration) {
        self.rpcs.with_label_values(&[rpc.name(), status(code)]).inc();
        self.rpc_seconds.with_label_values(&[rpc.name()]).observe(took.as_secs_f64());
    }

    /// Counts an operation on a volume that ended at the appliance, whoever waited for it.
    pub fn volume_operation(
        &self,
        protocol: Protocol,
        operation: VolumeOperation,
        code: Code,
        took: Duration,
    ) {
        let (protocol, operation) = (protocol.name(), operation.name());
        self.volume_operations.with_label_values(&[protocol, operation, status(code)]).inc();
        self.volume_operation_seconds.with_label_values(&[protocol, operation]).observe(took.as_secs_f64());
    }

    /// All metrics in the Prometheus text format 0.0.4.
    ///
    /// # Errors
    /// A collector that gives what cannot be written.
    pub fn text(&self) -> Result<String, MetricsError> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_that_users_have_dashboards_for() {
        let metrics = Metrics::new().unwrap();
        metrics.rpc(Rpc::of_path("/csi.v1.Node/NodeStageVolume"), Code::Ok, Duration::from_millis(30));
        metrics.volume_operation(
            Protocol::Nvmeof,
            VolumeOperation::Create,
            Code::ResourceExhausted,
            Duration::from_secs(1),
        );
        let text = metrics.text().unwrap();
        for line in [
            r#"tns_csi_operations_total{method="NodeStageVolume",status="OK"} 1"#,
            r#"tns_csi_operations_duration_seconds_bucket{method="NodeStageVolume",le="0.05"} 1"#,
            r#"tns_volume_operations_total{operation="create",protocol="nvmeof",status="RESOURCE_EXHAUSTED"} 1"#,
            r#"tns_volume_operations_duration_seconds_count{operation="create",protocol="nvmeof"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
