//! The two APIs of the product: CSI (`csi.v1`, from the orchestrator) and the node-helper's own
//! (`tns_csi.helper.v1`, from the node agent), with the names that both sides of the latter derive and the sealing of secrets
//! between them.
//!
//! Maps are `BTreeMap`s, so that logs and fingerprints have one order. The Debug form of every message is safe to
//! log: secrets show as `[redacted]`.

pub mod identity;
mod redacted;
pub mod sealed;

/// Revision of the node-helper API in this tree: raised by one with every field or verb that is added.
///
/// * 2: `FilesystemAccess.group` on every protocol, `PublishVolumeRequest.group`.
pub const HELPER_REVISION: u32 = 2;

/// Both APIs and what they import, as an encoded `google.protobuf.FileDescriptorSet` with all options (csi_secret
/// and the alpha marks are extensions, which prost's own descriptor types drop).
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The Container Storage Interface.
#[allow(
    missing_docs,
    rustdoc::all,
    clippy::all,
    reason = "generated; the comments are those of the .proto file"
)]
pub mod csi {
    /// CSI 1.12, from `proto/csi/v1/csi.proto`.
    pub mod v1 {
        tonic::include_proto!("csi.v1");
    }
}

/// The API between node agent and node-helper.
#[allow(
    missing_docs,
    rustdoc::all,
    clippy::all,
    reason = "generated; the comments are those of the .proto file"
)]
pub mod helper {
    /// The one version, from `proto/helper/v1/helper.proto`; [`crate::HELPER_REVISION`] counts what was added.
    pub mod v1 {
        tonic::include_proto!("tns_csi.helper.v1");
    }
}
