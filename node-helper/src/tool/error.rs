//! Why an external program gave no result.

use std::io;
use std::path::PathBuf;

use super::Tool;
use crate::failure::{Failure, Kind};

/// A program that is missing, could not be started, or did not come to an end of its own.
///
/// A program that ended with a status other than 0 is no error here: only the caller knows what its status means.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The program is not on this host.
    #[error("{tool} is missing (searched {}): install the package {}", join(searched), tool.package())]
    Missing {
        /// The program.
        tool: Tool,
        /// Directories searched, in order.
        searched: Vec<PathBuf>,
    },
    /// The program could not be started or watched.
    #[error("{tool} could not be run: {source}")]
    Start {
        /// The program.
        tool: Tool,
        /// What the kernel said.
        source: io::Error,
    },
    /// The deadline passed; the program was killed and is gone.
    #[error("{tool} did not end before the deadline and was killed{}", said(stderr))]
    Deadline {
        /// The program.
        tool: Tool,
        /// Last words on its error stream.
        stderr: String,
    },
    /// The deadline passed and the kernel does not let the program die: it waits for a device without a path.
    #[error(
        "{tool} (pid {pid}) was killed at the deadline but still waits in the kernel for its device: check the path to the \
         appliance, then retry"
    )]
    Stuck {
        /// The program.
        tool: Tool,
        /// Its process id.
        pid: u32,
    },
    /// Somebody else's signal ended the program.
    #[error("{tool} was ended by signal {signal}{}", said(stderr))]
    Signal {
        /// The program.
        tool: Tool,
        /// Signal number.
        signal: i32,
        /// Last words on its error stream.
        stderr: String,
    },
}

impl ToolError {
    /// The kind of failure, for the edge that turns it into a status code.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Missing { .. } => Kind::FailedPrecondition,
            Self::Start { .. } | Self::Signal { .. } => Kind::Internal,
            Self::Deadline { .. } | Self::Stuck { .. } => Kind::DeadlineExceeded,
        }
    }
}

fn join(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; it said: {stderr}") }
}

impl From<ToolError> for Failure {
    fn from(error: ToolError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}
