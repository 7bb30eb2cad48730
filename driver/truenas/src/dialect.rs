//! What differs between TrueNAS versions, in one place: [`Features`] says what an appliance can do, found at login.
//!
//! The shapes are those of API version 25.10. Where later versions changed a default the client always sends the value,
//! so that one request serves all: `type` of `pool.dataset.create`, `get_source` and `get_children` of
//! `zfs.resource.query`, and no `recursive` in any deletion. What a version really lacks is asked of [`Features`] by the
//! typed call concerned, and by the driver where a class asks for it.

use std::fmt;

use crate::state::SystemVersion;

/// Oldest release train that is spoken to.
const OLDEST: (u32, u32) = (25, 4);
/// First train with `nvmet.*`, `pool.snapshot.*`, `zfs.resource.query`, `service.control` and SMB purposes.
const PRESENT: (u32, u32) = (25, 10);
/// First train that deletes without telling failures, fixes the encryption algorithm and cancels calls on disconnect.
const NEWEST: (u32, u32) = (26, 0);

/// What one appliance can do, derived from its version at login (TrueNAS middleware, 25.04, 25.10 and 26).
///
/// An unreadable version counts as 25.10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// NVMe-oF targets exist (`nvmet.*`).
    pub nvmeof: bool,
    /// One dataset can be opened by its path (`zfs.resource.query`); without it each read walks all datasets.
    pub exact_reads: bool,
    /// Namespace of the snapshot methods.
    pub snapshots: SnapshotMethods,
    /// Shape of `sharing.smb.*`.
    pub smb_shares: SmbShape,
    /// A time-locked SMB share has a grace period to choose.
    pub smb_grace_period: bool,
    /// How services are started and stopped.
    pub services: ServiceVerbs,
    /// `encryption_options.algorithm` is accepted; later versions always use AES-256-GCM and refuse the field.
    pub encryption_algorithm: bool,
    /// Least `encryption_options.pbkdf2iters`.
    pub least_pbkdf2_iterations: u32,
    /// `pool.dataset.delete` answers with an error when ZFS refuses. Without that, success proves nothing.
    pub deletion_is_told: bool,
    /// Calls in flight run to their end when the connection is lost. Without that they may stop half-way.
    pub calls_outlive_connection: bool,
    /// `pool.snapshot.query` shows user properties.
    pub snapshot_user_properties: bool,
}

/// Namespace of the snapshot methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotMethods {
    /// `zfs.snapshot.*` (25.04).
    ZfsSnapshot,
    /// `pool.snapshot.*` (25.10 and later).
    PoolSnapshot,
}

/// Shape of `sharing.smb.create` and `sharing.smb.update`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmbShape {
    /// All settings side by side, and presets such as `NO_PRESET` (25.04).
    Flat,
    /// `purpose` with the `options` that belong to it (25.10 and later).
    PurposeAndOptions,
}

/// How services are started, stopped and reloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceVerbs {
    /// `service.start`, `service.stop`, ...; no jobs (25.04).
    Methods,
    /// `service.control`, a job (25.10 and later).
    Control,
}

impl Features {
    /// What an appliance of this version can do.
    #[must_use]
    pub fn of(version: &SystemVersion) -> Self {
        let train = if version.is_readable() { (version.major, version.minor) } else { PRESENT };
        let modern = train >= PRESENT;
        let newest = train >= NEWEST;
        Self {
            nvmeof: modern,
            exact_reads: modern,
            snapshots: if modern { SnapshotMethods::PoolSnapshot } else { SnapshotMethods::ZfsSnapshot },
            smb_shares: if modern { SmbShape::PurposeAndOptions } else { SmbShape::Flat },
            smb_grace_period: modern,
            services: if modern { ServiceVerbs::Control } else { ServiceVerbs::Methods },
            encryption_algorithm: !newest,
            least_pbkdf2_iterations: if newest { 1_300_000 } else { 100_000 },
            deletion_is_told: !newest,
            calls_outlive_connection: !newest,
            snapshot_user_properties: !newest,
        }
    }
}

impl SnapshotMethods {
    /// The query method.
    pub(crate) fn query(self) -> &'static str {
        match self {
            Self::ZfsSnapshot => "zfs.snapshot.query",
            Self::PoolSnapshot => "pool.snapshot.query",
        }
    }
}

/// Something that this appliance's version does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{feature} needs TrueNAS {needs} or later; this appliance runs {found}")]
pub struct Unsupported {
    /// What was asked for.
    pub feature: Feature,
    /// First release train that has it.
    pub needs: &'static str,
    /// The appliance's version as it gave it.
    pub found: String,
}

/// Something that not every version has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// NVMe-oF targets.
    Nvmeof,
    /// A grace period of one's own for time-locked SMB shares.
    SmbGracePeriod,
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nvmeof => "NVMe-oF",
            Self::SmbGracePeriod => "the grace period of a time-locked SMB share",
        })
    }
}

/// Checks that the appliance has a feature.
pub(crate) fn require(version: &SystemVersion, feature: Feature) -> Result<(), Unsupported> {
    let features = Features::of(version);
    let (there, needs) = match feature {
        Feature::Nvmeof => (features.nvmeof, "25.10"),
        Feature::SmbGracePeriod => (features.smb_grace_period, "25.10"),
    };
    if there { Ok(()) } else { Err(Unsupported { feature, needs, found: version.text.clone() }) }
}

/// Whether the appliance is too old to be spoken to. One whose version cannot be read is not.
pub(crate) fn is_too_old(version: &SystemVersion) -> bool {
    version.is_readable() && (version.major, version.minor) < OLDEST
}

/// What to say about an appliance's version when it is not one this client was made for.
pub(crate) fn warning(version: &SystemVersion) -> Option<String> {
    if !version.is_readable() {
        return Some(format!("the appliance's version {:?} cannot be read; 25.10 is assumed", version.text));
    }
    ((version.major, version.minor) < PRESENT).then(|| {
        format!(
            "TrueNAS {version} is older than 25.10: it has no NVMe-oF, and reading one volume walks all datasets"
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

    fn features(text: &str) -> Features {
        Features::of(&SystemVersion::parse(text))
    }

    #[test]
    fn each_release_train_has_its_features() {
        let old = features("TrueNAS-SCALE-25.04.2.6");
        assert!(!old.nvmeof && !old.exact_reads && old.encryption_algorithm && old.deletion_is_told);
        assert_eq!((old.snapshots.query(), old.smb_shares), ("zfs.snapshot.query", SmbShape::Flat));
        assert_eq!(old.services, ServiceVerbs::Methods);
        let present = features("25.10.6");
        assert!(present.nvmeof && present.exact_reads && present.encryption_algorithm);
        assert!(present.deletion_is_told && present.calls_outlive_connection);
        assert_eq!(present.snapshots.query(), "pool.snapshot.query");
        assert_eq!(present.smb_shares, SmbShape::PurposeAndOptions);
        let new = features("TrueNAS-26.0.0-RC.1");
        assert!(new.nvmeof && !new.encryption_algorithm && !new.deletion_is_told);
        assert!(!new.calls_outlive_connection && !new.snapshot_user_properties);
        assert_eq!((new.least_pbkdf2_iterations, new.services), (1_300_000, ServiceVerbs::Control));
        assert_eq!(features("27.0.0-BETA.1"), new);
        assert_eq!(features("nonsense"), present, "25.10 is assumed");
    }

    #[test]
    fn what_a_version_lacks_is_said_with_the_version_found() {
        let old = SystemVersion::parse("TrueNAS-SCALE-25.04.2.6");
        let error = require(&old, Feature::Nvmeof).unwrap_err().to_string();
        assert_eq!(
            error,
            "NVMe-oF needs TrueNAS 25.10 or later; this appliance runs TrueNAS-SCALE-25.04.2.6"
        );
        assert_eq!(require(&SystemVersion::parse("25.10.0"), Feature::Nvmeof), Ok(()));
    }

    #[test]
    fn each_feature_follows_the_version() {
        for feature in [Feature::Nvmeof, Feature::SmbGracePeriod] {
            assert!(require(&SystemVersion::parse("25.04.0"), feature).is_err());
            assert_eq!(require(&SystemVersion::parse("26.0.0"), feature), Ok(()));
        }
    }

    #[test]
    fn old_and_unreadable_versions_are_named() {
        assert!(warning(&SystemVersion::parse("TrueNAS-SCALE-25.04.2.6")).unwrap().contains("25.04.2.6"));
        assert!(warning(&SystemVersion::parse("x")).unwrap().contains("cannot be read"));
        assert_eq!(warning(&SystemVersion::parse("25.10.5")), None);
        assert_eq!(warning(&SystemVersion::parse("TrueNAS-26.0.0")), None);
    }

    #[test]
    fn only_what_is_known_to_be_too_old_is_refused() {
        for (text, refused) in [
            ("TrueNAS-SCALE-24.10.2", true),
            ("23.10", true),
            ("25.04.0", false),
            ("26.0.0", false),
            ("?", false),
        ] {
            assert_eq!(is_too_old(&SystemVersion::parse(text)), refused, "{text}");
        }
    }
}
