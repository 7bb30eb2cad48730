//! The gRPC edge: a file per RPC family.

pub mod controller;
pub mod identity;
pub mod layer;
pub mod node;
pub mod server;
pub mod status;
