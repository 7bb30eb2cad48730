//! The forms of path that kubelet uses, and nothing else.
//!
//! "Somewhere below the kubelet root" would give the host away: service account tokens and `plugins_registry` lie
//! there too. So a staging or target path has one of kubelet's four shapes (kubernetes `pkg/volume/csi`:
//! `csi_attacher.go`, `csi_block.go`, `csi_mounter.go`), or lies one or two levels below a parent that the helper's own
//! configuration names.

use std::path::{Path, PathBuf};

use crate::source::VolumeId;

/// Longest path that is accepted, in bytes (`PATH_MAX`, and CSI's "Size Limits").
const MAX_PATH: usize = 4096;
/// Longest name of one path component, in bytes (`NAME_MAX`).
const MAX_NAME: usize = 255;

/// Why a path is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {shown:?} {fault}")]
pub struct PathError {
    /// The request's field.
    pub field: &'static str,
    /// The path, cut to 128 characters.
    pub shown: String,
    /// What is wrong with it and what would be right.
    pub fault: String,
}

impl PathError {
    pub(super) fn new(field: &'static str, path: &str, fault: impl Into<String>) -> Self {
        Self { field, shown: path.chars().take(128).collect(), fault: fault.into() }
    }
}

/// A path below the kubelet root in one of the accepted shapes: plain components only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumePath {
    components: Vec<String>,
    field: &'static str,
}

impl VolumePath {
    /// The path relative to the kubelet root, as the ledger keeps it.
    #[must_use]
    pub fn relative(&self) -> String {
        self.components.join("/")
    }

    /// Components but the last, relative to the root.
    #[must_use]
    pub fn parent(&self) -> PathBuf {
        let last = self.components.len().saturating_sub(1);
        self.components.iter().take(last).collect()
    }

    /// The last component.
    #[must_use]
    pub fn name(&self) -> &str {
        // A path is only built with at least one component; the empty name is refused by every system call.
        self.components.last().map_or("", String::as_str)
    }

    /// The field of the request it came from.
    #[must_use]
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// A path that the ledger kept: shapes were checked when it was accepted, the plainness of its components is
    /// checked again.
    #[must_use]
    pub fn from_ledger(relative: &str) -> Option<Self> {
        let components: Vec<String> = relative.split('/').map(str::to_owned).collect();
        components.iter().all(|name| is_plain(name)).then_some(Self { components, field: "recorded path" })
    }
}

/// Where a volume is staged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StagingPath(pub VolumePath);

/// Where a pod expects a volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TargetPath(pub VolumePath);

/// Which shapes are accepted.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
    driver: String,
    extra_parents: Vec<Vec<String>>,
}

impl Layout {
    /// Kubelet's shapes for the driver named `driver` below `root`; and below each of `extra_parents` (relative to
    /// `root`) every path of one or two components.
    ///
    /// # Errors
    /// In words, when the root is not absolute and plain, or a parent is not relative and plain.
    pub fn new(root: &Path, driver: &str, extra_parents: &[String]) -> Result<Self, String> {
        let plain_root = root.is_absolute()
            && root.to_str().is_some_and(|text| {
                text.len() > 1
                    && !text.chars().any(char::is_control)
                    && text.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."))
            });
        if !plain_root {
            return Err(format!(
                "kubelet root {} is not an absolute path without '.', '..' or '//'",
                root.display()
            ));
        }
        if !is_plain(driver) {
            return Err(format!("driver name {driver:?} cannot be part of a path"));
        }
        let extra_parents = extra_parents
            .iter()
            .map(|text| {
                let components: Vec<String> = text.split('/').map(str::to_owned).collect();
                if components.iter().all(|name| is_plain(name)) {
                    Ok(components)
                } else {
                    Err(format!("extra parent {text:?} is not a plain path relative to the kubelet root"))
                }
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { root: root.to_owned(), driver: driver.to_owned(), extra_parents })
    }

    /// The kubelet root as configured.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Parses the staging path of `volume`, for a raw block volume when `block`.
    ///
    /// # Errors
    /// See [`PathError`]; nothing was touched.
    pub fn staging(&self, text: &str, volume: &VolumeId, block: bool) -> Result<StagingPath, PathError> {
        const FIELD: &str = "staging_path";
        let path = self.plain(text, FIELD)?;
        let names: Vec<&str> = path.components.iter().map(String::as_str).collect();
        match (names.as_slice(), block) {
            (["plugins", "kubernetes.io", "csi", driver, hash, "globalmount"], false)
                if *driver == self.driver =>
            {
                if *hash != volume.hash() {
                    return Err(PathError::new(
                        FIELD,
                        text,
                        "is not the staging directory of this volume_id",
                    ));
                }
            }
            (["plugins", "kubernetes.io", "csi", "volumeDevices", "staging", pv], true) if is_object(pv) => {}
            _ if self.is_extra(&path) => {}
            _ => {
                let shape = if block {
                    "plugins/kubernetes.io/csi/volumeDevices/staging/<pv>".to_owned()
                } else {
                    format!("plugins/kubernetes.io/csi/{}/<sha256 of volume_id>/globalmount", self.driver)
                };
                return Err(self.other_shape(FIELD, text, &shape));
            }
        }
        Ok(StagingPath(path))
    }

    /// Parses the target path of a publish, of a raw block volume when `block`.
    ///
    /// # Errors
    /// See [`PathError`]; nothing was touched.
    pub fn target(&self, text: &str, block: bool) -> Result<TargetPath, PathError> {
        const FIELD: &str = "target_path";
        let path = self.plain(text, FIELD)?;
        let names: Vec<&str> = path.components.iter().map(String::as_str).collect();
        match (names.as_slice(), block) {
            (["pods", uid, "volumes", "kubernetes.io~csi", pv, "mount"], false)
                if is_object(uid) && is_object(pv) => {}
            (["plugins", "kubernetes.io", "csi", "volumeDevices", "publish", pv, uid], true)
                if is_object(pv) && is_object(uid) => {}
            _ if self.is_extra(&path) => {}
            _ => {
                let shape = if block {
                    "plugins/kubernetes.io/csi/volumeDevices/publish/<pv>/<pod uid>"
                } else {
                    "pods/<pod uid>/volumes/kubernetes.io~csi/<pv>/mount"
                };
                return Err(self.other_shape(FIELD, text, shape));
            }
        }
        Ok(TargetPath(path))
    }

    /// Parses a path at which a volume may be staged or published, in any shape.
    ///
    /// # Errors
    /// See [`PathError`]; nothing was touched.
    pub fn any(&self, text: &str, volume: &VolumeId, field: &'static str) -> Result<VolumePath, PathError> {
        let found = self.staging(text, volume, false).map(|path| path.0);
        let found = found.or_else(|_| self.staging(text, volume, true).map(|path| path.0));
        let found = found.or_else(|_| self.target(text, false).map(|path| path.0));
        let found = found.or_else(|_| self.target(text, true).map(|path| path.0));
        found.map(|path| VolumePath { field, ..path }).map_err(|error| PathError { field, ..error })
    }

    fn is_extra(&self, path: &VolumePath) -> bool {
        self.extra_parents.iter().any(|parent| {
            path.components.starts_with(parent)
                && matches!(path.components.len().saturating_sub(parent.len()), 1 | 2)
                && path.components.iter().skip(parent.len()).all(|name| is_object(name))
        })
    }

    fn other_shape(&self, field: &'static str, text: &str, shape: &str) -> PathError {
        PathError::new(field, text, format!("is not of the form {}/{shape}", self.root.display()))
    }

    /// Splits an absolute path below the root into plain components. One trailing slash is accepted.
    fn plain(&self, text: &str, field: &'static str) -> Result<VolumePath, PathError> {
        if text.is_empty() {
            return Err(PathError::new(field, text, "is missing"));
        }
        if text.len() > MAX_PATH {
            return Err(PathError::new(
                field,
                text,
                format!("has {} bytes; at most {MAX_PATH} are allowed", text.len()),
            ));
        }
        let below = self
            .root
            .to_str()
            .and_then(|root| text.strip_prefix(root))
            .and_then(|rest| rest.strip_prefix('/'));
        let Some(below) = below else {
            let fault = format!("does not lie below the kubelet root {}", self.root.display());
            return Err(PathError::new(field, text, fault));
        };
        let below = below.strip_suffix('/').unwrap_or(below);
        let components: Vec<String> = below.split('/').map(str::to_owned).collect();
        if components.iter().all(|name| is_plain(name)) {
            Ok(VolumePath { components, field })
        } else {
            Err(PathError::new(
                field,
                text,
                "holds an empty, '.', '..' or over-long component or a control character",
            ))
        }
    }
}

/// A name that means itself: not empty, not a step, without control characters.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && !matches!(name, "." | "..")
        && !name.chars().any(|c| c.is_control() || c == '/')
}

/// A Kubernetes object's name or uid.
fn is_object(name: &str) -> bool {
    is_plain(name)
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOT: &str = "/var/lib/kubelet";

    fn layout() -> Layout {
        Layout::new(Path::new(ROOT), "tns.csi.io", &["csi-sanity".to_owned()]).expect("a plain layout")
    }

    fn volume() -> VolumeId {
        VolumeId::parse("tank/k8s/pvc-1").expect("a plain id")
    }

    fn staging(volume: &VolumeId) -> String {
        format!("{ROOT}/plugins/kubernetes.io/csi/tns.csi.io/{}/globalmount", volume.hash())
    }

    #[test]
    fn the_shapes_of_kubelet_are_accepted() {
        let layout = layout();
        assert!(layout.staging(&staging(&volume()), &volume(), false).is_ok());
        let block = format!("{ROOT}/plugins/kubernetes.io/csi/volumeDevices/staging/pvc-1");
        assert!(layout.staging(&block, &volume(), true).is_ok());
        let target = format!("{ROOT}/pods/0a-1/volumes/kubernetes.io~csi/pvc-1/mount");
        assert_eq!(layout.target(&target, false).expect("kubelet's shape").0.name(), "mount");
        let device = format!("{ROOT}/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/0a-1");
        assert!(layout.target(&device, true).is_ok());
        assert!(layout.target(&format!("{ROOT}/csi-sanity/a/b"), false).is_ok());
    }

    #[test]
    fn everything_else_is_refused() {
        let layout = layout();
        let other = VolumeId::parse("tank/k8s/pvc-2").expect("a plain id");
        assert!(layout.staging(&staging(&other), &volume(), false).is_err(), "another volume's directory");
        let block = format!("{ROOT}/plugins/kubernetes.io/csi/volumeDevices/staging/pvc-1");
        assert!(layout.staging(&block, &volume(), false).is_err(), "a block path for a file system");
        for text in [
            "",
            "relative/path",
            "/etc",
            "/var/lib/kubelet",
            "/var/lib/kubelet/",
            "/var/lib/kubeletx/pods/a/volumes/kubernetes.io~csi/p/mount",
            "/var/lib/kubelet/plugins_registry/x.sock",
            "/var/lib/kubelet/pods/a/volumes/kubernetes.io~secret/p/mount",
            "/var/lib/kubelet/pods/a/volumes/kubernetes.io~csi/p/mount/etc",
            "/var/lib/kubelet/pods/../pods/a/volumes/kubernetes.io~csi/p/mount",
            "/var/lib/kubelet//pods/a/volumes/kubernetes.io~csi/p/mount",
            "/var/lib/kubelet/pods/a/volumes/kubernetes.io~csi/../mount",
            "/var/lib/kubelet/pods/a/volumes/kubernetes.io~csi/p\n/mount",
            "/var/lib/kubelet/csi-sanity",
            "/var/lib/kubelet/csi-sanity/a/b/c",
            "/var/lib/kubelet/csi-sanity/../../etc",
        ] {
            assert!(layout.target(text, false).is_err(), "{text:?}");
            assert!(layout.target(text, true).is_err(), "{text:?}");
            assert!(layout.any(text, &volume(), "volume_path").is_err(), "{text:?}");
        }
        let long = format!("{ROOT}/csi-sanity/{}", "a/".repeat(3000));
        assert!(layout.target(&long, false).expect_err("too long").fault.contains("4096"));
    }

    #[test]
    fn a_configuration_that_could_widen_the_root_is_refused() {
        for root in ["relative", "/", "/a/../b", "/a//b", "/a/./b"] {
            assert!(Layout::new(Path::new(root), "tns.csi.io", &[]).is_err(), "{root}");
        }
        for parent in ["", "/csi", "../x", "a//b"] {
            assert!(Layout::new(Path::new(ROOT), "tns.csi.io", &[parent.to_owned()]).is_err(), "{parent}");
        }
    }

    proptest! {
        #[test]
        fn no_accepted_path_leaves_the_root(text in "(/var/lib/kubelet)?(/(\\.|\\.\\.|csi-sanity|pods|mount|[a-z~.]{0,6})){0,7}/?") {
            for block in [false, true] {
                if let Ok(TargetPath(path)) = layout().target(&text, block) {
                    prop_assert!(path.relative().split('/').all(|part| !matches!(part, "" | "." | "..")));
                }
            }
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in any::<String>()) {
            let _ = layout().any(&text, &volume(), "volume_path");
        }
    }
}
