//! What the process may do, settled before anything runs in it.
//!
//! Everything here is synchronous and happens on the only thread: capabilities and no_new_privs belong to a thread and
//! are inherited by the ones it starts. A filter of system calls takes its place after [`capabilities::shed`].

pub mod capabilities;
pub mod namespaces;
pub mod peer;
