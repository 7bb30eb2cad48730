//! Where volumes may appear on this host.
//!
//! Two steps, and nothing reaches a path without both: [`shape`] turns text into a path of kubelet's form
//! (a wrong one never touches the file system), [`root`] opens it once, beneath the kubelet root and without following
//! a link, and everything after that goes through the descriptor.

pub mod root;
pub mod shape;

pub use root::{Contents, KubeletRoot, Place};
pub use shape::{Layout, PathError, StagingPath, TargetPath, VolumePath};
