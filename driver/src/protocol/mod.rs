//! What each protocol needs on the appliance, behind one trait.
//!
//! A volume is a dataset or zvol, which the controller handles alike for every protocol, and its *export*: the objects
//! through which a protocol serves it (an NFS share; an NVMe-oF subsystem with its namespace and links). [`Export`] is
//! everything the controller asks of a protocol. The rules its implementations keep:
//!
//! * A new export names nobody, because an empty list means everyone; so does an export from which the last node went.
//! * Objects of the appliance other than datasets carry no marker of ours: one is ours only if derived (or recorded)
//!   name *and* path agree.
//! * No call that may have had an effect is repeated blindly: an unknown outcome is [`Kind::OutcomeUnknown`], and the
//!   whole operation then begins again with reading.
//!
//! [`Kind::OutcomeUnknown`]: crate::volume::failure::Kind::OutcomeUnknown

pub mod appliance;
mod call;
mod device;
mod health;
mod hosts;
pub mod iscsi;
pub mod nfs;
pub mod nvmeof;
mod share;
pub mod smb;

use std::collections::BTreeMap;
use std::future::Future;

use tns_csi_proto::identity;
use truenas::Calls;
use uuid::Uuid;

use crate::protocol::appliance::Appliance;
pub use crate::protocol::call::{Answer, failed};
use crate::volume::chap::Chap;
use crate::volume::context::Connection;
use crate::volume::failure::Failure;
use crate::volume::health::Entry;
use crate::volume::id::VolumeId;
use crate::volume::metadata::{Metadata, NodeRecord, node_property, sealed_property};
use crate::volume::name;
use crate::volume::node_id::NodeId;
use crate::volume::parameter::Parameters;
use crate::volume::parameter::export::ExportSettings;
use crate::volume::protocol::Protocol;

/// A volume's names on the appliance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
    /// Its dataset or zvol.
    pub dataset: String,
    /// Its name among objects that are global on the appliance.
    pub global: String,
}

impl Volume {
    /// The names of volume `id` that lives at `dataset`.
    #[must_use]
    pub fn new(id: &VolumeId, dataset: &str, cluster_id: Option<&str>) -> Self {
        Volume { id: id.clone(), dataset: dataset.to_owned(), global: name::global(cluster_id, id) }
    }

    /// Where the appliance mounts the dataset.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/mnt/{}", self.dataset)
    }
}

/// What hangs on a volume, as far as deleting it is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// Ids of our objects that the appliance does not remove together with the dataset.
    pub ours: Vec<i64>,
    /// Objects that are not ours and that deleting the dataset would tear down, in words.
    pub foreign: Vec<String>,
    /// The same as `ours` for a protocol with objects of several kinds: the kind's namespace in the API, and the id.
    pub rows: Vec<(&'static str, i64)>,
}

/// Says whose the objects are that hang on a volume, given its metadata (none: the dataset does not exist).
pub type Judge = Box<dyn FnOnce(&Volume, Option<&Metadata>) -> Attached + Send>;

/// A node to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grantee {
    /// What will be recorded.
    pub record: NodeRecord,
    /// The same grant is recorded already: this is a repetition.
    pub repeated: bool,
}

/// Who loses access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// These, as recorded and as they present themselves; the nodes in `remaining` keep access.
    Nodes {
        /// Identities that lose access.
        leaving: Vec<NodeRecord>,
        /// Identities that keep it.
        remaining: Vec<NodeRecord>,
    },
    /// Everyone: the export names nobody afterwards.
    Everyone,
}

impl Endpoint {
    /// The endpoint that the class named when the volume was made, as recorded on it.
    #[must_use]
    pub fn recorded(metadata: &Metadata) -> Option<Self> {
        let server = metadata.requested_parameter("server")?.to_owned();
        let port = metadata.requested_parameter("port").and_then(|port| port.parse().ok());
        Some(Endpoint { server, port })
    }
}

/// Where a volume is served, for the publish context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The appliance's data address.
    pub server: String,
    /// TCP port; none is the protocol's own.
    pub port: Option<u16>,
}

impl Endpoint {
    /// The port, or the protocol's own.
    #[must_use]
    pub fn port_or_default(&self, protocol: Protocol) -> u16 {
        self.port.unwrap_or_else(|| protocol.default_port())
    }
}

/// What the controller asks of a protocol. Every method may be repeated after [`OutcomeUnknown`], and every one that
/// changes something first knows (from its arguments or by reading) what is there.
///
/// [`OutcomeUnknown`]: crate::volume::failure::Kind::OutcomeUnknown
pub trait Export {
    /// What is there of one volume's export.
    type Found: Send + Sync;
    /// What is made beside the dataset, before it is known to exist.
    type Beside: Send + Sync;

    /// The protocol.
    const PROTOCOL: Protocol;

    /// Stable keys of a new volume's export (path, NQN) as properties of its dataset.
    fn stable_keys(appliance: &Appliance, volume: &Volume) -> Vec<(&'static str, String)>;

    /// Checks, before any effect, that the appliance can serve what the class asks for. Uses static facts.
    fn check(
        appliance: &Appliance,
        calls: &Calls,
        parameters: &Parameters,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Makes what does not need the dataset, while that is being made. Errors do not matter yet: [`Export::complete`]
    /// gets none then, and looks.
    fn beside(
        calls: &Calls,
        volume: &Volume,
        settings: &ExportSettings,
    ) -> impl Future<Output = Option<Self::Beside>> + Send;

    /// Makes the rest on a dataset that this very operation has made; `beside` is none when it is unknown whether that
    /// part exists.
    fn complete(
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
        settings: &ExportSettings,
        beside: Option<Self::Beside>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Makes what is missing on a dataset that is ours, looking for each object first.
    fn ensure(
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
        settings: &ExportSettings,
        metadata: &Metadata,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Removes our objects by derived name where there is no dataset of ours with this protocol; touches nothing that
    /// serves another path.
    fn sweep(calls: &Calls, volume: &Volume) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Reads what hangs on the volume, for its deletion. Whose it is can be said when the dataset has been read, which
    /// happens at the same time.
    fn attached(
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
    ) -> impl Future<Output = Result<Judge, Failure>> + Send;

    /// Removes our objects that the appliance left behind when it deleted the dataset.
    fn clear(
        calls: &Calls,
        volume: &Volume,
        attached: &Attached,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Reads the export for granting access to `grantees`.
    fn find(
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
        hosts: &[NodeIdentity],
    ) -> impl Future<Output = Result<Self::Found, Failure>> + Send;

    /// Prepares granting: checks that the volume can be served at the endpoint and makes what is missing of the export
    /// and of the nodes' identities. Gives back what was found, with that.
    fn prepare(
        context: &Granting<'_>,
        metadata: &Metadata,
        found: Self::Found,
        hosts: &[NodeIdentity],
    ) -> impl Future<Output = Result<Self::Found, Failure>> + Send;

    /// Lets nodes in; `present` are those that have access already.
    fn grant(
        context: &Granting<'_>,
        found: &Self::Found,
        grantees: &[Grantee],
        present: &[NodeRecord],
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Makes sure that all of `recorded` are let in, after another controller process was seen to write too.
    fn reconcile(
        calls: &Calls,
        volume: &Volume,
        recorded: &[NodeRecord],
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// What has to be recorded on the dataset beside the grants, as properties.
    fn records(_found: &Self::Found) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// How `node` reaches the volume.
    ///
    /// # Errors
    /// What the export lacks.
    fn connection(
        context: &Granting<'_>,
        found: &Self::Found,
        node: &NodeIdentity,
        content: Content,
    ) -> Result<Connection, Failure>;

    /// What is there to be revoked.
    type Access: Send + Sync;

    /// Reads who has access.
    fn access(calls: &Calls, volume: &Volume) -> impl Future<Output = Result<Self::Access, Failure>> + Send;

    /// Takes access back and ends what runs of it.
    fn revoke(
        appliance: &Appliance,
        calls: &Calls,
        volume: &Volume,
        metadata: Option<&Metadata>,
        access: Self::Access,
        revocation: &Revocation,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// What the appliance serves over this protocol.
    type Served: Send + Sync;

    /// Reads what the appliance serves: of one volume, or of all, with one query for each kind of object.
    fn served(
        calls: &Calls,
        of: Option<(&Volume, &Metadata)>,
    ) -> impl Future<Output = Result<Self::Served, Failure>> + Send;

    /// What is wrong with the export of a volume whose dataset is there, and what to know of it.
    fn health(served: &Self::Served, volume: &Volume, metadata: &Metadata) -> Vec<Entry>;
}

/// A node as the appliance will see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// Its host UUID.
    pub host: Uuid,
    /// X25519 key of its helper, to which secrets are sealed.
    pub public_key: Option<[u8; 32]>,
    /// Property of the dataset that holds what is sealed to it.
    pub sealed_property: String,
    /// Its NVMe host NQN.
    pub host_nqn: String,
    /// Its iSCSI initiator name.
    pub initiator: String,
}

impl NodeIdentity {
    /// The names that derive from a node's id.
    #[must_use]
    pub fn of(node: &NodeId) -> Self {
        NodeIdentity {
            host: node.host,
            public_key: node.public_key,
            sealed_property: sealed_property(&node_property(node)),
            host_nqn: identity::host_nqn(&node.host),
            initiator: identity::initiator_name(&node.host),
        }
    }
}

/// What a node must know of a block volume's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Size in bytes.
    pub capacity_bytes: u64,
    /// It came from elsewhere: never format it.
    pub never_format: bool,
}

/// What granting needs beside the export itself.
pub struct Granting<'a> {
    /// The appliance, for its static facts.
    pub appliance: &'a Appliance,
    /// Calls of the fence lane.
    pub calls: &'a Calls,
    /// The volume.
    pub volume: &'a Volume,
    /// Where the volume is to be served.
    pub endpoint: &'a Endpoint,
    /// How it was asked to be exported.
    pub settings: &'a ExportSettings,
    /// CHAP credentials in the secrets of the call.
    pub chap: Option<&'a Chap>,
}

/// Runs `$body` with `$export` standing for the protocol's implementation of [`Export`]. The one place where a protocol
/// is turned into its code.
macro_rules! with_export {
    ($protocol:expr, $export:ident => $body:expr) => {
        match $protocol {
            $crate::volume::protocol::Protocol::Nfs => {
                type $export = $crate::protocol::nfs::Nfs;
                $body
            }
            $crate::volume::protocol::Protocol::Smb => {
                type $export = $crate::protocol::smb::Smb;
                $body
            }
            $crate::volume::protocol::Protocol::Iscsi => {
                type $export = $crate::protocol::iscsi::Iscsi;
                $body
            }
            $crate::volume::protocol::Protocol::Nvmeof => {
                type $export = $crate::protocol::nvmeof::Nvmeof;
                $body
            }
        }
    };
}
pub(crate) use with_export;
