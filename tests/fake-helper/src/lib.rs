//! A node-helper that behaves, without privilege.
//!
//! Purpose: let the whole driver run on a machine where nothing may be mounted: for csi-sanity on the host and for the
//! tests of the node agent.
//!
//! The rule it keeps: it answers as the real helper does (revisions, path shapes, idempotency, refusals, codes, words
//! that name the object), from state that survives a restart. Only the data path is pretended: a block device is a
//! sparse file, an NFS export a directory, a mount a link, and a published target an empty directory or file.

mod config;
mod paths;
mod serve;
mod service;
mod state;
mod volumes;

pub use config::extra_parents;
pub use paths::sha256;
pub use serve::{Running, start};
pub use service::{FakeHelper, Received};

use std::path::PathBuf;

/// How a fake helper is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Root below which every path must lie, as the real helper's `--kubelet-root`.
    pub kubelet_root: PathBuf,
    /// Where its records and pretended devices lie; made when absent.
    pub state_dir: PathBuf,
    /// Kubernetes node name.
    pub node_name: String,
    /// Driver name, a part of kubelet's staging paths.
    pub driver_name: String,
    /// Directories below the kubelet root in which any path of one or two components is accepted.
    pub extra_parents: Vec<String>,
    /// Revision of the helper API that it says it serves; lower than the tree's to play an older helper.
    pub revision: u32,
}

impl Options {
    /// The options of a test: node `fake-node`, driver `tns.csi.io`, kubelet's shapes only, the tree's own revision.
    #[must_use]
    pub fn new(kubelet_root: impl Into<PathBuf>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            kubelet_root: kubelet_root.into(),
            state_dir: state_dir.into(),
            node_name: "fake-node".to_owned(),
            driver_name: "tns.csi.io".to_owned(),
            extra_parents: Vec::new(),
            revision: tns_csi_proto::HELPER_REVISION,
        }
    }
}
