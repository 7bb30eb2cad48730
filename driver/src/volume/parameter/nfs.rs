//! Parameters of NFS exports.

use std::collections::BTreeMap;

use crate::volume::failure::Failure;
use crate::volume::parameter::Definition;

/// This group's part of the table.
pub(super) const TABLE: &[Definition] = &[];

/// How an NFS export is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nfs {}

impl Nfs {
    /// Reads the group from a class's own keys, whose values the table has checked one by one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: values that do not go together.
    pub fn read(_given: &BTreeMap<String, String>) -> Result<Self, Failure> {
        Ok(Nfs {})
    }
}
