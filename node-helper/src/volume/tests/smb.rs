//! SMB servers and credentials.

use tns_csi_proto::helper::v1 as api;
use tonic::Code;

use super::code;
use crate::volume::testing::{TestHost, on_host};

/// A share of a server on which nobody listens.
fn smb_request(host: &TestHost, password: &str) -> api::StageVolumeRequest {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let smb = api::SmbSource {
        portal: Some(api::Portal { address: "127.0.0.1".to_owned(), port: u32::from(port) }),
        share: "pvc-1".to_owned(),
        username: "k8s".to_owned(),
        password: password.to_owned(),
        domain: String::new(),
    };
    api::StageVolumeRequest {
        source: Some(api::Source { protocol: Some(api::source::Protocol::Smb(smb)) }),
        capacity_bytes: 0,
        ..host.stage_request(1)
    }
}

#[test]
fn an_smb_server_that_cannot_be_used_leaves_no_mount_and_no_password() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        let (found, words) = code(host.stage(smb_request(host, "geheim,\"'")).await);
        assert_eq!(found, Code::Unavailable, "{words}");
        assert!(words.contains("SMB server does not accept") && !words.contains("geheim"), "{words}");
        host.edit_record(1, |record| {
            let shown = serde_json::to_string(record).unwrap();
            assert!(!shown.contains("geheim"), "{shown}");
        });
        assert_eq!(host.mounts_at(&host.path("stage1")), 0);
    });
}

#[test]
fn smb_options_with_credentials_are_refused_without_their_value() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        for flag in ["password=geheim", "credentials=geheim", "ip=geheim"] {
            let mut request = smb_request(host, "secret");
            if let Some(api::stage_volume_request::Access::Filesystem(access)) = &mut request.access {
                access.mount_flags = vec![flag.to_owned()];
            }
            let (found, words) = code(host.stage(request).await);
            assert_eq!(found, Code::InvalidArgument, "{words}");
            assert!(!words.contains("geheim"), "{words}");
        }
    });
}
