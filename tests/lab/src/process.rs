//! Starts the project's programs, waits until they say that they are ready, ends them, and keeps what they print.
//!
//! The rule it keeps: readiness is what the program itself reports (`READY=1` on the socket of `NOTIFY_SOCKET`, see
//! sd_notify(3)), never a pause; a process is ended by its own pid, never by its name.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};

use crate::guest::{DRIVER_UID, RUN};

/// Time a program may take to become ready; an emulated machine under load is slow.
const READY: Duration = Duration::from_secs(90);
/// Time a program may take to end after SIGTERM.
const END: Duration = Duration::from_secs(30);
/// Where logs go: shared with the host.
const LOGS: &str = "/lab/logs";

/// How to start a program.
#[derive(Clone, Debug)]
pub struct Program {
    /// Name of the process in logs and messages.
    pub name: &'static str,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Without privilege: as the driver's user, without capabilities, no_new_privs.
    pub unprivileged: bool,
    /// Variables added to its environment.
    pub environment: Vec<(String, String)>,
}

/// A running program.
#[derive(Debug)]
pub struct Process {
    program: Program,
    child: Child,
    pid: Pid,
    /// Time from start to ready.
    pub ready_after: Duration,
}

impl Process {
    /// Starts a program and waits until it is ready.
    pub async fn start(program: &Program) -> anyhow::Result<Self> {
        let name = program.name;
        let socket = notify_socket(name)?;
        let log = log_path(name);
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("opening {}", log.display()))?;
        let errors = output.try_clone().context("sharing a log file")?;
        let mut words = if program.unprivileged { unprivileged() } else { Vec::new() };
        words.extend(program.command.iter().cloned());
        let (first, rest) = words.split_first().context("a program has a path")?;
        let begin = std::time::Instant::now();
        let mut child = Command::new(first)
            .args(rest)
            .envs(program.environment.iter().cloned())
            .env("NOTIFY_SOCKET", &socket.path)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name} ({first})"))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        let pid = pid.with_context(|| format!("{name} ended at once"))?;
        let ready = tokio::select! {
            ready = tokio::time::timeout(READY, socket.ready()) => match ready {
                Ok(result) => result,
                Err(_) => Err(anyhow::anyhow!("{name} was not ready within {} s", READY.as_secs())),
            },
            status = child.wait() => Err(match status {
                Ok(status) => anyhow::anyhow!("{name} ended with {} before it was ready", ending(status)),
                Err(error) => anyhow::anyhow!("{name} cannot be waited for: {error}"),
            }),
        };
        ready.with_context(|| format!("the end of its log:\n{}", tail(&log, 3_000)))?;
        Ok(Self { program: program.clone(), child, pid, ready_after: begin.elapsed() })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it in the middle of whatever it does (SIGKILL) and waits until it is gone.
    pub async fn crash(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.ended().await
    }

    /// Asks it to end (SIGTERM) and waits until it is gone.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGTERM)?;
        if tokio::time::timeout(END, self.child.wait()).await.is_err() {
            self.crash().await?;
            bail!("{} did not end within {} s of SIGTERM", self.program.name, END.as_secs());
        }
        Ok(())
    }

    /// Starts the same program again; the old process must have ended.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        if self.running() {
            bail!("{} still runs", self.program.name);
        }
        *self = Self::start(&self.program).await?;
        Ok(())
    }

    /// Stops it or lets it go on (SIGSTOP, SIGCONT).
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        if !self.running() {
            return Ok(());
        }
        kill(self.pid, signal).with_context(|| format!("sending {signal} to {}", self.program.name))
    }

    async fn ended(&mut self) -> anyhow::Result<()> {
        let status = tokio::time::timeout(END, self.child.wait()).await;
        status.with_context(|| format!("{} hangs in the kernel after SIGKILL", self.program.name))??;
        Ok(())
    }

    /// A field of `/proc/<pid>/status`, e.g. `Uid`, `CapEff`, `VmRSS`.
    pub fn status(&self, field: &str) -> anyhow::Result<String> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid))
            .with_context(|| format!("reading the status of {}", self.program.name))?;
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(value
            .with_context(|| format!("no {field} in the status of {}", self.program.name))?
            .trim()
            .to_owned())
    }
}

/// The command in front of an unprivileged program; it replaces itself, so the pid is the program's.
fn unprivileged() -> Vec<String> {
    let uid = DRIVER_UID.to_string();
    [
        "setpriv",
        "--reuid",
        &uid,
        "--regid",
        &uid,
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--",
    ]
    .map(str::to_owned)
    .to_vec()
}

struct NotifySocket {
    path: PathBuf,
    socket: UnixDatagram,
}

fn notify_socket(name: &str) -> anyhow::Result<NotifySocket> {
    let directory = Path::new(RUN).join("notify");
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let path = directory.join(name);
    if path.exists() {
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    let socket = UnixDatagram::bind(&path).with_context(|| format!("listening at {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777))
        .context("opening the notify socket to all")?;
    Ok(NotifySocket { path, socket })
}

impl NotifySocket {
    async fn ready(&self) -> anyhow::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer).await.context("reading the notify socket")?;
            let message = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
            if message.lines().any(|line| line == "READY=1") {
                return Ok(());
            }
        }
    }
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    }
}

/// Path of a process's log.
pub fn log_path(name: &str) -> PathBuf {
    Path::new(LOGS).join(format!("{name}.log"))
}

/// The end of every process's log, for people.
pub fn log_tails() -> String {
    let mut paths: Vec<PathBuf> = fs::read_dir(LOGS)
        .map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
        .unwrap_or_default();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.retain(|path| path.file_name().is_some_and(|name| name != "kernel.log" && name != "kvm-probe.log"));
    paths.sort();
    paths.iter().map(|path| format!("---- the end of {}\n{}\n", path.display(), tail(path, 4_000))).collect()
}

fn tail(path: &Path, bytes: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let start = text.len().saturating_sub(bytes);
    String::from_utf8_lossy(text.get(start..).unwrap_or_default()).into_owned()
}
