//! System calls that no crate wraps, behind safe functions.
