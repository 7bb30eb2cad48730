//! System calls that no crate wraps, behind safe functions: one file per topic.

pub mod block;
pub mod child;
mod mount_setattr;
pub mod readiness;

pub use mount_setattr::mount_setattr;
