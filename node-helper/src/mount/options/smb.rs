//! Options of SMB 3: mount.cifs(8). Nothing of them may name credentials, another server or another user.

use super::rule::Value;
use super::{MountOptions, Parameter};
use crate::failure::Failure;

pub(super) const CIFS: &[(&str, Value)] = &[
    ("vers", Value::Word(&["3.0", "3", "3.02", "3.1.1", "default"])),
    ("sec", Value::Word(&["none", "krb5", "krb5i", "ntlmssp", "ntlmsspi"])),
    ("cruid", Value::Number),
    ("uid", Value::Number),
    ("gid", Value::Number),
    ("forceuid", Value::None),
    ("noforceuid", Value::None),
    ("forcegid", Value::None),
    ("noforcegid", Value::None),
    ("file_mode", Value::Octal),
    ("dir_mode", Value::Octal),
    ("seal", Value::None),
    ("sign", Value::None),
    ("cache", Value::Word(&["none", "strict", "loose"])),
    ("actimeo", Value::Number),
    ("acregmax", Value::Number),
    ("acdirmax", Value::Number),
    ("closetimeo", Value::Number),
    ("rsize", Value::Number),
    ("wsize", Value::Number),
    ("rasize", Value::Number),
    ("bsize", Value::Number),
    ("brl", Value::None),
    ("nobrl", Value::None),
    ("perm", Value::None),
    ("noperm", Value::None),
    ("serverino", Value::None),
    ("noserverino", Value::None),
    ("mfsymlinks", Value::None),
    ("hard", Value::None),
    ("soft", Value::None),
    ("iocharset", Value::Word(&["utf8", "ascii", "iso8859-1", "iso8859-15"])),
    ("mapposix", Value::None),
    ("nosharesock", Value::None),
    ("echo_interval", Value::Number),
    ("handletimeout", Value::Number),
    ("max_channels", Value::Number),
    ("multichannel", Value::None),
    ("nomultichannel", Value::None),
    ("persistenthandles", Value::None),
    ("nopersistenthandles", Value::None),
    ("nohandlecache", Value::None),
    ("strictsync", Value::None),
    ("nostrictsync", Value::None),
    ("cifsacl", Value::None),
    ("modefromsid", Value::None),
    ("idsfromsid", Value::None),
    ("fsc", Value::None),
];

/// Options that are refused whatever they hold, with the reason.
pub(super) fn refused(key: &str) -> Option<&'static str> {
    Some(match key {
        "cred" | "credentials" => "it names a file on this host; credentials come from the node-stage secret",
        key if key.starts_with("pass") => "the password comes from the node-stage secret, key \"password\"",
        key if key.starts_with("user") || key == "guest" => {
            "the user comes from the node-stage secret, key \"username\"; without one the mount is a guest's"
        }
        "dom" | "domain" | "workgroup" => "the domain comes from the node-stage secret, key \"domain\"",
        "ip" | "addr" | "port" | "source" | "unc" | "target" | "path" | "prefixpath" | "servern"
        | "srcaddr" => "server, share and address come from the volume",
        "snapshot" => "it would show another state than the volume's",
        _ => return None,
    })
}

/// The other spellings of an SMB version; those before 3 are refused.
pub(super) fn version<'a>(
    key: &'a str,
    value: Option<&'a str>,
) -> Result<(&'a str, Option<&'a str>), Failure> {
    Ok(match (key, value) {
        ("vers", Some("3.0.2")) => ("vers", Some("3.02")),
        ("vers", Some("3.11")) => ("vers", Some("3.1.1")),
        ("vers", Some("1.0" | "2.0" | "2.1" | "2" | "1")) => {
            return Err(Failure::invalid(
                "mount option \"vers\": SMB before 3.0 has no encryption and is refused; use 3.0, 3.02, 3.1.1, 3 or \
                 default",
            ));
        }
        other => other,
    })
}

impl MountOptions {
    /// Gives every file of an SMB mount to `group` (the protocol carries no owners that could be changed).
    ///
    /// # Errors
    /// `InvalidArgument` when the caller's own `gid` or `noforcegid` says otherwise.
    pub fn give_to_group(&mut self, group: u32) -> Result<(), Failure> {
        let group = group.to_string();
        let own =
            self.parameters.iter().find_map(|parameter| match (parameter.key.as_str(), &parameter.value) {
                ("gid", Some(value)) if value.trim_start_matches('0') != group.trim_start_matches('0') => {
                    Some(format!("gid={value}"))
                }
                ("noforcegid", _) => Some("noforcegid".to_owned()),
                _ => None,
            });
        if let Some(own) = own {
            return Err(Failure::invalid(format!(
                "mount option {own:?} contradicts the volume's mount group {group} (the pod's fsGroup); remove one of both"
            )));
        }
        self.set(Parameter::with("gid", group));
        self.set(Parameter { key: "forcegid".to_owned(), value: None });
        Ok(())
    }
}
