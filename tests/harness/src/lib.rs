//! What the test programs (lab, conformance, bench) share: real programs that are started, watched and ended, and the
//! orchestrator's side of CSI.
//!
//! The rule it keeps: readiness is what a program itself reports, a program is ended by its own pid, and every wait has
//! a deadline.
//!
//! | module | question it answers |
//! |---|---|
//! | [`program`] | what to start, as whom, with which words |
//! | [`address`] | where it listens |
//! | [`process`] | how it is started, watched and ended |
//! | [`status`] | what the kernel says of a process |
//! | [`log`] | what it printed |
//! | [`csi`] | how the sidecars and kubelet reach its sockets |
//! | [`orchestrator`] | what provisioner, attacher and resizer ask of a controller |
//! | [`paths`] | which paths kubelet hands out |
//! | [`control`] | how the stand-in appliance is steered and read |
//! | [`wait`] | how a state is awaited |

pub mod address;
pub mod control;
pub mod csi;
pub mod log;
pub mod orchestrator;
pub mod paths;
pub mod process;
pub mod program;
pub mod status;
pub mod wait;
