//! The option line that the kernel's fabrics device takes, and the line it gives back.
//!
//! Names and meaning: `drivers/nvme/host/fabrics.c`, `opt_tokens` and `nvmf_dev_show`.

use std::fmt;
use std::net::SocketAddr;

use zeroize::Zeroizing;

use super::{NvmeHost, NvmeTarget};

/// Two keys with their names.
const ROOM_FOR_KEYS: usize = 640;

/// How a controller behaves when its path breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Seconds without an answer after which the path counts as broken (`keep_alive_tmo`).
    pub keep_alive_seconds: u32,
    /// Seconds between attempts to connect again (`reconnect_delay`). An attempt that the appliance refuses while it
    /// boots removes the device for good, so fewer attempts are safer than quicker ones; and a port link that is
    /// bounced to cut another host has to be back within this time.
    pub reconnect_delay_seconds: u32,
    /// Seconds after which a broken path is given up with its device (`ctrl_loss_tmo`); `None` is never: an
    /// appliance's update takes longer than any guess, and a given-up device turns into I/O errors for good.
    pub controller_loss_seconds: Option<u32>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { keep_alive_seconds: 5, reconnect_delay_seconds: 10, controller_loss_seconds: None }
    }
}

/// The options of one path as the kernel reads them: `key=value`, separated by commas.
///
/// `Debug` shows it without the values of keys; what is written is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct OptionLine {
    line: Zeroizing<String>,
    shown: String,
}

impl OptionLine {
    /// The options for one portal. Every part is a number or a type that admits no separator.
    pub(super) fn new(target: &NvmeTarget, host: &NvmeHost, portal: SocketAddr, tuning: Tuning) -> Self {
        let loss =
            tuning.controller_loss_seconds.map_or_else(|| "-1".to_owned(), |seconds| seconds.to_string());
        let host = target.authentication.as_ref().map_or(host, |own| &own.host);
        let mut shown = format!(
            "nqn={},transport=tcp,traddr={},trsvcid={},hostnqn={},hostid={}",
            target.identity.subsystem_nqn,
            address(portal),
            portal.port(),
            host.nqn,
            host.id,
        );
        for (key, value) in [("nr_io_queues", target.io_queues), ("queue_size", target.queue_size)] {
            if let Some(value) = value {
                shown.push_str(&format!(",{key}={value}"));
            }
        }
        shown.push_str(&format!(
            ",keep_alive_tmo={},reconnect_delay={},ctrl_loss_tmo={loss}",
            tuning.keep_alive_seconds, tuning.reconnect_delay_seconds
        ));
        // One allocation: a string that grows would leave copies of the keys behind.
        let mut line = Zeroizing::new(String::with_capacity(shown.len() + ROOM_FOR_KEYS));
        line.push_str(&shown);
        if let Some(authentication) = &target.authentication {
            let secrets = [
                ("dhchap_secret", Some(&authentication.secret)),
                ("dhchap_ctrl_secret", authentication.controller_secret.as_ref()),
            ];
            for (key, secret) in secrets {
                let Some(secret) = secret else { continue };
                for part in [",", key, "=", secret.as_str()] {
                    line.push_str(part);
                }
                shown.push_str(&format!(",{key}=[redacted]"));
            }
        }
        Self { line, shown }
    }

    /// The line as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.line
    }
}

impl fmt::Debug for OptionLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// The address as the kernel parses and shows it: without brackets, with the interface number of a link-local one.
pub(super) fn address(portal: SocketAddr) -> String {
    match portal {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        other => other.ip().to_string(),
    }
}

/// The number of the controller that a successful connect names: `instance=N,cntlid=M`.
pub(super) fn parse_reply(reply: &str) -> Option<u32> {
    let instance = reply.trim_end().split(',').find_map(|pair| pair.strip_prefix("instance="))?;
    instance.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::super::Authentication;
    use super::super::authentication::tests::{CONTROLLER, SECRET, sealed};
    use super::*;
    use crate::device::testing::{nqn, uuid};
    use crate::device::{Nqn, NvmeIdentity};

    fn target() -> NvmeTarget {
        NvmeTarget {
            identity: NvmeIdentity { subsystem_nqn: nqn(1), uuid: Some(uuid(1)), nguid: None },
            portals: vec![],
            io_queues: None,
            queue_size: None,
            authentication: None,
        }
    }

    fn host() -> NvmeHost {
        NvmeHost { nqn: Nqn::parse("nqn.2014-08.org.nvmexpress:uuid:h").unwrap(), id: Uuid::from_u128(1) }
    }

    #[test]
    fn the_line_names_the_subsystem_first_and_t10_never_gives_the_device_up() {
        let line = OptionLine::new(&target(), &host(), "192.0.2.7:4420".parse().unwrap(), Tuning::default());
        assert_eq!(
            line.as_str(),
            "nqn=nqn.2011-06.com.truenas:uuid:0f4c:pvc-1,transport=tcp,traddr=192.0.2.7,trsvcid=4420,\
             hostnqn=nqn.2014-08.org.nvmexpress:uuid:h,hostid=00000000-0000-0000-0000-000000000001,\
             keep_alive_tmo=5,reconnect_delay=10,ctrl_loss_tmo=-1"
        );
    }

    #[test]
    fn queues_and_loss_time_appear_when_given_and_ipv6_has_no_brackets() {
        let target = NvmeTarget { io_queues: Some(4), queue_size: Some(128), ..target() };
        let tuning = Tuning { controller_loss_seconds: Some(600), ..Tuning::default() };
        let line = OptionLine::new(&target, &host(), "[2001:db8::7]:4421".parse().unwrap(), tuning);
        for part in
            ["traddr=2001:db8::7,", "trsvcid=4421,", ",nr_io_queues=4,queue_size=128,", "ctrl_loss_tmo=600"]
        {
            assert!(line.as_str().contains(part), "{part} in {line:?}");
        }
    }

    #[test]
    fn keys_are_written_for_the_kernel_under_their_own_host_and_never_shown() {
        let (key, host_id) = (tns_csi_proto::sealed::PrivateKey::generate(), Uuid::from_u128(1));
        let text = format!("{SECRET}\n{CONTROLLER}");
        let opened = Authentication::open(&key, host_id, "v", &sealed(&key, host_id, "v", &text)).unwrap();
        let own = opened.host.clone();
        let target = NvmeTarget { authentication: Some(opened), ..target() };
        let line = OptionLine::new(&target, &host(), "192.0.2.7:4420".parse().unwrap(), Tuning::default());
        let end = format!(",ctrl_loss_tmo=-1,dhchap_secret={SECRET},dhchap_ctrl_secret={CONTROLLER}");
        assert!(line.as_str().ends_with(&end));
        assert!(line.as_str().contains(&format!(",hostnqn={},hostid={},", own.nqn, own.id)));
        let shown = format!("{line:?} {target:?}");
        assert!(!shown.contains(SECRET) && !shown.contains(CONTROLLER), "{shown}");
        assert!(shown.contains("dhchap_secret=[redacted]"), "{shown}");
        assert!(line.line.len() <= line.line.capacity() && line.line.len() < 1200);
    }

    #[test]
    fn the_reply_names_the_controller() {
        assert_eq!(parse_reply("instance=3,cntlid=1\n"), Some(3));
        for bad in ["", "instance=-1,cntlid=-1", "instance=,cntlid=1", "cntlid=1", "nqn=x,instance=abc"] {
            assert_eq!(parse_reply(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_reply_is_survived(reply: String) {
            let _ = parse_reply(&reply);
        }
    }
}
