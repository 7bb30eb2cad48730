//! iSCSI on the node's side, against the kernel's own target set up by hand: the helper with the host's open-iscsi.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use harness::{paths, wait};
use tns_csi_proto::helper::v1::source::Protocol;
use tns_csi_proto::helper::v1::stage_volume_request::Access;
use tns_csi_proto::helper::v1::{
    ExpandVolumeRequest, FilesystemAccess, GetHostInfoRequest, IscsiChap, IscsiSource, Portal, Source,
    StageVolumeRequest, UnstageVolumeRequest,
};
use tonic::Code;
use uuid::Uuid;

use super::common::{again, mounts_at, refused};
use crate::data;
use crate::guest::{INITIATOR, KUBELET, PARENT, RUN, iscsid, output, run};
use crate::kubelet::DRIVER;
use crate::lab::{Lab, SERVER};
use crate::logs::log_path;
use crate::relay::Caller;
use crate::scenario::{Run, Scenario};

/// The kernel's target in configfs.
const CONFIGFS: &str = "/sys/kernel/config/target";
const TARGET: &str = "iqn.2005-10.org.freenas.ctl:lab-by-hand";
const FOREIGN: &str = "iqn.2005-10.org.freenas.ctl:somebody-elses";
/// A second portal of the same target, and an address at which nothing listens.
const SECOND: &str = "127.0.0.2";
const DEAD: &str = "127.0.0.9";
const SERIAL: &str = "0a1b2c3d4e5f001";
const USER: &str = "lab-node";
const SECRET: &str = "Zq7labInitSec";
const PEER: &str = "lab-nas";
const PEER_SECRET: &str = "Xw9labPeerSec";
const BYTES: u64 = 1 << 30;
/// Where open-iscsi keeps its records.
const NODES: &str = "/var/lib/iscsi/nodes";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "iscsi-node",
            about: "mutual CHAP, a dead portal, growth, iscsid restarted, others' sessions untouched, nothing left",
            run: Run::Chain(|lab| Box::pin(node(lab))),
        },
        Scenario {
            name: "iscsi-multipath",
            about: "with multipathd two portals are one device, which grows and outlives the loss of a path",
            run: Run::Chain(|lab| Box::pin(multipath(lab))),
        },
    ]
}

/// The helper's caller and the volume that it asks for.
struct Node {
    caller: Caller,
    zvol: String,
    initiator: String,
    /// Time of a stage in milliseconds.
    timeout: u32,
}

impl Node {
    async fn start(zvol: &str) -> anyhow::Result<Self> {
        let caller = Caller::start().await?;
        let info = caller.helper.clone().get_host_info(GetHostInfoRequest { min_revision: 0 }).await?;
        let info = info.into_inner();
        ensure!(info.protocols.contains(&"iscsi".to_owned()), "the helper has {:?}", info.protocols);
        let uuid: Uuid = info.host_uuid.parse().context("the host's UUID")?;
        let initiator = tns_csi_proto::identity::initiator_name(&uuid);
        Ok(Self { caller, zvol: format!("{PARENT}/{zvol}"), initiator, timeout: 60_000 })
    }

    fn staging(&self) -> PathBuf {
        paths::staging_mount(Path::new(KUBELET), DRIVER, &self.zvol)
    }

    async fn stage(
        &self,
        addresses: &[&str],
        change: impl FnOnce(&mut IscsiSource),
    ) -> Result<String, tonic::Status> {
        let mut source = IscsiSource {
            portals: addresses
                .iter()
                .map(|&address| Portal { address: address.to_owned(), port: 0 })
                .collect(),
            iqn: TARGET.to_owned(),
            lun: 0,
            serial: SERIAL.to_owned(),
            // The kernel's target makes its identifier of the serial number's hexadecimal digits.
            naa: format!("6001405{SERIAL:0<25}"),
            chap: Some(IscsiChap {
                username: USER.to_owned(),
                secret: SECRET.to_owned(),
                peer_username: PEER.to_owned(),
                peer_secret: PEER_SECRET.to_owned(),
            }),
        };
        change(&mut source);
        let staging = self.staging();
        fs::create_dir_all(&staging)?;
        let request = StageVolumeRequest {
            volume_id: self.zvol.clone(),
            staging_path: staging.display().to_string(),
            source: Some(Source { protocol: Some(Protocol::Iscsi(source)) }),
            access: Some(Access::Filesystem(FilesystemAccess::default())),
            capacity_bytes: BYTES,
            timeout_ms: self.timeout,
            ..StageVolumeRequest::default()
        };
        let answer = self.caller.helper.clone().stage_volume(request).await?;
        Ok(answer.into_inner().outcome)
    }

    async fn unstage(&self) -> anyhow::Result<()> {
        let request = UnstageVolumeRequest {
            volume_id: self.zvol.clone(),
            staging_path: self.staging().display().to_string(),
            timeout_ms: 60_000,
            ..UnstageVolumeRequest::default()
        };
        again("UnstageVolume", async || self.caller.helper.clone().unstage_volume(request.clone()).await)
            .await?;
        ensure!(mounts_at(&self.staging())? == 0, "it is still mounted");
        fs::remove_dir(self.staging()).context("the staging path")
    }

    async fn grow_to(&self, bytes: u64) -> anyhow::Result<()> {
        run("zfs", &["set", &format!("volsize={bytes}"), &self.zvol])?;
        let request = ExpandVolumeRequest {
            volume_id: self.zvol.clone(),
            volume_path: self.staging().display().to_string(),
            required_bytes: bytes,
            timeout_ms: 60_000,
            ..ExpandVolumeRequest::default()
        };
        let grown = self.caller.helper.clone().expand_volume(request).await?.into_inner();
        ensure!(grown.capacity_bytes >= bytes, "the device has {} bytes", grown.capacity_bytes);
        let size = data::filesystem_size(&self.staging()).await?;
        ensure!(size > bytes / 10 * 9, "the file system has {size} bytes");
        Ok(())
    }
}

async fn node(lab: &mut Lab) -> anyhow::Result<()> {
    let mut node = Node::start("by-hand").await?;
    let outcome = node_steps(lab, &mut node).await;
    node.caller.stop().await?;
    let cleared = clear(&node.zvol).await;
    outcome.and(cleared)
}

async fn node_steps(lab: &mut Lab, node: &mut Node) -> anyhow::Result<()> {
    offer(node, &[SERVER]).await?;
    offer_to_everybody()?;
    let watch = Watch::start();

    let wrong = node.stage(&[SERVER], |source| {
        source.chap = Some(IscsiChap { secret: "Aa0wrongSecret".to_owned(), ..chap(source) });
    });
    refused("a wrong secret", wrong.await, Code::PermissionDenied, "CHAP")?;
    node.timeout = 15_000;
    let other = node.stage(&[SERVER], |source| source.serial = "0a1b2c3d4e5f002".to_owned()).await;
    node.timeout = 60_000;
    ensure!(other.is_err(), "a unit with another serial number was staged");
    println!(
        "   another serial number: {}",
        other.err().map(|status| status.to_string()).unwrap_or_default()
    );
    node.unstage().await.context("after a refused stage")?;
    nothing_is_left(node)?;

    login(FOREIGN, "default")?;
    let start = Instant::now();
    let outcome = node.stage(&[DEAD, SERVER], |_| ()).await.context("StageVolume")?;
    println!("   {outcome} in {:.2} s", start.elapsed().as_secs_f64());
    ensure!(sessions_of(&node.initiator)?.len() == 1, "sessions: {:?}", sessions_of(&node.initiator)?);
    let file = node.staging().join("data");
    let bytes = data::noise("iscsi", 4 << 20);
    data::write(&file, bytes.clone()).await?;
    node.grow_to(2 * BYTES).await.context("growing")?;
    data::verify(&file, bytes.clone()).await?;

    // iscsid forgets nothing, because its record is there.
    run("pkill", &["-x", "iscsid"])?;
    wait::until("the daemon's end", Duration::from_secs(60), || Ok(run("pgrep", &["-x", "iscsid"]).is_err()))
        .await?;
    iscsid()?;
    data::verify(&file, bytes.clone()).await?;
    lab.helper.crash().await?;
    lab.helper.restart().await?;
    let again = node.stage(&[DEAD, SERVER], |_| ()).await.context("StageVolume after a crash")?;
    ensure!(again == "already staged", "staged again: {again}");

    let start = Instant::now();
    node.unstage().await?;
    println!("   unstaged in {:.2} s", start.elapsed().as_secs_f64());
    nothing_is_left(node)?;
    ensure!(sessions_of(INITIATOR)?.len() == 1, "the session of other software is gone");
    ensure!(Path::new(NODES).join(FOREIGN).exists(), "the record of other software is gone");
    logout(FOREIGN)?;

    watch.must_have_seen_nothing()?;

    // What was written is there when it is staged again. Timed without the watch, which keeps a processor busy.
    let start = Instant::now();
    ensure!(node.stage(&[SERVER], |_| ()).await.context("StageVolume again")? == "mounted");
    println!("   staged again in {:.2} s", start.elapsed().as_secs_f64());
    data::verify(&file, bytes).await?;
    let start = Instant::now();
    node.unstage().await?;
    println!("   unstaged in {:.2} s", start.elapsed().as_secs_f64());
    nothing_is_left(node)
}

async fn multipath(_lab: &mut Lab) -> anyhow::Result<()> {
    let node = Node::start("two-paths").await?;
    run("modprobe", &["dm-multipath"])?;
    let settings = "defaults {\n find_multipaths greedy\n user_friendly_names no\n polling_interval 1\n}\n\
                    blacklist {\n devnode \"^(vd|zd|nvme|loop)\"\n}\n";
    fs::write("/etc/multipath.conf", settings).context("writing /etc/multipath.conf")?;
    start_multipathd().await?;
    let outcome = multipath_steps(&node).await;
    let stopped = stop_multipathd().await;
    node.caller.stop().await?;
    let cleared = clear(&node.zvol).await;
    outcome.and(stopped).and(cleared)
}

/// It goes into the background before it listens, and a helper that does not find it listening makes one session.
async fn start_multipathd() -> anyhow::Result<()> {
    run("multipathd", &[])?;
    let idle = || Ok(output("multipathd", &["show", "daemon"]).is_ok_and(|said| said.contains("idle")));
    wait::until("multipathd, configured and idle", Duration::from_secs(60), idle).await
}

/// It may end before it has answered that it will, so only its end counts.
async fn stop_multipathd() -> anyhow::Result<()> {
    let asked = run("multipathd", &["shutdown"]);
    let ended = || Ok(run("pgrep", &["-x", "multipathd"]).is_err());
    let waited = wait::until("the end of multipathd", Duration::from_secs(60), ended).await;
    waited.with_context(|| format!("multipathd shutdown said {asked:?}"))
}

async fn multipath_steps(node: &Node) -> anyhow::Result<()> {
    offer(node, &[SERVER, SECOND]).await?;
    let outcome = node.stage(&[SERVER, SECOND], |_| ()).await.context("StageVolume")?;
    println!("   {outcome}");
    let table = fs::read_to_string("/proc/self/mounts").context("reading the mount table")?;
    let staging = node.staging().display().to_string();
    let source = table.lines().find(|line| line.contains(&staging)).unwrap_or_default();
    ensure!(source.starts_with("/dev/dm-"), "it is mounted from {source:?}");
    let start = Instant::now();
    // A login that is lost takes iscsid 15 s; then the helper tries again, and its log says so.
    let came = wait::until("the second session", Duration::from_secs(60), || {
        Ok(sessions_of(&node.initiator)?.len() == 2)
    })
    .await;
    if came.is_err() {
        for (program, arguments) in [("iscsiadm", ["-m", "session", "-P", "1"].as_slice()), ("ps", &["axf"])]
        {
            println!(
                "{program}: {}",
                output(program, arguments).unwrap_or_else(|error| format!("{error:#}"))
            );
        }
    }
    came?;
    println!("   the second session after {:.2} s", start.elapsed().as_secs_f64());
    let file = node.staging().join("data");
    let bytes = data::noise("multipath", 4 << 20);
    data::write(&file, bytes.clone()).await?;
    node.grow_to(2 * BYTES).await.context("growing")?;
    // One portal goes: the other path carries on.
    let portal = format!("{CONFIGFS}/iscsi/{TARGET}/tpgt_1/np/{SECOND}:3260");
    fs::remove_dir(&portal).with_context(|| format!("removing {portal}"))?;
    data::write(&node.staging().join("more"), bytes.clone()).await?;
    data::verify(&file, bytes).await?;
    node.unstage().await?;
    nothing_is_left(node)
}

fn chap(source: &IscsiSource) -> IscsiChap {
    source.chap.clone().unwrap_or_default()
}

/// Makes a zvol and offers it as unit 0 of a target that asks the helper's initiator for mutual CHAP.
async fn offer(node: &Node, addresses: &[&str]) -> anyhow::Result<()> {
    run("zfs", &["create", "-s", "-V", &BYTES.to_string(), &node.zvol])?;
    let device = PathBuf::from("/dev/zvol").join(&node.zvol);
    wait::until("the zvol's device", Duration::from_secs(30), || Ok(device.exists())).await?;
    let core = format!("{CONFIGFS}/core/iblock_0/by-hand");
    let group = format!("{CONFIGFS}/iscsi/{TARGET}/tpgt_1");
    let acl = format!("{group}/acls/{}", node.initiator);
    for directory in [&core, &format!("{group}/lun/lun_0"), &format!("{acl}/lun_0")] {
        fs::create_dir_all(directory).with_context(|| format!("making {directory}"))?;
    }
    for address in addresses {
        let portal = format!("{group}/np/{address}:3260");
        fs::create_dir(&portal).with_context(|| format!("making {portal}"))?;
    }
    for (file, value) in [
        (format!("{core}/control"), format!("udev_path={}", device.display())),
        (format!("{core}/wwn/vpd_unit_serial"), SERIAL.to_owned()),
        (format!("{core}/enable"), "1".to_owned()),
    ] {
        fs::write(&file, &value).with_context(|| format!("writing {value} to {file}"))?;
    }
    let unit = format!("{group}/lun/lun_0");
    std::os::unix::fs::symlink(&core, format!("{unit}/unit")).context("linking the unit")?;
    std::os::unix::fs::symlink(&unit, format!("{acl}/lun_0/unit")).context("mapping the unit")?;
    for (file, value) in [
        (format!("{acl}/auth/userid"), USER),
        (format!("{acl}/auth/password"), SECRET),
        (format!("{acl}/auth/userid_mutual"), PEER),
        (format!("{acl}/auth/password_mutual"), PEER_SECRET),
        (format!("{group}/attrib/authentication"), "1"),
        (format!("{group}/enable"), "1"),
    ] {
        fs::write(&file, value).with_context(|| format!("writing to {file}"))?;
    }
    Ok(())
}

/// A target without a unit to which every initiator may log in, for the session of other software.
fn offer_to_everybody() -> anyhow::Result<()> {
    let group = format!("{CONFIGFS}/iscsi/{FOREIGN}/tpgt_1");
    fs::create_dir_all(format!("{group}/np/{SECOND}:3260")).context("making the other target")?;
    for (file, value) in [("attrib/generate_node_acls", "1"), ("attrib/authentication", "0"), ("enable", "1")]
    {
        fs::write(format!("{group}/{file}"), value).with_context(|| format!("writing to {file}"))?;
    }
    Ok(())
}

fn login(target: &str, iface: &str) -> anyhow::Result<()> {
    let portal = format!("{SECOND}:3260,1");
    let which = ["-m", "node", "-T", target, "-p", &portal, "-I", iface];
    run("iscsiadm", &[&which[..], &["-o", "new"]].concat())?;
    run("iscsiadm", &[&which[..], &["--login"]].concat())
}

fn logout(target: &str) -> anyhow::Result<()> {
    run("iscsiadm", &["-m", "node", "-T", target, "--logout"])?;
    run("iscsiadm", &["-m", "node", "-T", target, "-o", "delete"])
}

/// The sessions of an initiator.
fn sessions_of(initiator: &str) -> anyhow::Result<Vec<String>> {
    let Ok(entries) = fs::read_dir("/sys/class/iscsi_session") else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.context("listing sessions")?.path();
        let name = fs::read_to_string(path.join("initiatorname")).unwrap_or_default();
        if name.trim() == initiator {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

/// No session, no record with a secret, no disk of the helper's.
fn nothing_is_left(node: &Node) -> anyhow::Result<()> {
    let sessions = sessions_of(&node.initiator)?;
    ensure!(sessions.is_empty(), "sessions are left: {sessions:?}");
    for entry in fs::read_dir("/sys/block").context("listing block devices")? {
        let uuid = fs::read_to_string(entry?.path().join("dm/uuid")).unwrap_or_default();
        ensure!(!uuid.starts_with("mpath-"), "a multipath device is left: {uuid}");
    }
    let record = Path::new(NODES).join(TARGET);
    ensure!(!record.exists(), "{} is left", record.display());
    let mut left: Vec<PathBuf> =
        ["/var/lib/iscsi", "/etc/iscsi", "/var/lib/tns-csi"].iter().map(PathBuf::from).collect();
    left.push(Path::new(RUN).join("helper"));
    left.push(log_path("node-helper"));
    while let Some(path) = left.pop() {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        if found.is_dir() {
            left.extend(fs::read_dir(&path)?.filter_map(Result::ok).map(|entry| entry.path()));
        } else if found.is_file() {
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let text = String::from_utf8_lossy(&bytes);
            ensure!(!has_secret(&text), "a CHAP secret is in {}", path.display());
        }
    }
    Ok(())
}

fn has_secret(text: &str) -> bool {
    [SECRET, PEER_SECRET].iter().any(|secret| text.contains(secret))
}

/// Reads every process's arguments and environment as long as it lives, looking for the secrets.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<BTreeSet<String>>,
}

impl Watch {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !ended.load(Ordering::Acquire) {
                for entry in fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok) {
                    for file in ["cmdline", "environ"] {
                        let path = entry.path().join(file);
                        let bytes = fs::read(&path).unwrap_or_default();
                        let text = String::from_utf8_lossy(&bytes);
                        if text.contains("iscsiadm") && file == "cmdline" {
                            seen.insert("iscsiadm was seen".to_owned());
                        }
                        if has_secret(&text) {
                            seen.insert(format!("{}: {text}", path.display()));
                        }
                    }
                }
            }
            seen
        });
        Self { stop, thread }
    }

    fn must_have_seen_nothing(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Release);
        let Ok(mut seen) = self.thread.join() else { bail!("the watch ended early") };
        ensure!(seen.remove("iscsiadm was seen"), "the watch was too slow to see any iscsiadm");
        ensure!(seen.is_empty(), "a CHAP secret was seen: {seen:?}");
        Ok(())
    }
}

/// Takes everything away, also after a failure half-way.
async fn clear(zvol: &str) -> anyhow::Result<()> {
    let script = format!(
        "cd {CONFIGFS}/iscsi || exit 0
for t in {TARGET} {FOREIGN}; do
  [ -d $t ] || continue
  iscsiadm -m node -T $t --logout >/dev/null 2>&1; iscsiadm -m node -T $t -o delete >/dev/null 2>&1
  g=$t/tpgt_1
  echo 0 > $g/enable
  for a in $g/acls/*; do [ -d $a ] && {{ rm -f $a/lun_0/unit; rmdir $a/lun_0; rmdir $a; }}; done
  rm -f $g/lun/lun_0/unit; [ -d $g/lun/lun_0 ] && rmdir $g/lun/lun_0
  for p in $g/np/*; do [ -d $p ] && rmdir $p; done
  rmdir $g; rmdir $t
done
[ -d ../core/iblock_0/by-hand ] && rmdir ../core/iblock_0/by-hand
true"
    );
    run("sh", &["-c", &script])?;
    // udev may still look at the device.
    wait::until("the zvol's end", Duration::from_secs(30), || {
        Ok(run("zfs", &["destroy", "-r", zvol]).is_ok() || !PathBuf::from("/dev/zvol").join(zvol).exists())
    })
    .await
}
