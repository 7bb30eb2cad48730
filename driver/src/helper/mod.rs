//! Client of the node-helper: one method per verb that the node agent uses.
//!
//! The rules it keeps: every request carries the lowest helper revision that knows all its fields, so that an older
//! helper refuses instead of ignoring one; the helper's own code and words reach the orchestrator unchanged; a helper
//! that cannot be reached is UNAVAILABLE, which tells the orchestrator that work may still be running.

pub mod source;
mod time_limit;

use std::error::Error as _;
use std::future::Future;
use std::time::Duration;

use tns_csi_proto::helper::v1;
use tns_csi_proto::helper::v1::node_helper_client::NodeHelperClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

pub use time_limit::TimeLimit;

use crate::endpoint::UnixEndpoint;

/// Revision of the helper API that introduced every field this client sets. A request that sets a field of a later
/// revision says that one instead.
const MIN_REVISION: u32 = 1;
/// Revision that knows groups: an older helper would publish to a pod that cannot use its files.
const GROUP_REVISION: u32 = 2;
/// Longest wait for the socket to accept.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The node-helper behind its socket. Cheap to clone; connects at the first call and again whenever it must.
#[derive(Clone, Debug)]
pub struct Helper {
    client: NodeHelperClient<Channel>,
    endpoint: UnixEndpoint,
}

impl Helper {
    /// A client that connects when it is first used. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// A path that gRPC cannot name.
    pub fn new(endpoint: UnixEndpoint) -> Result<Self, tonic::transport::Error> {
        let channel =
            Endpoint::from_shared(endpoint.to_string())?.connect_timeout(CONNECT_WITHIN).connect_lazy();
        Ok(Helper { client: NodeHelperClient::new(channel), endpoint })
    }

    /// Where the helper is expected.
    #[must_use]
    pub fn endpoint(&self) -> &UnixEndpoint {
        &self.endpoint
    }

    /// Who this host is (`GetHostInfo`).
    ///
    /// # Errors
    /// The helper's status, or UNAVAILABLE or DEADLINE_EXCEEDED naming the socket.
    pub async fn host_info(&self, limit: TimeLimit) -> Result<v1::GetHostInfoResponse, Status> {
        let request = v1::GetHostInfoRequest { min_revision: MIN_REVISION };
        self.call(limit, |mut client| async move { client.get_host_info(request).await }).await
    }

    /// Connects and mounts a volume (`StageVolume`). Revision and time limit are filled in here, as in all verbs.
    ///
    /// # Errors
    /// As [`Helper::host_info`].
    pub async fn stage(
        &self,
        mut request: v1::StageVolumeRequest,
        limit: TimeLimit,
    ) -> Result<v1::StageVolumeResponse, Status> {
        use v1::stage_volume_request::Access;
        let group = matches!(&request.access, Some(Access::Filesystem(access)) if access.group.is_some());
        request.min_revision = if group { GROUP_REVISION } else { MIN_REVISION };
        request.timeout_ms = limit.work_ms();
        self.call(limit, |mut client| async move { client.stage_volume(request).await }).await
    }

    /// Undoes [`Helper::stage`] (`UnstageVolume`).
    ///
    /// # Errors
    /// As [`Helper::host_info`].
    pub async fn unstage(
        &self,
        mut request: v1::UnstageVolumeRequest,
        limit: TimeLimit,
    ) -> Result<v1::UnstageVolumeResponse, Status> {
        request.min_revision = MIN_REVISION;
        request.timeout_ms = limit.work_ms();
        self.call(limit, |mut client| async move { client.unstage_volume(request).await }).await
    }

    /// Binds a staged volume to a pod's path (`PublishVolume`).
    ///
    /// # Errors
    /// As [`Helper::host_info`].
    pub async fn publish(
        &self,
        mut request: v1::PublishVolumeRequest,
        limit: TimeLimit,
    ) -> Result<v1::PublishVolumeResponse, Status> {
        request.min_revision = if request.group.is_some() { GROUP_REVISION } else { MIN_REVISION };
        request.timeout_ms = limit.work_ms();
        self.call(limit, |mut client| async move { client.publish_volume(request).await }).await
    }

    /// Undoes [`Helper::publish`] (`UnpublishVolume`).
    ///
    /// # Errors
    /// As [`Helper::host_info`].
    pub async fn unpublish(
        &self,
        mut request: v1::UnpublishVolumeRequest,
        limit: TimeLimit,
    ) -> Result<v1::UnpublishVolumeResponse, Status> {
        request.min_revision = MIN_REVISION;
        request.timeout_ms = limit.work_ms();
        self.call(limit, |mut client| async move { client.unpublish_volume(request).await }).await
    }

    /// Grows device and file system (`ExpandVolume`).
    ///
    /// # Errors
    /// As [`Helper::host_info`].
    pub async fn expand(
        &self,
        mut request: v1::ExpandVolumeRequest,
        limit: TimeLimit,
    ) -> Result<v1::ExpandVolumeResponse, Status> {
        request.min_revision = MIN_REVISION;
        request.timeout_ms = limit.work_ms();
        self.call(limit, |mut client| async move { client.expand_volume(request).await }).await
    }

    /// Usage and health (`GetVolumeStats`).
    ///
    /// # Errors
    /// As [`Helper::host_info`].
    pub async fn stats(
        &self,
        mut request: v1::GetVolumeStatsRequest,
        limit: TimeLimit,
    ) -> Result<v1::GetVolumeStatsResponse, Status> {
        request.min_revision = MIN_REVISION;
        request.timeout_ms = limit.work_ms();
        self.call(limit, |mut client| async move { client.get_volume_stats(request).await }).await
    }

    async fn call<T, F>(
        &self,
        limit: TimeLimit,
        verb: impl FnOnce(NodeHelperClient<Channel>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let within = limit.answer_within();
        match tokio::time::timeout(within, verb(self.client.clone())).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.explain(&status)),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "the node-helper at {} has not answered within {} s; it goes on with the work, a retry joins it",
                self.endpoint,
                within.as_secs()
            ))),
        }
    }

    /// The helper's own answers keep code and words and lose everything else (CSI wants empty details); what failed
    /// underneath, which alone has a source, becomes UNAVAILABLE.
    fn explain(&self, status: &Status) -> Status {
        let Some(mut cause) = status.source() else {
            return match status.message() {
                "" => Status::new(
                    status.code(),
                    format!(
                        "the node-helper at {} answered {:?} without words",
                        self.endpoint,
                        status.code()
                    ),
                ),
                words => Status::new(status.code(), words),
            };
        };
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Status::new(
            Code::Unavailable,
            format!(
                "the node-helper at {} cannot be reached: {cause}. Check that it runs on this node, that it listens on \
                 this socket, and that it admits this process's uid (--allow-uid)",
                self.endpoint
            ),
        )
    }
}
