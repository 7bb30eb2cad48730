//! Parameters that are ZFS properties of the volume.

use std::collections::BTreeMap;

use crate::volume::failure::Failure;
use crate::volume::parameter::Definition;
use crate::volume::protocol::Protocol;

/// This group's part of the table.
pub(super) const TABLE: &[Definition] = &[];

/// ZFS properties that the class sets; none is inherited from the parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zfs {}

impl Zfs {
    /// Reads the group from a class's own keys, whose values the table has checked one by one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: values that do not go together.
    pub fn read(_given: &BTreeMap<String, String>, _protocol: Protocol) -> Result<Self, Failure> {
        Ok(Zfs {})
    }
}
