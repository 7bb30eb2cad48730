//! Whether a volume's namespace is there and served.

use std::collections::{HashMap, HashSet};

use truenas::Calls;
use truenas::calls::{Filter, NvmetNamespace};

use crate::protocol::Volume;
use crate::protocol::call::Answer as _;
use crate::protocol::health::of_service;
use crate::protocol::nvmeof::{device_path, foreign_namespace, is_ours};
use crate::volume::failure::Failure;
use crate::volume::health::{Entry, Status};
use crate::volume::metadata::Metadata;

/// Namespaces by the device that they serve, names of subsystems, and what is wrong with the service.
pub struct Served {
    namespaces: HashMap<String, NvmetNamespace>,
    subsystems: HashSet<String>,
    service: Option<Entry>,
}

/// Reads what is served of one volume, or of all.
pub(super) async fn read(calls: &Calls, of: Option<&Volume>) -> Result<Served, Failure> {
    let by_device = of.map(|volume| Filter::eq("device_path", device_path(volume)));
    let by_name = of.map(|volume| Filter::eq("name", volume.global.as_str()));
    let (namespaces, subsystems, service) = tokio::join!(
        calls.nvmet_namespace_query(by_device.as_slice()),
        calls.nvmet_subsys_query(by_name.as_slice()),
        of_service(calls, "nvmet"),
    );
    let namespaces = namespaces.or_failed("reading NVMe-oF namespaces")?;
    let subsystems = subsystems.or_failed("reading NVMe-oF subsystems")?;
    Ok(Served {
        namespaces: namespaces.into_iter().map(|n| (n.device_path.clone(), n)).collect(),
        subsystems: subsystems.into_iter().map(|s| s.name).collect(),
        service: service?,
    })
}

/// What is wrong with the namespace of a volume whose zvol is there, and what to know of it.
pub(super) fn check(served: &Served, volume: &Volume, metadata: &Metadata) -> Vec<Entry> {
    let mut entries = Vec::new();
    match served.namespaces.get(&device_path(volume)) {
        None => {
            let (reason, what) = if served.subsystems.contains(&volume.global) {
                ("NamespaceMissing", "is in no namespace")
            } else {
                ("SubsystemMissing", "has neither a subsystem nor a namespace")
            };
            let words = format!("zvol {} {what}; publishing it makes what is missing", volume.dataset);
            entries.push(Entry::new(Status::Inaccessible, reason, words));
        }
        Some(n) if !is_ours(&n.subsys, volume, Some(metadata)) => {
            let words = foreign_namespace(volume, n).message;
            entries.push(Entry::new(Status::Inaccessible, "ForeignNamespace", words));
        }
        Some(n) => {
            if !n.enabled {
                let words = format!("namespace {} on zvol {} is disabled", n.id, volume.dataset);
                entries.push(Entry::new(Status::Inaccessible, "NamespaceDisabled", words));
            }
            if n.subsys.allow_any_host {
                let words = format!(
                    "subsystem {:?} allows any host: unpublishing a node does not keep it out",
                    n.subsys.name
                );
                entries.push(Entry::note("NotFenced", words));
            }
        }
    }
    entries.extend(served.service.clone());
    entries
}
