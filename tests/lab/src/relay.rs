//! A caller of the helper's socket with another user id: the helper asks the kernel who its peer is, so whoever wants
//! to speak as the driver has to run as the driver.
//!
//! The relay is this program, started as that user: it passes bytes between a socket of its own and the helper's.

use std::path::{Path, PathBuf};

use anyhow::Context;
use harness::process::Process;
use harness::program::DRIVER_UID;
use harness::program::{Program, RunAs};
use tns_csi_proto::helper::v1::node_helper_client::NodeHelperClient;
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::Channel;

use crate::guest::RUN;
use crate::logs::places;

/// Passes every connection at `listen` on to `to`. Ends only when it is ended.
pub async fn run(listen: &Path, to: &Path) -> anyhow::Result<()> {
    let listener =
        UnixListener::bind(listen).with_context(|| format!("listening at {}", listen.display()))?;
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
        let ready = std::os::unix::net::UnixDatagram::unbound().context("making a socket")?;
        ready.send_to(b"READY=1", socket).context("saying that the relay is ready")?;
    }
    loop {
        let (mut near, _) = listener.accept().await.context("accepting a connection")?;
        let to = to.to_owned();
        tokio::spawn(async move {
            // A connection that the helper refuses simply ends on both sides.
            if let Ok(mut far) = UnixStream::connect(&to).await {
                let _ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}

/// The helper's own socket.
pub fn helper_socket() -> PathBuf {
    Path::new(RUN).join("helper-socket/helper.sock")
}

/// A caller of the helper that is the driver's user: as a driver that somebody has taken over.
#[derive(Debug)]
pub struct Caller {
    relay: Process,
    /// The helper's verbs.
    pub helper: NodeHelperClient<Channel>,
}

impl Caller {
    /// Starts the relay.
    pub async fn start() -> anyhow::Result<Self> {
        let socket = Path::new(RUN).join("csi/relay.sock");
        if socket.exists() {
            std::fs::remove_file(&socket).with_context(|| format!("removing {}", socket.display()))?;
        }
        let program = Program::new("relay", Path::new("/lab/bin/lab"))
            .words(&["relay"])
            .flag("--listen", &socket)
            .flag("--to", helper_socket())
            .run_as(RunAs::User(DRIVER_UID));
        let relay = Process::start(&program, &places()).await?;
        Ok(Self { relay, helper: NodeHelperClient::new(harness::csi::channel(&socket)) })
    }

    /// Ends the relay.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.relay.crash().await
    }
}
