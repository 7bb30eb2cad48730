//! Boots the lab's guest and runs one command in it: output streams out, the exit status comes back.
//!
//! Rule: a guest that crashes or hangs never passes and never hangs this program. Kernel panics end QEMU, hung tasks
//! panic the kernel, everything else meets a deadline; then the end of the kernel's messages and of every process's log
//! is printed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::cache::Cache;
use crate::guest_root::{self, GuestRoot};
use crate::progress::{logged, minutes, step, tail};

/// The release of virtme-ng on PyPI that the lab was seen working with.
const VIRTME_VERSION: &str = "1.42";
/// How long a kernel under KVM may take to its first message.
const KVM_PROBE: Duration = Duration::from_secs(15);
/// What virtme-run answers when the guest ended without an exit status: a panic, or a killed QEMU.
const NO_STATUS: i32 = 255;
/// How much of a log is shown after a crash, in bytes.
const LOG_TAIL: u64 = 6_000;

/// virtme-ng in its virtual environment.
pub struct Virtme {
    bin: PathBuf,
}

impl Virtme {
    /// Finds virtme-ng in the cache, or installs it there from PyPI.
    pub fn install(cache: &Cache) -> anyhow::Result<Self> {
        let entry = cache.entry("virtme-ng", VIRTME_VERSION);
        // A virtual environment knows its own path and cannot be renamed: this file says that it is complete.
        let complete = entry.join("complete");
        if !complete.exists() {
            step("installing virtme-ng in a virtual environment", || {
                let log = entry.with_extension("log");
                logged(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&entry), &log)?;
                let requirement = format!("virtme-ng=={VIRTME_VERSION}");
                logged(Command::new(entry.join("bin/pip")).args(["install", &requirement]), &log)?;
                fs::write(&complete, "").with_context(|| format!("writing {}", complete.display()))
            })?;
        }
        Ok(Self { bin: entry.join("bin") })
    }
}

/// One run of the guest.
pub struct Boot<'a> {
    /// The tool that boots.
    pub virtme: &'a Virtme,
    /// What it boots.
    pub root: &'a GuestRoot,
    /// Directory of the binaries, read-only in the guest at `/lab/bin`.
    pub bin: &'a Path,
    /// Directory for logs, writable in the guest at `/lab/logs`; the kernel's messages go there as `kernel.log`, and the
    /// guest finds its command there as `command.sh`.
    pub logs: &'a Path,
    /// Memory of the guest in GiB.
    pub memory_gib: u32,
    /// Time after which the guest is ended.
    pub deadline: Duration,
}

/// File in the directory of logs that holds the command.
const SCRIPT: &str = "command.sh";
/// Kernel messages that are shown while the guest runs.
const ALARMS: &[&str] = &["Kernel panic", "BUG:", "Oops:", "blocked for more than"];
/// Boots that are tried when the emulator is at fault.
const ATTEMPTS: u32 = 3;

/// How a guest ended.
enum Ended {
    /// With the command's exit status.
    Status(i32),
    /// Before the command began, because of QEMU: see [`lost_patch`].
    LostPatch,
}

enum Event {
    Line(String),
    End,
}

impl Boot<'_> {
    /// Runs `command` (program and arguments) as root in the guest and returns its exit status; `hear` is given each
    /// line of its output.
    pub fn run(&self, command: &[String], mut hear: impl FnMut(&str)) -> anyhow::Result<i32> {
        let kernel = self.root.kernel()?;
        let _alone = self.alone()?;
        let kvm = self.kvm_works(&kernel)?;
        println!(
            "booting {} with {} in {} ({})",
            kernel.file_name().unwrap_or_default().to_string_lossy(),
            if kvm { "KVM" } else { "software emulation" },
            self.root.disk.display(),
            command.join(" "),
        );
        for attempt in 1.. {
            match self.once(&kernel, kvm, command, &mut hear)? {
                Ended::Status(status) => return Ok(status),
                Ended::LostPatch if attempt < ATTEMPTS => {
                    println!(
                        "the emulator lost a code patch of the kernel before the command began: booting again"
                    );
                }
                Ended::LostPatch => bail!("the emulator lost a code patch of the kernel {ATTEMPTS} times"),
            }
        }
        bail!("the guest was not booted")
    }

    /// One guest at a time on this machine: two at once only make each other miss their deadlines. The lock ends with
    /// the process.
    fn alone(&self) -> anyhow::Result<File> {
        let path = self.root.directory.with_file_name("guest.lock");
        let lock = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
        if lock.try_lock().is_err() {
            println!("waiting for another guest on this machine to end");
            lock.lock().with_context(|| format!("locking {}", path.display()))?;
        }
        Ok(lock)
    }

    fn once(
        &self,
        kernel: &Path,
        kvm: bool,
        command: &[String],
        hear: &mut impl FnMut(&str),
    ) -> anyhow::Result<Ended> {
        let start = Instant::now();
        let mut child = self.virtme_command(kernel, kvm, command)?.spawn().context("starting vng")?;
        let outcome = self.watch(&mut child, start, hear);
        if outcome.is_err() {
            end_tree(child.id());
        }
        let status = child.wait().context("waiting for vng")?;
        println!("guest ended after {}", minutes(start.elapsed()));
        let failure = match outcome {
            Err(error) => format!("{error:#}"),
            Ok(seen) => match status.code() {
                Some(code) if code != NO_STATUS => return Ok(Ended::Status(code)),
                _ if !kvm && !seen && lost_patch(&self.logs.join("kernel.log")) => {
                    return Ok(Ended::LostPatch);
                }
                _ => format!(
                    "the guest ended without an exit status ({status}): its kernel panicked or QEMU died"
                ),
            },
        };
        print_logs(self.logs);
        bail!("{failure}; the logs above are in {}", self.logs.display());
    }

    fn virtme_command(&self, kernel: &Path, kvm: bool, guest_command: &[String]) -> anyhow::Result<Command> {
        let mut command = Command::new(self.virtme.bin.join("vng"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(self.virtme.bin.clone()).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(paths).context("putting virtme-run on PATH")?);
        command.arg("--run").arg(kernel);
        command.arg("--root-disk").arg(&self.root.disk).args(["--root-fstype", guest_root::FILE_SYSTEM]);
        if !kvm {
            command.arg("--disable-kvm");
        }
        // 9p for what is shared: virtiofsd differs between hosts and is often absent.
        command.args(["--force-9p", "--verbose", "--user", "root", "--name", "lab"]);
        command.arg("--busybox").arg(self.root.directory.join("usr/bin/busybox"));
        command.arg("--cpus").arg("2").arg("--memory").arg(format!("{}G", self.memory_gib));
        command.arg("--rodir").arg(share("/lab/bin", self.bin)?);
        command.arg("--rwdir").arg(share("/lab/logs", self.logs)?);
        // A guest that is thrown away has nobody to be guarded from, and guarding costs an emulated processor much.
        command.args(["--append", "mitigations=off"]);
        command.args(["--append", "sysctl.kernel.hung_task_panic=1 sysctl.kernel.panic_on_oops=1"]);
        // Through a file: vng puts what it is given on the kernel's command line, which has 2,048 bytes.
        let script = self.logs.join(SCRIPT);
        let words: Vec<String> = guest_command.iter().map(|word| quote(word)).collect();
        fs::write(&script, words.join(" ") + "\n")
            .with_context(|| format!("writing {}", script.display()))?;
        command.arg("--").arg(format!("sh /lab/logs/{SCRIPT}"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    /// Whether KVM runs this kernel here: `/dev/kvm` may exist and still not run a stock kernel, so one is tried. The
    /// answer is kept beside the root until the host boots again.
    fn kvm_works(&self, kernel: &Path) -> anyhow::Result<bool> {
        if File::options().read(true).write(true).open("/dev/kvm").is_err() {
            return Ok(false);
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let answer = |works: bool| format!("{} {works}", boot.trim());
        let memory = self.root.directory.with_extension("kvm");
        let known = fs::read_to_string(&memory).unwrap_or_default();
        if let Some(works) = [true, false].into_iter().find(|works| known == answer(*works)) {
            return Ok(works);
        }
        let works = probe_kvm(kernel, &self.logs.join("kvm-probe.log"))?;
        fs::write(&memory, answer(works)).with_context(|| format!("writing {}", memory.display()))?;
        Ok(works)
    }

    /// Streams the guest's output until it ends, and tells whether there was any; an error at the deadline.
    fn watch(&self, child: &mut Child, start: Instant, hear: &mut impl FnMut(&str)) -> anyhow::Result<bool> {
        let (sender, receiver) = channel();
        let stdout = child.stdout.take().context("vng has a standard output")?;
        let stderr = child.stderr.take().context("vng has a standard error")?;
        read_lines(stdout, sender.clone());
        let kernel_log = self.logs.join("kernel.log");
        let kernel_log =
            File::create(&kernel_log).with_context(|| format!("making {}", kernel_log.display()))?;
        write_kernel_log(stderr, kernel_log, sender);
        let mut open = 2;
        let mut seen = false;
        while open > 0 {
            let left = self.deadline.saturating_sub(start.elapsed());
            match receiver.recv_timeout(left) {
                Ok(Event::Line(line)) => {
                    seen |= !ALARMS.iter().any(|alarm| line.contains(alarm));
                    println!("{line}");
                    hear(&line);
                }
                Ok(Event::End) => open -= 1,
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "the guest was ended at its deadline of {}: it hangs or is too slow",
                        minutes(self.deadline)
                    )
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        Ok(seen)
    }
}

fn share(guest: &str, host: &Path) -> anyhow::Result<String> {
    let host = host.canonicalize().with_context(|| format!("looking for {}", host.display()))?;
    match host.to_str() {
        Some(text) if !text.contains(|letter: char| letter.is_whitespace() || letter == ',') => {
            Ok(format!("{guest}={text}"))
        }
        _ => {
            bail!("{} holds a blank or a comma, which virtme-ng cannot take: build elsewhere", host.display())
        }
    }
}

/// Quotes a word for the guest's shell.
fn quote(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=,@%+".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn read_lines(source: impl std::io::Read + Send + 'static, sender: Sender<Event>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(source);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line);
            if sender.send(Event::Line(text.trim_end_matches(['\n', '\r']).to_owned())).is_err() {
                return;
            }
            line.clear();
        }
        let _unheard = sender.send(Event::End);
    });
}

/// The console and the command's standard error share one stream: what the kernel says goes to its log, the rest
/// streams out as well.
fn write_kernel_log(source: impl std::io::Read + Send + 'static, mut log: File, sender: Sender<Event>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(source);
        let mut line = Vec::new();
        let mut booted = false;
        while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            // A full disk must not end the run: the log is a help, not the result.
            let _lost = log.write_all(&line);
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches(['\n', '\r']);
            let kernel = text.trim_start().starts_with('[');
            booted |= text.contains("virtme-ng-init: ") || text.contains("virtme-init: ");
            let show = if kernel { ALARMS.iter().any(|alarm| text.contains(alarm)) } else { booted };
            if show && sender.send(Event::Line(text.to_owned())).is_err() {
                return;
            }
            line.clear();
        }
        let _unheard = sender.send(Event::End);
    });
}

/// Ends a process and all its descendants. They are found through the kernel, so only what we started is met.
fn end_tree(pid: u32) {
    let mut pids = vec![pid];
    let mut at = 0;
    while let Some(pid) = pids.get(at).copied() {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        pids.extend(children.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
        at += 1;
    }
    let mut kill = Command::new("kill");
    kill.arg("-KILL").args(pids.iter().map(u32::to_string)).stderr(Stdio::null());
    if kill.status().is_err() {
        eprintln!("kill(1) is missing: end the processes {pids:?} by hand");
    }
}

/// Whether the kernel died of a breakpoint that nobody had set. While a kernel patches its code it puts a breakpoint
/// there for a moment; QEMU's multi-threaded emulation can go on running the code it translated in that moment.
fn lost_patch(kernel_log: &Path) -> bool {
    tail(kernel_log, 64 << 10).is_ok_and(|text| text.contains("Oops: int3:"))
}

fn print_logs(directory: &Path) {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
        .unwrap_or_default();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            print_logs(&path);
            continue;
        }
        let text = tail(&path, LOG_TAIL).unwrap_or_else(|error| format!("{error:#}"));
        println!("---- the end of {}\n{text}", path.display());
    }
}

fn probe_kvm(kernel: &Path, log: &Path) -> anyhow::Result<bool> {
    println!("trying KVM");
    let errors = File::create(log).with_context(|| format!("making {}", log.display()))?;
    let mut child = Command::new("qemu-system-x86_64")
        .args(["-accel", "kvm", "-cpu", "host", "-m", "512", "-display", "none", "-no-reboot"])
        .args(["-monitor", "none", "-serial", "stdio", "-append", "console=ttyS0 panic=-1", "-kernel"])
        .arg(kernel)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .context("starting qemu-system-x86_64")?;
    let (sender, receiver) = channel();
    read_lines(child.stdout.take().context("QEMU has a standard output")?, sender);
    let end = Instant::now() + KVM_PROBE;
    // Without a root the kernel gets as far as looking for one: that is far enough.
    let works = loop {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(Event::Line(line)) if line.contains("Unable to mount root fs") => break true,
            Ok(Event::Line(_)) => {}
            Ok(Event::End) | Err(_) => break false,
        }
    };
    end_tree(child.id());
    child.wait().context("waiting for QEMU")?;
    Ok(works)
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn words_survive_the_guests_shell() {
        for word in ["", "plain", "two words", "it's", "$HOME", "a;b", "*", "\\", "line\nbreak"] {
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quote(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }
}
