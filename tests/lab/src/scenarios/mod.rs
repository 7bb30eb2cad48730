//! All scenarios, in the order in which they run: the plain life of a volume first.

mod life;
mod storage;

use crate::scenario::Scenario;

/// Every scenario.
pub fn all() -> Vec<Scenario> {
    [storage::scenarios(), life::scenarios()].into_iter().flatten().collect()
}
