//! Conformance to CSI: csi-sanity, the Go program of the CSI project, against the real binaries over two sockets, and
//! our `csi.proto` against the descriptor that the specification's Go module carries.
//!
//! Rule: what cannot run says why, and inside the project's own test run ([`must_run`]) that is a failure. Nothing is
//! judged by an exit status alone: every skipped spec must be on a list with its reason.

pub mod appliance;
pub mod cache;
pub mod descriptor;
pub mod golang;
pub mod matrix;
pub mod programs;
pub mod report;
pub mod sanity;
pub mod skips;

/// Whether a test that cannot run must fail: variable `TNS_CSI_NO_SKIP` is set and neither empty nor `0`.
#[must_use]
pub fn must_run() -> bool {
    std::env::var_os("TNS_CSI_NO_SKIP").is_some_and(|value| !value.is_empty() && value != "0")
}
