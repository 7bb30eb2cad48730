//! Client of the TrueNAS JSON-RPC API.
//!
//! One [`Client`] is one appliance: it owns a session task that keeps a single pipelined WebSocket connection,
//! logs in with an API key, and answers typed calls ([`Calls`]). An appliance is a value: a process may hold several.
//!
//! Rules this crate keeps:
//!
//! * A call that may have had an effect is never sent twice. What is known about its effect is in the error's type
//!   ([`CallError`]): nothing was sent, the outcome is unknown, or the appliance refused.
//! * A refused login is not repeated by itself, and a key never travels in clear (TrueNAS revokes such a key).
//! * Secrets live in zeroed memory and appear in no `Debug`, log line or error.
//! * What a TrueNAS version does differently is in `dialect`, nowhere else.
//!
//! The layers, from the outside in: [`calls`] (typed methods, one file per API namespace) → `exchange` (lanes,
//! deadlines, outcome) → `session` (connect, login, heartbeat, reconnect) → `frame` (JSON-RPC text).

pub mod calls;
mod client;
mod counters;
mod dialect;
mod error;
mod exchange;
mod frame;
mod jobs;
mod key;
mod lane;
mod options;
mod session;
mod state;
#[cfg(test)]
mod testing;
mod tls;

pub use calls::Calls;
pub use client::Client;
pub use counters::{BUCKETS, Counters, Durations, MethodCounters, Outcome};
pub use dialect::{Feature, Features, ServiceVerbs, SmbShape, SnapshotMethods, Unsupported};
pub use error::{ApiError, CallError, FieldError, NotSent, Unknown};
pub use frame::MAX_REQUEST;
pub use key::{ApiKey, KeyError};
pub use lane::Lane;
pub use options::{ConfigError, Options, Reconnect};
pub use state::{ConnectionState, JobReplies, LoginRefusal, SessionInfo, SystemVersion};
