//! A stand-in TrueNAS appliance: a program, not a mock.
//!
//! It speaks `/api/current` over WebSocket and TLS with TrueNAS's validation, error shapes, jobs and limits, keeps its
//! state across restarts, and does its storage in memory or on a real pool. Faults can be armed at any moment.
//!
//! * [`Appliance`] starts one in the caller's runtime; the binary `truenas-sim` is the same with flags.
//! * [`Control`] arms faults, counts calls and puts objects in place.
//! * [`backend`] separates what the appliance's middleware decides from what storage does.

mod appliance;
pub mod backend;
mod config;
mod control;
mod exports;
mod failure;
mod faults;
mod jobs;
mod login;
mod methods;
mod query;
mod schemas;
mod server;
mod state;
mod stats;
mod validate;

pub use appliance::{Appliance, Ha, Profile};
pub use config::{BackendChoice, Config, Version};
pub use control::socket::send as send_control;
pub use control::{Command, Control, Error, HELP as CONTROL_HELP, NewObject, Seed};
pub use exports::Stage;
pub use faults::When;
pub use stats::Snapshot as Stats;

/// Checks the parameters of a call as the request models of 25.10 do: the accepted parameters with defaults filled in,
/// or the JSON-RPC `error` object.
pub fn validate_params(
    method: &str,
    params: &[serde_json::Value],
) -> Result<Vec<serde_json::Value>, serde_json::Value> {
    validate_params_of(Version::V25_10, method, params)
}

/// As [`validate_params`], for any version.
pub fn validate_params_of(
    version: Version,
    method: &str,
    params: &[serde_json::Value],
) -> Result<Vec<serde_json::Value>, serde_json::Value> {
    validate::params(version, method, params).map_err(|failure| failure.to_json())
}

/// The methods of a version whose parameters the stand-in knows.
pub fn known_methods(version: Version) -> impl Iterator<Item = &'static str> {
    validate::methods(version)
}
