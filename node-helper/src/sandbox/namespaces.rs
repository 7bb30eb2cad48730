//! Whether mounts made here would reach kubelet, and connections the storage network.
//!
//! A helper that mounts into a namespace of its own would report success and give pods an empty directory. So it
//! refuses to start there, with words.

use std::path::Path;

use crate::mount::{Mount, MountTable};

/// Inode of the first pid namespace (`PROC_PID_INIT_INO`, `include/linux/proc_ns.h`): in it, process 1 is the host's.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// What was seen of the namespaces.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// Whether process 1 is the host's init.
    init_is_hosts: bool,
    /// Whether this process shares process 1's mount namespace; `None` when the kernel does not tell.
    same_mounts: Option<bool>,
    /// Whether it shares its network namespace.
    same_network: Option<bool>,
    /// Peer group and master of the mount that holds the kubelet root.
    shared: Option<u32>,
    master: Option<u32>,
    /// Whether a mount of process 1 has the same peer group.
    peer_of_init: Option<bool>,
}

/// Refuses a mount or network namespace that is not the host's. Needs the capabilities the process started with.
///
/// # Errors
/// In words: what was found and how to start the helper instead.
pub fn check(kubelet_root: &Path) -> anyhow::Result<()> {
    let table = MountTable::read()?;
    let real = kubelet_root.canonicalize().unwrap_or_else(|_| kubelet_root.to_owned());
    let holder = table.containing(&real);
    let shared = holder.and_then(|mount| mount.shared);
    let seen = Seen {
        init_is_hosts: link("/proc/self/ns/pid").as_deref() == Some(FIRST_PID_NAMESPACE),
        same_mounts: same("mnt"),
        same_network: same("net"),
        shared,
        master: holder.and_then(|mount| mount.master),
        peer_of_init: MountTable::read_of_init()
            .ok()
            .map(|table| table.iter().any(|mount: &Mount| mount.shared.is_some() && mount.shared == shared)),
    };
    judge(&seen).map_err(|fault| anyhow::anyhow!("{fault} (kubelet root {})", kubelet_root.display()))
}

fn judge(seen: &Seen) -> Result<(), String> {
    if seen.init_is_hosts && seen.same_network == Some(false) {
        return Err(
            "the helper is not in the host's network namespace: connections to storage would end with its \
                    container; run it with hostNetwork"
                .to_owned(),
        );
    }
    if seen.init_is_hosts && seen.same_mounts == Some(true) {
        return Ok(());
    }
    let reaches = seen.shared.is_some()
        && seen.master.is_none()
        && !(seen.init_is_hosts && seen.peer_of_init == Some(false));
    if reaches {
        return Ok(());
    }
    Err("mounts made here would not reach kubelet: the kubelet root is in a mount namespace of its own and does not \
         propagate to the host's. In a pod, mount it with mountPropagation Bidirectional; in a systemd unit, remove \
         the settings that build a mount namespace (PrivateTmp, ProtectSystem, ReadWritePaths, …)"
        .to_owned())
}

fn link(path: &str) -> Option<String> {
    std::fs::read_link(path).ok()?.into_os_string().into_string().ok()
}

fn same(kind: &str) -> Option<bool> {
    Some(link(&format!("/proc/self/ns/{kind}"))? == link(&format!("/proc/1/ns/{kind}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Seen {
        Seen {
            init_is_hosts: true,
            same_mounts: Some(true),
            same_network: Some(true),
            shared: Some(1),
            master: None,
            peer_of_init: Some(true),
        }
    }

    #[test]
    fn the_host_itself_is_fine_also_without_propagation() {
        assert_eq!(judge(&host()), Ok(()));
        assert_eq!(judge(&Seen { shared: None, ..host() }), Ok(()));
    }

    #[test]
    fn a_pod_with_bidirectional_propagation_is_fine() {
        let pod = Seen { init_is_hosts: false, same_mounts: Some(true), peer_of_init: None, ..host() };
        assert_eq!(judge(&pod), Ok(()));
        assert_eq!(judge(&Seen { same_mounts: Some(false), ..host() }), Ok(()));
    }

    #[test]
    fn namespaces_from_which_mounts_do_not_return_are_refused() {
        let unit = Seen { same_mounts: Some(false), master: Some(1), shared: Some(9), ..host() };
        assert!(judge(&unit).expect_err("a unit's own namespace").contains("PrivateTmp"));
        let pod = Seen { init_is_hosts: false, shared: None, ..host() };
        assert!(judge(&pod).is_err(), "a pod without propagation, where process 1 is its own");
        let own = Seen { same_mounts: Some(false), peer_of_init: Some(false), ..host() };
        assert!(judge(&own).is_err(), "unshare and make-rshared");
    }

    #[test]
    fn another_network_namespace_is_refused() {
        assert!(
            judge(&Seen { same_network: Some(false), ..host() })
                .expect_err("refused")
                .contains("hostNetwork")
        );
    }
}
