//! The unprivileged half of the driver: the controller, which alone talks to TrueNAS, and the node agent, which
//! translates CSI to the node-helper's verbs. Nothing here can mount, and nothing here needs a capability.

pub mod cli;
pub mod csi;
pub mod endpoint;
pub mod helper;
pub mod kubernetes;
pub mod observe;
pub mod process;
pub mod protocol;
pub mod volume;
