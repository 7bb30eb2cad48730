//! Formatting needs proof: whatever is not proven blank, of the right identity and of the right size stays untouched.
//!
//! The devices come from a subsystem of the lab's own, beside the appliance's, so that each can be as wrong as wanted.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use harness::{paths, wait};
use tns_csi_proto::helper::v1::source::Protocol;
use tns_csi_proto::helper::v1::stage_volume_request::Access;
use tns_csi_proto::helper::v1::{
    FilesystemAccess, NvmeofSource, Portal, Source, StageVolumeRequest, UnstageVolumeRequest,
};
use tonic::{Code, Status};

use super::common::{POD, Untouched, again, mounts_at, nvmeof, refused};
use crate::data;
use crate::guest::{KUBELET, PARENT, output, run};
use crate::kubelet::{DRIVER, GIB};
use crate::lab::{Lab, SERVER, nvme_fabrics_controllers};
use crate::relay::Caller;
use crate::scenario::{Run, Scenario};

const TARGET: &str = "/sys/kernel/config/nvmet";
const NQN: &str = "nqn.2011-06.com.truenas:uuid:5a3d2f6e-6f0b-4a4d-9d3c-1f7b8a5c2e10:lab-wrong";
const UUID: &str = "0d1c5b7e-3a52-4b6f-9e0d-7c6a5b4f3e21";
const OTHER_UUID: &str = "0d1c5b7e-3a52-4b6f-9e0d-7c6a5b4f3e22";
/// A port of the lab's own, which the appliance does not know.
const PORT: &str = "77";
const PORT_TCP: u32 = 4477;
const MAPPER: &str = "lab-wrong";
const BYTES: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "xfs-never-becomes-ext4",
            about: "a volume that holds an xfs is refused as ext4, not a byte of it is written, and it stays usable",
            run: Run::Chain(|lab| Box::pin(other_file_system(lab))),
        },
        Scenario {
            name: "never-formatted",
            about: "clone-sized, too small, foreign and unreadable devices are refused and nothing is written",
            run: Run::Chain(|_| Box::pin(never_formatted())),
        },
    ]
}

async fn other_file_system(lab: &mut Lab) -> anyhow::Result<()> {
    let kubelet = lab.kubelet.clone();
    let (volume, path) = kubelet.bring_up("pvc-xfs", &nvmeof("xfs"), GIB, POD).await?;
    let bytes = data::noise("xfs", 2 << 20);
    data::write(&path.join("data"), bytes.clone()).await?;
    kubelet.unpublish(&volume, POD).await.context("NodeUnpublishVolume")?;
    kubelet.unstage(&volume).await.context("NodeUnstageVolume")?;
    let untouched = Untouched::since_now(&volume.id)?;
    for _ in 0..2 {
        refused(
            "an xfs staged as ext4",
            kubelet.stage_as(&volume, nvmeof("ext4").capability).await,
            Code::FailedPrecondition,
            "xfs",
        )?;
    }
    untouched.must_hold()?;
    ensure!(mounts_at(&kubelet.staging_path(&volume))? == 0, "it is mounted");
    kubelet.stage(&volume).await.context("NodeStageVolume as what it is")?;
    let path = kubelet.publish(&volume, POD, false).await.context("NodePublishVolume")?;
    data::verify(&path.join("data"), bytes).await?;
    kubelet.take_down(&volume, POD).await
}

/// What the device of a case is.
#[derive(Clone, Copy, Debug)]
enum Device {
    /// A zvol with these bytes at these places.
    Zvol(&'static [(u64, &'static [u8])]),
    /// A zvol of which only the first part can be read.
    Unreadable { readable: u64 },
}

/// One device that must not be formatted.
struct Case {
    what: &'static str,
    device: Device,
    /// What the request says of it.
    ask: fn(&mut StageVolumeRequest),
    code: Code,
    words: &'static str,
}

/// The last sector of a MiB before the end.
const NEAR_END: u64 = BYTES - MIB + 4096;

fn cases() -> Vec<Case> {
    fn plain(_: &mut StageVolumeRequest) {}
    let refusal =
        |what, device, ask, words| Case { what, device, ask, code: Code::FailedPrecondition, words };
    vec![
        refusal(
            "larger than the volume, as a clone is",
            Device::Zvol(&[]),
            |r| r.capacity_bytes = BYTES / 2,
            "bytes",
        ),
        refusal("smaller than the volume", Device::Zvol(&[]), |r| r.capacity_bytes = BYTES * 2, "bytes"),
        refusal(
            "a clone by the driver's word",
            Device::Zvol(&[]),
            |r| r.never_format = true,
            "never be formatted",
        ),
        refusal("staged read-only", Device::Zvol(&[]), |r| r.readonly = true, "read-only"),
        refusal(
            "unknown bytes in front",
            Device::Zvol(&[(64 << 10, b"somebody's data")]),
            plain,
            "not a file system",
        ),
        refusal(
            "unknown bytes at the end",
            Device::Zvol(&[(NEAR_END, b"somebody's data")]),
            plain,
            "not a file system",
        ),
        refusal("a LUKS header", Device::Zvol(&[(0, b"LUKS\xba\xbe\x00\x01")]), plain, "not a file system"),
        refusal(
            "a partition table",
            Device::Zvol(&[(446, &[0x80]), (510, &[0x55, 0xaa])]),
            plain,
            "not a file system",
        ),
        refusal(
            "a swap area",
            Device::Zvol(&[(4086, b"SWAPSPACE2"), (1024, &[1])]),
            plain,
            "not a file system",
        ),
        Case {
            what: "another namespace than the volume's",
            device: Device::Zvol(&[]),
            ask: |r| {
                if let Some(Source { protocol: Some(Protocol::Nvmeof(source)) }) = &mut r.source {
                    source.namespace_uuid = OTHER_UUID.to_owned();
                }
                r.timeout_ms = 8_000;
            },
            code: Code::Unknown,
            words: "",
        },
        Case {
            what: "unreadable from its first byte",
            device: Device::Unreadable { readable: 0 },
            ask: plain,
            code: Code::Unknown,
            words: "",
        },
        Case {
            what: "unreadable after its first MiB",
            device: Device::Unreadable { readable: 8 * MIB },
            ask: plain,
            code: Code::Unknown,
            words: "",
        },
    ]
}

async fn never_formatted() -> anyhow::Result<()> {
    let caller = Caller::start().await?;
    let mut failures = Vec::new();
    for (number, case) in cases().into_iter().enumerate() {
        // A name of its own: udev may still be taking away the last one's device.
        let zvol = format!("{PARENT}/wrong-{number}");
        let outcome = one(&caller, &case, &zvol).await;
        let cleared = clear(&zvol).await;
        match outcome.and(cleared) {
            Ok(()) => println!("   refused: {}", case.what),
            Err(error) => failures.push(format!("{}: {error:#}", case.what)),
        }
    }
    caller.stop().await?;
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(())
}

async fn one(caller: &Caller, case: &Case, zvol: &str) -> anyhow::Result<()> {
    offer(case.device, zvol).await?;
    let untouched = Untouched::since_now(zvol)?;
    let staging = paths::staging_mount(Path::new(KUBELET), DRIVER, zvol);
    fs::create_dir_all(&staging).with_context(|| format!("making {}", staging.display()))?;
    let mut request = StageVolumeRequest {
        volume_id: zvol.to_owned(),
        staging_path: staging.display().to_string(),
        source: Some(Source { protocol: Some(Protocol::Nvmeof(source())) }),
        access: Some(Access::Filesystem(FilesystemAccess {
            fs_type: "ext4".to_owned(),
            ..Default::default()
        })),
        capacity_bytes: BYTES,
        timeout_ms: 60_000,
        ..StageVolumeRequest::default()
    };
    (case.ask)(&mut request);
    let answer = caller.helper.clone().stage_volume(request).await;
    let unknown = case.code == Code::Unknown;
    match answer {
        Ok(answer) => bail!("staged: {answer:?}"),
        Err(status) if unknown && is_refusal(&status) && status.message().contains(case.words) => {
            println!("   {}: {:?} {}", case.what, status.code(), status.message());
        }
        Err(status) if !unknown => refused::<()>(case.what, Err(status), case.code, case.words)?,
        Err(status) => return Err(status).context("refused without the right words"),
    }
    ensure!(mounts_at(&staging)? == 0, "it is mounted");
    untouched.must_hold()?;
    let unstage = UnstageVolumeRequest {
        volume_id: zvol.to_owned(),
        staging_path: staging.display().to_string(),
        ..UnstageVolumeRequest::default()
    };
    let unstaged = async || caller.helper.clone().unstage_volume(unstage.clone()).await;
    again("UnstageVolume of what was refused", unstaged).await?;
    let left = nvme_fabrics_controllers()?;
    ensure!(left.is_empty(), "connections are left: {left:?}");
    Ok(())
}

fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::FailedPrecondition
            | Code::Unavailable
            | Code::DeadlineExceeded
            | Code::NotFound
            | Code::Internal
    )
}

fn source() -> NvmeofSource {
    NvmeofSource {
        portals: vec![Portal { address: SERVER.to_owned(), port: PORT_TCP }],
        subsystem_nqn: NQN.to_owned(),
        namespace_uuid: UUID.to_owned(),
        ..NvmeofSource::default()
    }
}

/// Makes the device and offers it to every host.
async fn offer(device: Device, name: &str) -> anyhow::Result<()> {
    run("zfs", &["create", "-s", "-V", &BYTES.to_string(), name])?;
    let zvol_device = PathBuf::from("/dev/zvol").join(name);
    wait::until("the zvol's device", Duration::from_secs(30), || Ok(zvol_device.exists())).await?;
    let path = match device {
        Device::Zvol(contents) => {
            let file = File::options().write(true).open(&zvol_device).context("opening the zvol")?;
            for (offset, bytes) in contents {
                file.write_all_at(bytes, *offset).context("writing to the zvol")?;
            }
            file.sync_all().context("writing to the zvol")?;
            zvol_device
        }
        Device::Unreadable { readable } => {
            run("modprobe", &["dm-mod"])?;
            let (good, all) = (readable / 512, BYTES / 512);
            let mut table = String::new();
            if good > 0 {
                table = format!("0 {good} linear {} 0\n", zvol_device.display());
            }
            table.push_str(&format!("{good} {} error", all - good));
            let file = Path::new(crate::guest::RUN).join("wrong.table");
            fs::write(&file, table).context("writing the mapper's table")?;
            run(
                "dmsetup",
                &["create", "--noudevsync", "--noudevrules", MAPPER, &file.display().to_string()],
            )?;
            // The kernel's own name: whether udev makes one in /dev/mapper depends on its rules.
            let kernel = output("dmsetup", &["info", "-c", "--noheadings", "-o", "blkdevname", MAPPER])?;
            PathBuf::from("/dev").join(kernel.trim())
        }
    };
    let base = Path::new(TARGET);
    let (subsystem, port) = (base.join("subsystems").join(NQN), base.join("ports").join(PORT));
    let namespace = subsystem.join("namespaces/1");
    for directory in [&subsystem, &namespace, &port] {
        fs::create_dir(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    let tcp = PORT_TCP.to_string();
    let path = path.display().to_string();
    for (file, value) in [
        (subsystem.join("attr_allow_any_host"), "1"),
        (namespace.join("device_path"), &path),
        (namespace.join("device_uuid"), UUID),
        (namespace.join("enable"), "1"),
        (port.join("addr_trtype"), "tcp"),
        (port.join("addr_adrfam"), "ipv4"),
        (port.join("addr_traddr"), SERVER),
        (port.join("addr_trsvcid"), &tcp),
    ] {
        fs::write(&file, value).with_context(|| format!("writing {value} to {}", file.display()))?;
    }
    std::os::unix::fs::symlink(&subsystem, port.join("subsystems").join(NQN)).context("linking the port")
}

/// Takes everything of a case away, also of one that failed half-way.
async fn clear(name: &str) -> anyhow::Result<()> {
    let script = format!(
        "cd {TARGET}; rm -f ports/{PORT}/subsystems/*; [ -d ports/{PORT} ] && rmdir ports/{PORT}
for c in /sys/class/nvme/nvme*; do
  [ -e $c/subsysnqn ] && [ \"$(cat $c/subsysnqn)\" = {NQN} ] && echo 1 > $c/delete_controller
done
s=subsystems/{NQN}
if [ -d $s ]; then echo 0 > $s/namespaces/1/enable; rmdir $s/namespaces/1; rmdir $s; fi
dmsetup info {MAPPER} > /dev/null 2>&1 && dmsetup remove --noudevsync --retry {MAPPER}
true"
    );
    run("sh", &["-c", &script])?;
    // udev may still look at the device.
    wait::until("the zvol's end", Duration::from_secs(30), || {
        Ok(run("zfs", &["destroy", "-r", name]).is_ok() || !PathBuf::from("/dev/zvol").join(name).exists())
    })
    .await
}
