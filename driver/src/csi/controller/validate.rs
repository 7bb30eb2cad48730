//! ValidateVolumeCapabilities.

use std::sync::Arc;

use tns_csi_proto::csi::v1 as csi;
use tokio::time::Instant;

use crate::csi::controller::Inner;
use crate::volume::capability::Capability;
use crate::volume::failure::Failure;

pub(super) async fn validate(
    inner: &Arc<Inner>,
    request: csi::ValidateVolumeCapabilitiesRequest,
    until: Instant,
) -> Result<csi::ValidateVolumeCapabilitiesResponse, Failure> {
    if request.volume_id.is_empty() {
        return Err(Failure::missing("volume_id"));
    }
    let capabilities = Capability::parse_all(&request.volume_capabilities)?;
    let unknown = || Failure::volume_not_found(&request.volume_id);
    let (appliance, id) = inner.locate(&request.volume_id).ok_or_else(unknown)?;
    appliance.check_reachable()?;
    let calls = appliance.calls(until);
    let volume = inner.resolve(&calls, &id).await?.ok_or_else(unknown)?;
    let owned = inner.find(appliance, &calls, &volume).await?.owned(&id)?;
    let impossible = capabilities.iter().find_map(|capability| capability.check(owned.protocol).err());
    Ok(match impossible {
        // Not an error: the answer to the question is no.
        Some(why) => csi::ValidateVolumeCapabilitiesResponse { confirmed: None, message: why.message },
        None => csi::ValidateVolumeCapabilitiesResponse {
            confirmed: Some(csi::validate_volume_capabilities_response::Confirmed {
                volume_context: request.volume_context,
                volume_capabilities: request.volume_capabilities,
                parameters: request.parameters,
                mutable_parameters: request.mutable_parameters,
            }),
            message: String::new(),
        },
    })
}
