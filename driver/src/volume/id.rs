//! Volume ids: `[backend=]dataset`, and the legacy form that is a bare name.
//!
//! The rule it keeps: an id is parsed once, and what does not parse is a volume that does not exist (CSI asks that of
//! every id the plugin did not give). `=` cannot appear in a ZFS name, so the backend's name is never ambiguous.

use std::fmt;

use crate::volume::failure::Failure;

/// Longest volume id in bytes (CSI 1.12, "Size Limits").
pub const MAX_ID: usize = 128;
/// Longest dataset name in bytes that ZFS takes (`ZFS_MAX_DATASET_NAME_LEN` 256 with the final NUL).
pub const MAX_DATASET: usize = 255;

/// A parsed volume id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeId {
    /// Name of the appliance in the driver's configuration; none is the default one.
    backend: Option<String>,
    /// Dataset path, or a legacy name without `/`.
    name: String,
}

impl VolumeId {
    /// The id of a volume to be created at `dataset`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when the id would be longer than [`MAX_ID`] bytes, naming the length.
    pub fn for_dataset(backend: Option<&str>, dataset: &str) -> Result<Self, Failure> {
        let id = VolumeId { backend: backend.map(str::to_owned), name: dataset.to_owned() };
        let length = id.to_string().len();
        if length > MAX_ID {
            return Err(Failure::invalid(format!(
                "the volume id {id} would have {length} bytes, CSI allows {MAX_ID}: use a shorter parentDataset"
            )));
        }
        Ok(id)
    }

    /// Reads an id. None for what cannot be an id of this driver: the volume does not exist then.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.len() > MAX_ID {
            return None;
        }
        let (backend, name) = match text.split_once('=') {
            Some((backend, name)) => (Some(backend), name),
            None => (None, text),
        };
        let backend_fits = backend.is_none_or(|b| {
            !b.is_empty() && b.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
        });
        let name_fits = name.split('/').all(is_component);
        (backend_fits && name_fits)
            .then(|| VolumeId { backend: backend.map(str::to_owned), name: name.to_owned() })
    }

    /// Name of the appliance; none is the default one.
    #[must_use]
    pub fn backend(&self) -> Option<&str> {
        self.backend.as_deref()
    }

    /// The dataset path, unless this is a legacy name that has to be looked up.
    #[must_use]
    pub fn dataset(&self) -> Option<&str> {
        self.name.contains('/').then_some(self.name.as_str())
    }

    /// The dataset path or the legacy name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.backend {
            Some(backend) => write!(f, "{backend}={}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Whether `text` can be one component of a ZFS dataset name (`zfs(8)`, `zfs_namecheck.c`: letters, digits and
/// `-_.: `, not `.` or `..`; snapshots and bookmarks are other objects).
#[must_use]
pub fn is_component(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.: ".contains(&c))
        && !text.ends_with(' ')
        && !text.starts_with(' ')
}

/// The last component of a dataset path.
#[must_use]
pub fn leaf(dataset: &str) -> &str {
    dataset.rsplit_once('/').map_or(dataset, |(_, leaf)| leaf)
}

/// Every dataset above `dataset`, nearest first: `a/b/c` gives `a/b`, `a`.
pub fn ancestors(dataset: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(dataset.rsplit_once('/').map(|(above, _)| above), |above| {
        above.rsplit_once('/').map(|(next, _)| next)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_names_backend_and_dataset() {
        let plain = VolumeId::parse("tank/k8s/pvc-1").unwrap();
        assert_eq!((plain.backend(), plain.dataset()), (None, Some("tank/k8s/pvc-1")));
        let named = VolumeId::parse("nas2=tank/pvc-1").unwrap();
        assert_eq!((named.backend(), named.dataset()), (Some("nas2"), Some("tank/pvc-1")));
        assert_eq!(named.to_string(), "nas2=tank/pvc-1");
        let legacy = VolumeId::parse("pvc-1").unwrap();
        assert_eq!((legacy.dataset(), legacy.name()), (None, "pvc-1"));
    }

    #[test]
    fn what_no_dataset_can_be_called_is_no_id() {
        for text in [
            "",
            "/",
            "tank/",
            "/tank",
            "tank//a",
            "tank/../a",
            "tank/a@s",
            "tank/a#b",
            "=tank/a",
            "x y=t/a",
            "a=b=c/d",
            "tank/ä",
            "tank/a ",
            "tank/%s",
        ] {
            assert_eq!(VolumeId::parse(text), None, "{text:?}");
        }
        assert_eq!(VolumeId::parse(&format!("tank/{}", "a".repeat(124))), None);
    }

    #[test]
    fn an_id_too_long_for_csi_is_refused_at_create_with_its_length() {
        let refused = VolumeId::for_dataset(None, &format!("tank/{}", "a".repeat(124))).unwrap_err();
        assert!(refused.message.contains("129 bytes"), "{refused}");
        assert!(VolumeId::for_dataset(None, &format!("tank/{}", "a".repeat(123))).is_ok());
    }

    #[test]
    fn ancestors_end_at_the_pool() {
        assert_eq!(ancestors("tank/a/b").collect::<Vec<_>>(), ["tank/a", "tank"]);
        assert_eq!(ancestors("tank").count(), 0);
        assert_eq!(leaf("tank/a/b"), "b");
    }

    proptest! {
        #[test]
        fn what_parses_reads_back_to_itself(text in "[a-z0-9=/._: -]{0,140}") {
            if let Some(id) = VolumeId::parse(&text) {
                prop_assert_eq!(id.to_string(), text);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = VolumeId::parse(&text);
        }
    }
}
