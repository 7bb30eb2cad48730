//! GetCapacity.
//!
//! The rule it keeps: what the parent dataset can still take, because quotas and reservations above count; a place that
//! does not exist has no room, which is an answer and not an error (an error makes pods unschedulable).

use std::sync::Arc;

use tns_csi_proto::csi::v1 as csi;
use tokio::time::Instant;

use crate::csi::controller::Inner;
use crate::protocol::Answer as _;
use crate::volume::capability::Capability;
use crate::volume::capacity;
use crate::volume::failure::Failure;
use crate::volume::parameter::Parameters;
use crate::volume::protocol::Protocol;

pub(super) async fn get(
    inner: &Arc<Inner>,
    request: csi::GetCapacityRequest,
    until: Instant,
) -> Result<csi::GetCapacityResponse, Failure> {
    let placement = Parameters::parse_placement(&request.parameters)?;
    let made = Parameters::parse_zfs(&request.parameters)?;
    let protocol: Option<Protocol> = made.as_ref().map(|(protocol, _)| *protocol);
    for (n, capability) in request.volume_capabilities.iter().enumerate() {
        let capability = Capability::parse(&format!("volume_capabilities[{n}]"), capability)?;
        if let Some(protocol) = protocol
            && capability.check(protocol).is_err()
        {
            return Ok(csi::GetCapacityResponse::default());
        }
    }
    if request.accessible_topology.as_ref().is_some_and(|place| !inner.options.topology.reaches(place)) {
        return Ok(csi::GetCapacityResponse::default());
    }
    let appliance = inner.default_appliance()?;
    appliance.check_reachable()?;
    let calls = appliance.calls(until);
    let places = match placement {
        Some(placement) => vec![placement.parent],
        None => {
            let pools = calls.pools_query(&[]).await.or_failed("reading pools")?;
            pools.into_iter().map(|p| p.name).collect()
        }
    };
    if places.is_empty() {
        return Ok(csi::GetCapacityResponse::default());
    }
    let paths: Vec<&str> = places.iter().map(String::as_str).collect();
    let found = calls
        .datasets_read(&paths)
        .await
        .or_failed(&format!("reading the space of {}", places.join(", ")))?;
    let available = found.iter().filter_map(|d| d.available).max().unwrap_or(0);
    let Some((protocol, zfs)) = made else {
        return Ok(csi::GetCapacityResponse {
            available_capacity: capacity::to_csi(available),
            ..Default::default()
        });
    };
    // A thick zvol may take 80 % of what is free (`pool.dataset.create`); a thin volume may be larger than what is free.
    let thick = zfs.is_thick(protocol);
    let room = if thick && protocol.is_block() { available / 5 * 4 } else { available };
    Ok(csi::GetCapacityResponse {
        available_capacity: capacity::to_csi(room),
        maximum_volume_size: thick.then(|| capacity::to_csi(room)),
        minimum_volume_size: Some(capacity::to_csi(zfs.granularity(protocol).minimum)),
    })
}
