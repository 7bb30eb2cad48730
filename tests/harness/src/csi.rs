//! Clients of the driver's two sockets, as the sidecars and kubelet are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use hyper_util::rt::TokioIo;
use tns_csi_proto::csi::v1::ProbeRequest;
use tns_csi_proto::csi::v1::controller_client::ControllerClient;
use tns_csi_proto::csi::v1::identity_client::IdentityClient;
use tns_csi_proto::csi::v1::node_client::NodeClient;
use tokio::net::UnixStream;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::wait;

/// Deadline of a call: the longest that a sidecar waits by default in the project's chart.
const CALL: Duration = Duration::from_secs(120);

/// A connection that is made when it is needed, and made again after the driver was restarted.
#[must_use]
pub fn channel(socket: &Path) -> Channel {
    let socket: PathBuf = socket.to_owned();
    // The authority is what kubelet sends; the address is not used.
    Endpoint::from_static("http://localhost").timeout(CALL).connect_with_connector_lazy(tower::service_fn(
        move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        },
    ))
}

/// The services of one CSI socket.
#[derive(Clone, Debug)]
pub struct Csi {
    /// Identity service.
    pub identity: IdentityClient<Channel>,
    /// Controller service; answers only on the controller's socket.
    pub controller: ControllerClient<Channel>,
    /// Node service; answers only on the node agent's socket.
    pub node: NodeClient<Channel>,
}

impl Csi {
    /// Clients of the socket.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        let channel = channel(socket);
        Self {
            identity: IdentityClient::new(channel.clone()),
            controller: ControllerClient::new(channel.clone()),
            node: NodeClient::new(channel),
        }
    }

    /// Waits until Probe says that the driver can work: the controller has reached the appliance, the node agent its
    /// helper.
    ///
    /// # Errors
    /// It does not within `deadline`; the last answer is named.
    pub async fn probed(&self, deadline: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + deadline;
        // The overall deadline is this function's, so that the last answer can be named.
        let beyond = deadline + CALL;
        wait::until_found("an answer to Probe", beyond, async || {
            let said = match self.identity.clone().probe(ProbeRequest {}).await {
                Ok(response) if response.get_ref().ready.unwrap_or(true) => return Ok(Some(())),
                Ok(_) => "not ready".to_owned(),
                Err(status) => format!("{:?}: {}", status.code(), status.message()),
            };
            if Instant::now() >= end {
                bail!("Probe is still answered with {said} after {} s", deadline.as_secs());
            }
            Ok(None)
        })
        .await
    }
}
