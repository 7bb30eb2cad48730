//! The capabilities that stay.

use caps::{CapSet, Capability, CapsHashSet};

/// All that is ever needed, and for what. Everything else is dropped from every set before the first request.
///
/// * `SYS_ADMIN`: mount and unmount, `mount_setattr`, `xfs_growfs`, setting a block device read-only, and what
///   iscsiadm reads about the kernel's iSCSI transport;
/// * `SYS_RESOURCE`: growing a mounted ext4;
/// * `DAC_READ_SEARCH`: reaching a volume's root below directories of other users (pods' directories, NFS exports);
/// * `CHOWN`, `FOWNER` and `FSETID`: giving a volume's files to the group of its pod, whoever they belong to
///   (`chown(2)`, `chmod(2)`, and its setgid bit for a group that this process is not in).
///
/// Writing `/dev/nvme-fabrics` needs none: its owner is root and the kernel asks for nothing else.
pub const KEPT: [Capability; 6] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_RESOURCE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_CHOWN,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
];

/// What is missing of [`KEPT`] in the permitted set of this thread.
///
/// # Errors
/// When the kernel does not tell.
pub fn missing() -> anyhow::Result<Vec<Capability>> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    Ok(KEPT.into_iter().filter(|capability| !permitted.contains(capability)).collect())
}

/// Drops every capability but [`KEPT`] from the bounding, permitted and effective sets, empties the inheritable and
/// ambient ones, and sets `no_new_privs`. Must run before any thread is started.
///
/// # Errors
/// When the kernel refuses: then the process must not go on.
pub fn shed() -> anyhow::Result<()> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = KEPT.into_iter().filter(|capability| permitted.contains(capability)).collect();
    // The bounding set first: changing it needs SETPCAP, which goes with the next step. Without SETPCAP (a process
    // without privilege, in tests) there is nothing to lose from it.
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::read(None, CapSet::Bounding)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    // The effective set must stay inside the permitted one at every moment.
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    nix::sys::prctl::set_no_new_privs()?;
    let left = caps::read(None, CapSet::Permitted)?;
    anyhow::ensure!(left == kept, "the kernel left capabilities {left:?} where {kept:?} were asked for");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_declared_capabilities_are_left() {
        // Capabilities are a thread's: this one is thrown away afterwards.
        std::thread::spawn(|| {
            shed().expect("shedding always works");
            let allowed: CapsHashSet = KEPT.into_iter().collect();
            for set in [CapSet::Permitted, CapSet::Effective] {
                assert!(caps::read(None, set).unwrap().is_subset(&allowed), "{set:?}");
            }
            for set in [CapSet::Inheritable, CapSet::Ambient] {
                assert!(caps::read(None, set).unwrap().is_empty(), "{set:?}");
            }
            assert!(nix::sys::prctl::get_no_new_privs().unwrap());
        })
        .join()
        .expect("the thread's checks");
    }
}
