//! The flows on a host with real mounts and file systems, by what they show.

mod device;
mod format;
mod group;
mod life;
mod place;
mod smb;

use tns_csi_proto::helper::v1 as api;
use tonic::Code;

fn code<T: std::fmt::Debug>(outcome: Result<T, tonic::Status>) -> (Code, String) {
    let status = outcome.expect_err("refused");
    (status.code(), status.message().to_owned())
}

fn filesystem(kind: &str) -> Option<api::stage_volume_request::Access> {
    let access = api::FilesystemAccess { fs_type: kind.to_owned(), ..Default::default() };
    Some(api::stage_volume_request::Access::Filesystem(access))
}
