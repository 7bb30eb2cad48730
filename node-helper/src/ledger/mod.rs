//! What was intended on this host: one file per volume, written before the first effect.
//!
//! The kernel is the truth about what is; the ledger says what was meant, so that unstage, recovery and clean-up
//! survive a crash or a reboot. An effect is undone only where both agree. No secret is ever written here.

mod record;
mod store;

pub use record::{Access, Device, Formatting, Intent, Published, Record, RecordedSource};
pub use store::{Ledger, LedgerError};
