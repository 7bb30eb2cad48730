//! The same life of a volume on every TrueNAS version that the driver speaks to.

use tns_csi_proto::csi::v1 as csi;
use tonic::Code;
use truenas_sim::{Config, Version};

use crate::rig::{GIB, PROTOCOLS, Rig, node, request};

#[tokio::test(flavor = "multi_thread")]
async fn volumes_live_and_leave_nothing_on_every_version() {
    for version in Version::ALL {
        let rig = Rig::with(Config { version, ..Config::default() }).await;
        for protocol in PROTOCOLS {
            if version == Version::V25_04 && protocol == "nvmeof" {
                continue;
            }
            let volume = rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap();
            assert_eq!(rig.controller.create(request("pvc-1", protocol, 1)).await.unwrap(), volume);
            let other = rig.controller.create(request("pvc-1", protocol, 2)).await.unwrap_err();
            assert_eq!(other.code(), Code::AlreadyExists, "{version:?} {protocol}: {other}");
            rig.assert_nobody_let_in();
            rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
            rig.controller.publish(&volume, &node("a", 1)).await.unwrap();
            assert!(rig.lets_in(protocol, 1), "{version:?} {protocol}");
            let refused = rig.controller.publish(&volume, &node("b", 2)).await.unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition);
            let grown = rig.controller.expand("tank/pvc-1", 2 * GIB).await.unwrap();
            assert_eq!(grown.capacity_bytes, 2 * GIB, "{version:?} {protocol}");
            let listed = rig.controller.list(0, "").await.unwrap();
            assert_eq!(listed.entries.len(), 1, "{version:?} {protocol}");
            let published = rig.controller.delete("tank/pvc-1").await.unwrap_err();
            assert_eq!(published.code(), Code::FailedPrecondition);
            rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
            rig.assert_nobody_let_in();
            rig.controller.delete("tank/pvc-1").await.unwrap();
            rig.controller.delete("tank/pvc-1").await.unwrap();
            rig.assert_empty();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nvme_of_on_25_04_is_refused_naming_both_versions() {
    let rig = Rig::with(Config { version: Version::V25_04, ..Config::default() }).await;
    let refused = rig.controller.create(request("pvc-1", "nvmeof", 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let words = refused.message();
    assert!(words.contains("needs TrueNAS 25.10") && words.contains("25.04"), "{words}");
    rig.assert_empty();
    // Nothing of NVMe-oF can be there, so deleting and unpublishing find nothing.
    rig.controller.unpublish("tank/pvc-1", &node("a", 1)).await.unwrap();
    rig.controller.delete("tank/pvc-1").await.unwrap();
    let ghost = csi::Volume { volume_id: "tank/pvc-1".to_owned(), ..Default::default() };
    let unknown = rig.controller.publish(&ghost, &node("a", 1)).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound, "{unknown}");
    rig.assert_schemas();
}
