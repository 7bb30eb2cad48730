//! The root of the lab's guest: a Debian of its own, made by mmdebstrap and kept in the cache.
//!
//! Rule: nothing of it is installed on the host. A change of the package list or of the recipe below makes a new
//! root; the same ones never build twice. The guest boots from an image of the tree: what it reads from a disk stays in
//! its memory, what it reads over 9p is read and translated again for each program that starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::cache::Cache;
use crate::progress::{logged, step};
use crate::setup::privileged;

/// The guest's release: its kernel is of the series that TrueNAS 25.10 runs.
const SUITE: &str = "trixie";

/// What the guest holds: a stock kernel with ZFS, both ends of the four protocols, and the tools to look at them.
const PACKAGES: &[&str] = &[
    "linux-image-amd64",
    "linux-headers-amd64",
    "zfs-dkms",
    "zfsutils-linux",
    // the node's side
    "nfs-common",
    "nvme-cli",
    "open-iscsi",
    "cifs-utils",
    "keyutils",
    "multipath-tools",
    "dmsetup",
    "cryptsetup-bin",
    "e2fsprogs",
    "xfsprogs",
    "btrfs-progs",
    "udev",
    // the appliance's side
    "nfs-kernel-server",
    "samba",
    // the guest itself
    "busybox-static",
    "ca-certificates",
    "fio",
    "iproute2",
    "kmod",
    "libcap2-bin",
    "procps",
    "strace",
    "util-linux",
];

/// Before any package: nothing may start a service while it is being installed.
const SETUP_HOOK: &str = r#"mkdir -p "$1/usr/sbin"
printf '#!/bin/sh\nexit 101\n' > "$1/usr/sbin/policy-rc.d"
chmod 755 "$1/usr/sbin/policy-rc.d""#;

/// After all packages: the ZFS module must be there for the kernel that boots; the directories that the lab mounts over
/// must exist, because the root is read-only when it runs; modules that the lab loads are stored uncompressed, so that no
/// emulated processor has to unpack them; and udev keeps its rules for storage only and looks, when virtme-ng boots, only
/// at the devices that virtme-ng talks through: to go through all the hardware that QEMU shows takes longer than all the
/// rest of an emulated boot.
const CUSTOMIZE_HOOK: &str = r#"set -e
kernel=$(ls "$1/lib/modules" | sort -V | tail -n 1)
test -e "$1/boot/vmlinuz-$kernel"
ls "$1/lib/modules/$kernel/updates/dkms/"zfs.ko* >/dev/null 2>&1 || chroot "$1" dkms autoinstall -k "$kernel"
ls "$1/lib/modules/$kernel/updates/dkms/"zfs.ko* >/dev/null
for part in crypto drivers/block drivers/md drivers/net drivers/nvme drivers/scsi drivers/target fs lib net; do
    find "$1/lib/modules/$kernel/kernel/$part" -name '*.ko.xz' -exec xz --decompress {} +
done
xz --decompress "$1/lib/modules/$kernel/updates/dkms/"*.ko.xz
chroot "$1" depmod "$kernel"
mkdir -p "$1/usr/lib/udev/rules.unused"
for rules in "$1/usr/lib/udev/rules.d/"*.rules; do
    case "${rules##*/}" in
    50-udev-default.rules | 55-dm.rules | 56-dm-mpath.rules | 60-block.rules | 60-multipath.rules | 60-persistent-storage.rules | \
        60-persistent-storage-dm.rules | 60-zvol.rules | 64-btrfs*.rules | 95-dm-notify.rules) ;;
    *) mv "$rules" "$1/usr/lib/udev/rules.unused/" ;;
    esac
done
mv "$1/usr/bin/udevadm" "$1/usr/lib/udev/udevadm"
ln -sf ../udev/udevadm "$1/usr/lib/systemd/systemd-udevd"
cat > "$1/usr/bin/udevadm" <<'END'
#!/bin/sh
case "$*" in
"trigger --type=subsystems --action=add") exit 0 ;;
"trigger --type=devices --action=add") set -- trigger --action=add --subsystem-match=virtio-ports ;;
esac
exec /usr/lib/udev/udevadm "$@"
END
chmod 755 "$1/usr/bin/udevadm"
mkdir -p "$1/lab/bin" "$1/lab/logs" "$1/lab/run"
rm -f "$1/etc/resolv.conf" "$1/etc/hostname""#;

/// What [`disk`] is made by, and its file system. Sparse: the size is a bound.
const DISK: &[&str] = &["mke2fs", "-q", "-t", FILE_SYSTEM, "-O", "^has_journal", "-m", "0", "-d"];
const DISK_SIZE: &str = "4G";
/// File system of the image.
pub const FILE_SYSTEM: &str = "ext4";

/// A complete guest root.
pub struct GuestRoot {
    /// Its directory on the host: the kernel and its modules are read here.
    pub directory: PathBuf,
    /// Image of the directory, from which the guest boots.
    pub disk: PathBuf,
}

impl GuestRoot {
    /// Finds the root of the present recipe in the cache, or makes it.
    pub fn build(cache: &Cache) -> anyhow::Result<Self> {
        let entry = cache.entry("root", &recipe());
        let image = cache.entry("root-disk", &[&recipe(), &DISK.join(" "), DISK_SIZE].concat());
        if !entry.is_dir() {
            // Tools of another day's root would meet this one's kernel and modules.
            remove_tree(&image)?;
            step(
                "making the guest's root (once per machine: download, then ZFS compiles for minutes)",
                || {
                    let partial = Cache::partial(&entry, remove_tree)?;
                    mmdebstrap(&partial, &entry.with_extension("log"))?;
                    fs::rename(&partial, &entry).or_else(|_| {
                        // The tree belongs to root when we do not.
                        let status = privileged("mv")?
                            .args(["--no-target-directory", "--"])
                            .args([&partial, &entry])
                            .status()
                            .context("starting mv")?;
                        if status.success() {
                            Ok(())
                        } else {
                            bail!("moving {} into place", partial.display())
                        }
                    })
                },
            )?;
        }
        if !image.exists() {
            step("making the guest's disk from its root", || disk(&entry, &image))?;
        }
        Ok(Self { directory: entry, disk: image })
    }

    /// The kernel to boot: the newest in the root.
    pub fn kernel(&self) -> anyhow::Result<PathBuf> {
        let boot = self.directory.join("boot");
        let mut kernels: Vec<PathBuf> = fs::read_dir(&boot)
            .with_context(|| format!("reading {}", boot.display()))?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .filter(|path| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
            })
            .collect();
        kernels.sort();
        kernels
            .pop()
            .with_context(|| format!("no kernel in {}: remove it and run setup again", boot.display()))
    }
}

/// Makes the image. The tree belongs to root and so does the image; everybody may read it.
fn disk(tree: &Path, image: &Path) -> anyhow::Result<()> {
    let partial = Cache::partial(image, remove_tree)?;
    let log = image.with_extension("log");
    let [program, options @ ..] = DISK else { bail!("no program makes the guest's disk") };
    logged(privileged(program)?.args(options).arg(tree).arg(&partial).arg(DISK_SIZE), &log)?;
    logged(privileged("chmod")?.args(["0644", "--"]).arg(&partial), &log)?;
    fs::rename(&partial, image).with_context(|| format!("moving {} into place", partial.display()))
}

fn recipe() -> String {
    [SUITE, &PACKAGES.join(" "), SETUP_HOOK, CUSTOMIZE_HOOK].join("\n")
}

fn mmdebstrap(target: &Path, log: &Path) -> anyhow::Result<()> {
    let mut command = privileged("mmdebstrap")?;
    command
        .args(["--mode=root", "--variant=important", "--components=main,contrib"])
        .arg(format!("--include={}", PACKAGES.join(",")))
        .arg(format!("--setup-hook={SETUP_HOOK}"))
        .arg(format!("--customize-hook={CUSTOMIZE_HOOK}"));
    for option in apt_transport_options() {
        command.arg(format!("--aptopt={option}"));
    }
    command.arg(SUITE).arg(target);
    // Without a mirror mmdebstrap takes Debian's own.
    if let Some(mirror) = debian_mirror() {
        command.arg(mirror);
    }
    logged(&mut command, log)
}

/// How this machine's apt reaches its mirrors (proxies, certificates), as apt.conf lines.
fn apt_transport_options() -> Vec<String> {
    let Ok(output) =
        Command::new("apt-config").args(["dump", "--format", "%f \"%v\";%n", "Acquire"]).output()
    else {
        return Vec::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| line.starts_with("Acquire::http") && !line.ends_with(" \"\";"))
        .map(str::to_owned)
        .collect()
}

/// The Debian mirror this machine uses: the first apt source that offers the host's own release with `main`.
fn debian_mirror() -> Option<String> {
    let release = fs::read_to_string("/etc/os-release").ok()?;
    let value = |key: &str| {
        release.lines().find_map(|line| line.strip_prefix(key)).map(|text| text.trim_matches('"').to_owned())
    };
    if value("ID=")? != "debian" {
        return None;
    }
    let codename = value("VERSION_CODENAME=")?;
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.filter_map(Result::ok).map(|entry| entry.path()));
    }
    files.sort();
    files.iter().filter_map(|path| fs::read_to_string(path).ok()).find_map(|text| mirror_of(&text, &codename))
}

/// The first mirror in an apt source file (one-line or deb822 form) that offers exactly `codename` with `main`.
fn mirror_of(text: &str, codename: &str) -> Option<String> {
    let one_line = text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        if words.next()? != "deb" {
            return None;
        }
        let mut words =
            words.skip_while(|word| word.starts_with('[') || word.ends_with(']') || word.contains('='));
        let (uri, suite) = (words.next()?, words.next()?);
        (suite == codename && words.any(|component| component == "main")).then(|| uri.to_owned())
    });
    one_line.or_else(|| {
        text.split("\n\n").find_map(|stanza| {
            let field = |name: &str| {
                stanza.lines().find_map(|line| {
                    let (key, value) = line.split_once(':')?;
                    key.eq_ignore_ascii_case(name).then(|| value.trim())
                })
            };
            let has = |name: &str, word: &str| {
                field(name).is_some_and(|value| value.split_whitespace().any(|w| w == word))
            };
            if !has("Types", "deb") || !has("Suites", codename) || !has("Components", "main") {
                return None;
            }
            field("URIs")?.split_whitespace().next().map(str::to_owned)
        })
    })
}

/// Removes what belongs to root, without leaving its file system; what is not there is fine.
fn remove_tree(path: &Path) -> anyhow::Result<()> {
    let status = privileged("rm")?
        .args(["--recursive", "--force", "--one-file-system", "--"])
        .arg(path)
        .status()
        .context("starting rm")?;
    if !status.success() {
        bail!("removing {}", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::mirror_of;

    #[test]
    fn the_mirror_is_the_one_that_offers_the_hosts_own_release() {
        let vendor = "deb [arch=amd64 signed-by=/k.gpg] https://vendor.example/apt stable main";
        let debian = "# comment\ndeb-src http://mirror.example/debian bookworm main\n\
                      deb [ signed-by=/k.gpg ] http://mirror.example/debian bookworm contrib main";
        assert_eq!(mirror_of(vendor, "bookworm"), None);
        assert_eq!(mirror_of(debian, "bookworm").as_deref(), Some("http://mirror.example/debian"));
    }

    #[test]
    fn deb822_stanzas_are_read_and_security_ones_passed_over() {
        let text = "Types: deb\nURIs: http://s.example/debian-security\nSuites: bookworm-security\nComponents: main\n\n\
                    Types: deb\n# comment\nURIs: http://m.example/debian\nSuites: bookworm bookworm-updates\n\
                    Components: main\nSigned-By: /k.gpg\n";
        assert_eq!(mirror_of(text, "bookworm").as_deref(), Some("http://m.example/debian"));
    }

    #[test]
    fn nothing_is_found_in_an_empty_or_foreign_file() {
        assert_eq!(mirror_of("", "bookworm"), None);
        assert_eq!(
            mirror_of("Types: deb\nSuites: nodistro\nComponents: main\nURIs: http://x.example", "bookworm"),
            None
        );
    }
}
