//! The pretend host's iSCSI sessions, disks and multipath devices.

use std::fs;
use std::os::unix::fs::symlink;

use super::PretendHost;
use crate::device::{DeviceIdentity, Iqn, IscsiIdentity, Lun, Serial};

/// Target of volume `n`.
pub(crate) fn iqn(n: u32) -> Iqn {
    Iqn::parse(&format!("iqn.2005-10.org.freenas.ctl:pvc-{n}")).unwrap()
}

/// Unit serial number of volume `n`.
pub(crate) fn serial(n: u32) -> String {
    format!("0a1b2c3d4e5f{n:03}")
}

/// Unit of volume `n`.
pub(crate) fn unit(n: u32) -> IscsiIdentity {
    IscsiIdentity {
        target: iqn(n),
        lun: Lun::try_from(0).unwrap(),
        serial: Some(Serial::parse(&serial(n)).unwrap()),
        naa: None,
    }
}

/// Identity of volume `n` behind iSCSI.
pub(crate) fn unit_identity(n: u32) -> DeviceIdentity {
    DeviceIdentity::Iscsi(unit(n))
}

/// A session of the pretend host.
pub(crate) struct PretendSession<'a> {
    pub(crate) id: u32,
    pub(crate) target: &'a str,
    pub(crate) initiator: &'a str,
    pub(crate) iface: &'a str,
    pub(crate) address: &'a str,
    pub(crate) port: u16,
    pub(crate) state: &'a str,
}

impl PretendHost {
    /// A session `session<id>` on `host<id>`.
    pub(crate) fn session(&self, session: &PretendSession<'_>) {
        let id = session.id;
        let device = format!("sys/devices/platform/host{id}/session{id}");
        let class = format!("{device}/iscsi_session/session{id}");
        for (file, text) in [
            ("targetname", session.target),
            ("initiatorname", session.initiator),
            ("ifacename", session.iface),
            ("state", session.state),
        ] {
            self.write(&format!("{class}/{file}"), &format!("{text}\n"));
        }
        let _ = fs::remove_file(self.path(&format!("{class}/device")));
        symlink(self.path(&device), self.path(&format!("{class}/device"))).unwrap();
        let connection = format!("sys/class/iscsi_connection/connection{id}:0");
        self.write(&format!("{connection}/persistent_address"), &format!("{}\n", session.address));
        self.write(&format!("{connection}/persistent_port"), &format!("{}\n", session.port));
        self.write(&format!("sys/class/scsi_host/host{id}/scan"), "");
        fs::create_dir_all(self.path("sys/class/iscsi_session")).unwrap();
        self.link(&self.path(&class), &format!("sys/class/iscsi_session/session{id}"));
    }

    pub(crate) fn set_session_state(&self, id: u32, state: &str) {
        self.write(&format!("sys/class/iscsi_session/session{id}/state"), &format!("{state}\n"));
    }

    /// Takes a session away with every disk below it.
    pub(crate) fn remove_session(&self, id: u32) {
        let device = self.path(&format!("sys/devices/platform/host{id}"));
        for entry in fs::read_dir(self.path("sys/block")).unwrap() {
            let link = entry.unwrap().path();
            if link.canonicalize().is_ok_and(|target| target.starts_with(&device)) {
                let _ = fs::remove_file(self.path("dev").join(link.file_name().unwrap()));
                fs::remove_file(link).unwrap();
            }
        }
        fs::remove_file(self.path(&format!("sys/class/iscsi_session/session{id}"))).unwrap();
        let _ = fs::remove_dir_all(self.path(&format!("sys/class/iscsi_connection/connection{id}:0")));
        let _ = fs::remove_dir_all(self.path(&format!("sys/class/scsi_host/host{id}")));
        fs::remove_dir_all(device).unwrap();
    }

    /// A disk `sd<letter>` with number 8:`minor` for a unit behind a session.
    pub(crate) fn scsi_disk(&self, session: u32, lun: u16, name: &str, minor: u32, serial: &str, bytes: u64) {
        let device = format!(
            "sys/devices/platform/host{session}/session{session}/target{session}:0:0/{session}:0:0:{lun}"
        );
        self.write(&format!("{device}/state"), "running\n");
        self.write(&format!("{device}/rescan"), "");
        let mut page = vec![0, 0x80, 0, u8::try_from(serial.len()).unwrap()];
        page.extend(serial.as_bytes());
        fs::write(self.path(&format!("{device}/vpd_pg80")), page).unwrap();
        let block = format!("{device}/block/{name}");
        self.write(&format!("{block}/size"), &format!("{}\n", bytes / 512));
        self.write(&format!("{block}/ro"), "0\n");
        self.write(&format!("{block}/dev"), &format!("8:{minor}\n"));
        fs::create_dir_all(self.path(&format!("{block}/holders"))).unwrap();
        symlink(self.path(&device), self.path(&format!("{block}/device"))).unwrap();
        self.link(&self.path(&block), &format!("sys/block/{name}"));
        self.write(&format!("dev/{name}"), &format!("8:{minor}\n"));
    }

    /// A multipath device `dm-<n>` with number 253:`n` over disks.
    pub(crate) fn map(&self, n: u32, disks: &[&str], bytes: u64) {
        let name = format!("dm-{n}");
        let directory = format!("sys/devices/virtual/block/{name}");
        self.write(&format!("{directory}/size"), &format!("{}\n", bytes / 512));
        self.write(&format!("{directory}/ro"), "0\n");
        self.write(&format!("{directory}/dev"), &format!("253:{n}\n"));
        self.write(&format!("{directory}/dm/uuid"), &format!("mpath-{n}\n"));
        self.write(&format!("{directory}/dm/name"), &format!("mpath{n}\n"));
        for disk in disks {
            self.write(&format!("{directory}/slaves/{disk}/x"), "");
            self.write(&format!("sys/block/{disk}/holders/{name}/x"), "");
        }
        self.link(&self.path(&directory), &format!("sys/block/{name}"));
        self.write(&format!("dev/{name}"), &format!("253:{n}\n"));
    }

    /// Takes a multipath device away.
    pub(crate) fn remove_map(&self, n: u32, disks: &[&str]) {
        for disk in disks {
            let _ = fs::remove_dir_all(self.path(&format!("sys/block/{disk}/holders/dm-{n}")));
        }
        self.remove_block(&format!("dm-{n}"));
    }

    /// The host runs multipathd, or not.
    pub(crate) fn run_multipathd(&self) {
        fs::create_dir_all(self.path("sys/module/dm_multipath")).unwrap();
        self.write(
            "proc/net/unix",
            "0000: 00000002 00000000 00010000 0001 01 2 @/org/kernel/linux/storage/multipathd\n",
        );
    }
}
