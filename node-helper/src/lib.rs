//! The privileged half of the product: connects, mounts, formats and grows volumes on one node.
//!
//! A request names a volume and a typed source; everything that reaches the kernel or a tool is derived here. The
//! layers, from the socket to the kernel:
//!
//! * [`service`]: the gRPC edge: admits a peer, turns messages into types, turns failures into codes;
//! * [`volume`]: the flows (stage, publish, …), one per file, compared with ledger and kernel before they act;
//! * [`ledger`], [`registry`]: what was intended, and what runs at this moment;
//! * [`paths`], [`mount`], [`device`], [`attach`], [`filesystem`], [`tool`]: one kernel interface each;
//! * [`host`], [`servers`], [`sandbox`]: who this host is, whom it may talk to, and what the process may do.

pub mod attach;
pub mod cli;
pub mod config;
pub mod device;
pub mod failure;
pub mod filesystem;
pub mod host;
pub mod ledger;
pub mod mount;
pub mod paths;
pub mod registry;
pub mod sandbox;
pub mod servers;
pub mod service;
pub mod source;
pub mod tool;
pub mod volume;
pub mod work;
