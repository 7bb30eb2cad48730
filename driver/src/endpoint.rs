//! Unix socket endpoints, as flags and `CSI_ENDPOINT` give them: `unix:///absolute/path.sock`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Longest path of a unix socket in bytes (`sun_path` of unix(7) without its closing NUL).
const MAX_PATH: usize = 107;

/// A unix socket by its absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixEndpoint(PathBuf);

/// Why a text is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Another scheme, or a relative path.
    #[error("expected unix:///absolute/path, found {0:?}")]
    NotUnix(String),
    /// Longer than the kernel takes.
    #[error("the socket path has {0} bytes, the kernel takes at most {MAX_PATH}")]
    TooLong(usize),
}

impl UnixEndpoint {
    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for UnixEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        // Kubernetes sidecars accept "unix:///path" and "unix:/path" alike.
        let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")).unwrap_or_default();
        if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
            return Err(EndpointError::NotUnix(text.to_owned()));
        }
        if path.len() > MAX_PATH {
            return Err(EndpointError::TooLong(path.len()));
        }
        Ok(UnixEndpoint(PathBuf::from(path)))
    }
}

impl fmt::Display for UnixEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_unix_paths_are_endpoints() {
        for text in ["unix:///run/csi.sock", "unix:/run/csi.sock"] {
            assert_eq!(text.parse::<UnixEndpoint>().unwrap().to_string(), "unix:///run/csi.sock");
        }
        for text in
            ["", "/run/csi.sock", "unix://run/csi.sock", "tcp://127.0.0.1:1", "unix:///run/", "unix://"]
        {
            assert!(matches!(text.parse::<UnixEndpoint>(), Err(EndpointError::NotUnix(_))), "{text}");
        }
        let long = format!("unix:///{}", "x".repeat(107));
        assert_eq!(long.parse::<UnixEndpoint>(), Err(EndpointError::TooLong(108)));
    }
}
