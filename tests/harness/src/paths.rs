//! The paths that kubelet hands to a CSI driver (`pkg/volume/csi` of Kubernetes: `csi_mounter.go`, `csi_block.go`,
//! `csi_attacher.go`).

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Staging path of a volume with a file system.
#[must_use]
pub fn staging_mount(kubelet: &Path, driver: &str, volume_id: &str) -> PathBuf {
    let digest: String =
        Sha256::digest(volume_id.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    kubelet.join("plugins/kubernetes.io/csi").join(driver).join(digest).join("globalmount")
}

/// Target path of a volume with a file system, in a pod.
#[must_use]
pub fn target_mount(kubelet: &Path, volume_name: &str, pod_uid: &str) -> PathBuf {
    kubelet.join("pods").join(pod_uid).join("volumes/kubernetes.io~csi").join(volume_name).join("mount")
}

/// Staging path of a raw block volume.
#[must_use]
pub fn staging_block(kubelet: &Path, volume_name: &str) -> PathBuf {
    kubelet.join("plugins/kubernetes.io/csi/volumeDevices/staging").join(volume_name)
}

/// Target path of a raw block volume, for a pod.
#[must_use]
pub fn target_block(kubelet: &Path, volume_name: &str, pod_uid: &str) -> PathBuf {
    kubelet.join("plugins/kubernetes.io/csi/volumeDevices/publish").join(volume_name).join(pod_uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_kubelets_shapes() {
        let kubelet = Path::new("/var/lib/kubelet");
        let digest = "1832a2aede6dc54c1c388fd8528b95010d7fdd03eb39e3211c819f4130f1dbe2";
        assert_eq!(
            staging_mount(kubelet, "tns.csi.io", "tank/a"),
            kubelet.join("plugins/kubernetes.io/csi/tns.csi.io").join(digest).join("globalmount")
        );
        assert_eq!(
            target_mount(kubelet, "pvc-1", "uid"),
            Path::new("/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/pvc-1/mount")
        );
        assert_eq!(
            staging_block(kubelet, "pvc-1"),
            Path::new("/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/staging/pvc-1")
        );
        assert_eq!(
            target_block(kubelet, "pvc-1", "uid"),
            Path::new("/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/uid")
        );
    }
}
