//! The controller against the stand-in appliance, in process.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise, in their helpers too"
)]

mod access;
mod bad_input;
mod calls;
mod interruption;
mod iscsi;
mod life;
mod model;
mod nvmeof;
mod ownership;
mod parameters;
mod rig;
mod versions;
