//! What the kernel's error numbers mean for a connect.

use std::io;

use nix::errno::Errno;

use super::Reason;

/// Whether an error says that the very path exists already: `EALREADY` (`drivers/nvme/host/tcp.c`,
/// `nvme_tcp_create_ctrl`; other transports and older kernels answer `EADDRINUSE` or `EEXIST`).
pub(super) fn is_duplicate(error: &io::Error) -> bool {
    matches!(errno(error), Some(Errno::EALREADY | Errno::EADDRINUSE | Errno::EEXIST))
}

/// Whether an error says that the controller of an attribute is gone.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(errno(error), Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO))
}

/// The meaning of a refused connect. `EINVAL` has three causes that only the host's state tells apart: no transport
/// module, host NQN and id in another combination, an option out of range.
pub(super) fn reason(error: &io::Error, transport: bool, clash: bool) -> Reason {
    match errno(error) {
        Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => Reason::NoTransport,
        Some(Errno::EINVAL) if !transport => Reason::NoTransport,
        Some(Errno::EINVAL) if clash => Reason::HostMismatch,
        Some(Errno::EINVAL | Errno::ERANGE) => Reason::BadOptions,
        Some(Errno::EACCES | Errno::EPERM) => Reason::NotPermitted,
        Some(Errno::ECONNREFUSED) => Reason::NotListening,
        Some(
            Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN
            | Errno::ENETDOWN
            | Errno::ETIMEDOUT
            | Errno::EADDRNOTAVAIL
            | Errno::EAGAIN,
        ) => Reason::Unreachable,
        // The kernel turns every status with which the subsystem answers Connect into EIO.
        Some(Errno::EIO | Errno::ECONNRESET | Errno::EPIPE | Errno::ENOTCONN | Errno::ECONNABORTED) => {
            Reason::Refused
        }
        Some(Errno::ENOKEY | Errno::EKEYREJECTED | Errno::EKEYEXPIRED | Errno::EKEYREVOKED) => {
            Reason::Authentication
        }
        Some(Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT) => Reason::Unsupported,
        _ => Reason::Other,
    }
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_with_three_causes_is_told_apart() {
        let invalid = io::Error::from(Errno::EINVAL);
        assert_eq!(reason(&invalid, false, false), Reason::NoTransport);
        assert_eq!(reason(&invalid, true, true), Reason::HostMismatch);
        assert_eq!(reason(&invalid, true, false), Reason::BadOptions);
    }

    #[test]
    fn every_number_an_operator_meets_has_a_meaning() {
        for (number, expected) in [
            (Errno::ENOENT, Reason::NoTransport),
            (Errno::EACCES, Reason::NotPermitted),
            (Errno::ECONNREFUSED, Reason::NotListening),
            (Errno::EHOSTUNREACH, Reason::Unreachable),
            (Errno::ETIMEDOUT, Reason::Unreachable),
            (Errno::EIO, Reason::Refused),
            (Errno::ENOKEY, Reason::Authentication),
            (Errno::EOPNOTSUPP, Reason::Unsupported),
            (Errno::ENOMEM, Reason::Other),
        ] {
            assert_eq!(reason(&number.into(), true, false), expected, "{number}");
        }
        assert_eq!(reason(&io::Error::other("no number"), true, false), Reason::Other);
        assert!(is_duplicate(&Errno::EALREADY.into()) && is_duplicate(&Errno::EADDRINUSE.into()));
    }
}
