//! Device events as udevd sends them on after its rules have run.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use udev::MonitorBuilder;

/// Kernel subsystems whose events can end a wait of ours.
const SUBSYSTEMS: [&str; 3] = ["block", "nvme", "nvme-subsystem"];

/// Opens the socket through libudev, which knows group and filter. A duplicate is taken: group membership and
/// filter belong to the socket, and the content of the messages is not wanted, so libudev's own reader (which is
/// bound to one thread) is not needed.
pub(super) fn open() -> io::Result<OwnedFd> {
    let mut monitor = MonitorBuilder::new()?;
    for subsystem in SUBSYSTEMS {
        monitor = monitor.match_subsystem(subsystem)?;
    }
    monitor.listen()?.as_fd().try_clone_to_owned()
}
