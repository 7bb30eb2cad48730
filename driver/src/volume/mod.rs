//! Ids, capacity, parameters, names, metadata: everything about a volume that needs no I/O.

pub mod context;
pub mod node_id;
