//! Making and taking apart a volume's subsystem.

use truenas::Calls;
use truenas::calls::{Filter, NvmetNamespace, NvmetSubsys};

use crate::protocol::call::{Answer as _, gone};
use crate::protocol::nvmeof::{device_path, foreign_namespace, is_ours, namespace_on};
use crate::protocol::{Volume, device};
use crate::volume::failure::Failure;
use crate::volume::metadata::Metadata;
use crate::volume::name::subsystem_nqn;

/// The subsystem with the volume's derived name, whosever it is.
pub(super) async fn by_name(calls: &Calls, volume: &Volume) -> Result<Option<NvmetSubsys>, Failure> {
    let found = calls.nvmet_subsys_query(&[Filter::eq("name", volume.global.as_str())]).await;
    let found = found.or_failed(&format!("reading the NVMe-oF subsystem {}", volume.global))?;
    Ok(found.into_iter().find(|s| s.name == volume.global))
}

/// Puts the volume's zvol into a subsystem. The device of a new zvol appears a moment after its creation, so its
/// absence is waited out, with growing pauses.
///
/// # Errors
/// As [`crate::protocol::Answer::definite`].
pub(super) async fn create_namespace(
    calls: &Calls,
    volume: &Volume,
    subsys: i64,
) -> Result<Result<NvmetNamespace, Failure>, Failure> {
    let made = device::once_there(calls, || calls.nvmet_namespace_create(subsys, &volume.dataset)).await;
    made.definite(&format!("serving zvol {} over NVMe-oF", volume.dataset))
}

/// Makes what is missing of subsystem and namespace, looking for each first.
pub(super) async fn ensure(
    calls: &Calls,
    volume: &Volume,
    metadata: Option<&Metadata>,
) -> Result<(), Failure> {
    if let Some(namespace) = namespace_on(calls, volume).await? {
        return if is_ours(&namespace.subsys, volume, metadata) {
            Ok(())
        } else {
            Err(foreign_namespace(volume, &namespace))
        };
    }
    let subsys = match by_name(calls, volume).await? {
        Some(subsys) => subsys,
        None => {
            let nqn = subsystem_nqn(&volume.global);
            let doing = format!("creating the NVMe-oF subsystem {}", volume.global);
            match calls.nvmet_subsys_create(&volume.global, Some(&nqn)).await.definite(&doing)? {
                Ok(subsys) => subsys,
                // A row is stored before the target is reloaded: a refusal proves nothing.
                Err(refused) => by_name(calls, volume).await?.ok_or(refused)?,
            }
        }
    };
    if !is_ours(&subsys, volume, metadata) || subsys.allow_any_host {
        return Err(Failure::precondition(format!(
            "the NVMe-oF subsystem {:?} exists with NQN {} and allow_any_host {}; it is not what this driver makes",
            subsys.name,
            subsys.subnqn.as_deref().unwrap_or("none"),
            subsys.allow_any_host
        )));
    }
    let Err(refused) = create_namespace(calls, volume, subsys.id).await? else { return Ok(()) };
    match namespace_on(calls, volume).await? {
        Some(namespace) if is_ours(&namespace.subsys, volume, metadata) => Ok(()),
        Some(namespace) => Err(foreign_namespace(volume, &namespace)),
        None => Err(refused),
    }
}

/// Removes a subsystem of ours whose zvol is gone, with its links and its namespace. A namespace on another device is
/// somebody's: the subsystem stays then.
pub(super) async fn dismantle(calls: &Calls, volume: &Volume, id: i64) -> Result<(), Failure> {
    let of_subsystem = [Filter::eq("subsys.id", id)];
    let (namespaces, ports) = tokio::join!(
        calls.nvmet_namespace_query(&of_subsystem),
        calls.nvmet_port_subsys_query(&of_subsystem)
    );
    let doing = format!("deleting the NVMe-oF subsystem {}", volume.global);
    let (namespaces, ports) = (namespaces.or_failed(&doing)?, ports.or_failed(&doing)?);
    let own = device_path(volume);
    if let Some(other) = namespaces.iter().find(|n| n.subsys.id == id && n.device_path != own) {
        return Err(Failure::precondition(format!(
            "the NVMe-oF subsystem {} holds namespace {} on {}, which is not this volume's; remove it from there",
            volume.global, other.id, other.device_path
        )));
    }
    for port in ports.iter().filter(|p| p.subsys.id == id) {
        gone(calls.nvmet_port_subsys_delete(port.id).await, &doing)?;
    }
    for namespace in namespaces.iter().filter(|n| n.subsys.id == id) {
        gone(calls.nvmet_namespace_delete(namespace.id).await, &doing)?;
    }
    gone(calls.nvmet_subsys_delete(id).await, &doing)
}
