//! What survives a restart: one journal file in the state directory, and the appliance's configuration rows in it.
//!
//! The rule it keeps: nothing is answered before it is in the journal, so that a kill at any moment loses nothing that
//! a client was told.

pub mod journal;
pub mod rows;

pub use journal::{Change, Journal, Tables};
pub use rows::{Row, Rows, Table};
