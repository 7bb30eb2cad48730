//! NodeGetVolumeStats and NodeExpandVolume as the helper's GetVolumeStats and ExpandVolume.

use tns_csi_proto::csi::v1 as csi;
use tns_csi_proto::helper::v1;
use tns_csi_proto::helper::v1::health_entry::Status as Health;
use tonic::Status;

use super::request;
use crate::volume::failure::{Failure, Kind};

/// The helper's request for statistics.
///
/// # Errors
/// INVALID_ARGUMENT naming a missing field; NOT_FOUND for an id or a path that cannot be.
pub fn stats(asked: csi::NodeGetVolumeStatsRequest) -> Result<v1::GetVolumeStatsRequest, Status> {
    let volume_id = request::required("volume_id", asked.volume_id)?;
    let volume_path = request::required("volume_path", asked.volume_path)?;
    Ok(v1::GetVolumeStatsRequest {
        min_revision: 0,
        timeout_ms: 0,
        volume_id: request::existing(volume_id)?,
        volume_path: request::path("volume_path", volume_path, Kind::VolumeNotFound)?,
    })
}

/// CSI's answer: bytes, inodes where the file system counts them, and the condition that the findings make.
#[must_use]
pub fn stats_response(found: v1::GetVolumeStatsResponse) -> csi::NodeGetVolumeStatsResponse {
    use csi::volume_usage::Unit;
    let usage = [(Unit::Bytes, found.bytes), (Unit::Inodes, found.inodes)]
        .into_iter()
        .filter_map(|(unit, usage)| {
            let usage = usage?;
            Some(csi::VolumeUsage {
                available: count(usage.available),
                total: count(usage.total),
                used: count(usage.used),
                unit: unit.into(),
            })
        })
        .collect();
    csi::NodeGetVolumeStatsResponse { usage, volume_condition: Some(condition(&found.health)) }
}

/// The worst finding decides the order, all of them make the message.
fn condition(health: &[v1::HealthEntry]) -> csi::VolumeCondition {
    if health.is_empty() {
        return csi::VolumeCondition { abnormal: false, message: "healthy".to_owned() };
    }
    let mut findings: Vec<&v1::HealthEntry> = health.iter().collect();
    findings.sort_by_key(|finding| match finding.status() {
        Health::DataLoss => 0,
        Health::Inaccessible => 1,
        Health::Degraded => 2,
        Health::Unspecified => 3,
    });
    let words: Vec<String> = findings.iter().map(|f| format!("{}: {}", f.reason, f.message)).collect();
    csi::VolumeCondition { abnormal: true, message: words.join("; ") }
}

/// The helper's request for an expansion. No upper limit is passed on: the device has the size that the controller
/// gave it, and growing to it is all a node can do.
///
/// # Errors
/// INVALID_ARGUMENT naming a missing or impossible field; NOT_FOUND for an id or a path that cannot be.
pub fn expand(asked: csi::NodeExpandVolumeRequest) -> Result<v1::ExpandVolumeRequest, Status> {
    let volume_id = request::required("volume_id", asked.volume_id)?;
    let volume_path = request::required("volume_path", asked.volume_path)?;
    let range = asked.capacity_range.unwrap_or_default();
    let (Ok(required_bytes), Ok(limit_bytes)) =
        (u64::try_from(range.required_bytes), u64::try_from(range.limit_bytes))
    else {
        return Err(Failure::invalid("capacity_range has a negative size").into());
    };
    if limit_bytes != 0 && required_bytes > limit_bytes {
        return Err(Failure::invalid(format!(
            "capacity_range.required_bytes is {required_bytes}, more than limit_bytes {limit_bytes}"
        ))
        .into());
    }
    if let Some(capability) = asked.volume_capability {
        request::capability(Some(capability))?;
    }
    Ok(v1::ExpandVolumeRequest {
        min_revision: 0,
        timeout_ms: 0,
        volume_id: request::existing(volume_id)?,
        volume_path: request::path("volume_path", volume_path, Kind::VolumeNotFound)?,
        required_bytes,
    })
}

/// CSI counts in signed numbers; what does not fit is as good as the largest.
fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(status: Health, reason: &str) -> v1::HealthEntry {
        v1::HealthEntry { status: status.into(), reason: reason.to_owned(), message: "words".to_owned() }
    }

    #[test]
    fn the_worst_finding_comes_first() {
        let condition =
            condition(&[finding(Health::Degraded, "PathLost"), finding(Health::DataLoss, "NoDevice")]);
        assert!(condition.abnormal);
        assert_eq!(condition.message, "NoDevice: words; PathLost: words");
    }

    #[test]
    fn raw_block_has_no_inodes() {
        let bytes = v1::Usage { total: 1 << 30, used: 0, available: 0 };
        let answer =
            stats_response(v1::GetVolumeStatsResponse { bytes: Some(bytes), inodes: None, health: vec![] });
        assert_eq!(answer.usage.len(), 1);
        assert_eq!(answer.usage[0].total, 1 << 30);
        assert!(!answer.volume_condition.unwrap().abnormal);
    }
}
