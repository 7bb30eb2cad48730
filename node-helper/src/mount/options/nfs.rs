//! Options of NFS 4: nfs(5).

use super::rule::Value;
use crate::failure::Failure;

/// Options for mount(8), not for the kernel; NFS 4 has no lock side protocol to switch.
pub(super) const WITHOUT_EFFECT: &[&str] =
    &["lock", "nolock", "local_lock", "retry", "proto", "fg", "acl", "noacl"];

pub(super) const NFS: &[(&str, Value)] = &[
    ("vers", Value::Word(&["4.2", "4.1", "4.0"])),
    ("hard", Value::None),
    ("soft", Value::None),
    ("softerr", Value::None),
    ("timeo", Value::Number),
    ("retrans", Value::Number),
    ("rsize", Value::Number),
    ("wsize", Value::Number),
    ("nconnect", Value::Number),
    ("max_connect", Value::Number),
    ("actimeo", Value::Number),
    ("acregmin", Value::Number),
    ("acregmax", Value::Number),
    ("acdirmin", Value::Number),
    ("acdirmax", Value::Number),
    ("ac", Value::None),
    ("noac", Value::None),
    ("cto", Value::None),
    ("nocto", Value::None),
    ("lookupcache", Value::Word(&["all", "none", "pos", "positive"])),
    ("sec", Value::Word(&["sys", "krb5", "krb5i", "krb5p"])),
    ("xprtsec", Value::Word(&["none", "tls", "mtls"])),
    ("sharecache", Value::None),
    ("nosharecache", Value::None),
    ("resvport", Value::None),
    ("noresvport", Value::None),
    ("rdirplus", Value::None),
    ("nordirplus", Value::None),
    ("trunkdiscovery", Value::None),
    ("notrunkdiscovery", Value::None),
    ("fsc", Value::None),
];

/// `vers`, `nfsvers` and `minorversion` become one `vers=4.x`; older versions are refused.
pub(super) fn version<'a>(
    key: &'a str,
    value: Option<&'a str>,
) -> Result<(&'a str, Option<&'a str>), Failure> {
    Ok(match (key, value) {
        ("vers" | "nfsvers", Some("4" | "4.2")) | ("minorversion", Some("2")) => ("vers", Some("4.2")),
        ("vers" | "nfsvers", Some("4.1")) | ("minorversion", Some("1")) => ("vers", Some("4.1")),
        ("vers" | "nfsvers", Some("4.0")) | ("minorversion", Some("0")) => ("vers", Some("4.0")),
        ("vers" | "nfsvers", Some("2" | "3" | "3.0")) => {
            return Err(Failure::invalid(
                "mount option \"vers\": NFS 3 and older are refused, they need services on the host that this helper \
                 does not run; use 4.2, 4.1 or 4.0",
            ));
        }
        ("nfsvers", value) => ("vers", value),
        other => other,
    })
}
