//! Starts the programs under test, waits until each says that it is ready, ends it, and keeps what it prints.
//!
//! Rule: readiness is what the program itself reports (`READY=1` on the socket of `NOTIFY_SOCKET`, sd_notify(3)), and
//! a program is ended by its own pid.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Time a program may take to become ready, on an emulated machine under load.
const READY: Duration = Duration::from_secs(90);
/// Time a program may take to end after SIGTERM.
const END: Duration = Duration::from_secs(30);

/// As whom a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunAs {
    /// As this program does.
    Caller,
    /// As this program's user without any capability, also when that is root.
    Powerless,
    /// As another user, without any capability. Needs root.
    User(u32),
}

/// A program to start.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its name in messages; its log is `<name>.log`.
    pub name: &'static str,
    /// Path and arguments.
    pub command: Vec<OsString>,
    /// As whom it runs.
    pub run_as: RunAs,
}

/// A running program; dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    pid: Pid,
}

impl Process {
    /// Starts the program and waits until it is ready. Its output is appended to its log in `logs`; `scratch` takes
    /// the notify socket.
    ///
    /// # Errors
    /// It cannot be started, ends early, or is not ready in time.
    pub async fn start(program: &Program, logs: &Path, scratch: &Path) -> anyhow::Result<Self> {
        let name = program.name;
        let socket_path = scratch.join(format!("notify-{name}"));
        if socket_path.exists() {
            fs::remove_file(&socket_path).with_context(|| format!("removing {}", socket_path.display()))?;
        }
        let socket = UnixDatagram::bind(&socket_path)
            .with_context(|| format!("listening at {}", socket_path.display()))?;
        fs::set_permissions(&socket_path, Permissions::from_mode(0o777))
            .context("opening the notify socket")?;

        let log = log_path(logs, name);
        let output = File::options().create(true).append(true).open(&log);
        let output = output.with_context(|| format!("opening {}", log.display()))?;
        let errors = output.try_clone().context("sharing a log file")?;
        let mut words = prefix(program.run_as);
        words.extend(program.command.iter().cloned());
        let (first, rest) = words.split_first().context("a program has a path")?;
        let mut command = Command::new(first);
        // The caller's own settings must not change what is tested.
        for (variable, _) in std::env::vars_os() {
            if variable == "CSI_ENDPOINT" || variable.as_encoded_bytes().starts_with(b"TNS_CSI_") {
                command.env_remove(variable);
            }
        }
        let mut child = command
            .args(rest)
            .env("NOTIFY_SOCKET", &socket_path)
            .env("RUST_BACKTRACE", "1")
            .env("NO_COLOR", "1")
            .env("RUST_LOG", LOG_LEVELS)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name} ({})", first.display()))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        let pid = pid.with_context(|| format!("{name} ended at once"))?;
        let outcome = tokio::select! {
            ready = timeout(READY, ready(&socket)) => match ready {
                Ok(result) => result,
                Err(_) => Err(anyhow::anyhow!("{name} was not ready within {} s", READY.as_secs())),
            },
            status = child.wait() => match status {
                Ok(status) => Err(anyhow::anyhow!("{name} ended with {status} before it was ready")),
                Err(error) => Err(anyhow::anyhow!("{name} cannot be waited for: {error}")),
            },
        };
        outcome?;
        Ok(Self { name, child, pid })
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Ends it at once (SIGKILL) and waits until it is gone, and with it its locks and sockets.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("killing {}", self.name))
    }

    /// Asks it to end (SIGTERM) and waits until it is gone.
    ///
    /// # Errors
    /// It had ended before, ends with another status than 0, or had to be killed.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let name = self.name;
        if let Ok(Some(status)) = self.child.try_wait() {
            bail!("{name} ended by itself with {status}");
        }
        kill(self.pid, Signal::SIGTERM).with_context(|| format!("sending SIGTERM to {name}"))?;
        match timeout(END, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => bail!("{name} ended with {status} after SIGTERM"),
            Ok(Err(error)) => Err(error).with_context(|| format!("waiting for {name}")),
            Err(_) => {
                self.child.kill().await.with_context(|| format!("killing {name}"))?;
                bail!("{name} did not end within {} s of SIGTERM", END.as_secs())
            }
        }
    }
}

/// What the programs log: enough to see a secret where none may be.
const LOG_LEVELS: &str =
    "info,tns_csi=debug,truenas=debug,node_helper=debug,fake_helper=debug,truenas_sim=info";

/// The command in front of a program that runs with less; it replaces itself, so the pid is the program's.
fn prefix(run_as: RunAs) -> Vec<OsString> {
    let less = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"];
    let words: Vec<String> = match run_as {
        RunAs::Powerless if nix::unistd::geteuid().is_root() => {
            ["setpriv"].into_iter().chain(less).chain(["--"]).map(str::to_owned).collect()
        }
        RunAs::Caller | RunAs::Powerless => Vec::new(),
        RunAs::User(uid) => {
            let user = [format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()];
            let less = less.into_iter().chain(["--"]).map(str::to_owned);
            ["setpriv".to_owned()].into_iter().chain(user).chain(less).collect()
        }
    };
    words.into_iter().map(OsString::from).collect()
}

async fn ready(socket: &UnixDatagram) -> anyhow::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await.context("reading the notify socket")?;
        let message = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        if message.lines().any(|line| line == "READY=1") {
            return Ok(());
        }
    }
}

/// The log of the program called `name`.
#[must_use]
pub fn log_path(logs: &Path, name: &str) -> PathBuf {
    logs.join(format!("{name}.log"))
}

/// The last `bytes` bytes of a file, for people; what cannot be read is said.
#[must_use]
pub fn tail(path: &Path, bytes: usize) -> String {
    match fs::read(path) {
        Ok(text) => String::from_utf8_lossy(text.get(text.len().saturating_sub(bytes)..).unwrap_or_default())
            .into_owned(),
        Err(error) => format!("cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(words: &[&str]) -> Program {
        Program {
            name: "program",
            command: words.iter().map(OsString::from).collect(),
            run_as: RunAs::Caller,
        }
    }

    #[tokio::test]
    async fn a_program_that_ends_before_it_is_ready_is_an_error_and_leaves_its_output() {
        let directory = tempfile::tempdir().unwrap();
        let started = Process::start(
            &program(&["sh", "-c", "echo no pool; exit 3"]),
            directory.path(),
            directory.path(),
        )
        .await;
        let error = started.unwrap_err().to_string();
        assert!(error.contains("before it was ready") && error.contains('3'), "{error}");
        assert_eq!(tail(&log_path(directory.path(), "program"), 100), "no pool\n");
    }

    #[tokio::test]
    async fn a_ready_program_ends_on_sigterm_and_a_bad_end_is_told() {
        let directory = tempfile::tempdir().unwrap();
        for (status, good) in [(0, true), (1, false)] {
            let script = format!(
                "import os, signal, socket, sys\n\
                 signal.signal(signal.SIGTERM, lambda *_: sys.exit({status}))\n\
                 notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
                 notify.sendto(b'STATUS=x\\nREADY=1', os.environ['NOTIFY_SOCKET'])\n\
                 signal.pause()"
            );
            let program = program(&["python3", "-c", &script]);
            let mut process = Process::start(&program, directory.path(), directory.path()).await.unwrap();
            assert!(process.running());
            assert_eq!(process.stop().await.is_ok(), good);
        }
    }
}
