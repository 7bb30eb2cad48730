//! A pretend host for tests: a directory laid out as the kernel lays out sysfs, and its device nodes.

mod scsi;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::{DeviceIdentity, HostRoot, Nqn, NvmeIdentity};
pub(crate) use scsi::{PretendSession, iqn, serial, unit, unit_identity};

/// Subsystem of volume `n`.
pub(crate) fn nqn(n: u32) -> Nqn {
    Nqn::parse(&format!("nqn.2011-06.com.truenas:uuid:0f4c:pvc-{n}")).unwrap()
}

/// Namespace UUID of volume `n`.
pub(crate) fn uuid(n: u32) -> Uuid {
    Uuid::from_u128(0x5e5_0000_0000 + u128::from(n))
}

/// Identity of volume `n`.
pub(crate) fn identity(n: u32) -> DeviceIdentity {
    DeviceIdentity::Nvme(NvmeIdentity { subsystem_nqn: nqn(n), uuid: Some(uuid(n)), nguid: None })
}

/// The pretend host.
pub(crate) struct PretendHost {
    root: PathBuf,
    _directory: Option<tempfile::TempDir>,
}

/// One path of a namespace: controller number and its state.
pub(crate) type PathOf<'a> = (u32, &'a str);

impl PretendHost {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let host = Self { root: directory.path().to_owned(), _directory: Some(directory) };
        for part in [
            "sys/block",
            "sys/class/nvme",
            "sys/class/nvme-subsystem",
            "sys/module/nvme_tcp",
            "dev",
            "proc/self",
        ] {
            fs::create_dir_all(host.root.join(part)).unwrap();
        }
        host.write("proc/self/mountinfo", "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n");
        host.write("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n");
        host
    }

    /// The same host under a second handle, for a fake kernel.
    pub(crate) fn handle(&self) -> Self {
        Self { root: self.root.clone(), _directory: None }
    }

    pub(crate) fn root(&self) -> HostRoot {
        HostRoot::pretend(&self.root)
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    pub(crate) fn write(&self, relative: &str, text: &str) {
        let path = self.root.join(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A controller `nvme<number>`.
    pub(crate) fn controller(
        &self,
        number: u32,
        nqn: &Nqn,
        address: &str,
        state: &str,
        host_nqn: &str,
        host_id: &str,
    ) {
        let directory = format!("sys/devices/virtual/nvme-fabrics/ctl/nvme{number}");
        for (file, text) in [
            ("subsysnqn", nqn.as_str()),
            ("address", address),
            ("transport", "tcp"),
            ("state", state),
            ("hostnqn", host_nqn),
            ("hostid", host_id),
            ("delete_controller", ""),
            ("rescan_controller", ""),
        ] {
            self.write(&format!("{directory}/{file}"), &format!("{text}\n"));
        }
        self.link(&self.path(&directory), &format!("sys/class/nvme/nvme{number}"));
    }

    pub(crate) fn set_state(&self, controller: u32, state: &str) {
        self.write(
            &format!("sys/devices/virtual/nvme-fabrics/ctl/nvme{controller}/state"),
            &format!("{state}\n"),
        );
    }

    /// Takes a controller away with every device below it.
    pub(crate) fn remove_controller(&self, number: u32) {
        let directory = self.path(&format!("sys/devices/virtual/nvme-fabrics/ctl/nvme{number}"));
        for entry in fs::read_dir(self.path("sys/block")).unwrap() {
            let link = entry.unwrap().path();
            if link.canonicalize().is_ok_and(|target| target.starts_with(&directory)) {
                fs::remove_file(link).unwrap();
            }
        }
        fs::remove_file(self.path(&format!("sys/class/nvme/nvme{number}"))).unwrap();
        fs::remove_dir_all(directory).unwrap();
    }

    /// A multipath namespace `nvme<subsystem>n1` with number 259:`minor` and one hidden path for each controller.
    pub(crate) fn multipath(
        &self,
        subsystem: u32,
        minor: u32,
        nqn: &Nqn,
        uuid: Uuid,
        bytes: u64,
        paths: &[PathOf<'_>],
    ) {
        let parent = format!("sys/devices/virtual/nvme-subsystem/nvme-subsys{subsystem}");
        self.write(&format!("{parent}/subsysnqn"), &format!("{nqn}\n"));
        let name = format!("nvme{subsystem}n1");
        self.block(&parent, &name, Some(minor), uuid, bytes);
        for (controller, access) in paths {
            let parent = format!("sys/devices/virtual/nvme-fabrics/ctl/nvme{controller}");
            let path = format!("nvme{subsystem}c{controller}n1");
            self.block(&parent, &path, None, uuid, bytes);
            self.write(&format!("{parent}/{path}/ana_state"), &format!("{access}\n"));
        }
    }

    /// A namespace `nvme<controller>n1` as without multipathing: below its controller.
    pub(crate) fn single_path(&self, controller: u32, minor: u32, uuid: Uuid, bytes: u64) {
        let parent = format!("sys/devices/virtual/nvme-fabrics/ctl/nvme{controller}");
        self.block(&parent, &format!("nvme{controller}n1"), Some(minor), uuid, bytes);
    }

    /// Takes a block device away, node included.
    pub(crate) fn remove_block(&self, name: &str) {
        let link = self.path(&format!("sys/block/{name}"));
        fs::remove_dir_all(link.canonicalize().unwrap()).unwrap();
        fs::remove_file(link).unwrap();
        let _ = fs::remove_file(self.path(&format!("dev/{name}")));
    }

    pub(crate) fn resize(&self, name: &str, bytes: u64) {
        self.write(&format!("sys/block/{name}/size"), &format!("{}\n", bytes / 512));
    }

    fn block(&self, parent: &str, name: &str, minor: Option<u32>, uuid: Uuid, bytes: u64) {
        let directory = format!("{parent}/{name}");
        self.write(&format!("{directory}/size"), &format!("{}\n", bytes / 512));
        self.write(&format!("{directory}/uuid"), &format!("{uuid}\n"));
        self.write(&format!("{directory}/ro"), "0\n");
        self.write(&format!("{directory}/hidden"), if minor.is_some() { "0\n" } else { "1\n" });
        fs::create_dir_all(self.path(&format!("{directory}/holders"))).unwrap();
        symlink(self.path(parent), self.path(&format!("{directory}/device"))).unwrap();
        if let Some(minor) = minor {
            self.write(&format!("{directory}/dev"), &format!("259:{minor}\n"));
            self.write(&format!("dev/{name}"), &format!("259:{minor}\n"));
        }
        self.link(&self.path(&directory), &format!("sys/block/{name}"));
    }

    fn link(&self, target: &Path, at: &str) {
        let _ = fs::remove_file(self.path(at));
        symlink(target, self.path(at)).unwrap();
    }
}
