//! A stand-in TrueNAS appliance.

pub mod backend;
pub mod state;
