//! What iscsiadm's exit statuses mean (`include/iscsi_err.h` of open-iscsi).

use super::super::Reason;

/// Done.
pub(super) const DONE: i32 = 0;
/// The session is there already.
pub(super) const SESSION_EXISTS: i32 = 15;
/// No record, session or target is there to work on.
pub(super) const NOTHING_FOUND: i32 = 21;

/// The meaning of a status that is no success.
pub(super) fn reason(status: i32) -> Reason {
    match status {
        // TRANS, LOGIN, TRANS_TIMEOUT, PDU_TIMEOUT, REQ_TIMEDOUT: no connection, or none that answered in time.
        4 | 5 | 8 | 11 | 33 => Reason::Unreachable,
        12 => Reason::NoIscsi,
        13 => Reason::NoAccess,
        // ISCSID_COMM_ERR, ISCSID_NOTCONN.
        18 | 20 => Reason::NoDaemon,
        // FATAL_LOGIN: the target answered with a status class for which no retry is due.
        19 => Reason::LoginRefused,
        24 => Reason::Chap,
        _ => Reason::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::{AttachError, Portals};
    use crate::failure::Kind;

    #[test]
    fn every_status_an_operator_meets_has_a_meaning_and_a_kind() {
        for (status, word, kind) in [
            (8, "no answer", Kind::Unavailable),
            (12, "modprobe iscsi_tcp", Kind::FailedPrecondition),
            (13, "root", Kind::FailedPrecondition),
            (19, "published", Kind::Unavailable),
            (20, "is iscsid running?", Kind::FailedPrecondition),
            (24, "CHAP", Kind::PermissionDenied),
            (7, "dmesg", Kind::Internal),
        ] {
            let portals = Portals(vec![("192.0.2.7:3260".parse().unwrap(), reason(status), String::new())]);
            let error = AttachError::NoPath { target: "iSCSI target a".to_owned(), portals };
            assert!(error.to_string().contains(word), "{status}: {error}");
            assert_eq!(error.kind(), kind, "{status}");
        }
    }
}
