//! Mounting: the table as the kernel shows it, and changes to it through descriptors only.
//!
//! The new mount API is used throughout (kernel ≥ 5.14): a mount is made detached, checked, and only then attached to
//! a place that was opened before; its context messages reach the operator. Everything here blocks: run it through
//! [`crate::work`].

pub mod answer;
pub mod attach;
pub mod btrfs;
pub mod cifs;
pub mod group;
pub mod nfs;
pub mod options;
pub mod table;

pub use answer::{Answer, Questions, Usage};
pub use attach::{Detached, MountError};
pub use options::{BindOptions, MountOptions};
pub use table::{Mount, MountTable};
