//! Mounting an SMB share.
//!
//! What mount.cifs(8) does in user space is done here: the server's address is resolved and checked by us, and user and
//! password go to the kernel each as a value of its own, so that no character of theirs separates options.

use std::ffi::CStr;
use std::net::SocketAddr;

use rustix::io::Errno;
use zeroize::Zeroizing;

use super::attach::{Detached, MountError};
use super::options::{MountOptions, Parameter};
use crate::failure::Failure;
use crate::source::SmbSource;

/// The kernel's name of the file system.
pub const FS_TYPE: &str = "cifs";

/// The source as the mount table will show it: `//host/share`.
#[must_use]
pub fn device_string(source: &SmbSource) -> String {
    format!("//{}/{}", source.server.host, source.share)
}

/// Mounts the share, detached. Blocks until the server has answered.
///
/// # Errors
/// With the kernel's words, which never hold the password.
pub fn mount(source: &SmbSource, server: SocketAddr, options: &MountOptions) -> Result<Detached, MountError> {
    let password = source.user.as_ref().map(|user| {
        let text = user.password.expose();
        let mut bytes = Zeroizing::new(Vec::with_capacity(text.len().saturating_add(1)));
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
        bytes
    });
    // Parsing has refused a NUL inside; an empty password is none (a Kerberos ticket stands for it).
    let password = password.as_ref().and_then(|bytes| CStr::from_bytes_with_nul(bytes).ok());
    let secret = password.filter(|text| !text.is_empty()).map(|text| ("pass", text));
    let parameters = parameters(source, server, options);
    Detached::file_system(FS_TYPE, &device_string(source), &parameters, secret, options.attributes())
}

/// Every option but the password.
fn parameters(source: &SmbSource, server: SocketAddr, options: &MountOptions) -> Vec<Parameter> {
    let mut parameters = vec![
        Parameter::with("ip", server.ip().to_string()),
        Parameter::with("port", server.port().to_string()),
        // Without a name the session is anonymous (fs/smb/client/fs_context.c, Opt_user): the server's guest.
        Parameter::with("user", source.user.as_ref().map_or("", |user| user.name.as_str())),
    ];
    if let Some(domain) = &source.domain {
        parameters.push(Parameter::with("domain", domain.as_str()));
    }
    parameters.extend(options.parameters().iter().cloned());
    parameters
}

/// The failure that a mount error means for the orchestrator.
#[must_use]
pub fn judge(source: &SmbSource, error: &MountError) -> Failure {
    let shown = device_string(source);
    let code = error.errno.raw_os_error().unwrap_or(0);
    let any = |errnos: &[Errno]| errnos.iter().any(|errno| errno.raw_os_error() == code);
    let user = match &source.user {
        Some(user) => format!("user {:?}", user.name),
        None => "a guest".to_owned(),
    };
    if any(&[Errno::NOENT]) {
        Failure::not_found(format!("SMB share {shown} does not exist on the server: {error}"))
    } else if any(&[Errno::ACCESS, Errno::PERM]) {
        Failure::precondition(format!(
            "the SMB server refuses {shown} to {user}: {error}; check user, password and domain of the node-stage \
             secret, that the account may use SMB, the share's ACL, and that this node is among the share's allowed hosts"
        ))
    } else if any(&[Errno::KEYREJECTED, Errno::KEYEXPIRED, Errno::NOKEY, Errno::KEYREVOKED]) {
        Failure::precondition(format!(
            "the login of {user} to SMB share {shown} failed: {error}; the password or Kerberos ticket is expired, \
             revoked or absent on this node"
        ))
    } else if any(&[Errno::OPNOTSUPP, Errno::PROTONOSUPPORT]) {
        Failure::precondition(format!(
            "SMB share {shown}: the server does not speak the version or security that the mount options ask for: \
             {error}"
        ))
    } else if any(&[
        Errno::HOSTDOWN,
        Errno::TIMEDOUT,
        Errno::CONNREFUSED,
        Errno::CONNRESET,
        Errno::CONNABORTED,
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::NOTCONN,
        Errno::AGAIN,
        Errno::IO,
    ]) {
        Failure::unavailable(format!("SMB share {shown}: {error}"))
    } else {
        Failure::internal(format!("SMB share {shown}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use tns_csi_proto::helper::v1 as api;

    use super::super::options::Family;
    use super::*;
    use crate::failure::Kind;
    use crate::source::Source;

    const SERVER: ([u8; 4], u16) = ([192, 0, 2, 7], 445);

    fn source(username: &str, password: &str) -> SmbSource {
        let smb = api::SmbSource {
            portal: Some(api::Portal { address: "nas".to_owned(), port: 0 }),
            share: "pvc-1".to_owned(),
            username: username.to_owned(),
            password: password.to_owned(),
            domain: String::new(),
        };
        let protocol = Some(api::source::Protocol::Smb(smb));
        match Source::parse(Some(&api::Source { protocol })).expect("valid") {
            Source::Smb(smb) => smb,
            other => panic!("{other:?}"),
        }
    }

    fn shown(source: &SmbSource, flags: &[&str]) -> Vec<String> {
        let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        let options = MountOptions::parse(Family::Cifs, &flags, false).expect("valid");
        parameters(source, SERVER.into(), &options).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_kernel_gets_address_and_user_and_the_password_never_among_the_options() {
        let source = source("k8s", "geheim,uid=0");
        assert_eq!(device_string(&source), "//nas/pvc-1");
        let shown = shown(&source, &["uid=1000"]);
        assert_eq!(
            shown,
            [
                "ip=192.0.2.7",
                "port=445",
                "user=k8s",
                "vers=3.0",
                "file_mode=0777",
                "dir_mode=0777",
                "hard",
                "uid=1000"
            ]
        );
    }

    #[test]
    fn nobody_is_an_anonymous_session() {
        assert!(shown(&source("", ""), &[]).contains(&"user=".to_owned()));
    }

    #[test]
    fn what_the_server_says_is_told_with_share_and_user() {
        let source = source("k8s", "geheim");
        for (errno, kind, word) in [
            (Errno::NOENT, Kind::NotFound, "does not exist"),
            (Errno::ACCESS, Kind::FailedPrecondition, "user \"k8s\""),
            (Errno::KEYREJECTED, Kind::FailedPrecondition, "expired"),
            (Errno::HOSTDOWN, Kind::Unavailable, "//nas/pvc-1"),
            (Errno::OPNOTSUPP, Kind::FailedPrecondition, "version"),
            (Errno::NOMEM, Kind::Internal, "//nas/pvc-1"),
        ] {
            let error = MountError { step: "mounting".to_owned(), errno: errno.into(), log: String::new() };
            let failure = judge(&source, &error);
            assert_eq!(failure.kind, kind, "{failure}");
            assert!(failure.message.contains(word) && !failure.message.contains("geheim"), "{failure}");
        }
    }
}
