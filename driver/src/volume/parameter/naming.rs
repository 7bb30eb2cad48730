//! Parameters that name the volume on the appliance.

use std::collections::BTreeMap;

use crate::volume::failure::Failure;
use crate::volume::parameter::Definition;

/// This group's part of the table.
pub(super) const TABLE: &[Definition] = &[];

/// How the dataset and its comment are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Naming {}

impl Naming {
    /// Reads the group from a class's own keys, whose values the table has checked one by one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: values that do not go together.
    pub fn read(_given: &BTreeMap<String, String>) -> Result<Self, Failure> {
        Ok(Naming {})
    }
}
