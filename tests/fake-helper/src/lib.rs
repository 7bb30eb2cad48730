//! A node-helper that behaves, without privilege.
