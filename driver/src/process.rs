//! This process towards its host: privileges it should not have, the signal that ends it, and readiness.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::endpoint::UnixEndpoint;

/// Warns when the process has privileges. Nothing in the driver needs one, so having one only widens what a mistake
/// could do; it is no reason to refuse service.
pub fn warn_if_privileged() {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return };
    let found = Privilege::read(&status);
    if found.root || found.capabilities != 0 {
        warn!(
            root = found.root,
            capabilities = format!("{:#x}", found.capabilities),
            "running with privileges that this process does not need; run it as an unprivileged user without \
             capabilities"
        );
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Privilege {
    root: bool,
    /// The effective set as a bit mask.
    capabilities: u64,
}

impl Privilege {
    /// Reads proc_pid_status(5): `Uid:` has real, effective, saved and file system uid, `CapEff:` is hexadecimal.
    fn read(status: &str) -> Self {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        Privilege {
            root: field("Uid:").split_whitespace().any(|uid| uid == "0"),
            capabilities: u64::from_str_radix(field("CapEff:").trim(), 16).unwrap_or(0),
        }
    }
}

/// A token that is cancelled by SIGTERM or SIGINT.
///
/// # Errors
/// The signal handlers cannot be set.
pub fn stop_on_signal() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => info!("SIGTERM: finishing running calls"),
            _ = int.recv() => info!("SIGINT: finishing running calls"),
        }
        // Outside systemd there is nobody to tell.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        token.cancel();
    });
    Ok(stop)
}

/// Says that the socket serves: one log line, and sd_notify where systemd listens.
pub fn ready(endpoint: &UnixEndpoint) {
    info!(%endpoint, version = env!("CARGO_PKG_VERSION"), "ready");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        warn!(%error, "systemd could not be told about readiness");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges_are_read_from_the_status_file() {
        let read =
            |uid: &str, caps: &str| Privilege::read(&format!("Name:\tx\nUid:\t{uid}\nCapEff:\t{caps}\n"));
        assert_eq!(
            read("65532\t65532\t65532\t65532", "0000000000000000"),
            Privilege { root: false, capabilities: 0 }
        );
        assert_eq!(
            read("65532\t0\t0\t0", "0000000000200000"),
            Privilege { root: true, capabilities: 0x20_0000 }
        );
        assert_eq!(Privilege::read(""), Privilege { root: false, capabilities: 0 });
    }
}
