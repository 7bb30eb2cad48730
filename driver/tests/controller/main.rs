//! The controller against the stand-in appliance, in process.
#![allow(missing_docs)]

mod access;
mod bad_input;
mod calls;
mod interruption;
mod life;
mod ownership;
mod rig;
