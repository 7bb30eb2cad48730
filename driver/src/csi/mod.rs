//! The gRPC edge: a file per RPC family.
