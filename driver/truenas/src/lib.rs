//! TrueNAS JSON-RPC client.
