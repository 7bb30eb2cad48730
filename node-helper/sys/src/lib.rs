//! System calls that no crate wraps, behind safe functions: one file per topic.

pub mod block;
pub mod btrfs;
pub mod child;
pub mod heap;
mod mount_setattr;
pub mod readiness;
mod write_protection;

pub use mount_setattr::mount_setattr;
pub use write_protection::set_read_only;
