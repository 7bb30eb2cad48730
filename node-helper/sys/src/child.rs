//! What a child process gives up between fork and exec.
//!
//! The rules: a program dies with the helper; it inherits no descriptor but its three standard streams; and one that only reads or formats a
//! device runs without any capability. It parses what a stranger may have written, and file permissions alone let
//! uid 0 open the device.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// `_LINUX_CAPABILITY_VERSION_3` (`include/uapi/linux/capability.h`): two 32-bit words per set.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Header of capset(2).
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

/// One 32-bit word of each set of capset(2).
#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilityWords {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Makes the program start without any capability and without a way to gain one.
///
/// `no_new_privs` is set first: with it, exec as uid 0 keeps at most the permitted set of before
/// (`security/commoncap.c`, `cap_bprm_creds_from_file`), which is then emptied.
pub fn drop_capabilities(command: &mut Command) {
    let enter = || {
        // SAFETY: prctl(PR_SET_NO_NEW_PRIVS) takes only integers and touches the calling process alone.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
        let words = [CapabilityWords { effective: 0, permitted: 0, inheritable: 0 }; 2];
        // SAFETY: capset(2) version 3 reads one header and two words through the pointers, which are live locals of
        // the kernel's layout (repr(C), include/uapi/linux/capability.h); pid 0 is the calling process.
        if unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: the closure runs after fork in a child of a process with threads. It makes two system calls on locals
    // and builds an error from errno; it neither allocates nor takes a lock, so it is async-signal-safe.
    unsafe { command.pre_exec(enter) };
}

/// Makes the kernel kill the program (`SIGKILL`) when the thread that starts it ends, however that comes about.
///
/// A mkfs that nobody waits for any more could be held up before it opens its device, and go on when the volume has data.
/// The setting survives exec, because the program gains no capability by it (`fs/exec.c`, `begin_new_exec`), and the
/// giving up of capabilities (`kernel/cred.c`, `commit_creds`).
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: getpid(2) takes nothing and cannot fail.
    let parent = unsafe { libc::getpid() };
    let enter = move || {
        // SAFETY: prctl(PR_SET_PDEATHSIG) takes only integers and touches the calling process alone.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // A parent that ended before the call sends no signal.
        // SAFETY: getppid(2) takes nothing and cannot fail.
        if unsafe { libc::getppid() } != parent {
            return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: the closure runs after fork in a child of a process with threads. It makes two system calls and builds an
    // error from errno or a constant; it neither allocates nor takes a lock, so it is async-signal-safe.
    unsafe { command.pre_exec(enter) };
}

/// Makes the program inherit no descriptor but 0, 1 and 2, also where the helper itself was given one that is not
/// close-on-exec.
pub fn close_descriptors(command: &mut Command) {
    let enter = || {
        // CLOEXEC instead of closing: the descriptor through which a failed exec is reported has to live until exec.
        // SAFETY: close_range(2) takes only integers and touches the descriptor table of the calling process alone,
        // which after fork is the child's own copy.
        let done =
            unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        if done != 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the closure runs after fork in a child of a process with threads. It makes one system call and builds
    // an error from errno; it neither allocates nor takes a lock, so it is async-signal-safe.
    unsafe { command.pre_exec(enter) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confined_child_has_no_capability_and_no_way_to_one() {
        let mut command = Command::new("/bin/cat");
        command.arg("/proc/self/status");
        drop_capabilities(&mut command);
        let output = command.output().unwrap();
        let status = String::from_utf8(output.stdout).unwrap();
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let line = status.lines().find(|line| line.starts_with(set)).unwrap();
            assert!(line.ends_with("0000000000000000"), "{line}");
        }
        assert!(status.lines().any(|line| line.starts_with("NoNewPrivs") && line.ends_with('1')), "{status}");
    }

    #[test]
    fn a_program_dies_with_the_thread_that_started_it_also_without_capabilities() {
        use std::os::unix::process::ExitStatusExt;

        let started = std::thread::spawn(|| {
            let mut command = Command::new("/bin/sleep");
            command.arg("600");
            die_with_parent(&mut command);
            drop_capabilities(&mut command);
            command.spawn().unwrap()
        });
        let mut child = started.join().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn a_descriptor_that_is_not_close_on_exec_stays_behind() {
        use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

        let file = tempfile::tempfile().unwrap();
        // SAFETY: F_DUPFD takes an integer and makes a new descriptor, which nobody else owns.
        let leaking = unsafe { OwnedFd::from_raw_fd(libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, 200)) };
        let shows = |close: bool| {
            let mut command = Command::new("/bin/ls");
            command.arg("/proc/self/fd");
            if close {
                close_descriptors(&mut command);
            }
            let listed = String::from_utf8(command.output().unwrap().stdout).unwrap();
            listed.lines().any(|line| line == leaking.as_raw_fd().to_string())
        };
        assert!(shows(false), "the test has a leak to close");
        assert!(!shows(true));
    }
}
