//! A running program: started, waited for until it says that it is ready, ended by its pid.
//!
//! Rule: readiness is `READY=1` on the socket of `NOTIFY_SOCKET` (sd_notify(3)), never a pause; a process that ends
//! before it is ready, or by itself, is an error that carries the end of its log.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::log::{log_path, tail};
use crate::program::Program;
use crate::status::Status;

/// Time a program may take to become ready; an emulated machine under load is slow.
const READY: Duration = Duration::from_secs(90);
/// Time a program may take to end after a signal.
const END: Duration = Duration::from_secs(30);
/// Bytes of its log that an error carries.
const TAIL: usize = 3_000;

/// Where the programs leave what they need and say.
#[derive(Clone, Debug)]
pub struct Places {
    /// Directory of the logs.
    pub logs: PathBuf,
    /// Directory for notify sockets; reachable by the programs' users.
    pub scratch: PathBuf,
}

/// A running program; dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    program: Program,
    places: Places,
    child: Child,
    pid: Pid,
    /// Time from its start to `READY=1`.
    pub ready_after: Duration,
    /// Killed by [`Self::crash`]: its end is no surprise.
    crashed: bool,
}

impl Process {
    /// Starts the program and waits until it is ready. Its output is appended to its log.
    ///
    /// # Errors
    /// It cannot be started, ends early, or is not ready in time; with the end of its log.
    pub async fn start(program: &Program, places: &Places) -> anyhow::Result<Self> {
        let name = &program.name;
        let notify = Notify::bind(&places.scratch.join(format!("notify-{name}")))?;
        let log = log_path(&places.logs, name);
        let output = File::options().create(true).append(true).open(&log);
        let output = output.with_context(|| format!("opening {}", log.display()))?;
        let errors = output.try_clone().context("sharing a log file")?;
        let words = program.command_line();
        let (first, rest) = words.split_first().context("a program has a path")?;
        let begun = Instant::now();
        let mut command = Command::new(first);
        // The caller's own settings must not change what is tested or measured.
        for (variable, _) in std::env::vars_os() {
            if variable == "CSI_ENDPOINT" || variable.as_encoded_bytes().starts_with(b"TNS_CSI_") {
                command.env_remove(variable);
            }
        }
        let mut child = command
            .args(rest)
            .env("RUST_BACKTRACE", "1")
            .env("NO_COLOR", "1")
            .envs(program.environment.iter().cloned())
            .env("NOTIFY_SOCKET", &notify.path)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name} ({})", first.display()))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        let pid = pid.with_context(|| format!("{name} ended at once"))?;
        let ready = tokio::select! {
            biased;
            ready = timeout(READY, notify.ready()) => match ready {
                Ok(result) => result,
                Err(_) => Err(anyhow::anyhow!("{name} was not ready within {} s", READY.as_secs())),
            },
            status = child.wait() => Err(match status {
                Ok(status) => anyhow::anyhow!("{name} ended with {} before it was ready", ending(status)),
                Err(error) => anyhow::anyhow!("{name} cannot be waited for: {error}"),
            }),
        };
        let ready_after = begun.elapsed();
        if let Err(error) = ready {
            bail!("{error:#}; the end of its log:\n{}", tail(&log, TAIL));
        }
        let (program, places) = (program.clone(), places.clone());
        Ok(Self { program, places, child, pid, ready_after, crashed: false })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What the kernel says of it.
    ///
    /// # Errors
    /// It has ended.
    pub fn status(&self) -> anyhow::Result<Status> {
        Status::of(self.pid).with_context(|| format!("asking for the status of {}", self.name()))
    }

    /// One field of what the kernel says of it, as it is written, e.g. `Uid` or `CapEff`.
    ///
    /// # Errors
    /// It has ended, or there is no such field.
    pub fn field(&self, name: &str) -> anyhow::Result<String> {
        let status = self.status()?;
        let value = status.field(name).map(str::to_owned);
        value.with_context(|| format!("no {name} in the status of {}", self.name()))
    }

    /// Sends a signal, e.g. SIGSTOP and SIGCONT; nothing when it has ended.
    ///
    /// # Errors
    /// Of kill(2).
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        if !self.running() {
            return Ok(());
        }
        kill(self.pid, signal).with_context(|| format!("sending {signal} to {}", self.name()))
    }

    /// Ends it in the middle of whatever it does (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// It hangs in the kernel.
    pub async fn crash(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGKILL)?;
        let status = timeout(END, self.child.wait()).await;
        status.with_context(|| format!("{} hangs in the kernel after SIGKILL", self.name()))??;
        self.crashed = true;
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits until it is gone. Nothing to do after [`Self::crash`].
    ///
    /// # Errors
    /// It had ended by itself, ends with another status than 0, or had to be killed.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        if self.crashed {
            return Ok(());
        }
        if let Ok(Some(status)) = self.child.try_wait() {
            bail!("{} ended by itself with {}", self.name(), ending(status));
        }
        self.signal(Signal::SIGTERM)?;
        match timeout(END, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => bail!("{} ended with {} after SIGTERM", self.name(), ending(status)),
            Ok(Err(error)) => Err(error).with_context(|| format!("waiting for {}", self.name())),
            Err(_) => {
                self.crash().await?;
                bail!("{} did not end within {} s of SIGTERM", self.name(), END.as_secs())
            }
        }
    }

    /// Starts the same program again.
    ///
    /// # Errors
    /// It still runs, or [`Self::start`] fails.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        if self.running() {
            bail!("{} still runs", self.name());
        }
        *self = Self::start(&self.program, &self.places).await?;
        Ok(())
    }
}

/// The socket at which a program reports readiness; removed when dropped.
struct Notify {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Notify {
    fn bind(path: &Path) -> anyhow::Result<Self> {
        if path.exists() {
            fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
        }
        let socket = UnixDatagram::bind(path).with_context(|| format!("listening at {}", path.display()))?;
        let notify = Self { path: path.to_owned(), socket };
        // Programs of other users report here too.
        fs::set_permissions(path, Permissions::from_mode(0o777))
            .context("opening the notify socket to all")?;
        Ok(notify)
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer).await.context("reading the notify socket")?;
            let message = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
            if message.lines().any(|line| line == "READY=1") {
                return Ok(());
            }
        }
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        // What is left is replaced by the next start of the same name.
        let _ = fs::remove_file(&self.path);
    }
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::new("program", Path::new("sh")).words(&["-c", script])
    }

    /// A program that reports readiness and ends on SIGTERM with a status.
    fn waiting(status: u8) -> Program {
        let script = format!(
            "import os, signal, socket, sys\n\
             signal.signal(signal.SIGTERM, lambda *_: sys.exit({status}))\n\
             notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
             notify.sendto(b'STATUS=x\\nREADY=1', os.environ['NOTIFY_SOCKET'])\n\
             signal.pause()"
        );
        Program::new("program", Path::new("python3")).words(&["-c", &script])
    }

    fn places(directory: &tempfile::TempDir) -> Places {
        Places { logs: directory.path().to_owned(), scratch: directory.path().to_owned() }
    }

    #[tokio::test]
    async fn a_program_that_ends_before_it_is_ready_is_an_error_with_its_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let started = Process::start(&shell("echo no pool; exit 3"), &places(&directory)).await;
        let error = started.unwrap_err().to_string();
        assert!(error.contains("status 3 before it was ready") && error.contains("no pool"), "{error}");
    }

    #[tokio::test]
    async fn a_ready_program_ends_on_sigterm_and_a_bad_end_is_told() {
        let directory = tempfile::tempdir().unwrap();
        for (status, good) in [(0, true), (1, false)] {
            let mut process = Process::start(&waiting(status), &places(&directory)).await.unwrap();
            assert!(process.running());
            assert!(process.ready_after > Duration::ZERO);
            assert!(process.restart().await.unwrap_err().to_string().contains("still runs"));
            assert_eq!(process.stop().await.is_ok(), good);
        }
    }

    #[tokio::test]
    async fn a_crashed_program_starts_again_and_one_that_ended_by_itself_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = Process::start(&waiting(0), &places(&directory)).await.unwrap();
        let first = process.pid();
        process.crash().await.unwrap();
        process.stop().await.unwrap();
        process.restart().await.unwrap();
        assert_ne!(process.pid(), first);
        kill(process.pid(), Signal::SIGKILL).unwrap();
        process.child.wait().await.unwrap();
        assert!(process.stop().await.unwrap_err().to_string().contains("by itself"));
    }
}
