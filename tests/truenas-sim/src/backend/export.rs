//! The values that describe exports: what the file servers and the block targets shall serve.

use std::net::{IpAddr, SocketAddr};

/// One enabled NFS share whose dataset is there (`sharing.nfs` row, reduced to what the server needs).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NfsExport {
    /// Row id; a stable `fsid` may be derived from it.
    pub id: i64,
    /// Absolute path below `/mnt`.
    pub path: String,
    /// Read-only export.
    pub read_only: bool,
    /// Host names or addresses. Empty together with `networks`: everyone.
    pub hosts: Vec<String>,
    /// Networks in CIDR notation.
    pub networks: Vec<String>,
    /// `maproot_user`, `maproot_group`: `no_root_squash` only when both name uid and gid 0.
    pub maproot: (Option<String>, Option<String>),
    /// `mapall_user`, `mapall_group`: `all_squash` with these ids.
    pub mapall: (Option<String>, Option<String>),
    /// Security flavours; empty: the server's default (`sys`).
    pub security: Vec<NfsSecurity>,
}

/// Security flavour of an NFS export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NfsSecurity {
    /// `sys`
    Sys,
    /// `krb5`
    Krb5,
    /// `krb5i`
    Krb5i,
    /// `krb5p`
    Krb5p,
}

/// One enabled SMB share whose dataset is there (`sharing.smb` row, reduced to what the server needs).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmbShare {
    /// Row id.
    pub id: i64,
    /// Name that clients ask for; unique without regard to case.
    pub name: String,
    /// Absolute path below `/mnt`.
    pub path: String,
    /// Shown beside the name.
    pub comment: String,
    /// Read-only share.
    pub read_only: bool,
    /// Listed to clients that browse.
    pub browsable: bool,
    /// Listed only to those who may read it.
    pub access_based: bool,
    /// Hosts that may connect (`hosts allow`): addresses, networks, names. Empty: everyone.
    pub hosts_allow: Vec<String>,
    /// Hosts that may not (`hosts deny`); `ALL` is everyone not allowed.
    pub hosts_deny: Vec<String>,
    /// Without a password (`guest ok`, only LEGACY_SHARE).
    pub guest_ok: bool,
    /// `auxsmbconf`: lines of Samba's configuration (only LEGACY_SHARE).
    pub auxiliary: String,
}

/// The whole NVMe target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NvmetTarget {
    /// Service state; false: nothing is served and nothing shall be left in configfs.
    pub running: bool,
    /// Host definitions (`nvmet/hosts`).
    pub hosts: Vec<NvmetHost>,
    /// Subsystems with namespaces and allowed hosts.
    pub subsystems: Vec<NvmetSubsystem>,
    /// Ports with the subsystems linked to them.
    pub ports: Vec<NvmetPort>,
}

/// An NVMe host definition. The keys are secrets: `Debug` leaves them out.
#[derive(Clone, PartialEq, Eq)]
pub struct NvmetHost {
    /// Host NQN.
    pub nqn: String,
    /// `DHHC-1:` key by which the host proves itself.
    pub dhchap_key: Option<String>,
    /// `DHHC-1:` key by which the controller proves itself.
    pub dhchap_ctrl_key: Option<String>,
    /// Diffie-Hellman group, e.g. `2048-BIT`.
    pub dhchap_dhgroup: Option<String>,
    /// `SHA-256`, `SHA-384` or `SHA-512`.
    pub dhchap_hash: String,
}

impl std::fmt::Debug for NvmetHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NvmetHost")
            .field("nqn", &self.nqn)
            .field("dhchap_key", &self.dhchap_key.as_ref().map(|_| "(redacted)"))
            .field("dhchap_ctrl_key", &self.dhchap_ctrl_key.as_ref().map(|_| "(redacted)"))
            .field("dhchap_dhgroup", &self.dhchap_dhgroup)
            .field("dhchap_hash", &self.dhchap_hash)
            .finish()
    }
}

/// One NVMe subsystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmetSubsystem {
    /// Subsystem NQN.
    pub nqn: String,
    /// `attr_serial`.
    pub serial: String,
    /// `attr_allow_any_host`.
    pub allow_any_host: bool,
    /// `attr_qid_max`, when set.
    pub qid_max: Option<i64>,
    /// `attr_ieee_oui`, when set.
    pub ieee_oui: Option<String>,
    /// Namespaces; a disabled one exists with `enable` 0.
    pub namespaces: Vec<NvmetNamespace>,
    /// Host NQNs linked in `allowed_hosts`.
    pub allowed_hosts: Vec<String>,
}

/// One namespace of a subsystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmetNamespace {
    /// Namespace id, 1 to 4294967294.
    pub nsid: u32,
    /// What lies behind it.
    pub device: NvmetDevice,
    /// `device_uuid`, hyphenated.
    pub uuid: String,
    /// `device_nguid`, in the form configfs takes.
    pub nguid: String,
    /// `enable`.
    pub enabled: bool,
}

/// What a namespace is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NvmetDevice {
    /// A zvol by dataset name; the device is `/dev/zvol/<name>`.
    Zvol(String),
    /// A file by absolute path below `/mnt`.
    File(String),
}

/// One port of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmetPort {
    /// Number of its directory in configfs (the row's `index`).
    pub index: i64,
    /// `tcp` or `rdma`.
    pub transport: String,
    /// Address listened at.
    pub address: IpAddr,
    /// Port number.
    pub service_id: u16,
    /// NQNs of the subsystems linked to it. Without any the port does not listen, as the kernel has it ...
    pub subsystems: Vec<String>,
    /// ... except with this set: it shall listen and refuse every subsystem (a stage of the appliance's boot; a
    /// kernel target links a placeholder subsystem for it).
    pub answers_alone: bool,
}

/// A connected controller (`nvmet.global.sessions`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmetSession {
    /// Host NQN.
    pub host_nqn: String,
    /// Host's address.
    pub host_address: String,
    /// Subsystem NQN.
    pub subsystem_nqn: String,
    /// Port index.
    pub port_index: i64,
    /// Controller id.
    pub controller: i64,
}

/// The whole iSCSI target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IscsiTarget {
    /// Service state; false: nothing is served.
    pub running: bool,
    /// Targets that have logical units and groups.
    pub targets: Vec<IscsiTargetEntry>,
}

/// One target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IscsiTargetEntry {
    /// Target name.
    pub iqn: String,
    /// Who is admitted at which portals.
    pub groups: Vec<IscsiGroup>,
    /// Logical units.
    pub units: Vec<IscsiUnit>,
}

/// Portals and whom they admit to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IscsiGroup {
    /// Addresses listened at.
    pub portals: Vec<SocketAddr>,
    /// Initiator names; empty: every initiator.
    pub initiators: Vec<String>,
    /// CHAP, when the group asks for it.
    pub auth: Option<IscsiChap>,
}

/// CHAP credentials. They are secrets: `Debug` leaves them out.
#[derive(Clone, PartialEq, Eq)]
pub struct IscsiChap {
    /// User that the initiator presents.
    pub user: String,
    /// Its secret.
    pub secret: String,
    /// User and secret that the target presents (mutual CHAP).
    pub peer: Option<(String, String)>,
}

impl std::fmt::Debug for IscsiChap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IscsiChap")
            .field("user", &self.user)
            .field("secret", &"(redacted)")
            .field("peer", &self.peer.as_ref().map(|(user, _)| user))
            .finish()
    }
}

/// One logical unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IscsiUnit {
    /// Number.
    pub lun: u16,
    /// Name of the extent.
    pub name: String,
    /// The zvol behind it, by dataset name.
    pub zvol: String,
    /// Unit serial number (VPD page 0x80).
    pub serial: String,
    /// It refuses writes.
    pub read_only: bool,
}

/// A logged-in initiator (`iscsi.global.sessions`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IscsiSession {
    /// Initiator name.
    pub initiator: String,
    /// Its address.
    pub address: String,
    /// Target name.
    pub target: String,
}
