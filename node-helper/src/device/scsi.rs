//! Disks behind iSCSI sessions as sysfs shows them, and the multipath device that may stand over them.
//!
//! A unit is one disk `sdX` for each session to its target. Where it hangs is read from where `device` leads:
//! `…/host<h>/session<s>/target<h>:<c>:<t>/<h>:<c>:<t>:<lun>` (`drivers/scsi/scsi_transport_iscsi.c`). What it is, is
//! read from what it says about itself, the vital product data that the kernel keeps (`drivers/scsi/scsi_sysfs.c`).
//! dm-multipath makes one device `dm-N` of several disks when multipathd claims them; its UUID begins `mpath-`.

use super::sysfs::{attribute, bytes, names};
use super::usage;
use super::{DeviceError, DeviceNumber, HostRoot, IscsiIdentity};

/// Bytes per unit of sysfs `size`, whatever the device's block size (`include/linux/blk_types.h`, `SECTOR_SHIFT`).
const SECTOR: u64 = 512;

/// One disk of a unit behind an iSCSI session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Kernel name at this moment (`sda`).
    pub(crate) name: String,
    pub(crate) number: DeviceNumber,
    /// Session it hangs on (`session1`).
    pub(crate) session: String,
    /// Name of that session's target.
    pub(crate) target: String,
    pub(crate) lun: u64,
    /// Unit serial number without padding.
    pub(crate) serial: Option<String>,
    /// NAA identifiers of the unit.
    pub(crate) naa: Vec<String>,
    /// Size in bytes.
    pub(crate) size: u64,
    pub(crate) read_only: bool,
    /// The session is logged in and the kernel lets commands pass.
    pub(crate) works: bool,
    /// Devices stacked on it.
    pub(crate) holders: Vec<String>,
}

impl Disk {
    /// Whether it is the unit of this identity.
    pub(crate) fn is(&self, identity: &IscsiIdentity) -> bool {
        identity.matches(&self.target, self.lun, self.serial.as_deref(), &self.naa)
    }
}

/// A multipath device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Multipath {
    /// Kernel name at this moment (`dm-0`).
    pub(crate) name: String,
    pub(crate) number: DeviceNumber,
    /// Name under which multipathd knows it.
    pub(crate) map: String,
    /// Size in bytes.
    pub(crate) size: u64,
    pub(crate) read_only: bool,
}

/// What stands for a unit on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unit {
    /// No disk of it.
    Absent,
    /// One disk: its only one, or the one in use.
    Disk(Disk),
    /// A multipath device over its disks.
    Multipath(Multipath),
    /// Several disks, by name, and nothing that says which one to use.
    Several(Vec<String>),
}

/// Every disk behind an iSCSI session.
pub(crate) fn disks(host: &HostRoot) -> Result<Vec<Disk>, DeviceError> {
    let mut found = Vec::new();
    for name in names(&host.sys("block"))? {
        if name.starts_with("sd")
            && let Some(disk) = read(host, name)?
        {
            found.push(disk);
        }
    }
    Ok(found)
}

/// One disk; `None` when it hangs on no iSCSI session, vanished meanwhile or lacks what every disk has.
fn read(host: &HostRoot, name: String) -> Result<Option<Disk>, DeviceError> {
    let directory = host.sys("block").join(&name);
    let Ok(device) = directory.join("device").canonicalize() else { return Ok(None) };
    let parts: Vec<&str> = device.iter().filter_map(|part| part.to_str()).collect();
    let Some(session) = parts.iter().find(|part| numbered(part, "session")) else { return Ok(None) };
    let Some(lun) = parts.last().and_then(|address| address.rsplit(':').next()?.parse().ok()) else {
        return Ok(None);
    };
    let class = host.sys("class/iscsi_session").join(session);
    let Some(target) = attribute(&class.join("targetname"))? else { return Ok(None) };
    let text = |file: &str| attribute(&directory.join(file));
    let Some(sectors) = text("size")?.and_then(|size| size.parse::<u64>().ok()) else { return Ok(None) };
    let logged_in = attribute(&class.join("state"))?.as_deref() == Some("LOGGED_IN");
    let running = text("device/state")?.as_deref() == Some("running");
    let serial = bytes(&directory.join("device/vpd_pg80"))?.and_then(|page| serial(&page));
    let naa = bytes(&directory.join("device/vpd_pg83"))?.map(|page| naa(&page)).unwrap_or_default();
    let holders = names(&directory.join("holders"))?;
    let read_only = text("ro")?.as_deref() == Some("1");
    // Read last: a device that vanishes while it is read has no number any more.
    let Some(number) = text("dev")?.and_then(|number| number.parse().ok()) else { return Ok(None) };
    Ok(Some(Disk {
        session: (*session).to_owned(),
        size: sectors.saturating_mul(SECTOR),
        works: logged_in && running,
        name,
        number,
        target,
        lun,
        serial,
        naa,
        read_only,
        holders,
    }))
}

/// Whether a name is `prefix` and a number.
pub(crate) fn numbered(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Serial number out of VPD page 0x80 (SPC-4, 7.8.15): four bytes of header, then ASCII.
fn serial(page: &[u8]) -> Option<String> {
    let (body, _) = body(page, 0x80)?;
    let text = std::str::from_utf8(body).ok()?.trim_matches(|c: char| c == '\0' || c == ' ');
    (!text.is_empty()).then(|| text.to_owned())
}

/// NAA identifiers of the unit itself out of VPD page 0x83 (SPC-4, 7.8.6): a list of designators, each with four
/// bytes of header. Those of the target's port name no unit.
fn naa(page: &[u8]) -> Vec<String> {
    const BINARY: u8 = 1;
    const UNIT: u8 = 0;
    const NAA: u8 = 3;
    let mut found = Vec::new();
    let Some((mut list, _)) = body(page, 0x83) else { return found };
    while let [code, kind, _, length, rest @ ..] = list {
        let Some((designator, next)) = rest.split_at_checked(usize::from(*length)) else { break };
        let association = (kind >> 4) & 0b11;
        if code & 0x0f == BINARY && association == UNIT && kind & 0x0f == NAA {
            found.push(designator.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        list = next;
    }
    found
}

fn body(page: &[u8], code: u8) -> Option<(&[u8], &[u8])> {
    let [_, found, high, low, rest @ ..] = page else { return None };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if *found == code { rest.split_at_checked(length.min(rest.len())) } else { None }
}

/// The multipath devices over these disks, each once.
fn multipaths(host: &HostRoot, disks: &[&Disk]) -> Result<Vec<Multipath>, DeviceError> {
    let mut found: Vec<Multipath> = Vec::new();
    for holder in disks.iter().flat_map(|disk| &disk.holders) {
        let known = found.iter().any(|device| device.name == *holder);
        if !known && let Some(device) = multipath(host, holder, disks)? {
            found.push(device);
        }
    }
    Ok(found)
}

/// The multipath devices over a disk, among all disks of this host.
pub(crate) fn multipaths_of(
    host: &HostRoot,
    all: &[Disk],
    disk: &Disk,
) -> Result<Vec<Multipath>, DeviceError> {
    let same: Vec<&Disk> =
        all.iter().filter(|other| other.target == disk.target && other.lun == disk.lun).collect();
    let maps = multipaths(host, &same)?;
    Ok(maps.into_iter().filter(|map| disk.holders.contains(&map.name)).collect())
}

/// A holder, when it is a multipath device all of whose paths are among these disks: one that also leads elsewhere is
/// not this unit.
fn multipath(host: &HostRoot, name: &str, disks: &[&Disk]) -> Result<Option<Multipath>, DeviceError> {
    let directory = host.sys("block").join(name);
    let text = |file: &str| attribute(&directory.join(file));
    if !text("dm/uuid")?.is_some_and(|uuid| uuid.starts_with("mpath-")) {
        return Ok(None);
    }
    let slaves = names(&directory.join("slaves"))?;
    if slaves.is_empty() || !slaves.iter().all(|slave| disks.iter().any(|disk| disk.name == *slave)) {
        return Ok(None);
    }
    let Some(sectors) = text("size")?.and_then(|size| size.parse::<u64>().ok()) else { return Ok(None) };
    let map = text("dm/name")?.unwrap_or_default();
    let read_only = text("ro")?.as_deref() == Some("1");
    let Some(number) = text("dev")?.and_then(|number| number.parse().ok()) else { return Ok(None) };
    Ok(Some(Multipath {
        name: name.to_owned(),
        number,
        map,
        size: sectors.saturating_mul(SECTOR),
        read_only,
    }))
}

/// What stands for a unit, given every disk of this host.
///
/// A disk that is mounted or bound comes first: a path that appeared after it, or a multipath device over the others,
/// must not take its place while data goes through it. Then the multipath device, then the only disk.
pub(crate) fn resolve(host: &HostRoot, all: &[Disk], identity: &IscsiIdentity) -> Result<Unit, DeviceError> {
    let own: Vec<&Disk> = all.iter().filter(|disk| disk.is(identity)).collect();
    let several = || Unit::Several(own.iter().map(|disk| disk.name.clone()).collect());
    let mut used = Vec::new();
    for disk in &own {
        if usage::is_mounted(host, &disk.name, disk.number)? {
            used.push(*disk);
        }
    }
    match used.as_slice() {
        [] => {}
        [one] => return Ok(Unit::Disk((*one).clone())),
        _ => return Ok(several()),
    }
    let mut stacked = multipaths(host, &own)?;
    Ok(match (stacked.pop(), own.as_slice()) {
        (Some(only), _) if stacked.is_empty() => Unit::Multipath(only),
        (Some(_), _) => several(),
        (None, []) => Unit::Absent,
        (None, [one]) => Unit::Disk((*one).clone()),
        (None, _) => several(),
    })
}

/// What a target has on this host instead of the unit wanted, in words for an error.
pub(crate) fn describe(all: &[Disk], identity: &IscsiIdentity) -> String {
    let of_target: Vec<String> = all
        .iter()
        .filter(|disk| disk.target == identity.target.as_str())
        .map(|disk| {
            let serial = disk.serial.as_deref().unwrap_or("none");
            let naa = if disk.naa.is_empty() { "none".to_owned() } else { disk.naa.join(" and ") };
            format!("{} (unit {}, serial {serial}, naa {naa}, {} bytes)", disk.name, disk.lun, disk.size)
        })
        .collect();
    if of_target.is_empty() {
        "no disk of this target is on this host".to_owned()
    } else {
        of_target.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vital_product_data_is_read_and_nonsense_is_nothing() {
        assert_eq!(serial(b"\x00\x80\x00\x06 ab12 rest"), Some("ab12".to_owned()));
        assert_eq!(serial(b"\x00\x80\x00\xffab"), Some("ab".to_owned()), "a page that was cut");
        for page in [&b""[..], b"\x00\x83\x00\x02ab", b"\x00\x80\x00\x02  ", b"\x00\x80\x00\x02\xff\xff"] {
            assert_eq!(serial(page), None, "{page:?}");
        }
        // A text designator, a port's NAA, then the unit's own.
        let page = b"\x00\x83\x00\x22\x02\x01\x00\x04LIO \x01\x13\x00\x08\x50\x01\x02\x03\x04\x05\x06\x07\
                     \x01\x03\x00\x08\x60\x01\x40\x5a\xaa\xbb\xcc\xdd";
        assert_eq!(naa(page), ["6001405aaabbccdd"]);
        assert_eq!(
            naa(b"\x00\x83\x00\x08\x01\x03\x00\x40abcd"),
            Vec::<String>::new(),
            "longer than the page"
        );
        assert_eq!(naa(b"\x00\x83\x00\x02\x01\x03"), Vec::<String>::new());
    }
}
