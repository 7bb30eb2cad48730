//! How to reach one appliance, checked before anything touches the network.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use url::{Host, Url};

use crate::key::ApiKey;

/// How to reach one appliance.
#[derive(Clone)]
pub struct Options {
    /// `wss://host[:port]/api/current`, or a versioned endpoint (`/api/v25.10.5`). An empty path means `/api/current`.
    pub url: Url,
    /// Further addresses of the same appliance, tried in turn when one does not lead to the active controller of an HA
    /// pair. The virtual address belongs first.
    pub further_urls: Vec<Url>,
    /// The API key.
    pub api_key: ApiKey,
    /// The key's owner. Without it the login tries the default administrator, then the key alone (see [`Client`]).
    ///
    /// [`Client`]: crate::Client
    pub user: Option<String>,
    /// PEM file with certificates to trust in addition to the system's: authorities, or the appliance's own.
    pub ca_file: Option<PathBuf>,
    /// Accept any certificate. Whoever answers at the address then gets the key: for experiments only.
    pub skip_tls_verify: bool,
    /// Allow `ws://` to a loopback address. TrueNAS revokes a key that arrives in clear from anywhere else.
    pub allow_plaintext_loopback: bool,
    /// Largest accepted message from the appliance in bytes. The appliance sets no limit on its side.
    pub max_message: usize,
    /// Delays between connection attempts.
    pub reconnect: Reconnect,
}

/// Delays between connection attempts: doubling from `first` to `max`, each shortened at random by up to one half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconnect {
    /// Delay after the first failure.
    pub first: Duration,
    /// Largest delay.
    pub max: Duration,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), max: Duration::from_secs(30) }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of the URL only what cannot be a credential: it may not have been checked yet.
        f.debug_struct("Options")
            .field("host", &self.url.host_str())
            .field("further_hosts", &self.further_urls.iter().map(Url::host_str).collect::<Vec<_>>())
            .field("api_key", &self.api_key)
            .field("user", &self.user)
            .field("ca_file", &self.ca_file)
            .field("skip_tls_verify", &self.skip_tls_verify)
            .field("allow_plaintext_loopback", &self.allow_plaintext_loopback)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// Options with defaults: system certificates only, no plaintext, answers up to 16 MiB.
    #[must_use]
    pub fn new(url: Url, api_key: ApiKey) -> Self {
        Self {
            url,
            further_urls: Vec::new(),
            api_key,
            user: None,
            ca_file: None,
            skip_tls_verify: false,
            allow_plaintext_loopback: false,
            max_message: 16 << 20,
            reconnect: Reconnect::default(),
        }
    }
}

/// Options that cannot be used. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not `wss://`.
    #[error(
        "the appliance URL must begin with wss:// but begins with {scheme}://; an API key sent in clear is revoked by \
         TrueNAS, so ws:// is accepted only for a loopback address and only with the switch that allows it"
    )]
    Scheme {
        /// What was given.
        scheme: String,
    },
    /// No host, or parts that have no place in the URL.
    #[error("the appliance URL {part}; give wss://HOST[:PORT]/api/current")]
    Url {
        /// What is wrong with it, without its text (it may hold credentials).
        part: &'static str,
    },
    /// The CA file is unusable.
    #[error("CA file {}: {why}", path.display())]
    CaFile {
        /// The file that was given.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// TLS could not be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// The user name is empty or too long.
    #[error("the API key's user name must have 1 to 1024 characters")]
    User,
    /// Called outside a tokio runtime.
    #[error("the client must be made inside a tokio runtime")]
    NoRuntime,
}

/// Where to dial, from checked options.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) host: Host<String>,
    pub(crate) port: u16,
    pub(crate) tls: bool,
    /// The request URL for the WebSocket upgrade.
    pub(crate) url: String,
}

impl Endpoint {
    /// The addresses in the order of preference; at least one.
    pub(crate) fn all(options: &Options) -> Result<Vec<Self>, ConfigError> {
        if options.user.as_ref().is_some_and(|u| u.is_empty() || u.len() > 1024) {
            return Err(ConfigError::User);
        }
        std::iter::once(&options.url)
            .chain(&options.further_urls)
            .map(|url| Self::new(url, options))
            .collect()
    }

    fn new(url: &Url, options: &Options) -> Result<Self, ConfigError> {
        let mut url = url.clone();
        let tls = match url.scheme() {
            "wss" => true,
            "ws" if options.allow_plaintext_loopback && is_loopback(&url) => false,
            other => return Err(ConfigError::Scheme { scheme: other.to_owned() }),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ConfigError::Url { part: "must not contain credentials" });
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(ConfigError::Url { part: "must not contain a query or a fragment" });
        }
        if url.path().is_empty() || url.path() == "/" {
            url.set_path("/api/current");
        }
        let host = url.host().map(|h| h.to_owned()).ok_or(ConfigError::Url { part: "names no host" })?;
        let port = url.port_or_known_default().ok_or(ConfigError::Url { part: "names no port" })?;
        Ok(Self { host, port, tls, url: url.into() })
    }

    /// The address to which this one redirects by `text`: a URL, or a host with or without port. The path stays ours.
    /// None for anything that is not reached over TLS, and for what an appliance would not name.
    pub(crate) fn redirected(&self, text: &str) -> Option<Self> {
        if !self.tls || text.len() > 1024 {
            return None;
        }
        let (bare, full) =
            if text.contains("://") { (false, text.to_owned()) } else { (true, format!("wss://{text}")) };
        let named = Url::parse(&full).ok()?;
        let credentials = !named.username().is_empty() || named.password().is_some();
        if !matches!(named.scheme(), "wss" | "https") || credentials {
            return None;
        }
        let mut url = Url::parse(&self.url).ok()?;
        url.set_host(Some(named.host_str()?)).ok()?;
        url.set_port(if bare { named.port().or(Some(self.port)) } else { named.port() }).ok()?;
        let host = url.host().map(|h| h.to_owned())?;
        let port = url.port_or_known_default()?;
        Some(Self { host, port, tls: true, url: url.into() })
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(a)) => a.is_loopback(),
        Some(Host::Ipv6(a)) => a.is_loopback(),
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str, plaintext: bool) -> Result<Endpoint, ConfigError> {
        let mut options = Options::new(Url::parse(url).unwrap(), ApiKey::new("1-a").unwrap());
        options.allow_plaintext_loopback = plaintext;
        Endpoint::all(&options).map(|mut all| all.remove(0))
    }

    #[test]
    fn a_key_is_never_sent_in_clear_beyond_loopback() {
        for url in [
            "ws://nas.example/api/current",
            "ws://192.0.2.1/api/current",
            "ws://localhost.example/",
            "ws://[2001:db8::1]/",
        ] {
            assert!(matches!(endpoint(url, true), Err(ConfigError::Scheme { .. })), "{url}");
        }
        for url in [
            "ws://127.0.0.1:6000/api/current",
            "ws://localhost/api/current",
            "ws://[::1]/api/current",
            "ws://127.9.9.9/",
        ] {
            assert!(endpoint(url, true).is_ok(), "{url}");
            assert!(endpoint(url, false).is_err(), "{url}");
        }
        assert!(endpoint("https://nas.example/api/current", true).is_err());
    }

    #[test]
    fn an_empty_path_means_the_current_api() {
        let e = endpoint("wss://nas.example", false).unwrap();
        assert_eq!((e.url.as_str(), e.port, e.tls), ("wss://nas.example/api/current", 443, true));
        assert_eq!(endpoint("wss://nas.example:8443/api/v25.10.5", false).unwrap().port, 8443);
    }

    #[test]
    fn credentials_in_the_url_are_refused_and_not_repeated() {
        let error = endpoint("wss://root:hush@nas.example/api/current", false).unwrap_err();
        assert!(!error.to_string().contains("hush"), "{error}");
        assert!(endpoint("wss://nas.example/api/current?key=hush", false).is_err());
        let url = Url::parse("wss://root:hush@nas.example/?key=hush").unwrap();
        let shown = format!("{:?}", Options::new(url, ApiKey::new("1-hush").unwrap()));
        assert!(!shown.contains("hush"), "{shown}");
    }
}
