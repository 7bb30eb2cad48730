//! Who this host is and what it can do.

pub mod addresses;
pub mod identity;
pub mod kernel;
pub mod sealing;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tns_csi_proto::sealed::PrivateKey;
use uuid::Uuid;

/// The host as the appliance and the cluster know it.
#[derive(Debug, Clone)]
pub struct Host {
    /// Name in Kubernetes.
    pub node_name: String,
    /// Random identity of this host.
    pub uuid: Uuid,
    /// What is sealed for this host opens with it.
    pub sealing: Arc<PrivateKey>,
    /// Kernel release as in uname(2).
    pub kernel: String,
    /// Networks of `--storage-cidr`.
    pub storage_networks: Vec<IpNet>,
}

impl Host {
    /// The host's NVMe Qualified Name.
    #[must_use]
    pub fn nqn(&self) -> String {
        tns_csi_proto::identity::host_nqn(&self.uuid)
    }

    /// The host's iSCSI initiator name.
    #[must_use]
    pub fn initiator_name(&self) -> String {
        tns_csi_proto::identity::initiator_name(&self.uuid)
    }

    /// Addresses from which this host reaches the storage at this moment, at least one.
    ///
    /// # Errors
    /// In words, when there is none.
    pub fn storage_addresses(&self) -> Result<Vec<IpAddr>, String> {
        addresses::storage(&self.storage_networks)
    }
}
