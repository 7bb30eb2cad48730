//! How an appliance is set up: by the program's flags or by a test.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::appliance::Profile;
use crate::backend::memory::Settings;
use crate::backend::zfs::SmbUser;

/// The released product that the stand-in behaves as, in order of release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TrueNAS 25.04.2.6 with the API versions up to v25.04.2.
    V25_04,
    /// TrueNAS 25.10.6 with the API versions up to v25.10.5.
    V25_10,
    /// TrueNAS 26.0.0 with the API versions up to v26.0.0.
    V26,
}

impl Version {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::V25_04, Self::V25_10, Self::V26];

    /// The version of a `--truenas-version` value.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "25.04" | "25.04.2.6" => Ok(Self::V25_04),
            "25.10" | "25.10.6" => Ok(Self::V25_10),
            "26" | "26.0" | "26.0.0" => Ok(Self::V26),
            other => Err(format!("unknown TrueNAS version {other:?}; known: 25.04, 25.10, 26")),
        }
    }

    /// `system.version_short`.
    pub fn product(self) -> &'static str {
        match self {
            Self::V25_04 => "25.04.2.6",
            Self::V25_10 => "25.10.6",
            Self::V26 => "26.0.0",
        }
    }

    /// The endpoints served, as `GET /api/versions` lists them.
    pub fn api_versions(self) -> &'static [&'static str] {
        const ALL: &[&str] = &[
            "v25.04.0", "v25.04.1", "v25.04.2", "v25.10.0", "v25.10.1", "v25.10.2", "v25.10.3", "v25.10.4",
            "v25.10.5", "v26.0.0",
        ];
        let count = match self {
            Self::V25_04 => 3,
            Self::V25_10 => 9,
            Self::V26 => 10,
        };
        ALL.get(..count).unwrap_or(ALL)
    }

    /// The file of the newest API's JSON Schemas.
    pub fn schema_file(self) -> &'static str {
        match self {
            Self::V25_04 => "v25_04_2.json",
            Self::V25_10 => "v25_10_5.json",
            Self::V26 => "v26_0_0.json",
        }
    }

    /// How it behaves where that can be switched.
    pub fn profile(self) -> Profile {
        let of_26 = self >= Self::V26;
        Profile { busy_delete_returns_true: of_26, delete_as_26: of_26 }
    }
}

/// Which backend does the storage.
#[derive(Debug, Clone)]
pub enum BackendChoice {
    /// Names and numbers only.
    Memory,
    /// A real pool, the kernel's NVMe target and NFS server, and Samba.
    Zfs,
}

/// An appliance's set-up. `Config::default()` suits a test: loopback, an ephemeral port, nothing kept.
#[derive(Clone)]
pub struct Config {
    /// Where the TLS listener binds.
    pub listen: SocketAddr,
    /// A second listener without TLS; keys that travel over it from another host are revoked.
    pub plain_listen: Option<SocketAddr>,
    /// Treat every peer of the plain listener as another host (loopback is exempt otherwise).
    pub plain_is_remote: bool,
    /// Where the state journal lies; `None`: kept in memory only.
    pub state_dir: Option<PathBuf>,
    /// Where CA, certificate and key lie or are made; `None`: a temporary directory.
    pub tls_dir: Option<PathBuf>,
    /// API key, `<id>-<secret>`; `None`: a random one.
    pub api_key: Option<String>,
    /// Owner of the key.
    pub api_key_user: String,
    /// Control socket; `None`: none.
    pub control: Option<PathBuf>,
    /// Product version.
    pub version: Version,
    /// Time added to every call.
    pub latency: Duration,
    /// Which backend.
    pub backend: BackendChoice,
    /// The pool of the memory backend; its name is that of the real pool with the other one.
    pub pool: Settings,
    /// An NVMe/TCP port that exists from the first start.
    pub nvmet_port: Option<SocketAddr>,
    /// The user that SMB clients log in as (zfs backend; without one SMB cannot be served there).
    pub smb_user: Option<SmbUser>,
    /// An iSCSI portal that exists from the first start.
    pub iscsi_portal: Option<SocketAddr>,
    /// How long a refused login takes (the appliance: 1 to 2 s).
    pub failed_login_delay: Duration,
    /// Unauthenticated calls per method and address in 60 s (the appliance: 20).
    pub login_rate: usize,
    /// Directory of the appliance's JSON Schemas; every request and answer is checked against them.
    pub schemas: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            plain_listen: None,
            plain_is_remote: false,
            state_dir: None,
            tls_dir: None,
            api_key: None,
            api_key_user: "truenas_admin".into(),
            control: None,
            version: Version::V25_10,
            latency: Duration::ZERO,
            backend: BackendChoice::Memory,
            pool: Settings::default(),
            nvmet_port: None,
            iscsi_portal: None,
            smb_user: None,
            failed_login_delay: Duration::ZERO,
            login_rate: 20,
            schemas: std::env::var_os("TNS_CSI_SIM_SCHEMAS").filter(|v| !v.is_empty()).map(PathBuf::from),
        }
    }
}
