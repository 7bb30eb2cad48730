//! The one runner of external programs.
//!
//! What a program gets, and nothing more:
//! * an empty environment but for `PATH`, `LANG` and `LC_ALL`; the root directory as working directory;
//! * no input, or the device (or mount root) as standard input: it then names it `/proc/self/fd/0`, which the kernel
//!   resolves to the very inode that was opened and checked, whatever happens to `/dev` meanwhile. Every other
//!   descriptor of the helper is closed by exec;
//! * a process group of its own, killed as a whole at the deadline;
//! * no capability ([`Privilege::None`]), or at most the helper's own set ([`Privilege::Inherited`]): under
//!   `no_new_privs` exec never adds any.
//!
//! A program dies with the helper: one that was held up before it opened its device would find a volume in use when it
//! goes on. What the kernel does not let die (it waits for a device without a path) holds the device exclusively, as does
//! every probe: nobody writes beside it.
//!
//! Programs are therefore started on the process's first thread, which lives as long as the process: the runtime has no
//! other.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Tool, ToolError, Tools};

/// Most of standard output that is kept; the rest is read and dropped.
const STDOUT_LIMIT: usize = 64 * 1024;
/// Most of standard error that is kept: its end, where the reason stands.
const STDERR_LIMIT: usize = 4 * 1024;
/// How long a killed program may take to be gone before it counts as stuck in the kernel.
const DEATH: Duration = Duration::from_secs(2);

/// Keeps starts of programs apart: `spawn` returns when the program has been executed, and until then the child holds a
/// copy of every descriptor of this process. Were another program started meanwhile, it could find a device in use
/// that was closed here long ago.
pub(crate) fn starting() -> MutexGuard<'static, ()> {
    static STARTING: Mutex<()> = Mutex::new(());
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a program finds as its standard input.
#[derive(Debug)]
pub enum Input {
    /// Nothing: `/dev/null`.
    Nothing,
    /// An open device or mount root, which the program opens again as [`Invocation::STANDARD_INPUT`].
    Descriptor(OwnedFd),
}

/// Which capabilities a program starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// None at all: enough to read and write a device that belongs to root.
    None,
    /// Those of the helper: for programs that change a mounted file system (`CAP_SYS_RESOURCE` for ext4,
    /// `CAP_SYS_ADMIN` for XFS and btrfs), for mkfs.xfs and for iscsiadm (`CAP_SYS_ADMIN`).
    Inherited,
}

/// One run of a program.
#[derive(Debug)]
pub struct Invocation {
    /// The program.
    pub tool: Tool,
    /// Its arguments. Secrets never belong here.
    pub arguments: Vec<OsString>,
    /// Its standard input.
    pub input: Input,
    /// Its capabilities.
    pub privilege: Privilege,
}

impl Invocation {
    /// The name under which a program opens what it was given as standard input.
    pub const STANDARD_INPUT: &'static str = "/proc/self/fd/0";
}

/// How a program ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit status, 0 to 255.
    pub code: i32,
    /// Beginning of standard output, at most 64 KiB.
    pub stdout: String,
    /// End of standard error, at most 4 KiB, trimmed.
    pub stderr: String,
}

impl Tools {
    /// Runs a program to its end or to the deadline.
    ///
    /// # Errors
    /// [`ToolError`] when it is missing, does not start, is ended by a signal, or does not end in time (it is killed
    /// then). Any exit status is a result.
    pub async fn run(&self, invocation: Invocation, deadline: Instant) -> Result<Output, ToolError> {
        let tool = invocation.tool;
        let mut command = self.command(invocation)?;
        let start = |source| ToolError::Start { tool, source };
        let mut child = {
            let _alone = starting();
            command.spawn().map_err(start)?
        };
        // The builder holds this side's copy of the descriptor that became standard input.
        drop(command);
        let group = child.id();
        let mut stdout = Kept::beginning(STDOUT_LIMIT);
        let mut stderr = Kept::end(STDERR_LIMIT);
        let (out, err) = (child.stdout.take(), child.stderr.take());

        let work = async { tokio::join!(child.wait(), stdout.fill(out), stderr.fill(err)).0 };
        let ended = timeout_at(deadline, work).await;
        if let Ok(status) = ended {
            let status = status.map_err(start)?;
            let stderr = stderr.text();
            return match (status.code(), status.signal()) {
                (Some(code), _) => Ok(Output { code, stdout: stdout.text(), stderr }),
                (None, signal) => Err(ToolError::Signal { tool, signal: signal.unwrap_or_default(), stderr }),
            };
        }
        if let Some(pid) = group {
            // The child is not reaped yet, so its id still names its group and nobody else's.
            let _ = killpg(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            if timeout(DEATH, child.wait()).await.is_err() {
                return Err(ToolError::Stuck { tool, pid });
            }
        }
        Err(ToolError::Deadline { tool, stderr: stderr.text() })
    }

    fn command(&self, invocation: Invocation) -> Result<Command, ToolError> {
        let mut command = Command::new(self.path(invocation.tool)?);
        command
            .args(&invocation.arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C")
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(match invocation.input {
                Input::Nothing => Stdio::null(),
                Input::Descriptor(descriptor) => Stdio::from(descriptor),
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        node_helper_sys::child::die_with_parent(command.as_std_mut());
        node_helper_sys::child::close_descriptors(command.as_std_mut());
        if invocation.privilege == Privilege::None {
            node_helper_sys::child::drop_capabilities(command.as_std_mut());
        }
        Ok(command)
    }
}

/// A stream of which only one end is kept.
struct Kept {
    bytes: Vec<u8>,
    limit: usize,
    end: bool,
}

impl Kept {
    const fn beginning(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit, end: false }
    }

    const fn end(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit, end: true }
    }

    /// Reads to the end of the stream. A read error ends it like its end: the exit status decides, not the words.
    async fn fill(&mut self, stream: Option<impl AsyncRead + Unpin>) {
        let Some(mut stream) = stream else { return };
        let mut chunk = [0_u8; 4096];
        while let Ok(read) = stream.read(&mut chunk).await {
            if read == 0 {
                break;
            }
            self.push(chunk.get(..read).unwrap_or_default());
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.end {
            self.bytes.extend_from_slice(bytes);
            let surplus = self.bytes.len().saturating_sub(self.limit);
            self.bytes.drain(..surplus);
        } else {
            let room = self.limit.saturating_sub(self.bytes.len());
            self.bytes.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A host on which `blkid` is the given shell script.
    fn host_with(script: &str) -> (tempfile::TempDir, Tools) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blkid");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let tools = Tools::find(&[directory.path().to_owned()]);
        (directory, tools)
    }

    fn plain() -> Invocation {
        Invocation { tool: Tool::Blkid, arguments: vec![], input: Input::Nothing, privilege: Privilege::None }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[tokio::test]
    async fn status_and_words_come_back() {
        let (_directory, tools) = host_with("echo found; echo trouble >&2; exit 8");
        let output = tools.run(plain(), soon()).await.unwrap();
        assert_eq!(output, Output { code: 8, stdout: "found".into(), stderr: "trouble".into() });
    }

    #[tokio::test]
    async fn the_environment_is_ours_alone() {
        let (_directory, tools) = host_with("/usr/bin/env; pwd");
        let output = tools.run(plain(), soon()).await.unwrap();
        let allowed = ["PATH=", "LANG=C", "LC_ALL=C", "PWD=/", "SHLVL=", "_=", "OLDPWD", "/"];
        for line in output.stdout.lines() {
            assert!(
                allowed.iter().any(|start| line.starts_with(start)),
                "{line} came from the helper's environment"
            );
        }
    }

    #[tokio::test]
    async fn the_device_arrives_as_standard_input_and_nothing_else_is_inherited() {
        let (directory, tools) = host_with("cat /proc/self/fd/0; ls /proc/self/fd | tr '\\n' ' '");
        let path = directory.path().join("device");
        std::fs::write(&path, "the device ").unwrap();
        let held = std::fs::File::open(&path).unwrap();
        let descriptor = OwnedFd::from(held.try_clone().unwrap());
        let output =
            tools.run(Invocation { input: Input::Descriptor(descriptor), ..plain() }, soon()).await.unwrap();
        // ls has the directory itself as 3, the shell its script as 10.
        let descriptors = output.stdout.strip_prefix("the device ").unwrap().replace("10 ", "");
        assert_eq!(descriptors, "0 1 2 3");
    }

    #[tokio::test]
    async fn a_program_without_privilege_has_no_capability() {
        let (_directory, tools) = host_with("grep CapEff /proc/self/status");
        let output = tools.run(plain(), soon()).await.unwrap();
        assert_eq!(output.stdout, "CapEff:\t0000000000000000");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_its_children() {
        let (directory, tools) = host_with("sleep 600 & echo $! > \"$1\"; echo waiting >&2; wait");
        let pid_file = directory.path().join("pid");
        // A loaded machine may take longer than the first deadlines to bring the program to its wait.
        for seconds in [1, 4, 16] {
            let invocation = Invocation { arguments: vec![pid_file.clone().into()], ..plain() };
            let error =
                tools.run(invocation, Instant::now() + Duration::from_secs(seconds)).await.unwrap_err();
            assert_eq!(error.kind(), crate::failure::Kind::DeadlineExceeded, "{error}");
            if matches!(&error, ToolError::Deadline { stderr, .. } if stderr == "waiting") {
                break;
            }
            assert!(seconds < 16, "{error}");
        }
        let stat = format!("/proc/{}/stat", std::fs::read_to_string(pid_file).unwrap().trim());
        let end = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            // Gone, or dead and not yet reaped by whoever adopted it.
            let state = std::fs::read_to_string(&stat).unwrap_or_default();
            if state.is_empty() || state.contains(") Z ") || state.contains(") X ") {
                break;
            }
            assert!(std::time::Instant::now() < end, "{state}");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_signal_is_told_from_a_status() {
        let (_directory, tools) = host_with("kill -9 $$");
        let error = tools.run(plain(), soon()).await.unwrap_err();
        assert!(matches!(error, ToolError::Signal { signal: 9, .. }), "{error}");
    }

    #[tokio::test]
    async fn a_talkative_program_neither_blocks_nor_fills_memory() {
        let (_directory, tools) = host_with(
            "i=0; while [ $i -lt 3000 ]; do echo 'a line of sixty-four bytes, more or less, on standard output....'; i=$((i+1)); done; \
             head -c 100000 /dev/zero | tr '\\0' 'x' >&2; echo the end >&2",
        );
        let output = tools.run(plain(), soon()).await.unwrap();
        assert!(output.stdout.len() <= STDOUT_LIMIT);
        assert!(output.stderr.len() <= STDERR_LIMIT && output.stderr.ends_with("the end"));
    }
}
