//! Steps that say what they do and how long it took, and commands whose output goes to a log.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How often a long step says that it is still running.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Runs `work` as a named step and prints its minutes.
pub fn step<T>(name: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    println!("== {name}");
    let start = Instant::now();
    let result = work();
    let outcome = if result.is_ok() { "done" } else { "failed" };
    println!("== {name}: {outcome} after {}", minutes(start.elapsed()));
    result
}

/// A duration as people read it: `4.2 s` below a minute, `3.5 min` above.
pub fn minutes(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 60.0 { format!("{seconds:.1} s") } else { format!("{:.1} min", seconds / 60.0) }
}

/// Runs a long command with its output in `log`, says every half minute that it is running, and shows the log's end
/// when it fails.
pub fn logged(command: &mut Command, log: &Path) -> anyhow::Result<()> {
    let output = File::create(log).with_context(|| format!("making {}", log.display()))?;
    let errors = output.try_clone().context("sharing the log file")?;
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    let start = Instant::now();
    let (sender, receiver) = channel::<std::io::Result<ExitStatus>>();
    let waiter = std::thread::spawn(move || {
        let _unheard = sender.send(child.wait());
    });
    let status = loop {
        match receiver.recv_timeout(HEARTBEAT) {
            Ok(status) => break status.with_context(|| format!("waiting for {program}"))?,
            Err(RecvTimeoutError::Timeout) => {
                let last = tail(log, 400).unwrap_or_default();
                let last = last.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
                println!("   still running after {}: {last:.110}", minutes(start.elapsed()));
            }
            Err(RecvTimeoutError::Disconnected) => bail!("{program} was lost"),
        }
    };
    if waiter.join().is_err() {
        bail!("the thread that waited for {program} died");
    }
    if !status.success() {
        bail!("{program} ended with {status}; the end of {}:\n{}", log.display(), tail(log, 4000)?);
    }
    Ok(())
}

/// The last `bytes` bytes of a file as text.
pub fn tail(path: &Path, bytes: u64) -> anyhow::Result<String> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let length = file.metadata().with_context(|| format!("asking the size of {}", path.display()))?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))
        .with_context(|| format!("seeking in {}", path.display()))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).with_context(|| format!("reading {}", path.display()))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
