//! What the processes may do, and what they give away: users, capabilities, and where the API key shows.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use harness::process::Process;
use harness::program::DRIVER_UID;
use serde_json::json;

use super::common::{POD, again, iscsi, nfs, nvmeof, smb};
use crate::guest::{RUN, output};
use crate::kubelet::{Class, GIB};
use crate::lab::Lab;
use crate::logs::log_path;
use crate::scenario::{Run, Scenario};

/// `CAP_CHOWN`, `CAP_DAC_READ_SEARCH`, `CAP_FOWNER`, `CAP_FSETID`, `CAP_SYS_ADMIN` and `CAP_SYS_RESOURCE` by their
/// numbers in `linux/capability.h`.
const HELPERS: u64 = 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 21 | 1 << 24;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "privileges",
            about: "driver: its own user and no capability; helper: root with six capabilities; while they work",
            run: Run::Chain(|lab| Box::pin(privileges(lab))),
        },
        Scenario {
            name: "secrets",
            about: "the API key is in no argument, environment, log, ledger or property, also after failures",
            run: Run::Chain(|lab| Box::pin(secrets(lab))),
        },
        Scenario {
            name: "secrets-of-volumes",
            about: "passwords, CHAP secrets and encryption keys are in no argument, environment, log, ledger or property",
            run: Run::Chain(|lab| Box::pin(secrets_of_volumes(lab))),
        },
    ]
}

async fn privileges(lab: &mut Lab) -> anyhow::Result<()> {
    let kubelet = lab.kubelet.clone();
    for class in [nfs(), smb(), iscsi("ext4"), nvmeof("ext4")] {
        let (volume, _) = kubelet.bring_up("pvc-privilege", &class, GIB, POD).await?;
        check("the controller", &lab.controller, DRIVER_UID, 0)?;
        check("the node agent", &lab.node, DRIVER_UID, 0)?;
        check("the helper", &lab.helper, 0, HELPERS)?;
        kubelet.take_down(&volume, POD).await?;
    }
    devices_and_volumes_are_not_open("the controller", &lab.controller)?;
    devices_and_volumes_are_not_open("the node agent", &lab.node)
}

/// User, groups and capabilities of every thread.
fn check(name: &str, process: &Process, uid: u32, capabilities: u64) -> anyhow::Result<()> {
    let tasks = format!("/proc/{}/task", process.pid());
    for task in fs::read_dir(&tasks).with_context(|| format!("listing {tasks}"))? {
        let path = task.context("listing threads")?.path().join("status");
        // A thread may have ended meanwhile.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        for ids in ["Uid", "Gid"] {
            let wanted = [uid; 4].map(|id| id.to_string());
            let found: Vec<&str> = field(ids).unwrap_or_default().split_whitespace().collect();
            ensure!(found == wanted, "{name} has {ids} {found:?}");
        }
        for (set, wanted) in [
            ("CapEff", capabilities),
            ("CapPrm", capabilities),
            ("CapBnd", capabilities),
            ("CapInh", 0),
            ("CapAmb", 0),
        ] {
            let found = u64::from_str_radix(field(set).unwrap_or_default(), 16);
            ensure!(found == Ok(wanted), "{name} has {set} {:?} instead of {wanted:016x}", field(set));
        }
        ensure!(field("NoNewPrivs") == Some("1"), "{name} may gain privileges");
        if uid != 0 {
            ensure!(field("Groups") == Some(""), "{name} has the groups {:?}", field("Groups"));
        }
    }
    Ok(())
}

/// The driver has no device and no path of a volume open, but for what this program itself was started with.
fn devices_and_volumes_are_not_open(name: &str, process: &Process) -> anyhow::Result<()> {
    let inherited = open_paths("self")?;
    for path in open_paths(&process.pid().to_string())? {
        let device = path.starts_with("/dev/") && !["/dev/null", "/dev/urandom"].contains(&path.as_str());
        let ours = device && !inherited.contains(&path);
        ensure!(!ours && !path.starts_with(crate::guest::KUBELET), "{name} has {path} open");
    }
    Ok(())
}

fn open_paths(process: &str) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(format!("/proc/{process}/fd")).context("listing descriptors")?;
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    Ok(targets.map(|target| target.display().to_string()).collect())
}

async fn secrets(lab: &mut Lab) -> anyhow::Result<()> {
    let key = fs::read_to_string(Path::new(RUN).join("secret/api-key")).context("reading the API key")?;
    let key = key.trim().to_owned();
    // The secret without its id, and a part of it: a message that is cut must not show it either.
    let secret = key.split_once('-').map_or(key.as_str(), |(_, secret)| secret).to_owned();
    let part = secret.get(..24).context("the key has 64 characters")?.to_owned();

    let kubelet = lab.kubelet.clone();
    let (volume, _) = kubelet.bring_up("pvc-secret", &nvmeof("ext4"), GIB, POD).await?;
    in_processes(&part)?;
    in_files(&part)?;
    let properties = output("zfs", &["get", "-H", "-o", "value", "all", &volume.id])?;
    ensure!(!properties.contains(&part), "the key is in the dataset's properties");
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
    ensure!(!mounts.contains(&part), "the key is in the mount table");
    let contexts = format!("{:?} {:?}", volume.context, volume.publish_context);
    ensure!(!contexts.contains(&part), "the key is in a context");

    // Everything that can go wrong with it: the login refused, the connection lost.
    lab.control.send(json!({"command": "refuse_logins", "with": "AUTH_ERR"})).await?;
    lab.control.send(json!({"command": "disconnect"})).await?;
    let class: Class = nfs();
    let refused = kubelet.create("pvc-refused", &class, GIB).await;
    ensure!(!format!("{refused:?}").contains(&part), "the key is in an error");
    lab.controller.crash().await?;
    lab.controller.restart().await?;
    let refused = kubelet.create("pvc-refused", &class, GIB).await;
    ensure!(refused.is_err(), "a volume was made with a refused login");
    ensure!(!format!("{refused:?}").contains(&part), "the key is in an error");
    in_processes(&part)?;
    in_files(&part)?;
    lab.control.send(json!({"command": "clear"})).await?;
    // A refused login is not tried again by itself: the controller is started anew, as after a mended key.
    lab.controller.crash().await?;
    lab.controller.restart().await?;
    again("NodeUnpublishVolume", async || kubelet.unpublish(&volume, POD).await).await?;
    again("NodeUnstageVolume", async || kubelet.unstage(&volume).await).await?;
    again("ControllerUnpublishVolume", async || kubelet.detach(&volume).await).await?;
    kubelet.remove(&volume).await?;
    in_files(&part)
}

async fn secrets_of_volumes(lab: &mut Lab) -> anyhow::Result<()> {
    let kubelet = lab.kubelet.clone();
    let chap = iscsi("ext4")
        .with("iscsi.authMethod", "mutual")
        .with_secret("chapUser", "node")
        .with_secret("chapSecret", "Qx7Lm2Vt9Rw4")
        .with_secret("chapPeerUser", "appliance")
        .with_secret("chapPeerSecret", "Zk8Np3Hs6Yd5");
    let encrypted =
        nfs().with("encryption", "true").with_secret("encryptionPassphrase", "horse 5Jq8Wn2Xc7Tb");
    for class in [smb(), chap, encrypted] {
        // The longest word: it stands in every way in which the whole might be quoted.
        let word = |secret: &String| -> Option<String> {
            let words = secret.split(|c: char| !c.is_ascii_alphanumeric());
            words.max_by_key(|word| word.len()).filter(|word| word.len() >= 12).map(str::to_owned)
        };
        let words: Vec<String> = class.secrets.values().filter_map(word).collect();
        ensure!(!words.is_empty(), "nothing to look for in {:?}", class.secrets.keys());
        let (volume, path) = kubelet.bring_up("pvc-secrets", &class, GIB, POD).await?;
        fs::write(path.join("data"), "x").with_context(|| format!("writing below {}", path.display()))?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
        let properties = output("zfs", &["get", "-H", "-o", "value", "all", &volume.id])?;
        let contexts = format!("{:?} {:?}", volume.context, volume.publish_context);
        for word in &words {
            in_processes(word)?;
            in_files(word)?;
            for (what, text) in
                [("mount table", &mounts), ("properties", &properties), ("contexts", &contexts)]
            {
                ensure!(!text.contains(word.as_str()), "a secret of {} is in the {what}", volume.id);
            }
        }
        kubelet.take_down(&volume, POD).await?;
        words.iter().try_for_each(|word| in_files(word))?;
    }
    Ok(())
}

/// Arguments and environments of all processes of the guest.
fn in_processes(part: &str) -> anyhow::Result<()> {
    for entry in fs::read_dir("/proc").context("listing processes")?.filter_map(Result::ok) {
        if !entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            ensure!(!text.contains(part), "a secret is in {}", entry.path().join(file).display());
        }
    }
    Ok(())
}

/// Logs of all processes, the helper's state and every file that anybody may read.
fn in_files(part: &str) -> anyhow::Result<()> {
    let logs = log_path("any").parent().map(PathBuf::from).context("logs have a directory")?;
    let run = Path::new(RUN);
    let mut left =
        vec![logs, run.join("helper"), run.join("csi"), run.join("tls"), PathBuf::from("/var/lib/tns-csi")];
    let mut seen = 0;
    while let Some(path) = left.pop() {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        if found.is_dir() {
            left.extend(fs::read_dir(&path)?.filter_map(Result::ok).map(|entry| entry.path()));
        } else if found.is_file() {
            seen += 1;
            let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            ensure!(!String::from_utf8_lossy(&text).contains(part), "a secret is in {}", path.display());
        }
    }
    ensure!(seen >= 5, "only {seen} files were looked at");
    Ok(())
}
