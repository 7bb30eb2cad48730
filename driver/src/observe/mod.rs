//! Metrics, health and logs of the driver.

mod http;
mod labels;
pub mod logging;
mod metrics;
mod websocket;

pub use http::Monitor;
pub use labels::{Rpc, VolumeOperation};
pub use metrics::{Metrics, MetricsError};
