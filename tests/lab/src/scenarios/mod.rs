//! All scenarios, in the order in which they run: the plain life of a volume first.

mod btrfs;
mod common;
mod fence;
mod format;
mod group;
mod hostile;
mod interrupt;
mod iscsi;
mod life;
mod parameters;
mod privilege;
mod removal;
mod restage;
mod restart;
mod samba;
mod storage;

use crate::scenario::Scenario;

/// Every scenario.
pub fn all() -> Vec<Scenario> {
    [
        storage::scenarios(),
        samba::scenarios(),
        life::scenarios(),
        group::scenarios(),
        btrfs::scenarios(),
        parameters::scenarios(),
        restage::scenarios(),
        restart::scenarios(),
        fence::scenarios(),
        removal::scenarios(),
        format::scenarios(),
        hostile::scenarios(),
        privilege::scenarios(),
        interrupt::scenarios(),
        iscsi::scenarios(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
