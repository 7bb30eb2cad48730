//! CreateVolume.
//!
//! The rule it keeps: the good path asks nothing first. The create call carries marker, quota and fingerprint, so no
//! unowned object can be made; any definite refusal leads to one read by exact name, and from there on nothing is
//! created before it was looked for. ZFS shows a dataset a moment before its properties, so one without a mark about
//! itself is looked at again before it is called somebody else's, and no answer is final while a create call that was
//! not answered may still have its effect.

use std::collections::BTreeMap;
use std::sync::Arc;

use tns_csi_proto::csi::v1 as csi;
use tokio::time::Instant;
use truenas::calls::{CreateKind, Dataset, DatasetCreate, EncryptionCreate, UserProperty};
use truenas::{CallError, Calls};
use uuid::Uuid;

use crate::csi::controller::delete::Strategy;
use crate::csi::controller::lookup::{Finding, Owned};
use crate::csi::controller::{ATTEMPTS, Done, Inner, deadline, until_known, wait};
use crate::observe::VolumeOperation;
use crate::protocol::appliance::Appliance;
use crate::protocol::{Export, Volume, failed, with_export};
use crate::volume::capability::{Access, Capability};
use crate::volume::capacity::{self, Range};
use crate::volume::context::{FS_TYPE_KEY, MKFS_OPTIONS_KEY};
use crate::volume::failure::{Failure, Kind};
use crate::volume::fingerprint::Fingerprint;
use crate::volume::id::VolumeId;
use crate::volume::index::Entry;
use crate::volume::metadata::{CSI_VOLUME_NAME, Metadata, NewVolume, PVC_NAME, PVC_NAMESPACE};
use crate::volume::ownership::Foreign;
use crate::volume::parameter::{Parameters, encryption, overrides};
use crate::volume::template::Values;

/// Longest CSI name in bytes (CSI 1.12, "Size Limits").
const MAX_NAME: usize = 128;
/// More time for undoing what the work's own deadline cut short.
const UNDO: std::time::Duration = std::time::Duration::from_secs(30);

/// Fields of `pool.dataset.create` that come from the class alone, so that a refusal of them is the class's fault.
const ZFS_FIELDS: [&str; 12] = [
    "compression",
    "sync",
    "deduplication",
    "copies",
    "readonly",
    "exec",
    "snapdir",
    "recordsize",
    "acltype",
    "aclmode",
    "casesensitivity",
    "encryption",
];

/// A create request, read.
#[derive(Clone, Debug)]
struct Plan {
    name: String,
    volume: Volume,
    parameters: Parameters,
    range: Range,
    capacity_bytes: u64,
    fingerprint: Fingerprint,
    comment: String,
    user_properties: Vec<UserProperty>,
    encryption: Option<EncryptionCreate>,
}

pub(super) async fn create(
    inner: &Arc<Inner>,
    request: csi::CreateVolumeRequest,
    until: Instant,
) -> Result<csi::CreateVolumeResponse, Failure> {
    let appliance = Arc::clone(inner.default_appliance()?);
    let request = overridden(inner, &appliance, request, until).await?;
    let plan = plan(inner, &appliance, &request)?;
    appliance.check_reachable()?;
    if let Err(elsewhere) = inner.options.topology.check(request.accessibility_requirements.as_ref()) {
        // Asked first, because what runs now may have ended when the dataset is read.
        let may_come = inner.may_come(&plan.volume.id);
        let elsewhere = if may_come { not_final(elsewhere) } else { elsewhere };
        // What is there already is where it is.
        inner.made_before(&appliance, &plan, until).await?.ok_or(elsewhere)?;
    }
    let key = plan.volume.id.to_string();
    let arguments = format!("{}\n{}", plan.name, plan.fingerprint.line());
    let ticket = inner.registry.alone(&key, "create", arguments, || {
        let (inner, appliance) = (Arc::clone(inner), Arc::clone(&appliance));
        async move {
            let id = plan.volume.id.clone();
            inner.counted(VolumeOperation::Create, &appliance, &id, inner.create(&appliance, &plan)).await
        }
    })?;
    match wait(ticket, &appliance, until).await? {
        Done::Created(volume) => Ok(csi::CreateVolumeResponse { volume: Some(*volume) }),
        other => Err(Failure::new(Kind::Internal, format!("create ended as {other:?}"))),
    }
}

/// The request with what its claim says in place of the class's parameters, where the class allows it. Of a volume that is
/// there already it is what the claim said then: a claim that has changed or gone since must not turn a repeated request
/// into a refusal, after which nobody would ever delete the volume.
async fn overridden(
    inner: &Inner,
    appliance: &Appliance,
    mut request: csi::CreateVolumeRequest,
    until: Instant,
) -> Result<csi::CreateVolumeRequest, Failure> {
    let Some(allowed) = overrides::allowed(&request.parameters)? else { return Ok(request) };
    // What is wrong with the class itself is said without asking anybody.
    let class = Parameters::parse(&request.parameters)?;
    let bare = plan(inner, appliance, &request)?;
    appliance.check_reachable()?;
    // Asked first, because what runs now may have ended when the dataset is read.
    let may_come = inner.may_come(&bare.volume.id);
    if let Some(made) = inner.made_before(appliance, &bare, until).await? {
        let recorded = |key: &str| made.metadata.requested_parameter(key).map(str::to_owned);
        request.parameters = overrides::repeat(request.parameters, &allowed, recorded);
        return Ok(request);
    }
    let read = from_claim(inner, request, &class, &allowed, until).await;
    read.map_err(|failure| if may_come { not_final(failure) } else { failure })
}

/// The request with what its claim says now.
async fn from_claim(
    inner: &Inner,
    mut request: csi::CreateVolumeRequest,
    class: &Parameters,
    allowed: &[&'static str],
    until: Instant,
) -> Result<csi::CreateVolumeRequest, Failure> {
    let (Some(namespace), Some(name)) = (&class.pvc_namespace, &class.pvc_name) else {
        return Err(Failure::precondition(format!(
            "parameter {} needs the claim's name, which was not sent: run external-provisioner with \
             --extra-create-metadata",
            overrides::ALLOW
        )));
    };
    let Some(kubernetes) = &inner.options.kubernetes else {
        return Err(Failure::precondition(format!(
            "parameter {} needs the Kubernetes API, and this controller does not run in a pod with a service account",
            overrides::ALLOW
        )));
    };
    let claim = kubernetes.claim(namespace, name, until).await?;
    if let (Some(uid), Some(of)) = (&claim.uid, claim_uid(&request.name))
        && *uid != of.to_string()
    {
        return Err(Failure::precondition(format!(
            "volume {} is for a claim {namespace}/{name} that is gone; the claim that has its name now is another one",
            request.name
        )));
    }
    let given = std::mem::take(&mut request.parameters);
    request.parameters = overrides::merge(given, allowed, &inner.options.driver_name, &claim.annotations)?;
    Ok(request)
}

/// The claim's uid in a name as external-provisioner gives it by default.
fn claim_uid(name: &str) -> Option<Uuid> {
    Uuid::try_parse(name.strip_prefix("pvc-")?).ok()
}

fn plan(inner: &Inner, appliance: &Appliance, request: &csi::CreateVolumeRequest) -> Result<Plan, Failure> {
    if request.name.is_empty() {
        return Err(Failure::missing("name"));
    }
    if request.name.len() > MAX_NAME || request.name.contains(char::is_control) {
        return Err(Failure::invalid(format!(
            "name has to be at most {MAX_NAME} bytes without control characters"
        )));
    }
    let capabilities = Capability::parse_all(&request.volume_capabilities)?;
    if request.volume_content_source.is_some() {
        return Err(Failure::invalid("volume_content_source: snapshots and clones are not built yet"));
    }
    if let Some(key) = request.mutable_parameters.keys().next() {
        return Err(Failure::invalid(format!("unknown mutable parameter {key:?}; there are none yet")));
    }
    let mut parameters = Parameters::parse(&request.parameters)?;
    let range = request.capacity_range.unwrap_or_default();
    let range = Range::new(range.required_bytes, range.limit_bytes)?;
    for capability in &capabilities {
        capability.check(parameters.protocol)?;
    }
    let formatted = capabilities.iter().any(|c| c.access != Access::Block);
    if parameters.protocol.is_block() && parameters.zfs.is_readonly() && formatted {
        return Err(Failure::invalid(
            "parameter zfs.readonly is \"on\": a new zvol cannot get a file system then; use volumeMode Block or leave it off",
        ));
    }
    let capacity_bytes = capacity::choose(range, parameters.zfs.granularity(parameters.protocol))?;
    let encryption = parameters.encryption.of_new(&request.secrets)?;
    let values = Values {
        pvc_name: parameters.pvc_name.as_deref(),
        pvc_namespace: parameters.pvc_namespace.as_deref(),
        pv_name: &request.name,
    };
    let comment = parameters.naming.comment(values)?;
    let user_properties = parameters.user_properties.of_new(values)?;
    let export = parameters.export.clone().rendered(values)?;
    let dataset = format!("{}/{}", parameters.placement.parent, parameters.naming.leaf(values)?);
    let id = VolumeId::for_dataset(appliance.backend.as_deref(), &dataset)?;
    let volume = inner.volume(&id, &dataset);
    let mut fingerprint = Fingerprint::of(range, &capabilities, "", &parameters);
    if let Some(encryption) = &encryption {
        fingerprint = fingerprint.with("encryption_key", encryption::source(encryption));
    }
    let name = request.name.clone();
    parameters.export = export;
    Ok(Plan {
        name,
        volume,
        parameters,
        range,
        capacity_bytes,
        fingerprint,
        comment,
        user_properties,
        encryption,
    })
}

impl Inner {
    /// The plan's volume, if an earlier request of the same name has made it.
    async fn made_before(
        &self,
        appliance: &Appliance,
        plan: &Plan,
        until: Instant,
    ) -> Result<Option<Box<Owned>>, Failure> {
        match self.find(appliance, &appliance.calls(until), &plan.volume).await? {
            Finding::Owned(owned) if owned.metadata.get(CSI_VOLUME_NAME) == Some(&plan.name) => {
                Ok(Some(owned))
            }
            _ => Ok(None),
        }
    }

    /// Whether something of a volume may come that is not there yet: a running operation's, or that of a create call
    /// which was not answered.
    fn may_come(&self, id: &VolumeId) -> bool {
        let id = id.to_string();
        self.registry.is_running(&id) || self.unanswered.is_open(&id)
    }

    async fn create(&self, appliance: &Appliance, plan: &Plan) -> Result<Done, Failure> {
        let calls = appliance.calls(deadline::of_work());
        let id = plan.volume.id.to_string();
        let outcome = with_export!(
            plan.parameters.protocol,
            E => self.make::<E>(appliance, &calls, plan).await
        );
        match outcome {
            Ok(done) => {
                self.unanswered.forget(&id);
                Ok(done)
            }
            Err(failure) if self.unanswered.is_open(&id) => Err(not_final(failure)),
            Err(failure) => Err(failure),
        }
    }

    async fn make<E: Export>(
        &self,
        appliance: &Appliance,
        calls: &Calls,
        plan: &Plan,
    ) -> Result<Done, Failure> {
        until_known(calls.deadline(), |_| E::check(appliance, calls, &plan.parameters)).await?;
        until_known(calls.deadline(), |attempt| self.attempt::<E>(appliance, calls, plan, attempt)).await
    }

    /// Removes what was made beside a dataset that is not there or not ours, for the answer that follows. It stays as
    /// long as the dataset may still come.
    async fn sweep<E: Export>(&self, calls: &Calls, volume: &Volume) -> Result<(), Failure> {
        if self.unanswered.is_open(&volume.id.to_string()) {
            return Ok(());
        }
        E::sweep(calls, volume).await.map_err(not_final)
    }

    async fn attempt<E: Export>(
        &self,
        appliance: &Appliance,
        calls: &Calls,
        plan: &Plan,
        attempt: usize,
    ) -> Result<Done, Failure> {
        let volume = &plan.volume;
        if attempt > 0 {
            return self.look_and_make::<E>(appliance, calls, plan, attempt, None).await;
        }
        let settings = &plan.parameters.export;
        let request = self.dataset::<E>(appliance, plan);
        let (made, beside) = tokio::join!(calls.dataset_create(&request), E::beside(calls, volume, settings));
        match made {
            Ok(dataset) => {
                let done = E::complete(appliance, calls, volume, settings, beside).await;
                self.finish(appliance, plan, done, Some(&dataset)).await
            }
            Err(error @ CallError::Refused(_)) => {
                let refused = refusal(plan, &error);
                self.look_and_make::<E>(appliance, calls, plan, attempt, Some(refused)).await
            }
            Err(error) => Err(self.no_answer(volume, &error)),
        }
    }

    /// The way that looks first. `refused` is the answer to a create call that did not make the dataset.
    async fn look_and_make<E: Export>(
        &self,
        appliance: &Appliance,
        calls: &Calls,
        plan: &Plan,
        attempt: usize,
        refused: Option<Failure>,
    ) -> Result<Done, Failure> {
        let (volume, settings) = (&plan.volume, &plan.parameters.export);
        match self.find(appliance, calls, volume).await? {
            Finding::Owned(owned) => {
                self.unanswered.forget(&volume.id.to_string());
                let differences = differences(plan, &owned);
                if !differences.is_empty() {
                    if owned.protocol != E::PROTOCOL {
                        // What was made beside the dataset serves nothing.
                        E::sweep(calls, volume).await.map_err(not_final)?;
                    }
                    return Err(Failure::new(
                        Kind::Conflict,
                        format!(
                            "volume {} exists and is not what is asked for: {}",
                            volume.id,
                            differences.join("; ")
                        ),
                    ));
                }
                match E::ensure(appliance, calls, volume, settings, &owned.metadata).await {
                    Ok(()) => Ok(self.created(appliance, plan, owned.capacity_bytes)),
                    // The dataset may hold data: it stays, so the answer cannot be final.
                    Err(failure) => Err(not_final(failure)),
                }
            }
            Finding::Foreign(Foreign { why, settled: false }) if attempt + 1 < ATTEMPTS => Err(Failure::new(
                Kind::OutcomeUnknown,
                format!("{why}, or is volume {:?} in the making; repeat the request", plan.name),
            )),
            Finding::Foreign(Foreign { why, .. }) => {
                self.sweep::<E>(calls, volume).await?;
                Err(Failure::new(
                    Kind::Conflict,
                    format!("{why}; it is in the way of volume {:?} and was not touched", plan.name),
                ))
            }
            Finding::Absent => {
                if let Some(refused) = refused {
                    self.sweep::<E>(calls, volume).await?;
                    return Err(refused);
                }
                let request = self.dataset::<E>(appliance, plan);
                match calls.dataset_create(&request).await {
                    Ok(dataset) => {
                        let done = E::ensure(appliance, calls, volume, settings, &Metadata::default()).await;
                        self.finish(appliance, plan, done, Some(&dataset)).await
                    }
                    Err(error @ CallError::Refused(_)) => {
                        let refused = refusal(plan, &error);
                        // An earlier call of ours may have had its effect in between.
                        match self.find(appliance, calls, volume).await? {
                            Finding::Absent => {
                                self.sweep::<E>(calls, volume).await?;
                                Err(refused)
                            }
                            _ => Err(Failure::new(Kind::OutcomeUnknown, refused.message)),
                        }
                    }
                    Err(error) => Err(self.no_answer(volume, &error)),
                }
            }
        }
    }

    /// Ends an operation that made the dataset itself: what cannot be completed is undone before a final answer.
    async fn finish(
        &self,
        appliance: &Appliance,
        plan: &Plan,
        done: Result<(), Failure>,
        dataset: Option<&Dataset>,
    ) -> Result<Done, Failure> {
        let Err(failure) = done else {
            let real = dataset.and_then(|d| d.volsize.or(d.refquota)).unwrap_or(plan.capacity_bytes);
            return Ok(self.created(appliance, plan, real));
        };
        if !failure.is_final() {
            return Err(failure);
        }
        let calls = appliance.calls(Instant::now() + UNDO);
        match self.remove(appliance, &calls, &plan.volume, Strategy::Ignored).await {
            Ok(()) => Err(failure),
            Err(undo) => {
                let words = format!("{failure}; undoing it failed too: {undo}; repeat the request");
                Err(Failure::new(Kind::Unavailable, words))
            }
        }
    }

    /// The failure of a create call without an answer.
    fn no_answer(&self, volume: &Volume, error: &CallError) -> Failure {
        if matches!(error, CallError::OutcomeUnknown { .. }) {
            self.unanswered.note(&volume.id.to_string());
        }
        failed(&format!("creating dataset {}", volume.dataset), error)
    }

    fn created(&self, appliance: &Appliance, plan: &Plan, capacity_bytes: u64) -> Done {
        let id = plan.volume.id.to_string();
        let protocol = plan.parameters.protocol;
        appliance.index.note(&id, Entry { capacity_bytes, protocol: Some(protocol) });
        let mut context = BTreeMap::from([
            ("protocol".to_owned(), protocol.name().to_owned()),
            ("server".to_owned(), plan.parameters.server.clone()),
        ]);
        if let Some(port) = plan.parameters.port {
            context.insert("port".to_owned(), port.to_string());
        }
        if let Some(fs_type) = &plan.parameters.fs_type {
            context.insert(FS_TYPE_KEY.to_owned(), fs_type.clone());
        }
        if let Some(options) = &plan.parameters.mkfs_options {
            context.insert(MKFS_OPTIONS_KEY.to_owned(), options.clone());
        }
        Done::Created(Box::new(csi::Volume {
            volume_id: id,
            capacity_bytes: capacity::to_csi(capacity_bytes),
            volume_context: context,
            accessible_topology: self.options.topology.accessible(),
            ..Default::default()
        }))
    }

    /// The create call of the volume's dataset.
    fn dataset<E: Export>(&self, appliance: &Appliance, plan: &Plan) -> DatasetCreate {
        let Plan { name, volume, parameters, capacity_bytes, fingerprint, .. } = plan;
        let new = NewVolume {
            id: &volume.id,
            csi_name: name,
            cluster_id: self.cluster_id(),
            protocol: E::PROTOCOL,
            capacity_bytes: *capacity_bytes,
            delete_strategy: parameters.delete_strategy,
            pvc_name: parameters.pvc_name.as_deref(),
            pvc_namespace: parameters.pvc_namespace.as_deref(),
            stable_keys: &E::stable_keys(appliance, volume),
            fingerprint: fingerprint.properties(),
        };
        let (kind, zfs) = parameters.zfs.of_new(E::PROTOCOL, *capacity_bytes);
        let properties = new.properties(jiff::Timestamp::now());
        let mut create = match kind {
            CreateKind::Volume(fields) => DatasetCreate::volume(&volume.dataset, fields),
            CreateKind::Filesystem(fields) => DatasetCreate::filesystem(&volume.dataset, fields),
        };
        create.comments = Some(plan.comment.clone());
        create.properties = zfs;
        create.encryption.clone_from(&plan.encryption);
        create.user_properties =
            properties.into_iter().map(|(key, value)| UserProperty::new(key, value)).collect();
        create.user_properties.extend(plan.user_properties.iter().cloned());
        create
    }
}

/// In what a volume that exists differs from the plan.
fn differences(plan: &Plan, owned: &Owned) -> Vec<String> {
    let mut differences = plan.fingerprint.differences(&owned.metadata, plan.range, owned.capacity_bytes);
    // tns-csi records the dataset's leaf as the name, which tells nothing where claims give the leaf.
    if let Some(name) = owned.metadata.get(CSI_VOLUME_NAME)
        && name != plan.name
        && (!owned.unstamped || plan.parameters.naming.is_template())
    {
        differences.push(format!("it was made for the name {name:?}, asked is {:?}", plan.name));
    }
    let claim = [(PVC_NAME, &plan.parameters.pvc_name), (PVC_NAMESPACE, &plan.parameters.pvc_namespace)];
    for (key, asked) in claim {
        if let (Some(kept), Some(asked)) = (owned.metadata.get(key), asked)
            && kept != asked
        {
            differences.push(format!("{key} is {kept:?}, asked is {asked:?}"));
        }
    }
    differences
}

/// The failure for a dataset that could not be made and is not there.
fn refusal(plan: &Plan, error: &CallError) -> Failure {
    let failure = failed(&format!("creating dataset {}", plan.volume.dataset), error);
    match error.refused() {
        Some(refused) if refused.is_parent_missing() => Failure::invalid(format!(
            "dataset {} does not exist on the appliance; create it, or correct pool and parentDataset",
            plan.parameters.placement.parent
        )),
        Some(refused) if refused.mentions("algorithm") => Failure::invalid(format!(
            "{failure}; this version of TrueNAS has no choice of encryptionAlgorithm: leave it out for AES-256-GCM"
        )),
        Some(refused) if refused.mentions("volblocksize") => Failure::invalid(format!(
            "{failure}; zfs.volblocksize does not suit the pool (dRAID takes 32K and more)"
        )),
        Some(refused) if ZFS_FIELDS.iter().any(|field| refused.mentions(field)) => {
            Failure::invalid(failure.message)
        }
        _ => failure,
    }
}

/// A failure that leaves something half done must not be final.
fn not_final(failure: Failure) -> Failure {
    if failure.is_final() { Failure { kind: Kind::Unavailable, ..failure } } else { failure }
}
