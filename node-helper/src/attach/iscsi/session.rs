//! Sessions as sysfs shows them, and which of them are ours.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::device::sysfs::{attribute, names};
use crate::device::{DeviceError, HostRoot, Iqn};

/// State of a session (`drivers/scsi/scsi_transport_iscsi.c`, `iscsi_session_state_names`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// I/O passes.
    LoggedIn,
    /// The path is broken; iscsid tries to log in again.
    Failed,
    /// Not logged in yet, or not any more.
    Free,
    /// A word this helper does not know.
    Unknown,
}

impl SessionState {
    fn parse(text: &str) -> Self {
        match text {
            "LOGGED_IN" => Self::LoggedIn,
            "FAILED" => Self::Failed,
            "FREE" => Self::Free,
            _ => Self::Unknown,
        }
    }
}

/// A session: one path from this host to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Kernel name (`session3`).
    pub name: String,
    /// Its state.
    pub state: SessionState,
    /// Where it leads, when that could be parsed.
    pub portal: Option<SocketAddr>,
    /// SCSI host it hangs on (`host2`).
    pub host: Option<String>,
}

impl Session {
    /// The number by which iscsiadm knows it.
    pub(super) fn id(&self) -> &str {
        self.name.strip_prefix("session").unwrap_or_default()
    }
}

/// The sessions to exactly this target that were made with our initiator name through our iface record. Those of other
/// software on this host are none of our business.
pub(super) fn ours(
    host: &HostRoot,
    target: &Iqn,
    initiator: &Iqn,
    iface: &str,
) -> Result<Vec<Session>, DeviceError> {
    let class = host.sys("class/iscsi_session");
    let mut found = Vec::new();
    for name in names(&class)? {
        let text = |file: &str| attribute(&class.join(&name).join(file));
        let is = |file: &str, wanted: &str| Ok::<_, DeviceError>(text(file)?.as_deref() == Some(wanted));
        if crate::device::scsi::numbered(&name, "session")
            && is("targetname", target.as_str())?
            && is("initiatorname", initiator.as_str())?
            && is("ifacename", iface)?
        {
            let Some(state) = text("state")? else { continue };
            found.push(Session {
                state: SessionState::parse(&state),
                portal: portal(host, &name)?,
                host: scsi_host(&class.join(&name)),
                name,
            });
        }
    }
    Ok(found)
}

/// Where the session's connection was meant to lead: a target may redirect, and the record names this.
fn portal(host: &HostRoot, session: &str) -> Result<Option<SocketAddr>, DeviceError> {
    let id = session.strip_prefix("session").unwrap_or_default();
    let connection = host.sys("class/iscsi_connection").join(format!("connection{id}:0"));
    let address = attribute(&connection.join("persistent_address"))?;
    let port = attribute(&connection.join("persistent_port"))?;
    Ok(address.zip(port).and_then(|(address, port)| {
        let address: IpAddr = address.trim_matches(['[', ']']).parse().ok()?;
        Some(SocketAddr::new(address, port.parse().ok()?))
    }))
}

/// The directory above the session's own: `…/host2/session3`.
fn scsi_host(session: &Path) -> Option<String> {
    let device = session.join("device").canonicalize().ok()?;
    let name = device.parent()?.file_name()?.to_str()?;
    crate::device::scsi::numbered(name, "host").then(|| name.to_owned())
}
