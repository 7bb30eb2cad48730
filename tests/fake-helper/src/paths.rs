//! Which paths are accepted, by the helper API's rule: below the kubelet root, of kubelet's shapes, through no symlink.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// The kubelet root with what is accepted below it.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Absolute kubelet root.
    pub root: PathBuf,
    /// Driver name, a component of kubelet's staging paths.
    pub driver: String,
    /// Directories relative to the root below which any path of one or two components is accepted.
    pub extra_parents: Vec<String>,
}

/// For which use a path is parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A staging path: a directory that the caller has made.
    Staging,
    /// A target path: its parent exists.
    Target,
}

impl Layout {
    /// The path, when it has an accepted shape for `volume_id` and no symlink lies on the way to its parent.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(&self, path: &str, volume_id: &str, wanted: Use, block: bool) -> Result<PathBuf, String> {
        let refuse = |why: &str| format!("path {:?} {why}", path.chars().take(128).collect::<String>());
        if path.len() > 4096 {
            return Err(refuse("has more than 4096 bytes"));
        }
        let absolute = Path::new(path);
        let below = absolute.strip_prefix(&self.root).map_err(|_| refuse("is not below the kubelet root"))?;
        let text = below.to_str().ok_or_else(|| refuse("is not UTF-8"))?;
        let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.chars().any(char::is_control);
        // Compared with the text itself, because Path drops "." and doubled slashes.
        let names: Vec<&str> = text.split('/').collect();
        if !names.iter().all(|name| plain(name)) || self.root.join(below).to_str() != Some(path) {
            return Err(refuse("has an empty, '.' or '..' component"));
        }
        if !self.has_shape(&names, volume_id, wanted, block) {
            return Err(refuse("has none of kubelet's shapes for this volume and this use"));
        }
        let mut walked = self.root.clone();
        for name in names.iter().take(names.len() - 1) {
            walked.push(name);
            if walked.symlink_metadata().is_ok_and(|found| found.file_type().is_symlink()) {
                return Err(refuse("leads through a symlink"));
            }
        }
        Ok(absolute.to_owned())
    }

    fn has_shape(&self, names: &[&str], volume_id: &str, wanted: Use, block: bool) -> bool {
        let extra = self.extra_parents.iter().any(|parent| {
            let parent: Vec<&str> = parent.split('/').collect();
            names.strip_prefix(parent.as_slice()).is_some_and(|rest| (1..=2).contains(&rest.len()))
        });
        extra
            || match (names, wanted, block) {
                (["plugins", "kubernetes.io", "csi", driver, hash, "globalmount"], Use::Staging, false) => {
                    *driver == self.driver && *hash == sha256(volume_id)
                }
                (["plugins", "kubernetes.io", "csi", "volumeDevices", "staging", _], Use::Staging, true)
                | (
                    ["plugins", "kubernetes.io", "csi", "volumeDevices", "publish", _, _],
                    Use::Target,
                    true,
                )
                | (["pods", _, "volumes", "kubernetes.io~csi", _, "mount"], Use::Target, false) => true,
                _ => false,
            }
    }
}

/// SHA-256 in lower-case hexadecimal, as kubelet names staging directories.
#[must_use]
pub fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(root: &Path) -> Layout {
        Layout {
            root: root.to_owned(),
            driver: "tns.csi.io".to_owned(),
            extra_parents: vec!["csi-sanity".to_owned()],
        }
    }

    #[test]
    fn kubelets_shapes_are_accepted() {
        let layout = layout(Path::new("/k"));
        let staging = format!("/k/plugins/kubernetes.io/csi/tns.csi.io/{}/globalmount", sha256("tank/a"));
        assert!(layout.parse(&staging, "tank/a", Use::Staging, false).is_ok());
        for (path, wanted, block) in [
            ("/k/plugins/kubernetes.io/csi/volumeDevices/staging/pvc-1", Use::Staging, true),
            ("/k/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/uid", Use::Target, true),
            ("/k/pods/uid/volumes/kubernetes.io~csi/pvc-1/mount", Use::Target, false),
            ("/k/csi-sanity/staging", Use::Staging, false),
            ("/k/csi-sanity/a/target", Use::Target, true),
        ] {
            assert!(layout.parse(path, "tank/a", wanted, block).is_ok(), "{path}");
        }
    }

    #[test]
    fn other_paths_are_refused() {
        let layout = layout(Path::new("/k"));
        let others = format!("/k/plugins/kubernetes.io/csi/tns.csi.io/{}/globalmount", sha256("tank/b"));
        for path in [
            "",
            "relative/path",
            "/etc/passwd",
            "/k",
            "/k/csi-sanity",
            "/k/csi-sanity/a/b/c",
            "/k/csi-sanity/../pods",
            "/k/csi-sanity//a",
            "/k/csi-sanity/a/",
            "/k/plugins_registry/x",
            "/k/pods/uid/volumes/kubernetes.io~secret/x/mount",
            &others,
        ] {
            assert!(layout.parse(path, "tank/a", Use::Staging, false).is_err(), "{path}");
        }
    }

    #[test]
    fn a_symlink_on_the_way_is_refused() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", root.path().join("csi-sanity")).unwrap();
        let path = root.path().join("csi-sanity/target");
        assert!(layout(root.path()).parse(path.to_str().unwrap(), "v", Use::Target, false).is_err());
    }
}
