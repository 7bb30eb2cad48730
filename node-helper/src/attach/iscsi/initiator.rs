//! The host's side of iSCSI: open-iscsi's and multipathd's programs, and the kernel's attributes.

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;

use tokio::time::Instant;

use crate::tool::{Input, Invocation, Output, Privilege, Tool, ToolError, Tools};

/// An answer that is waited for.
pub type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the helper asks of the host.
pub trait Initiator: Send + Sync + 'static {
    /// Runs iscsiadm or multipathd to its end. Arguments never hold a secret.
    fn run(&self, tool: Tool, arguments: Vec<String>, deadline: Instant)
    -> Answer<Result<Output, ToolError>>;

    /// Whether a program is there.
    fn has(&self, tool: Tool) -> bool;

    /// Whether a portal takes a connection.
    fn reach(&self, portal: SocketAddr) -> Answer<io::Result<()>>;

    /// Writes an attribute in sysfs. Blocks while the kernel asks the target.
    ///
    /// # Errors
    /// The kernel's error number; `NotFound` when the device is gone.
    fn write_attribute(&self, attribute: &Path, value: &str) -> io::Result<()>;
}

/// The real thing.
#[derive(Debug, Clone)]
pub struct HostInitiator {
    tools: Tools,
}

impl HostInitiator {
    /// With the programs of this host.
    #[must_use]
    pub fn new(tools: Tools) -> Self {
        Self { tools }
    }
}

impl Initiator for HostInitiator {
    fn run(
        &self,
        tool: Tool,
        arguments: Vec<String>,
        deadline: Instant,
    ) -> Answer<Result<Output, ToolError>> {
        let tools = self.tools.clone();
        Box::pin(async move {
            let invocation = Invocation {
                tool,
                arguments: arguments.into_iter().map(Into::into).collect(),
                input: Input::Nothing,
                privilege: match tool {
                    // Its daemon asks only for uid 0 and its files belong to root, but the kernel shows the transport's
                    // handle, without which iscsiadm sees no session (and ends with 0), only to CAP_SYS_ADMIN
                    // (`drivers/scsi/scsi_transport_iscsi.c`, `show_transport_handle`; seen with 2.1.11).
                    Tool::Iscsiadm => Privilege::Inherited,
                    _ => Privilege::None,
                },
            };
            tools.run(invocation, deadline).await
        })
    }

    fn has(&self, tool: Tool) -> bool {
        self.tools.has(tool)
    }

    fn reach(&self, portal: SocketAddr) -> Answer<io::Result<()>> {
        Box::pin(async move { tokio::net::TcpStream::connect(portal).await.map(drop) })
    }

    fn write_attribute(&self, attribute: &Path, value: &str) -> io::Result<()> {
        std::fs::OpenOptions::new().write(true).open(attribute)?.write_all(value.as_bytes())
    }
}
