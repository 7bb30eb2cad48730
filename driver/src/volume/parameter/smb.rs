//! Parameters of SMB shares: there are none.
//!
//! `smbCredentialsSecret` of the seeds is a value of the chart, with name and namespace, which it writes into the class as
//! `csi.storage.k8s.io/node-stage-secret-name` and `-namespace`; as a parameter it would do nothing and is refused.

use std::collections::BTreeMap;

use crate::volume::failure::Failure;
use crate::volume::parameter::Definition;

/// This group's part of the table.
pub(super) const TABLE: &[Definition] = &[];

/// How an SMB share is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Smb {}

impl Smb {
    /// Reads the group from a class's own keys, whose values the table has checked one by one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: values that do not go together.
    pub fn read(_given: &BTreeMap<String, String>) -> Result<Self, Failure> {
        Ok(Smb {})
    }
}
