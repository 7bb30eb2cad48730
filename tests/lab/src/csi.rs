//! Clients of the driver's two sockets, as the sidecars and kubelet are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tns_csi_proto::csi::v1::controller_client::ControllerClient;
use tns_csi_proto::csi::v1::node_client::NodeClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Deadline of a call: the longest that a sidecar waits by default in the project's chart.
const CALL: Duration = Duration::from_secs(120);

/// A connection that is made when it is needed, and made again after the driver was restarted.
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
    /// Controller service; answers only on the controller's socket.
    pub controller: ControllerClient<Channel>,
    /// Node service; answers only on the node agent's socket.
    pub node: NodeClient<Channel>,
}

impl Csi {
    /// Clients of the socket.
    pub fn new(socket: &Path) -> Self {
        let channel = channel(socket);
        Self { controller: ControllerClient::new(channel.clone()), node: NodeClient::new(channel) }
    }
}
