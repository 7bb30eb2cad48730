//! NVMe namespaces as sysfs shows them.
//!
//! With native multipathing (`nvme_core.multipath=Y`) a namespace is one block device `nvmeXnY` below its subsystem,
//! and each path to it a hidden one, `nvmeXcZnY`, below its controller. Without it, or when the subsystem reports
//! a single controller, every path is a plain `nvmeXnY` below its controller. Both are told apart by where `device`
//! leads, never by the numbers in the name. Source: `drivers/nvme/host/{multipath,sysfs}.c`.

use uuid::Uuid;

use super::identity::parse_nguid;
use super::sysfs::{attribute, names, target_name};
use super::{DeviceError, DeviceNumber, HostRoot, NvmeIdentity};

/// Bytes per unit of sysfs `size`, whatever the device's block size (`include/linux/blk_types.h`, `SECTOR_SHIFT`).
const SECTOR: u64 = 512;

/// A block device of an NVMe namespace, or one path to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Namespace {
    /// Kernel name at this moment.
    pub(crate) name: String,
    /// Number; hidden path devices have none.
    pub(crate) number: Option<DeviceNumber>,
    /// A path of a multipath device: it has no node and is never used itself.
    pub(crate) hidden: bool,
    pub(crate) subsystem_nqn: String,
    pub(crate) uuid: Option<Uuid>,
    pub(crate) nguid: Option<[u8; 16]>,
    /// Size in bytes.
    pub(crate) size: u64,
    pub(crate) read_only: bool,
    /// The controller it hangs on; `None` for a multipath device, which hangs on its subsystem.
    pub(crate) controller: Option<String>,
    /// Asymmetric access state of a path (`optimized`, `inaccessible`, …); `None` where the kernel shows none.
    pub(crate) ana_state: Option<String>,
}

impl Namespace {
    fn is(&self, identity: &NvmeIdentity) -> bool {
        identity.matches(&self.subsystem_nqn, self.uuid, self.nguid)
    }
}

/// Every block device of every NVMe namespace.
pub(crate) fn namespaces(host: &HostRoot) -> Result<Vec<Namespace>, DeviceError> {
    let mut found = Vec::new();
    for name in names(&host.sys("block"))? {
        if name.starts_with("nvme")
            && let Some(namespace) = read(host, name)?
        {
            found.push(namespace);
        }
    }
    Ok(found)
}

/// One block device; `None` when it vanished meanwhile or lacks what every namespace has.
fn read(host: &HostRoot, name: String) -> Result<Option<Namespace>, DeviceError> {
    let directory = host.sys("block").join(&name);
    let text = |file: &str| attribute(&directory.join(file));
    // Subsystem and controller both have the attribute, so it does not matter where `device` leads.
    let Some(subsystem_nqn) = text("device/subsysnqn")? else { return Ok(None) };
    let Some(sectors) = text("size")?.and_then(|size| size.parse::<u64>().ok()) else { return Ok(None) };
    let controller = target_name(&directory.join("device"))?.filter(|name| is_controller(name));
    let hidden = text("hidden")?.as_deref() == Some("1");
    // Read last: a device that vanishes while it is read has no number any more and is dropped by the caller.
    let number = text("dev")?.and_then(|number| number.parse().ok());
    Ok(Some(Namespace {
        number: if hidden { None } else { number },
        hidden,
        subsystem_nqn,
        uuid: text("uuid")?.and_then(|text| Uuid::try_parse(&text).ok()).filter(|uuid| !uuid.is_nil()),
        nguid: text("nguid")?.as_deref().and_then(parse_nguid),
        size: sectors.saturating_mul(SECTOR),
        read_only: text("ro")?.as_deref() == Some("1"),
        controller,
        ana_state: text("ana_state")?,
        name,
    }))
}

/// Whether a name is a controller's (`nvme0`) and not a subsystem's (`nvme-subsys0`).
fn is_controller(name: &str) -> bool {
    name.strip_prefix("nvme")
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The usable block devices with an identity: more than one means that multipathing is off.
pub(crate) fn usable<'a>(all: &'a [Namespace], identity: &NvmeIdentity) -> Vec<&'a Namespace> {
    all.iter()
        .filter(|namespace| !namespace.hidden && namespace.number.is_some() && namespace.is(identity))
        .collect()
}

/// Whether I/O to a namespace can be answered at this moment: a path to it hangs on a live controller and its access
/// state lets I/O pass.
///
/// I/O to a device without such a path waits in the kernel, so nothing is opened before one is there.
pub(crate) fn reachable(host: &HostRoot, all: &[Namespace], device: &Namespace) -> Result<bool, DeviceError> {
    if device.controller.is_some() {
        return path_works(host, device);
    }
    for path in all {
        let same = path.hidden
            && path.subsystem_nqn == device.subsystem_nqn
            && path.uuid == device.uuid
            && path.nguid == device.nguid;
        if same && path_works(host, path)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn path_works(host: &HostRoot, path: &Namespace) -> Result<bool, DeviceError> {
    let Some(controller) = &path.controller else { return Ok(false) };
    let state = attribute(&host.sys("class/nvme").join(controller).join("state"))?;
    let access = path.ana_state.as_deref().is_none_or(|state| matches!(state, "optimized" | "non-optimized"));
    Ok(state.as_deref() == Some("live") && access)
}

/// What a subsystem has instead of the namespace wanted, in words for an error.
pub(crate) fn describe(all: &[Namespace], identity: &NvmeIdentity) -> String {
    let of_subsystem: Vec<String> = all
        .iter()
        .filter(|namespace| namespace.subsystem_nqn == identity.subsystem_nqn.as_str())
        .map(|namespace| {
            let uuid = namespace.uuid.map_or_else(|| "no uuid".to_owned(), |uuid| format!("uuid {uuid}"));
            let kind = if namespace.hidden { "path" } else { "device" };
            format!("{kind} {} ({uuid}, {} bytes)", namespace.name, namespace.size)
        })
        .collect();
    if of_subsystem.is_empty() {
        "no namespace of this subsystem is attached to this host".to_owned()
    } else {
        of_subsystem.join(", ")
    }
}
