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
mod health;
mod interruption;
mod iscsi;
mod life;
mod model;
mod nfs;
mod nvmeof;
mod overrides;
mod ownership;
mod parameters;
mod rig;
mod smb;
mod topology;
mod versions;
