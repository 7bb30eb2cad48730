//! Samba's `smbd` with a configuration and directories of its own.
//!
//! The rule it keeps: the shares' part of the configuration is written whole and smbd reads it again; a share that is no
//! longer there under its name is closed, which disconnects its clients. Nothing of a Samba that the machine may have is
//! read or written, except the log directory that Samba insists on.
//!
//! Who owns a file: clients log in as the one user, and the server works as root (`force user = root`), as the
//! appliance's share of a dataset owned by root does for a user with full control by its ACL. Linux's OpenZFS has no
//! NFSv4 ACLs that could give that user the same rights.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::command::run;
use super::{Settings, SmbUser};
use crate::backend::{BackendError, Refusal, Result, SmbShare};

/// Samba writes here whatever `log file` says, before it has read its configuration.
const LOG_DIRECTORY: &str = "/var/log/samba";
/// Directories of the server below its own, with the parameter that names each.
const DIRECTORIES: &[(&str, &str)] = &[
    ("private dir", "private"),
    ("state directory", "state"),
    ("cache directory", "cache"),
    ("lock directory", "lock"),
    ("pid directory", "pid"),
    ("ncalrpc dir", "ncalrpc"),
    ("binddns dir", "binddns"),
];

#[derive(Debug, Default)]
struct Running {
    smbd: Option<Child>,
    /// Names served at this moment, in lower case.
    names: BTreeSet<String>,
}

/// The server of this machine.
#[derive(Debug)]
pub(super) struct Server {
    directory: Option<PathBuf>,
    user: Option<SmbUser>,
    /// What stands before `/mnt` on this machine.
    root: PathBuf,
    running: Mutex<Running>,
}

impl Server {
    pub(super) fn new(settings: &Settings, root: &Path) -> Self {
        Self {
            directory: settings.smb_dir.clone(),
            user: settings.smb_user.clone(),
            root: root.to_owned(),
            running: Mutex::default(),
        }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves exactly these shares, or nothing.
    pub(super) fn apply(&self, running: bool, shares: &[SmbShare]) -> Result<()> {
        let mut state = self.running();
        if !running {
            stop(&mut state);
            return Ok(());
        }
        let (Some(directory), Some(user)) = (&self.directory, &self.user) else {
            let words = "SMB needs the flags --smb-user and --smb-password-file and a state directory";
            return Err(BackendError::new(Refusal::Other, words));
        };
        let configuration = directory.join("smb.conf");
        prepare(directory)?;
        let text = global(directory, user) + &sections(shares, &self.root, user);
        fs::write(&configuration, text).map_err(|error| failed("writing", &configuration, &error))?;
        let names: BTreeSet<String> = shares.iter().map(|share| share.name.to_lowercase()).collect();
        let alive = match &mut state.smbd {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => false,
        };
        if alive {
            control(&configuration, &["all", "reload-config"])?;
            let closed: Vec<String> = state.names.difference(&names).cloned().collect();
            for name in closed {
                control(&configuration, &["smbd", "close-share", &name])?;
            }
        } else {
            add_user(&configuration, user)?;
            state.smbd = Some(start(&configuration, directory)?);
        }
        state.names = names;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        stop(&mut self.running());
    }
}

/// Directories that only root reads.
fn prepare(directory: &Path) -> Result<()> {
    let make = |path: &Path, mode: u32| {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
            .map_err(|error| failed("making", path, &error))
    };
    make(directory, 0o700)?;
    for (_, name) in DIRECTORIES {
        // Samba refuses an ncalrpc directory that others cannot pass.
        make(&directory.join(name), if *name == "ncalrpc" { 0o755 } else { 0o700 })?;
    }
    fs::create_dir_all(LOG_DIRECTORY).map_err(|error| failed("making", Path::new(LOG_DIRECTORY), &error))
}

fn global(directory: &Path, user: &SmbUser) -> String {
    let mut text = String::from(
        "[global]\n\
         server role = standalone server\n\
         security = user\n\
         passdb backend = tdbsam\n\
         server min protocol = SMB2_10\n\
         disable netbios = yes\n\
         smb ports = 445\n\
         load printers = no\n\
         printcap name = /dev/null\n\
         disable spoolss = yes\n\
         map to guest = Bad User\n\
         guest account = nobody\n\
         log level = 0\n",
    );
    // Writing to a String cannot fail.
    let _infallible = writeln!(text, "log file = {}", directory.join("log.smbd").display());
    let _infallible = writeln!(text, "admin users = {}", user.name);
    for (parameter, name) in DIRECTORIES {
        let _infallible = writeln!(text, "{parameter} = {}", directory.join(name).display());
    }
    text
}

/// A value of the configuration: one line, without Samba's variables.
fn value(text: &str) -> String {
    text.replace(['\n', '\r'], " ").replace('%', "%%")
}

fn yes(on: bool) -> &'static str {
    if on { "yes" } else { "no" }
}

fn sections(shares: &[SmbShare], root: &Path, user: &SmbUser) -> String {
    let mut text = String::new();
    for share in shares {
        let path = root.join(share.path.trim_start_matches('/'));
        let mut line = |parameter: &str, words: &str| {
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, "{parameter} = {words}");
        };
        line(&format!("[{}]\npath", share.name), &value(&path.display().to_string()));
        line("comment", &value(&share.comment));
        line("read only", yes(share.read_only));
        line("browseable", yes(share.browsable));
        line("access based share enum", yes(share.access_based));
        line("guest ok", yes(share.guest_ok));
        if !share.guest_ok {
            line("valid users", &user.name);
        }
        line("force user", "root");
        line("force group", "root");
        if !share.hosts_allow.is_empty() {
            line("hosts allow", &value(&share.hosts_allow.join(" ")));
        }
        if !share.hosts_deny.is_empty() {
            line("hosts deny", &value(&share.hosts_deny.join(" ")));
        }
        for auxiliary in share.auxiliary.lines().filter(|line| line.contains('=')) {
            let _infallible = writeln!(text, "{auxiliary}");
        }
    }
    text
}

/// Runs `smbcontrol`. Without a client process there is nobody to hear it, which is not an error.
fn control(configuration: &Path, arguments: &[&str]) -> Result<()> {
    let mut all = vec![format!("--configfile={}", configuration.display())];
    all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    run("smbcontrol", &all).map(drop)
}

/// Puts the user with the password of the file into the server's own database. The password goes through a pipe.
fn add_user(configuration: &Path, user: &SmbUser) -> Result<()> {
    let text = fs::read_to_string(&user.password_file)
        .map_err(|error| failed("reading", &user.password_file, &error))?;
    let password = text.lines().next().unwrap_or_default();
    let other = |error: std::io::Error| {
        BackendError::new(Refusal::Other, format!("smbpasswd cannot be run: {error}"))
    };
    let mut child = Command::new("smbpasswd")
        .args(["-c".as_ref(), configuration.as_os_str(), "-L".as_ref(), "-s".as_ref(), "-a".as_ref()])
        .arg(&user.name)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(other)?;
    if let Some(mut pipe) = child.stdin.take() {
        // smbpasswd asks twice. When it has ended already, its status tells.
        let _ended = pipe.write_all(format!("{password}\n{password}\n").as_bytes());
    }
    let status = child.wait().map_err(other)?;
    if status.success() {
        return Ok(());
    }
    let words = format!("smbpasswd did not take the user {}: is it an account of this machine?", user.name);
    Err(BackendError::new(Refusal::Other, words))
}

fn start(configuration: &Path, directory: &Path) -> Result<Child> {
    let output = directory.join("smbd.output");
    let file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&output)
        .map_err(|error| failed("opening", &output, &error))?;
    let again = file.try_clone().map_err(|error| failed("opening", &output, &error))?;
    Command::new("smbd")
        .arg("--foreground")
        .arg(format!("--configfile={}", configuration.display()))
        // smbd makes a session of its own, so that the processes of its clients can be ended with it; and it ends when
        // the pipe does, even if this process is killed.
        .stdin(Stdio::piped())
        .stdout(file)
        .stderr(again)
        .spawn()
        .map_err(|error| BackendError::new(Refusal::Other, format!("smbd cannot be started: {error}")))
}

/// Ends smbd and, through it, the processes of its clients.
fn stop(state: &mut Running) {
    if let Some(mut child) = state.smbd.take() {
        let ended = i32::try_from(child.id()).ok().map(|pid| killpg(Pid::from_raw(pid), Signal::SIGTERM));
        if !matches!(ended, Some(Ok(()))) {
            // An error means that it has ended by itself.
            let _ended = child.kill();
        }
        let _status = child.wait();
    }
    state.names.clear();
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> BackendError {
    BackendError::new(Refusal::Other, format!("{what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share() -> SmbShare {
        SmbShare {
            id: 1,
            name: "pvc-a".into(),
            path: "/mnt/tank/a".into(),
            comment: "two\nlines %u".into(),
            read_only: true,
            browsable: false,
            access_based: false,
            hosts_allow: vec!["192.0.2.1".into(), "198.51.100.0/24".into()],
            hosts_deny: vec!["ALL".into()],
            guest_ok: false,
            auxiliary: String::new(),
        }
    }

    fn user() -> SmbUser {
        SmbUser { name: "csi".into(), password_file: "/none".into() }
    }

    #[test]
    fn a_share_is_a_section_with_its_path_below_the_root() {
        let text = sections(&[share()], Path::new("/run/appliance"), &user());
        for line in [
            "[pvc-a]",
            "path = /run/appliance/mnt/tank/a",
            "comment = two lines %%u",
            "read only = yes",
            "valid users = csi",
            "force user = root",
            "hosts allow = 192.0.2.1 198.51.100.0/24",
            "hosts deny = ALL",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_guest_needs_no_password_and_lists_may_be_empty() {
        let open = SmbShare { guest_ok: true, hosts_allow: vec![], hosts_deny: vec![], ..share() };
        let text = sections(&[open], Path::new("/"), &user());
        assert!(text.contains("guest ok = yes"), "{text}");
        assert!(!text.contains("valid users") && !text.contains("hosts "), "{text}");
    }

    #[test]
    fn without_a_user_the_service_says_which_flags_it_wants() {
        let server = Server::new(&Settings::default(), Path::new("/"));
        let refused = server.apply(true, &[]).map_err(|error| error.text);
        assert!(refused.is_err_and(|text| text.contains("--smb-user")));
        assert!(server.apply(false, &[]).is_ok(), "stopping what never ran is nothing");
    }
}
