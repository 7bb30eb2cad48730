//! Prepares the guest: what an appliance and a node find on their machines, side by side in one kernel.
//!
//! The rule it keeps: it runs only in the lab's guest. It mounts over system directories, owns the kernel's targets and
//! makes a pool; on any other machine it refuses before the first effect.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Name of the pool.
pub const POOL: &str = "tank";
/// Dataset that holds the driver's volumes.
pub const PARENT: &str = "tank/k8s";
/// Size of the pool's sparse file in bytes: csi-sanity creates volumes of up to 100 GiB, several at a time.
const POOL_BYTES: u64 = 512 << 30;
/// Memory for everything the guest writes.
pub const RUN: &str = "/run/lab";
/// Root of the appliance's file tree: its `/mnt/tank` is `/run/appliance/mnt/tank` here. The guest's own root
/// is read-only.
pub const APPLIANCE: &str = "/run/appliance";
/// Where kubelet keeps its files.
pub const KUBELET: &str = "/var/lib/kubelet";
/// Address of a second node, beside loopback, so that lists of hosts can be told apart.
pub const OTHER_ADDRESS: &str = "198.51.100.2";
/// Initiator name of the guest's own sessions, which the helper does not use.
pub const INITIATOR: &str = "iqn.1993-08.org.debian:01:lab";
/// Where the kernel's NFS code talks to its daemons.
const PIPES: &str = "/run/rpc_pipefs";

/// Kernel modules of both sides; the guest's udev loads none by itself.
const MODULES: &[&[&str]] = &[
    // Appliance and node share the memory, so the ARC stays small.
    &["zfs", "zfs_arc_max=536870912"],
    &["nvmet"],
    &["nvmet-tcp"],
    &["nvme-tcp"],
    &["nfsd"],
    &["nfsv4"],
    &["cifs"],
    &["ext4"],
    &["xfs"],
    &["dummy", "numdummies=0"],
    &["iscsi_target_mod"],
    &["target_core_iblock"],
    &["sd_mod"],
    &["iscsi_tcp"],
];

/// Makes everything ready up to the imported pool, after [`must_be_the_guest`]. In a guest that is prepared nothing is
/// done.
pub fn prepare() -> anyhow::Result<()> {
    let done = Path::new(RUN).join("prepared");
    if done.exists() {
        return Ok(());
    }
    memory_below(RUN, "4g")?;
    memory_below(APPLIANCE, "64m")?;
    memory_below(KUBELET, "64m")?;
    memory_below("/var/lib/nfs", "16m")?;
    memory_below("/var/lib/tns-csi", "16m")?;
    memory_below("/var/lib/iscsi", "16m")?;
    initiator()?;
    memory_below("/var/log/samba", "16m")?;
    for module in MODULES {
        run("modprobe", module)?;
    }
    mount("configfs", "configfs", "/sys/kernel/config")?;
    mount("nfsd", "nfsd", "/proc/fs/nfsd")?;
    fs::create_dir_all(PIPES).with_context(|| format!("making {PIPES}"))?;
    mount("rpc_pipefs", "sunrpc", PIPES)?;
    // kubelet's directory is shared on a real node, so that mounts of a container reach the host.
    run("mount", &["--make-rshared", "/"])?;
    limits()?;
    network()?;
    files()?;
    udev()?;
    // Remembers the server's clients over restarts; without it the server cannot end its grace period early.
    run("nfsdcld", &[])?;
    iscsid()?;
    pool()?;
    fs::write(&done, "").with_context(|| format!("writing {}", done.display()))
}

/// Refuses on any other machine than the lab's guest.
pub fn must_be_the_guest() -> anyhow::Result<()> {
    let command_line = fs::read_to_string("/proc/cmdline").context("reading /proc/cmdline")?;
    if !command_line.contains("virtme") || !Path::new("/lab/bin").is_dir() {
        bail!("this is not the lab's guest (no virtme on the kernel's command line): nothing was done");
    }
    Ok(())
}

fn limits() -> anyhow::Result<()> {
    for (path, value) in [
        // A target and an initiator in one kernel can wait for each other's memory.
        ("/proc/sys/vm/dirty_bytes", "67108864"),
        ("/proc/sys/vm/dirty_background_bytes", "16777216"),
        // A hang shall end with logs.
        ("/proc/sys/kernel/hung_task_panic", "1"),
        ("/proc/sys/kernel/hung_task_timeout_secs", "120"),
    ] {
        fs::write(path, value).with_context(|| format!("writing {path}"))?;
    }
    Ok(())
}

fn network() -> anyhow::Result<()> {
    run("ip", &["link", "set", "lo", "up"])?;
    run("ip", &["link", "add", "node2", "type", "dummy"])?;
    run("ip", &["address", "add", &format!("{OTHER_ADDRESS}/24"), "dev", "node2"])?;
    run("ip", &["link", "set", "node2", "up"])
}

fn files() -> anyhow::Result<()> {
    for directory in ["sm", "sm.bak", "v4recovery", "nfsdcld"] {
        fs::create_dir_all(Path::new("/var/lib/nfs").join(directory))
            .context("making the state of the NFS server")?;
    }
    for file in ["etab", "rmtab"] {
        fs::write(Path::new("/var/lib/nfs").join(file), "").context("making the state of the NFS server")?;
    }
    let nfs = format!(
        "[general]\npipefs-directory={PIPES}\n[exports]\nrootdir={APPLIANCE}\n[nfsd]\nvers3=n\nudp=n\n[mountd]\nmanage-gids=n\n"
    );
    fs::write("/etc/nfs.conf", nfs).context("writing /etc/nfs.conf")?;
    // No name server in the guest: look only at the files.
    fs::write("/etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files\n")
        .context("writing /etc/nsswitch.conf")?;
    fs::write("/etc/hosts", "127.0.0.1 localhost lab\n::1 localhost\n").context("writing /etc/hosts")
}

/// udevd makes `/dev/zvol` and tells the helper of new devices.
fn udev() -> anyhow::Result<()> {
    if !Path::new("/run/udev/control").exists() {
        run("/usr/lib/systemd/systemd-udevd", &["--daemon"])?;
    }
    run("udevadm", &["settle", "--timeout=60"])
}

fn pool() -> anyhow::Result<()> {
    let file = PathBuf::from(RUN).join("pool.img");
    let image = fs::File::create(&file).with_context(|| format!("making {}", file.display()))?;
    image.set_len(POOL_BYTES).with_context(|| format!("growing {}", file.display()))?;
    let file = file.display().to_string();
    let mountpoint = format!("mountpoint=/mnt/{POOL}");
    // No cache file: nothing outside the guest may ever learn of the pool.
    let options = ["-o", "cachefile=none", "-R", APPLIANCE, "-O", &mountpoint, "-O", "atime=off"];
    run("zpool", &[&["create"], options.as_slice(), &[POOL, &file]].concat())?;
    run("zfs", &["create", PARENT])
}

/// open-iscsi's settings as its package has them, in memory, and the name that a node's own sessions would have.
fn initiator() -> anyhow::Result<()> {
    let settings = Path::new("/etc/iscsi/iscsid.conf");
    let text = fs::read_to_string(settings).with_context(|| format!("reading {}", settings.display()))?;
    memory_below("/etc/iscsi", "1m")?;
    // Nothing starts the daemon on demand here.
    let kept: String = text
        .lines()
        .filter(|line| !line.starts_with("iscsid.startup"))
        .flat_map(|line| [line, "\n"])
        .collect();
    fs::write(settings, kept).with_context(|| format!("writing {}", settings.display()))?;
    fs::write("/etc/iscsi/initiatorname.iscsi", format!("InitiatorName={INITIATOR}\n"))
        .context("writing the initiator's name")
}

/// Starts the daemon that keeps iSCSI sessions. It puts itself into the background.
pub fn iscsid() -> anyhow::Result<()> {
    run("/usr/sbin/iscsid", &[])
}

fn memory_below(path: &str, size: &str) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("making {path}"))?;
    run("mount", &["-t", "tmpfs", "-o", &format!("size={size},mode=0755"), "tmpfs", path])
}

fn mount(kind: &str, source: &str, path: &str) -> anyhow::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading the mount table")?;
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some(path)) {
        return Ok(());
    }
    run("mount", &["-t", kind, source, path])
}

/// A directory with an owner and a mode.
pub fn directory(path: &Path, uid: u32, gid: u32, mode: u32) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
    std::os::unix::fs::chown(path, Some(uid), Some(gid))
        .with_context(|| format!("giving away {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("setting the mode of {}", path.display()))
}

/// Runs a program to its end; a bad end is an error with what it printed.
pub fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    output(program, arguments).map(drop)
}

/// As [`run`]; returns the standard output.
pub fn output(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} ended with {}: {text}{errors}", arguments.join(" "), output.status);
    }
    Ok(text)
}
