//! What differs between TrueNAS versions, in one place: method names and the shapes that changed.
//!
//! The shapes are those of API version 25.10. Where later versions changed a default the client always sends the value,
//! so that one request serves both: `type` of `pool.dataset.create`, `get_source` and `get_children` of
//! `zfs.resource.query`, and no `recursive` in any deletion. An older appliance answers "no such method" for the
//! namespaces that it lacks (`nvmet`, `zfs.resource`), which reaches the caller as it is.

use crate::state::SystemVersion;

/// Oldest version whose shapes are spoken.
const OLDEST: (u32, u32) = (25, 10);

/// What to say about an appliance's version when it is not one this client was made for.
pub(crate) fn warning(version: &SystemVersion) -> Option<String> {
    if (version.major, version.minor) == (0, 0) {
        return Some(format!("the appliance's version {:?} cannot be read; 25.10 is assumed", version.text));
    }
    ((version.major, version.minor) < OLDEST).then(|| {
        format!(
            "TrueNAS {version} is older than 25.10: NVMe-oF and exact dataset reads are not available on it"
        )
    })
}

/// Options of a query that must not pay for the lock state of every share.
pub(crate) const NO_LOCK_STATE: (&str, bool) = ("retrieve_locked_info", false);

/// Account that owns the keys made by a default installation (since 24.10).
pub(crate) const DEFAULT_USER: &str = "truenas_admin";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_unreadable_versions_are_named() {
        assert!(warning(&SystemVersion::parse("TrueNAS-SCALE-25.04.2.6")).unwrap().contains("25.04.2.6"));
        assert!(warning(&SystemVersion::parse("x")).unwrap().contains("cannot be read"));
        assert_eq!(warning(&SystemVersion::parse("25.10.5")), None);
        assert_eq!(warning(&SystemVersion::parse("TrueNAS-26.0.0")), None);
    }
}
