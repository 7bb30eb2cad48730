//! open-iscsi's records that are ours: one iface for this helper, one node for each portal of a target.
//!
//! iscsiadm makes them, so that they have the form of its version and the host's own defaults. What it must not be told
//! by arguments, which every process of the host may read, is written into the node's file here: that file is 0600. The
//! directories lie where the build of open-iscsi keeps them, `/var/lib/iscsi` or, before 2.1.11, `/etc/iscsi`.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::{Zeroize, Zeroizing};

use super::super::AttachError;
use super::chap::Chap;
use crate::device::Iqn;

/// Name of our iface record.
pub(super) const IFACE: &str = "tns-csi";
/// Portal group under which our node records lie. A record without one would be a file in the place of the directory
/// that other software's record of the same portal needs; iscsid learns the true tag at login and takes that.
pub(super) const TAG: u16 = 1;

/// One line of a record: `None` takes it away.
type Setting<'a> = (&'a str, Option<&'a str>);

/// How the sessions of a record behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Behaviour {
    /// Seconds after which I/O of a broken session fails; less than 0 is never.
    pub(super) replacement_seconds: i32,
    /// Seconds for one attempt to log in.
    pub(super) login_seconds: u32,
    /// Attempts at the first login.
    pub(super) login_attempts: u32,
}

/// The directories of open-iscsi's records on this host.
#[derive(Debug, Clone)]
pub struct Records {
    roots: Vec<PathBuf>,
}

impl Records {
    /// Where records are kept by default, by age of open-iscsi.
    const USUAL: [&'static str; 2] = ["/var/lib/iscsi", "/etc/iscsi"];

    /// The configured directories, then the usual ones.
    #[must_use]
    pub fn find(extra: &[PathBuf]) -> Self {
        let usual = Self::USUAL.iter().map(PathBuf::from);
        Self { roots: extra.iter().filter(|root| root.is_absolute()).cloned().chain(usual).collect() }
    }

    /// Exactly these directories, for tests.
    #[must_use]
    pub fn at(roots: Vec<PathBuf>) -> Self {
        Self { roots }
    }

    /// Our iface record, when there is one: the youngest, should an update have moved the records.
    fn iface(&self) -> Option<PathBuf> {
        let files = self.roots.iter().map(|root| root.join("ifaces").join(IFACE));
        files
            .filter_map(|file| Some((file.metadata().ok()?.modified().ok()?, file)))
            .max()
            .map(|(_, file)| file)
    }

    /// Whether iscsiadm has to make the iface record first.
    pub(super) fn lacks_iface(&self) -> bool {
        self.iface().is_none()
    }

    /// Lets the owner search the directories: iscsiadm before 2.1.10 makes them without that right and counts on a
    /// capability that this helper has not.
    pub(super) fn open_directories(&self) -> Result<(), AttachError> {
        for directory in self.roots.iter().flat_map(|root| [root.join("ifaces"), root.join("nodes")]) {
            searchable(&directory).map_err(|source| fault(&directory, source))?;
        }
        Ok(())
    }

    /// Makes our iface record say what it has to: TCP, and our own initiator name.
    pub(super) fn settle_iface(&self, initiator: &Iqn) -> Result<(), AttachError> {
        let Some(file) = self.iface() else {
            let missing = io::Error::new(io::ErrorKind::NotFound, "iscsiadm made it in no known directory");
            let shown = self.roots.first().map(|root| root.join("ifaces").join(IFACE)).unwrap_or_default();
            return Err(fault(&shown, missing));
        };
        let settings = [
            ("iface.iscsi_ifacename", Some(IFACE)),
            ("iface.transport_name", Some("tcp")),
            ("iface.initiatorname", Some(initiator.as_str())),
        ];
        edit(&file, &settings).map_err(|source| fault(&file, source))
    }

    /// Refuses a portal at which iscsiadm would replace a record of another, older form.
    pub(super) fn refuse_old_form(&self, target: &Iqn, portal: SocketAddr) -> Result<(), AttachError> {
        for root in &self.roots {
            let old =
                root.join("nodes").join(target.as_str()).join(format!("{},{}", portal.ip(), portal.port()));
            if old.symlink_metadata().is_ok() {
                let words = "another program made it, and iscsiadm would replace it; delete it with `iscsiadm -m node \
                             -o delete` when nothing needs it";
                return Err(fault(&old, io::Error::new(io::ErrorKind::AlreadyExists, words)));
            }
        }
        Ok(())
    }

    /// Completes the node record that iscsiadm made: nothing starts by itself, nothing is scanned unasked, one session,
    /// and CHAP as given.
    pub(super) fn settle_node(
        &self,
        target: &Iqn,
        portal: SocketAddr,
        chap: Option<&Chap>,
        behaviour: Behaviour,
    ) -> Result<(), AttachError> {
        let files = self.nodes(target, Some(portal));
        if files.is_empty() {
            let missing = io::Error::new(io::ErrorKind::NotFound, "iscsiadm made it in no known directory");
            return Err(fault(Path::new(target.as_str()), missing));
        }
        let replacement = behaviour.replacement_seconds.to_string();
        let (login, attempts) = (behaviour.login_seconds.to_string(), behaviour.login_attempts.to_string());
        let peer = chap.and_then(|chap| chap.target.as_ref());
        let settings = [
            ("node.startup", Some("manual")),
            ("node.conn[0].startup", Some("manual")),
            ("node.session.scan", Some("manual")),
            ("node.session.nr_sessions", Some("1")),
            ("node.session.timeo.replacement_timeout", Some(replacement.as_str())),
            ("node.conn[0].timeo.login_timeout", Some(login.as_str())),
            ("node.session.initial_login_retry_max", Some(attempts.as_str())),
            ("node.session.auth.authmethod", Some(if chap.is_some() { "CHAP" } else { "None" })),
            ("node.session.auth.username", chap.map(|chap| chap.initiator.user())),
            ("node.session.auth.password", chap.map(|chap| chap.initiator.secret().expose())),
            ("node.session.auth.username_in", peer.map(|peer| peer.user())),
            ("node.session.auth.password_in", peer.map(|peer| peer.secret().expose())),
        ];
        // An update of open-iscsi may have left one in the older directory.
        files.iter().try_for_each(|file| edit(file, &settings).map_err(|source| fault(file, source)))
    }

    /// Our node records of a target, or of one of its portals. An unreadable directory holds none that iscsiadm could
    /// use.
    pub(super) fn nodes(&self, target: &Iqn, portal: Option<SocketAddr>) -> Vec<PathBuf> {
        let targets = self.roots.iter().map(|root| root.join("nodes").join(target.as_str()));
        let portals = targets.filter_map(|directory| fs::read_dir(directory).ok()).flatten();
        let files = portals.filter_map(Result::ok).map(|entry| entry.path().join(IFACE));
        files.filter(|file| file.is_file() && portal.is_none_or(|portal| is_at(file, portal))).collect()
    }

    /// Takes away what iscsiadm left of these records: they may hold a secret.
    pub(super) fn sweep(&self, target: &Iqn, portal: Option<SocketAddr>) -> Result<(), AttachError> {
        for file in self.nodes(target, portal) {
            fs::remove_file(&file).map_err(|source| fault(&file, source))?;
            // Directories with other records in them stay.
            for directory in file.ancestors().skip(1).take(2) {
                let _occupied = fs::remove_dir(directory);
            }
        }
        Ok(())
    }
}

/// Whether a node record's file lies in the directory of a portal: `<address>,<port>,<tag>`.
fn is_at(file: &Path, portal: SocketAddr) -> bool {
    let directory = file.parent().and_then(Path::file_name);
    directory.is_some_and(|name| *name == *format!("{},{},{TAG}", portal.ip(), portal.port()))
}

fn fault(path: &Path, source: io::Error) -> AttachError {
    AttachError::Record { path: path.to_owned(), source }
}

fn searchable(directory: &Path) -> io::Result<()> {
    const OWNER: u32 = 0o700;
    let mode = match directory.metadata() {
        Ok(found) => found.permissions().mode(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if mode & OWNER == OWNER {
        return Ok(());
    }
    fs::set_permissions(directory, fs::Permissions::from_mode((mode | OWNER) & 0o7777))
}

/// Changes lines of a record, `name = value` each, and leaves the others; a name without a line gets one before the
/// record's end. The file is replaced as a whole and is 0600 from its first byte.
fn edit(file: &Path, settings: &[Setting<'_>]) -> io::Result<()> {
    let before = Zeroizing::new(fs::read_to_string(file)?);
    let after = Zeroizing::new(edited(&before, settings));
    if *before == *after {
        return Ok(());
    }
    let directory = file.parent().ok_or(io::ErrorKind::NotFound)?;
    let draft = directory.join(format!(".{IFACE}.new"));
    let written = write_new(&draft, &after).and_then(|()| fs::rename(&draft, file));
    if written.is_err() {
        let _gone = fs::remove_file(&draft);
    }
    written
}

fn write_new(draft: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?.write_all(text.as_bytes())
}

fn edited(text: &str, settings: &[Setting<'_>]) -> String {
    let name_of = |line: &str| line.split_once('=').map(|(name, _)| name.trim().to_owned());
    let mut lines: Vec<String> = Vec::new();
    let mut end = String::new();
    for line in text.lines() {
        if line.starts_with("# END RECORD") {
            end = format!("{line}\n");
        } else if !name_of(line).is_some_and(|name| settings.iter().any(|(own, _)| *own == name)) {
            lines.push(line.to_owned());
        }
    }
    let given = settings.iter().filter_map(|(name, value)| Some(format!("{name} = {}", (*value)?)));
    // One allocation, so that no copy of a secret stays behind when the text grows.
    let mut lines: Vec<String> = lines.into_iter().chain(given).collect();
    let mut whole = String::with_capacity(lines.iter().map(|line| line.len() + 1).sum::<usize>() + end.len());
    for line in &mut lines {
        whole.push_str(line);
        whole.push('\n');
        line.zeroize();
    }
    whole.push_str(&end);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_lines_change_and_the_others_stay() {
        let text = "# BEGIN RECORD 2.1.11\nnode.name = iqn.a\nnode.startup = automatic\n# END RECORD\n";
        let settings = [("node.startup", Some("manual")), ("node.x", Some("1")), ("node.y", None)];
        let after = edited(text, &settings);
        assert_eq!(
            after,
            "# BEGIN RECORD 2.1.11\nnode.name = iqn.a\nnode.startup = manual\nnode.x = 1\n# END RECORD\n"
        );
        assert_eq!(edited(&after, &settings), after);
        assert_eq!(edited("node.y = secret\n", &settings), "node.startup = manual\nnode.x = 1\n");
    }

    #[test]
    fn an_edited_record_is_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(IFACE);
        fs::write(&file, "node.startup = automatic\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        edit(&file, &[("node.session.auth.password", Some("s3cret"))]).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn a_directory_that_its_owner_cannot_search_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        let nodes = directory.path().join("nodes");
        fs::create_dir(&nodes).unwrap();
        fs::set_permissions(&nodes, fs::Permissions::from_mode(0o600)).unwrap();
        Records::at(vec![directory.path().to_owned()]).open_directories().unwrap();
        assert_eq!(nodes.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }
}
