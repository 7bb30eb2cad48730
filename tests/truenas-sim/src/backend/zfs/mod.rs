//! The backend on a real machine: a ZFS pool, the kernel's NVMe target and the kernel's NFS server.
//!
//! Purpose: behave as the appliance's storage because it is the same storage. The pool exists before the stand-in
//! starts; everything else (datasets, exports, the target) is this backend's.
//!
//! The rule it keeps: it owns the whole of `nvmet` in configfs and its own file of NFS exports, and no dataset outside
//! its pool. It runs as root, in a guest that is thrown away.

mod command;
mod configfs;
mod iscsi;
mod listing;
mod nfs;
mod nvmet;
mod recent;
mod smb;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{
    Backend, BackendError, Dataset, DatasetKind, Encryption, IscsiSession, IscsiTarget, NewDataset,
    NfsExport, NvmetSession, NvmetTarget, PermissionChange, Permissions, Pool, Refusal, Result, Scope,
    SmbShare, Snapshot,
};
use command::run;
use recent::Recent;

/// Hold tag that TrueNAS uses.
const HOLD_TAG: &str = "truenas";

/// Properties that go together where NFSv4 ACLs are asked for, which only TrueNAS's ZFS has.
const NFSV4: &[&str] = &["acltype", "aclmode", "aclinherit"];

/// How the backend is set up.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The imported pool that is the appliance's only one.
    pub pool: String,
    /// Where Samba's own files lie; `None`: SMB cannot be served.
    pub smb_dir: Option<PathBuf>,
    /// The user that SMB clients log in as; `None`: SMB cannot be served.
    pub smb_user: Option<SmbUser>,
}

/// The one user of the SMB server.
#[derive(Debug, Clone)]
pub struct SmbUser {
    /// Name, which is also that of an account of the machine.
    pub name: String,
    /// File that holds the password in its first line.
    pub password_file: PathBuf,
}

/// A real pool with real exports.
#[derive(Debug)]
pub struct Zfs {
    pool: String,
    /// What stands before `/mnt` on this machine: the pool's `altroot`, or nothing.
    root: PathBuf,
    nfs: nfs::Server,
    iscsi: iscsi::Target,
    nvmet: nvmet::Target,
    smb: smb::Server,
    recent: Recent,
}

impl Zfs {
    /// Takes over an imported pool. Refused when it is not there, or when its root is not mounted at `/mnt/<pool>` below
    /// its alternate root: paths would not be those that the API gives.
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        let pool = settings.pool.clone();
        let root = run("zpool", &["get", "-Hp", "-o", "value", "altroot", &pool])?;
        let root = match root.trim() {
            "-" | "" => PathBuf::from("/"),
            path => PathBuf::from(path),
        };
        let backend = Self {
            nfs: nfs::Server::new(),
            iscsi: iscsi::Target::new(Path::new("/sys/kernel/config/target")),
            nvmet: nvmet::Target::new(Path::new("/sys/kernel/config/nvmet"), &root),
            smb: smb::Server::new(settings, &root),
            recent: Recent::new(&pool),
            pool,
            root,
        };
        let mount = format!("/mnt/{}", backend.pool);
        let datasets = backend.datasets(&Scope::Paths(std::slice::from_ref(&backend.pool)))?;
        let found = datasets.first().and_then(|dataset| dataset.raw("mountpoint")).unwrap_or("nothing");
        anyhow::ensure!(found == mount, "pool {} is mounted at {found}, not at {mount}", backend.pool);
        Ok(backend)
    }

    fn read(&self, options: &[&str], names: &[String]) -> Result<Vec<Dataset>> {
        let options = [&["-t", "filesystem,volume"], options].concat();
        let mut datasets = listing::datasets(&command::zfs_get(&options, names)?, &self.root)?;
        datasets.retain(|dataset| dataset.pool() == self.pool);
        Ok(datasets)
    }

    /// The datasets of these names that exist, in the order of names.
    fn at(&self, names: &[String]) -> Result<Vec<Dataset>> {
        let Some(now) = self.recent.moment() else { return self.read(&[], names) };
        let known = self.recent.known(now, names);
        let unknown: Vec<String> = names.iter().filter(|name| !known.contains_key(*name)).cloned().collect();
        let mut datasets = self.read(&[], &unknown)?;
        self.recent.keep(now, &unknown, &datasets);
        datasets.extend(known.into_values().flatten());
        datasets.sort_by(|a, b| a.name.cmp(&b.name));
        datasets.dedup_by(|a, b| a.name == b.name);
        Ok(datasets)
    }

    /// Runs `zfs` for a change.
    fn zfs<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        let outcome = command::zfs(arguments);
        self.recent.changed();
        outcome
    }

    /// As [`Self::zfs`], for a change that a use of the dataset forbids.
    fn zfs_busy(&self, arguments: &[String]) -> Result<()> {
        let outcome = command::zfs_busy(arguments, || self.nfs.let_go());
        self.recent.changed();
        outcome
    }

    /// Sets what has a value in one operation, then inherits the rest, one by one as `zfs inherit` wants it.
    fn set(&self, name: &str, changes: &BTreeMap<String, Option<String>>) -> Result<()> {
        let mut arguments = vec!["set".to_owned()];
        arguments.extend(
            changes.iter().filter_map(|(key, value)| value.as_ref().map(|value| format!("{key}={value}"))),
        );
        if arguments.len() > 1 {
            arguments.push(name.to_owned());
            self.zfs(&arguments)?;
        }
        for (key, _) in changes.iter().filter(|(_, value)| value.is_none()) {
            self.zfs(&["inherit", key, name])?;
        }
        Ok(())
    }

    /// A path of the appliance on this machine.
    fn real(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

impl Backend for Zfs {
    fn pools(&self) -> Result<Vec<Pool>> {
        let text = run("zpool", &["list", "-Hp", "-o", "name,guid,size,alloc,free,health", &self.pool])?;
        listing::pools(&text)
    }

    fn pool_names(&self) -> Result<Vec<String>> {
        // The one it has taken over; `zpool` takes long to say so in an emulated guest.
        Ok(vec![self.pool.clone()])
    }

    fn datasets(&self, scope: &Scope<'_>) -> Result<Vec<Dataset>> {
        match scope {
            Scope::All => self.read(&["-r"], std::slice::from_ref(&self.pool)),
            Scope::Below(names) => self.read(&["-r"], names),
            Scope::Paths(names) => self.at(names),
        }
    }

    fn create_dataset(&self, new: &NewDataset) -> Result<()> {
        self.zfs(&creation(new, &[])).map(drop)
    }

    fn create_encrypted(&self, new: &NewDataset, encryption: &Encryption) -> Result<()> {
        let mut own = vec![
            format!("encryption={}", encryption.algorithm),
            format!("keyformat={}", encryption.key.format()),
            "keylocation=prompt".to_owned(),
        ];
        own.extend(encryption.key.iterations().map(|iterations| format!("pbkdf2iters={iterations}")));
        let outcome = command::zfs_with_key(&creation(new, &own), encryption.key.secret());
        self.recent.changed();
        outcome
    }

    fn set_properties(&self, name: &str, changes: &BTreeMap<String, Option<String>>) -> Result<()> {
        let mut changes = changes.clone();
        if changes.get("acltype").is_some_and(|value| value.as_deref() == Some("nfsv4")) {
            changes.retain(|key, _| !NFSV4.contains(&key.as_str()));
        }
        self.set(name, &changes)
    }

    fn destroy_dataset(&self, name: &str, recursive: bool, force: bool) -> Result<()> {
        let mut arguments = vec!["destroy".to_owned()];
        arguments.extend(recursive.then(|| "-r".to_owned()));
        arguments.extend(force.then(|| "-f".to_owned()));
        arguments.push(name.to_owned());
        self.zfs_busy(&arguments)
    }

    fn promote(&self, name: &str) -> Result<()> {
        self.zfs(&["promote", name]).map(drop)
    }

    fn rename_dataset(&self, name: &str, to: &str) -> Result<()> {
        self.zfs_busy(&["rename".to_owned(), name.to_owned(), to.to_owned()])
    }

    fn snapshots(&self, of: Option<&str>) -> Result<Vec<Snapshot>> {
        let (options, name): (&[&str], &str) = match of {
            // Depth 1 below a dataset are its own snapshots.
            Some(dataset) => (&["-t", "snapshot", "-d", "1"], dataset),
            None => (&["-t", "snapshot", "-r"], &self.pool),
        };
        listing::snapshots(&command::zfs_get(options, &[name.to_owned()])?)
    }

    fn create_snapshot(
        &self,
        datasets: &[String],
        name: &str,
        user_properties: &BTreeMap<String, String>,
    ) -> Result<()> {
        let mut arguments = vec!["snapshot".to_owned()];
        for (key, value) in user_properties {
            arguments.extend(["-o".to_owned(), format!("{key}={value}")]);
        }
        arguments.extend(datasets.iter().map(|dataset| format!("{dataset}@{name}")));
        self.zfs(&arguments).map(drop)
    }

    fn destroy_snapshot(&self, dataset: &str, name: &str, defer: bool) -> Result<()> {
        let mut arguments = vec!["destroy".to_owned()];
        arguments.extend(defer.then(|| "-d".to_owned()));
        arguments.push(format!("{dataset}@{name}"));
        self.zfs(&arguments).map(drop)
    }

    fn clone_snapshot(
        &self,
        dataset: &str,
        name: &str,
        to: &str,
        properties: &BTreeMap<String, String>,
    ) -> Result<()> {
        let mut arguments = vec!["clone".to_owned()];
        for (key, value) in properties {
            arguments.extend(["-o".to_owned(), format!("{key}={value}")]);
        }
        arguments.extend([format!("{dataset}@{name}"), to.to_owned()]);
        self.zfs(&arguments).map(drop)
    }

    fn hold_snapshot(&self, dataset: &str, name: &str, held: bool) -> Result<()> {
        let id = format!("{dataset}@{name}");
        if held {
            return self.zfs(&["hold", HOLD_TAG, &id]).map(drop);
        }
        let holds = command::zfs(&["holds", "-H", &id])?;
        for tag in holds.lines().filter_map(|line| line.split('\t').nth(1)) {
            self.zfs(&["release", tag, &id])?;
        }
        Ok(())
    }

    fn rollback(&self, dataset: &str, name: &str, recursive: bool) -> Result<()> {
        let id = format!("{dataset}@{name}");
        let arguments = if recursive { vec!["rollback", "-r", &id] } else { vec!["rollback", &id] };
        self.zfs(&arguments).map(drop)
    }

    fn set_snapshot_properties(
        &self,
        dataset: &str,
        name: &str,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<()> {
        self.set(&format!("{dataset}@{name}"), changes)
    }

    fn path_exists(&self, path: &str) -> bool {
        self.real(path).symlink_metadata().is_ok()
    }

    fn permissions(&self, path: &str) -> Result<Permissions> {
        let found = self.real(path).symlink_metadata().map_err(|error| io(path, &error))?;
        // Linux's OpenZFS has no NFSv4 access lists, and the stand-in makes no POSIX ones.
        Ok(Permissions { uid: found.uid(), gid: found.gid(), mode: found.mode() & 0o7777, acl: false })
    }

    fn set_permissions(&self, path: &str, change: PermissionChange) -> Result<()> {
        let real = self.real(path);
        // The owner first: changing it clears bits of the mode.
        std::os::unix::fs::chown(&real, change.uid, change.gid).map_err(|error| io(path, &error))?;
        if let Some(mode) = change.mode {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&real, mode).map_err(|error| io(path, &error))?;
        }
        Ok(())
    }

    fn make_directory(&self, path: &str) -> Result<()> {
        let path = self.real(path);
        std::fs::create_dir_all(&path)
            .map_err(|error| BackendError::new(Refusal::Other, format!("mkdir {}: {error}", path.display())))
    }

    fn device_ready(&self, zvol: &str) -> bool {
        // udevd makes the link; following it proves that the device is there too.
        Path::new("/dev/zvol")
            .join(zvol)
            .metadata()
            .is_ok_and(|metadata| metadata.file_type().is_block_device())
    }

    fn volume_grown(&self, zvol: &str) -> Result<()> {
        self.nvmet.revalidate(zvol)
    }

    fn apply_nfs(&self, running: bool, exports: &[NfsExport]) -> Result<()> {
        self.nfs.apply(running, exports)
    }

    fn apply_smb(&self, running: bool, shares: &[SmbShare]) -> Result<()> {
        self.smb.apply(running, shares)
    }

    fn apply_iscsi(&self, target: &IscsiTarget) -> Result<()> {
        self.iscsi.apply(target)
    }

    fn iscsi_sessions(&self) -> Result<Vec<IscsiSession>> {
        self.iscsi.sessions()
    }

    fn apply_nvmet(&self, target: &NvmetTarget) -> Result<()> {
        self.nvmet.apply(target)
    }

    fn nvmet_sessions(&self) -> Result<Vec<NvmetSession>> {
        Ok(nvmet::sessions(Path::new("/sys/kernel/debug/nvmet")))
    }
}

fn io(path: &str, error: &std::io::Error) -> BackendError {
    let kind = if error.kind() == std::io::ErrorKind::NotFound { Refusal::Missing } else { Refusal::Other };
    BackendError::new(kind, format!("{path}: {error}"))
}

/// The arguments that create a dataset.
fn creation(new: &NewDataset, further: &[String]) -> Vec<String> {
    let mut arguments = vec!["create".to_owned()];
    let mut thick = false;
    let nfsv4 = new.properties.get("acltype").is_some_and(|value| value == "nfsv4");
    for (key, value) in new.properties.iter().chain(&new.user_properties) {
        match key.as_str() {
            "volsize" => arguments.extend(["-V".to_owned(), value.clone()]),
            // What `zfs create -V` does by itself when it is not told to be sparse.
            "refreservation" if new.kind == DatasetKind::Volume && value == "auto" => thick = true,
            key if nfsv4 && NFSV4.contains(&key) => {}
            _ => arguments.extend(["-o".to_owned(), format!("{key}={value}")]),
        }
    }
    for property in further {
        arguments.extend(["-o".to_owned(), property.clone()]);
    }
    if new.kind == DatasetKind::Volume && !thick {
        arguments.push("-s".to_owned());
    }
    arguments.push(new.name.clone());
    arguments
}
