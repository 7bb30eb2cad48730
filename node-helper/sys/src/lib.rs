//! System calls that no crate wraps, behind safe functions: one file per topic.

mod mount_setattr;

pub use mount_setattr::mount_setattr;
