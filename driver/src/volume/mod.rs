//! Ids, capacity, parameters, names, metadata: everything about a volume that needs no I/O.

pub mod capability;
pub mod capacity;
pub mod chap;
pub mod context;
pub mod failure;
pub mod fingerprint;
pub mod health;
pub mod id;
pub mod index;
pub mod metadata;
pub mod name;
pub mod node_id;
pub mod ownership;
pub mod parameter;
pub mod protocol;
pub mod record;
pub mod registry;
pub mod template;
pub mod topology;
