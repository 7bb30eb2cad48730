//! The two APIs of the product: CSI (`csi.v1`, from the orchestrator) and the node-helper's own
//! (`tns_csi.helper.v1`, from the node agent), with the names that both sides of the latter derive.

pub mod identity;

/// Revision of the node-helper API in this tree: raised by one with every field or verb that is added.
pub const HELPER_REVISION: u32 = 1;
