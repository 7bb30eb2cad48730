//! Whether a volume's target is whole and serves.

use truenas::Calls;

use crate::protocol::Volume;
use crate::protocol::health::of_service;
use crate::protocol::iscsi::target::{Surveyed, survey, survey_all};
use crate::volume::failure::Failure;
use crate::volume::health::{Entry, Status};
use crate::volume::metadata::Metadata;

/// What is there of targets, and what is wrong with the service.
pub struct Served {
    surveyed: Surveyed,
    service: Option<Entry>,
}

/// Reads what is served of one volume, or of all.
pub(super) async fn read(calls: &Calls, of: Option<(&Volume, &Metadata)>) -> Result<Served, Failure> {
    let surveyed = async {
        match of {
            Some((volume, metadata)) => survey(calls, volume, Some(metadata)).await.map(Surveyed::from),
            None => survey_all(calls).await,
        }
    };
    let (surveyed, service) = tokio::join!(surveyed, of_service(calls, "iscsitarget"));
    Ok(Served { surveyed: surveyed?, service: service? })
}

/// What is wrong with the target, extent and mapping of a volume whose zvol is there, and what to know of them.
pub(super) fn check(served: &Served, volume: &Volume, metadata: &Metadata) -> Vec<Entry> {
    let found = served.surveyed.of(volume, metadata);
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
    entries.extend(served.service.clone());
    entries
}
