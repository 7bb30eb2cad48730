//! The orchestrator's side of a controller: what provisioner, attacher and resizer ask for.

use std::collections::BTreeMap;

use tns_csi_proto::csi::v1::controller_client::ControllerClient;
use tns_csi_proto::csi::v1::volume_capability::access_mode::Mode;
use tns_csi_proto::csi::v1::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use tns_csi_proto::csi::v1::{
    CapacityRange, ControllerExpandVolumeRequest, ControllerExpandVolumeResponse,
    ControllerPublishVolumeRequest, ControllerUnpublishVolumeRequest, CreateVolumeRequest,
    DeleteVolumeRequest, VolumeCapability,
};
use tonic::Status;
use tonic::transport::Channel;

/// One GiB in bytes.
pub const GIB: i64 = 1 << 30;

/// What a StorageClass and a claim ask for.
#[derive(Clone, Debug)]
pub struct Class {
    /// Parameters of the StorageClass.
    pub parameters: BTreeMap<String, String>,
    /// How the volume is accessed.
    pub capability: VolumeCapability,
    /// What the Secrets that the class names hold: kubelet and sidecars send it along.
    pub secrets: BTreeMap<String, String>,
}

impl Class {
    /// A class with a mounted file system; an empty `fs_type` leaves the choice to the driver.
    #[must_use]
    pub fn mount(protocol: &str, fs_type: &str, mode: Mode) -> Self {
        let mount = MountVolume { fs_type: fs_type.to_owned(), ..MountVolume::default() };
        Self::new(protocol, AccessType::Mount(mount), mode)
    }

    /// A class with a raw block device.
    #[must_use]
    pub fn block(protocol: &str, mode: Mode) -> Self {
        Self::new(protocol, AccessType::Block(BlockVolume {}), mode)
    }

    fn new(protocol: &str, access: AccessType, mode: Mode) -> Self {
        Self {
            parameters: [("protocol".to_owned(), protocol.to_owned())].into(),
            capability: VolumeCapability {
                access_mode: Some(AccessMode { mode: mode.into() }),
                access_type: Some(access),
            },
            secrets: BTreeMap::new(),
        }
    }

    /// The same class with one more parameter.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.parameters.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The same class with one more key in its Secret.
    #[must_use]
    pub fn with_secret(mut self, key: &str, value: &str) -> Self {
        self.secrets.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The same class for a pod with this `fsGroup`.
    #[must_use]
    pub fn for_group(mut self, group: &str) -> Self {
        if let Some(AccessType::Mount(mount)) = &mut self.capability.access_type {
            group.clone_into(&mut mount.volume_mount_group);
        }
        self
    }

    /// Adds a mount option to a mounted file system.
    pub fn add_mount_flag(&mut self, flag: &str) {
        if let Some(AccessType::Mount(mount)) = &mut self.capability.access_type {
            mount.mount_flags.push(flag.to_owned());
        }
    }

    /// Its protocol, as its parameter says.
    #[must_use]
    pub fn protocol(&self) -> &str {
        self.parameters.get("protocol").map(String::as_str).unwrap_or_default()
    }

    /// Whether it is a raw block device.
    #[must_use]
    pub fn is_block(&self) -> bool {
        matches!(self.capability.access_type, Some(AccessType::Block(_)))
    }
}

/// A volume as the orchestrator remembers it.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Name of the PersistentVolume.
    pub name: String,
    /// The driver's id.
    pub id: String,
    /// Class it was made of.
    pub class: Class,
    /// Size in bytes.
    pub capacity: i64,
    /// What the driver wants to see again at the node.
    pub context: BTreeMap<String, String>,
    /// What the last attach gave.
    pub publish_context: BTreeMap<String, String>,
}

/// The sidecars of one controller.
#[derive(Clone, Debug)]
pub struct Orchestrator {
    controller: ControllerClient<Channel>,
}

impl Orchestrator {
    /// The sidecars of this controller.
    #[must_use]
    pub fn new(controller: ControllerClient<Channel>) -> Self {
        Self { controller }
    }

    /// The controller itself, for calls that this side does not wrap.
    #[must_use]
    pub fn controller(&self) -> ControllerClient<Channel> {
        self.controller.clone()
    }

    /// CreateVolume of at least `bytes` bytes.
    ///
    /// # Errors
    /// The driver's, and INTERNAL for an answer without a volume.
    pub async fn create(&self, name: &str, class: &Class, bytes: i64) -> Result<Volume, Status> {
        let request = create_request(name, class, bytes);
        let response = self.controller.clone().create_volume(request).await?.into_inner();
        let volume =
            response.volume.ok_or_else(|| Status::internal("CreateVolume answered without a volume"))?;
        Ok(Volume {
            name: name.to_owned(),
            id: volume.volume_id,
            class: class.clone(),
            capacity: volume.capacity_bytes,
            context: volume.volume_context,
            publish_context: BTreeMap::new(),
        })
    }

    /// ControllerPublishVolume to a node by its id; gives the publish context.
    ///
    /// # Errors
    /// The driver's.
    pub async fn attach(&self, volume: &Volume, node_id: &str) -> Result<BTreeMap<String, String>, Status> {
        let request = ControllerPublishVolumeRequest {
            volume_id: volume.id.clone(),
            node_id: node_id.to_owned(),
            volume_capability: Some(volume.class.capability.clone()),
            volume_context: volume.context.clone(),
            secrets: volume.class.secrets.clone(),
            ..ControllerPublishVolumeRequest::default()
        };
        let response = self.controller.clone().controller_publish_volume(request).await?;
        Ok(response.into_inner().publish_context)
    }

    /// ControllerUnpublishVolume from a node by its id.
    ///
    /// # Errors
    /// The driver's.
    pub async fn detach(&self, volume: &Volume, node_id: &str) -> Result<(), Status> {
        let request = ControllerUnpublishVolumeRequest {
            volume_id: volume.id.clone(),
            node_id: node_id.to_owned(),
            secrets: volume.class.secrets.clone(),
        };
        self.controller.clone().controller_unpublish_volume(request).await.map(drop)
    }

    /// ControllerExpandVolume to at least `bytes` bytes.
    ///
    /// # Errors
    /// The driver's.
    pub async fn expand(
        &self,
        volume: &Volume,
        bytes: i64,
    ) -> Result<ControllerExpandVolumeResponse, Status> {
        let request = ControllerExpandVolumeRequest {
            volume_id: volume.id.clone(),
            capacity_range: Some(CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
            volume_capability: Some(volume.class.capability.clone()),
            ..ControllerExpandVolumeRequest::default()
        };
        Ok(self.controller.clone().controller_expand_volume(request).await?.into_inner())
    }

    /// DeleteVolume.
    ///
    /// # Errors
    /// The driver's.
    pub async fn delete(&self, volume: &Volume) -> Result<(), Status> {
        let request = DeleteVolumeRequest { volume_id: volume.id.clone(), ..DeleteVolumeRequest::default() };
        self.controller.clone().delete_volume(request).await.map(drop)
    }
}

/// The request that the provisioner sends.
fn create_request(name: &str, class: &Class, bytes: i64) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: Some(CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
        volume_capabilities: vec![class.capability.clone()],
        parameters: class.parameters.clone(),
        secrets: class.secrets.clone(),
        ..CreateVolumeRequest::default()
    }
}
