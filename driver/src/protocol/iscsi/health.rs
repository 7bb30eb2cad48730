//! Whether a volume's target is whole and serves.

use truenas::Calls;

use crate::protocol::Volume;
use crate::protocol::health::of_service;
use crate::protocol::iscsi::target::survey;
use crate::volume::failure::Failure;
use crate::volume::health::{Entry, Status};
use crate::volume::metadata::Metadata;

/// What is wrong with the target, extent and mapping of a volume whose zvol is there, and what to know of them.
pub(super) async fn check(
    calls: &Calls,
    volume: &Volume,
    metadata: &Metadata,
) -> Result<Vec<Entry>, Failure> {
    let (found, service) =
        tokio::join!(survey(calls, volume, Some(metadata)), of_service(calls, "iscsitarget"));
    let found = found?;
    let mut entries = Vec::new();
    let mut broken = |reason, what: &str| {
        let words = format!("zvol {} {what}; publishing it makes what is missing", volume.dataset);
        entries.push(Entry::new(Status::Inaccessible, reason, words));
    };
    match found.extents.first() {
        None => broken("ExtentMissing", "is in no iSCSI extent"),
        Some(_) if found.targets.is_empty() => broken("TargetMissing", "has no iSCSI target"),
        Some(_) if found.mappings.is_empty() => broken("MappingMissing", "is mapped to no iSCSI target"),
        Some(_) => {}
    }
    for extent in found.extents.iter().filter(|extent| !extent.enabled) {
        let words = format!("iSCSI extent {} of zvol {} is disabled", extent.name, volume.dataset);
        entries.push(Entry::new(Status::Inaccessible, "ExtentDisabled", words));
    }
    for target in &found.targets {
        if target.groups.iter().any(|group| group.initiator.is_none()) {
            let words = format!(
                "iSCSI target {} admits every initiator: unpublishing a node does not keep it out",
                target.name
            );
            entries.push(Entry::note("NotFenced", words));
        }
    }
    entries.extend(service?);
    Ok(entries)
}
