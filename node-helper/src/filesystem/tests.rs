//! Real programs on plain sparse files: no privilege needed, but the programs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::device::testing::identity;
use crate::device::{DeviceError, VolumeNode};
use crate::failure::Kind;
use crate::tool::Tool;
use crate::tool::testing::tools_or_skip;

const MIB: u64 = 1 << 20;

struct Disk {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Disk {
    fn new(size: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        File::create(&path).unwrap().set_len(size).unwrap();
        Self { _directory: directory, path }
    }

    fn node(&self) -> VolumeNode {
        VolumeNode::from_file(&self.path, identity(1)).unwrap()
    }

    fn file(&self) -> File {
        File::options().read(true).write(true).open(&self.path).unwrap()
    }

    fn resize(&self, size: u64) {
        self.file().set_len(size).unwrap();
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .arg(&self.path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        assert!(command.status().unwrap().success(), "{program} {arguments:?}");
    }
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

async fn make(on: &Filesystems, disk: &Disk, fs: FsType) -> Result<Found, FilesystemError> {
    let node = disk.node();
    let permit = on.probe(&node, later()).await?.permit_blank(&node)?;
    on.make(&node, fs, &MkfsOptions::default(), permit, later()).await
}

async fn round(fs: FsType, size: u64) {
    let Some(tools) = tools_or_skip(&[Tool::Blkid, fs.kind().mkfs()]) else { return };
    let on = Filesystems::new(tools);
    let disk = Disk::new(size);
    assert_eq!(on.probe(&disk.node(), later()).await.unwrap().content, Content::Blank);
    let made = make(&on, &disk, fs).await.unwrap();
    assert_eq!(made.fs, fs);
    assert!(made.size <= size && made.size > size - 64 * 1024, "{made:?}");
    assert!(made.uuid.is_some());

    // Made is not blank: no second permit, with or without the record of an interrupted making.
    let probed = on.probe(&disk.node(), later()).await.unwrap();
    assert_eq!(probed.content, Content::Filesystem(made.clone()));
    assert!(probed.permit_blank(&disk.node()).is_err());
    assert!(probed.permit_interrupted(&disk.node()).is_err());

    // A larger device keeps it; a device that was cut short is neither mounted nor formatted.
    disk.resize(size * 2);
    assert_eq!(on.probe(&disk.node(), later()).await.unwrap().content, Content::Filesystem(made));
    disk.resize(size / 2);
    let error = on.probe(&disk.node(), later()).await.unwrap_err();
    assert!(matches!(error, FilesystemError::Truncated { .. } | FilesystemError::Program { .. }), "{error}");
}

#[tokio::test]
async fn an_ext4_is_made_and_found() {
    round(FsType::Ext4, 64 * MIB).await;
}

#[tokio::test]
async fn an_xfs_is_made_and_found() {
    round(FsType::Xfs, 320 * MIB).await;
}

#[tokio::test]
async fn a_btrfs_is_made_and_found() {
    round(FsType::Btrfs, 256 * MIB).await;
}

#[tokio::test]
async fn an_xfs_where_an_ext4_is_wanted_stays_an_xfs() {
    let Some(tools) = tools_or_skip(&[Tool::Blkid, Tool::MkfsXfs, Tool::MkfsExt4]) else { return };
    let on = Filesystems::new(tools);
    let disk = Disk::new(320 * MIB);
    make(&on, &disk, FsType::Xfs).await.unwrap();
    let error = make(&on, &disk, FsType::Ext4).await.unwrap_err();
    assert!(error.to_string().contains("file system xfs"), "{error}");
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    let Content::Filesystem(found) = on.probe(&disk.node(), later()).await.unwrap().content else {
        panic!("xfs")
    };
    assert_eq!(found.fs, FsType::Xfs);
}

#[tokio::test]
async fn an_unfinished_xfs_is_made_anew_only_with_the_record() {
    let Some(tools) = tools_or_skip(&[Tool::Blkid, Tool::MkfsXfs]) else { return };
    let on = Filesystems::new(tools);
    let disk = Disk::new(320 * MIB);
    make(&on, &disk, FsType::Xfs).await.unwrap();
    // As a mkfs.xfs that died leaves it: the superblock says that it is in progress.
    disk.file().write_all_at(&[1], 126).unwrap();
    let node = disk.node();
    let probed = on.probe(&node, later()).await.unwrap();
    assert_eq!(probed.content, Content::Unfinished(FsType::Xfs));
    assert!(probed.permit_blank(&node).is_err());
    let permit = probed.permit_interrupted(&node).unwrap();
    on.make(&node, FsType::Xfs, &MkfsOptions::default(), permit, later()).await.unwrap();
}

#[tokio::test]
async fn a_stray_byte_at_either_end_is_not_blank() {
    let Some(tools) = tools_or_skip(&[Tool::Blkid]) else { return };
    let on = Filesystems::new(tools);
    for at in [0, 700_000, 63 * MIB, 64 * MIB - 1] {
        let disk = Disk::new(64 * MIB);
        disk.file().write_all_at(b"x", at).unwrap();
        let probed = on.probe(&disk.node(), later()).await.unwrap();
        assert!(
            matches!(&probed.content, Content::Unknown(words) if words.contains(&at.to_string())),
            "{probed:?}"
        );
        assert!(probed.permit_blank(&disk.node()).is_err());
        assert!(probed.permit_interrupted(&disk.node()).is_ok());
    }
}

#[tokio::test]
async fn foreign_content_is_named_and_never_formatted() {
    let Some(tools) = tools_or_skip(&[Tool::Blkid]) else { return };
    let on = Filesystems::new(tools);
    let swap = Disk::new(64 * MIB);
    if std::path::Path::new("/usr/sbin/mkswap").exists() {
        swap.run("/usr/sbin/mkswap", &[]);
    }
    let partitioned = Disk::new(64 * MIB);
    // A DOS partition table with one entry (`include/linux/msdos_fs.h` and Documentation/admin-guide for the layout).
    partitioned.file().write_all_at(&[0x55, 0xAA], 510).unwrap();
    partitioned.file().write_all_at(&[0, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0], 446).unwrap();
    let luks = Disk::new(64 * MIB);
    luks.file().write_all_at(b"LUKS\xba\xbe\x00\x01aes", 0).unwrap();
    for (disk, words) in [(&swap, "swap"), (&partitioned, "partition table"), (&luks, "LUKS")] {
        let probed = on.probe(&disk.node(), later()).await.unwrap();
        assert!(
            matches!(&probed.content, Content::Other(found) if found.contains(words)),
            "{words}: {probed:?}"
        );
        let error = probed.permit_interrupted(&disk.node()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn t3_a_probe_that_cannot_run_permits_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::new(64 * MIB);
    let path = directory.path().join("blkid");
    for (script, words) in [
        ("echo 'blkid: error: Input/output error' >&2; exit 2", "Input/output error"),
        ("exit 1", "status 1"),
        ("exit 0", "status 0"),
        ("kill -9 $$", "signal 9"),
    ] {
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let on = Filesystems::new(Tools::find(&[directory.path().to_owned()]));
        let error = on.probe(&disk.node(), later()).await.unwrap_err();
        assert!(error.to_string().contains(words), "{script}: {error}");
    }
}

#[tokio::test]
async fn a_device_that_changed_since_the_probe_is_not_formatted() {
    let Some(tools) = tools_or_skip(&[Tool::Blkid, Tool::MkfsExt4]) else { return };
    let on = Filesystems::new(tools);
    let disk = Disk::new(64 * MIB);
    let node = disk.node();
    let permit = on.probe(&node, later()).await.unwrap().permit_blank(&node).unwrap();
    disk.resize(65 * MIB);
    let error =
        on.make(&disk.node(), FsType::Ext4, &MkfsOptions::default(), permit, later()).await.unwrap_err();
    assert!(matches!(error, FilesystemError::Stale { .. }), "{error}");

    let permit = on.probe(&disk.node(), later()).await.unwrap().permit_blank(&disk.node()).unwrap();
    let node = disk.node();
    disk.resize(64 * MIB);
    let permit = FormatPermit { size: node.size, ..permit };
    let error = on.make(&node, FsType::Ext4, &MkfsOptions::default(), permit, later()).await.unwrap_err();
    assert!(matches!(error, FilesystemError::Device(DeviceError::Changed { .. })), "{error}");
    assert_eq!(on.probe(&disk.node(), later()).await.unwrap().content, Content::Blank);
}

#[tokio::test]
async fn a_volume_too_small_for_its_file_system_is_told_so() {
    let Some(tools) = tools_or_skip(&[Tool::Blkid]) else { return };
    let on = Filesystems::new(tools);
    let disk = Disk::new(299 * MIB);
    let error = make(&on, &disk, FsType::Xfs).await.unwrap_err();
    assert!(error.to_string().contains(&(300 * MIB).to_string()), "{error}");
}

#[tokio::test]
async fn a_check_mends_what_is_safe_and_stops_at_the_rest() {
    let Some(tools) = tools_or_skip(&[Tool::Blkid, Tool::MkfsExt4, Tool::E2fsck]) else { return };
    let on = Filesystems::new(tools);
    let disk = Disk::new(64 * MIB);
    make(&on, &disk, FsType::Ext4).await.unwrap();
    assert_eq!(on.check(&disk.node(), FsType::Ext4, later()).await.unwrap(), Checked::Clean);
    assert_eq!(on.check(&disk.node(), FsType::Xfs, later()).await.unwrap(), Checked::NotNeeded);
    // The root directory's blocks gone: nothing that may be mended without asking.
    disk.run("/usr/sbin/debugfs", &["-w", "-R", "clri <2>"]);
    disk.run("/usr/sbin/debugfs", &["-w", "-R", "set_super_value state 2"]);
    let error = on.check(&disk.node(), FsType::Ext4, later()).await.unwrap_err();
    assert!(matches!(error, FilesystemError::Damaged { .. }), "{error}");
    assert!(!error.to_string().contains("/proc/self/fd"), "{error}");
}

#[tokio::test]
async fn mkfs_options_reach_the_file_system_and_a_bad_one_leaves_it_unmade() {
    let Some(tools) = tools_or_skip(&[Tool::Blkid, Tool::MkfsExt4]) else { return };
    let on = Filesystems::new(tools);
    let disk = Disk::new(64 * MIB);
    let node = disk.node();
    let options = |text: &[&str]| {
        MkfsOptions::parse(FsType::Ext4, &text.iter().map(|&one| one.to_owned()).collect::<Vec<_>>()).unwrap()
    };
    let permit = on.probe(&node, later()).await.unwrap().permit_blank(&node).unwrap();
    let error =
        on.make(&node, FsType::Ext4, &options(&["-O", "no_such_thing"]), permit, later()).await.unwrap_err();
    assert!(
        error.to_string().contains("mkfs.ext4") && error.to_string().contains("no_such_thing"),
        "{error}"
    );

    let permit = on.probe(&node, later()).await.unwrap().permit_blank(&node).unwrap();
    on.make(&node, FsType::Ext4, &options(&["-b", "4096", "-L", "data"]), permit, later()).await.unwrap();
    let mut label = [0; 4];
    disk.file().read_exact_at(&mut label, 1024 + 0x78).unwrap();
    assert_eq!(&label, b"data");
}

/// A loop device, given back when dropped.
struct Loop(PathBuf);

impl Loop {
    fn on(disk: &Disk) -> Option<Self> {
        let output =
            Command::new("/usr/sbin/losetup").args(["-f", "--show"]).arg(&disk.path).output().ok()?;
        if !output.status.success() {
            eprintln!("SKIPPED: no loop device: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Some(Self(String::from_utf8_lossy(&output.stdout).trim().into()))
    }

    fn node(&self) -> VolumeNode {
        use std::os::unix::fs::MetadataExt;
        let number = crate::device::DeviceNumber::from_rdev(self.0.metadata().unwrap().rdev());
        let size = node_helper_sys::block::size(File::open(&self.0).unwrap()).unwrap();
        VolumeNode {
            path: self.0.clone(),
            number,
            size,
            read_only: false,
            reachable: true,
            identity: identity(1),
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("/usr/sbin/losetup").arg("-d").arg(&self.0).status();
    }
}

/// Whether this process can do to a mounted file system what growing asks for, and why not.
fn may_grow(fs: FsType) -> bool {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.lines().any(|line| line.trim() == fs.name()) {
        eprintln!("SKIPPED: the kernel has no {fs} loaded");
        return false;
    }
    let needed =
        if fs == FsType::Ext4 { caps::Capability::CAP_SYS_RESOURCE } else { caps::Capability::CAP_SYS_ADMIN };
    let has = caps::has_cap(None, caps::CapSet::Effective, needed).unwrap_or(false);
    if !has {
        eprintln!("SKIPPED: growing a mounted {fs} needs {needed}");
    }
    has
}

/// Makes, mounts and grows a file system on a loop device of `size` bytes.
async fn life_on_a_block_device(fs: FsType, size: u64) {
    let (grower, _, _) = fs.kind().grow();
    let Some(tools) = tools_or_skip(&[Tool::Blkid, fs.kind().mkfs(), grower]) else { return };
    let on = Filesystems::new(tools);
    let disk = Disk::new(size);
    let Some(device) = Loop::on(&disk) else { return };
    let node = device.node();
    let permit = on.probe(&node, later()).await.unwrap().permit_blank(&node).unwrap();
    on.make(&node, fs, &MkfsOptions::default(), permit, later()).await.unwrap();

    let held = node.open_exclusive().unwrap();
    let error = on.probe(&node, later()).await.unwrap_err();
    assert!(matches!(error, FilesystemError::Device(DeviceError::InUse { .. })), "{error}");
    drop(held);

    let mount = tempfile::tempdir().unwrap();
    let mut command = Command::new("/usr/bin/mount");
    if !command.arg(&device.0).arg(mount.path()).status().is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: cannot mount {fs}");
        return;
    }
    let mounted = Mounted(mount.path().to_owned());
    let error = on.probe(&node, later()).await.unwrap_err();
    assert!(matches!(error, FilesystemError::Device(DeviceError::InUse { .. })), "{error}");

    if may_grow(fs) {
        disk.resize(2 * size);
        assert!(Command::new("/usr/sbin/losetup").arg("-c").arg(&device.0).status().unwrap().success());
        let root = File::open(mount.path()).unwrap();
        let grown = on.grow(&device.node(), fs, &root, mount.path(), later()).await.unwrap();
        assert!(grown.to > grown.from && grown.to > size + size / 2, "{grown:?}");
        let again = on.grow(&device.node(), fs, &root, mount.path(), later()).await.unwrap();
        assert_eq!((again.from, again.to), (grown.to, grown.to));
    }
    drop(mounted);
}

#[tokio::test]
async fn an_ext4_on_a_block_device_is_refused_while_held_and_grown_while_mounted() {
    life_on_a_block_device(FsType::Ext4, 64 * MIB).await;
}

#[tokio::test]
async fn an_xfs_on_a_block_device_is_refused_while_held_and_grown_while_mounted() {
    life_on_a_block_device(FsType::Xfs, 320 * MIB).await;
}

#[tokio::test]
async fn a_btrfs_on_a_block_device_is_refused_while_held_and_grown_while_mounted() {
    life_on_a_block_device(FsType::Btrfs, 256 * MIB).await;
}

/// A mount, taken away when dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("/usr/bin/umount").arg(&self.0).status();
    }
}
