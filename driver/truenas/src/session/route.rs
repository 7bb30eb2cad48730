//! Which address to dial next: the configured ones in turn, and where a standby controller points to.
//!
//! An HA pair has a virtual address and one for each controller. Only the active controller may be used: the other one
//! has no pools, and what is written to its database is lost. A standby answers the login with REDIRECT and the active
//! one's addresses; those are dialled once, and only over TLS that proves the host.

use std::collections::VecDeque;

use crate::options::Endpoint;

/// Most addresses of one REDIRECT that are tried.
const MAX_DETOURS: usize = 4;

/// The addresses of one appliance and the place in them.
#[derive(Debug)]
pub(crate) struct Route {
    /// As configured, at least one.
    endpoints: Vec<Endpoint>,
    index: usize,
    /// Failures since the last pause; a round is over when each address has failed.
    failures: usize,
    /// Where the present address redirected to.
    detours: VecDeque<Endpoint>,
    /// Whether TLS proves who answers.
    verified: bool,
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Another address is left: dial it at once.
    AtOnce,
    /// All have failed: pause first.
    AfterPause,
}

impl Route {
    /// `verified`: certificates are checked, so that a host is who it says it is.
    pub(crate) fn new(endpoints: Vec<Endpoint>, verified: bool) -> Self {
        Self { endpoints, index: 0, failures: 0, detours: VecDeque::new(), verified }
    }

    /// The address to dial; none only when there are none at all.
    pub(super) fn target(&self) -> Option<&Endpoint> {
        self.detours.front().or_else(|| self.endpoints.get(self.index))
    }

    /// The address could not be used.
    pub(super) fn failed(&mut self) -> Next {
        if self.detours.pop_front().is_some() && !self.detours.is_empty() {
            return Next::AtOnce;
        }
        self.index = (self.index + 1) % self.endpoints.len().max(1);
        self.failures += 1;
        if self.failures < self.endpoints.len() {
            return Next::AtOnce;
        }
        self.failures = 0;
        Next::AfterPause
    }

    /// A session was there and ended: the same configured address first, in a new round.
    pub(super) fn lost(&mut self) {
        self.failures = 0;
        self.detours.clear();
    }

    /// The address is a standby controller and names others. Gives whether one of them can be dialled; a redirection
    /// that leads to another one is not followed.
    pub(super) fn redirect(&mut self, urls: &[String]) -> bool {
        if !self.detours.is_empty() {
            return false;
        }
        let Some(from) = self.endpoints.get(self.index) else { return false };
        let known = |to: &Endpoint| self.endpoints.iter().any(|e| e.host == to.host);
        let usable = |to: &Endpoint| {
            (to.host.clone(), to.port) != (from.host.clone(), from.port) && (self.verified || known(to))
        };
        let targets = urls.iter().filter_map(|text| from.redirected(text)).filter(usable);
        self.detours = targets.take(MAX_DETOURS).collect();
        !self.detours.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ApiKey, Options};

    fn route(urls: &[&str], verified: bool) -> Route {
        let mut parsed = urls.iter().map(|u| u.parse().unwrap());
        let mut options = Options::new(parsed.next().unwrap(), ApiKey::new("1-a").unwrap());
        options.further_urls = parsed.collect();
        Route::new(Endpoint::all(&options).unwrap(), verified)
    }

    fn host(route: &Route) -> String {
        route.target().unwrap().host.to_string()
    }

    #[test]
    fn each_address_is_tried_before_a_pause() {
        let mut r = route(&["wss://vip", "wss://a", "wss://b"], true);
        assert_eq!((host(&r).as_str(), r.failed()), ("vip", Next::AtOnce));
        assert_eq!((host(&r).as_str(), r.failed()), ("a", Next::AtOnce));
        assert_eq!((host(&r).as_str(), r.failed()), ("b", Next::AfterPause));
        assert_eq!((host(&r).as_str(), r.failed()), ("vip", Next::AtOnce));
        r.lost();
        assert_eq!(host(&r), "a", "the address that worked comes first");
        assert_eq!(route(&["wss://only"], true).failed(), Next::AfterPause);
    }

    #[test]
    fn a_redirection_is_followed_over_tls_only_and_once() {
        let urls = |u: &[&str]| u.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let mut r = route(&["wss://a:8443/api/v25.10.5"], true);
        assert!(!r.redirect(&urls(&[
            "ws://b",
            "http://b",
            "wss://u:p@b",
            "wss://",
            "ftp://b",
            "wss://a:8443"
        ])));
        assert!(r.redirect(&urls(&["http://b", "https://b/ui", "c"])));
        let to = r.target().unwrap();
        assert_eq!((to.url.as_str(), to.port, to.tls), ("wss://b/api/v25.10.5", 443, true));
        assert!(!r.redirect(&urls(&["https://d"])), "no second hop");
        assert_eq!(r.failed(), Next::AtOnce);
        assert_eq!(r.target().unwrap().url, "wss://c:8443/api/v25.10.5", "a bare name has the port of ours");
        assert_eq!((r.failed(), host(&r).as_str()), (Next::AfterPause, "a"));
    }

    #[test]
    fn without_verified_certificates_only_configured_hosts_are_followed() {
        let mut r = route(&["wss://a", "wss://b"], false);
        assert!(!r.redirect(&["https://evil.example".to_owned()]));
        assert!(r.redirect(&["https://b".to_owned()]));
    }

    #[test]
    fn a_redirection_seen_in_clear_is_not_followed() {
        let mut options = Options::new("ws://127.0.0.1:1".parse().unwrap(), ApiKey::new("1-a").unwrap());
        options.allow_plaintext_loopback = true;
        let mut r = Route::new(Endpoint::all(&options).unwrap(), true);
        assert!(!r.redirect(&["https://b".to_owned()]));
    }
}
