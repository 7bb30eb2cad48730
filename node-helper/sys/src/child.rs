//! What a child process gives up between fork and exec.
//!
//! The rule: a program that only reads or formats a device runs without any capability. It parses what a stranger
//! may have written, and file permissions alone let uid 0 open the device.

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
}
