//! Typed calls, one file per API namespace; requests and answers hold only the fields the driver uses.
//!
//! Unknown fields of answers are ignored, because versions differ. Shapes: TrueNAS API 25.10.

mod dataset;
mod dataset_create;
mod filesystem;
mod iscsi;
mod nfs;
mod nvmet;
mod pool;
mod query;
mod smb;
mod snapshot;
mod system;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::client::Client;
use crate::dialect::{Feature, Features, require};
use crate::error::CallError;
use crate::lane::Lane;
use crate::{exchange, jobs};

pub use dataset::{Dataset, DatasetKind, DatasetUpdate, ListedDataset, PropertyChange, user_property_path};
pub use dataset_create::{
    CreateKind, DatasetCreate, DatasetProperties, EncryptionCreate, EncryptionKey, FilesystemCreate,
    ShareType, UserProperty, VolumeCreate,
};
pub use filesystem::{Account, Permissions, Stat};
pub use iscsi::{
    IscsiAuth, IscsiAuthMethod, IscsiAuthWrite, IscsiExtent, IscsiExtentCreate, IscsiExtentKind,
    IscsiGlobalConfig, IscsiGroup, IscsiInitiator, IscsiListen, IscsiPortal, IscsiSession, IscsiTarget,
    IscsiTargetExtent,
};
pub use nfs::{NfsSecurity, NfsShare, NfsShareCreate, NfsShareUpdate};
pub use nvmet::{
    DhChapKeys, NvmetGlobalConfig, NvmetHost, NvmetHostSubsys, NvmetNamespace, NvmetPort, NvmetPortCreate,
    NvmetPortSubsys, NvmetSession, NvmetSubsys, NvmetTransport,
};
pub use pool::Pool;
pub use query::{Filter, Query};
pub use smb::{SmbPurpose, SmbSettings, SmbShare, SmbShareCreate, SmbShareUpdate};
pub use snapshot::Snapshot;
pub use system::{Service, ServiceState, SystemInfo};

/// Parameters of a method that takes none.
pub(crate) const NO_PARAMS: [(); 0] = [];

/// A handle for calls of one operation: which lane they use and until when. Cheap to make and to clone.
///
/// Each call waits for a slot of its lane and for the connection, both bounded by the deadline. No call is repeated,
/// except after "too many concurrent calls", which did nothing. Dropping a call's future before it was sent withdraws
/// it; later it goes on at the appliance, and its slot stays taken until the answer (at most two minutes past the
/// deadline).
#[derive(Clone, Debug)]
pub struct Calls {
    pub(crate) client: Client,
    pub(crate) lane: Lane,
    pub(crate) deadline: Instant,
}

impl Calls {
    /// Calls any method: `params` is the positional list (a tuple, array or slice), `R` the result.
    ///
    /// # Errors
    /// [`CallError`]; an answer that does not fit `R` is `OutcomeUnknown`.
    pub async fn call<P, R>(&self, method: &'static str, params: &P) -> Result<R, CallError>
    where
        P: Serialize + Sync + ?Sized,
        R: DeserializeOwned,
    {
        exchange::call(self, method, params).await
    }

    /// Calls a job method and waits for the job's end: by event, and by one look at the job after each (re)connection.
    /// Waiting takes no slot.
    ///
    /// # Errors
    /// [`CallError`]; a failed job is `Refused`, an aborted or forgotten one, or a passed deadline, `OutcomeUnknown`.
    pub async fn job<P, R>(&self, method: &'static str, params: &P) -> Result<R, CallError>
    where
        P: Serialize + Sync + ?Sized,
        R: DeserializeOwned,
    {
        jobs::run(self, method, params).await
    }

    /// What the appliance can do; waits for the connection, and sends nothing.
    ///
    /// # Errors
    /// [`CallError::NotSent`] when there is no connection before the deadline.
    pub async fn features(&self) -> Result<Features, CallError> {
        exchange::session(self, "system.version").await.map(|session| session.features)
    }

    /// Checks that the appliance has NVMe-oF targets (TrueNAS 25.10 and later).
    ///
    /// # Errors
    /// [`CallError::NotSent`] with [`NotSent::Unsupported`](crate::NotSent::Unsupported) when it has none, or without
    /// connection before the deadline.
    pub async fn require_nvmeof(&self) -> Result<(), CallError> {
        const METHOD: &str = "nvmet";
        let session = exchange::session(self, METHOD).await?;
        require(&session.version, Feature::Nvmeof)
            .map_err(|e| CallError::NotSent { method: METHOD, why: e.into() })
    }

    /// The deadline of every call of this handle.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The same with another deadline.
    #[must_use]
    pub fn until(&self, deadline: Instant) -> Self {
        Self { deadline, ..self.clone() }
    }
}
