//! When a file system is made.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;

use tns_csi_proto::helper::v1 as api;
use tonic::Code;

use super::{code, filesystem};
use crate::ledger::{Formatting, Intent};
use crate::volume::testing::{SIZE, TestHost, on_host};

#[test]
fn peer_t3_what_is_not_proven_blank_is_never_formatted() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.scribble(1, 40_000, b"somebody's data");
        let before = fs::read(host.disk(1)).unwrap();
        let (found, words) = code(host.stage(host.stage_request(1)).await);
        assert_eq!(found, Code::FailedPrecondition, "{words}");
        assert_eq!(fs::read(host.disk(1)).unwrap(), before, "nothing was written");
        assert_eq!(host.connected(), 0, "a refused stage leaves no connection");
        assert!(host.list().await.is_empty());

        // Another file system than the one asked for.
        host.create(2);
        host.stage(host.stage_request(2)).await.unwrap();
        host.unstage(2).await.unwrap();
        let request = api::StageVolumeRequest { access: filesystem("xfs"), ..host.stage_request(2) };
        let (found, words) = code(host.stage(request).await);
        assert!(found == Code::FailedPrecondition && words.contains("ext4"), "{words}");

        // A clone, a device of another size, a read-only stage.
        host.create(3);
        let never = api::StageVolumeRequest { never_format: true, ..host.stage_request(3) };
        assert!(code(host.stage(never).await).1.contains("never be formatted"));
        let smaller = api::StageVolumeRequest { capacity_bytes: SIZE / 2, ..host.stage_request(3) };
        assert!(code(host.stage(smaller).await).1.contains("should have"));
        let larger = api::StageVolumeRequest { capacity_bytes: SIZE * 2, ..host.stage_request(3) };
        assert!(code(host.stage(larger).await).1.contains("at least"));
        let readonly = api::StageVolumeRequest { readonly: true, ..host.stage_request(3) };
        assert!(code(host.stage(readonly).await).1.contains("read-only"));
        assert!(fs::read(host.disk(3)).unwrap().iter().all(|byte| *byte == 0), "nothing was written");
    });
}

#[test]
fn a_helper_killed_in_the_middle_of_mkfs_formats_again_and_nobody_else_does() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        // What an interrupted mkfs leaves: some structures, no superblock.
        host.scribble(1, 64 * 1024, &[0xa5; 8192]);
        assert_eq!(code(host.stage(host.stage_request(1)).await).0, Code::FailedPrecondition, "another node");

        host.create(2);
        host.stage(host.stage_request(2)).await.unwrap();
        host.edit_record(2, |record| {
            let record = record.as_mut().unwrap();
            record.intent = Intent::Staging;
            record.formatting = Some(Formatting {
                identity: record.identity().unwrap().clone(),
                size: SIZE,
                fs_type: "ext4".to_owned(),
            });
        });
        host.unmount("stage2");
        host.scribble(2, 0, &vec![0; 32 * 1024]);
        host.scribble(2, 64 * 1024, &[0xa5; 8192]);
        // kubelet unstages what it gave up; the marker survives that.
        host.unstage(2).await.unwrap();
        assert!(host.list().await.is_empty());
        assert_eq!(host.stage(host.stage_request(2)).await.unwrap(), "formatted and mounted");
        host.edit_record(2, |record| {
            assert!(record.as_ref().unwrap().formatting.is_none(), "gone with the good mount")
        });
    });
}

#[test]
fn a_complete_file_system_is_not_formatted_again_although_the_marker_stands() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        host.stage(host.stage_request(1)).await.unwrap();
        fs::write(host.path("stage1/data"), "kept").unwrap();
        host.unstage(1).await.unwrap();
        host.stage(host.stage_request(1)).await.unwrap();
        host.unmount("stage1");
        host.edit_record(1, |record| {
            let record = record.as_mut().unwrap();
            record.intent = Intent::Staging;
            let identity = record.identity().unwrap().clone();
            record.formatting = Some(Formatting { identity, size: SIZE, fs_type: "ext4".to_owned() });
        });
        assert_eq!(host.stage(host.stage_request(1)).await.unwrap(), "mounted");
        assert_eq!(fs::read_to_string(host.path("stage1/data")).unwrap(), "kept");
    });
}

#[test]
fn a_mkfs_that_outlived_the_helper_keeps_its_device() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        let exclusive = nix::fcntl::OFlag::O_EXCL.bits();
        let mkfs = fs::OpenOptions::new().write(true).custom_flags(exclusive).open(host.disk(1)).unwrap();
        let (found, words) = code(host.stage(host.stage_request(1)).await);
        assert!(found == Code::FailedPrecondition && words.contains("in use"), "{words}");
        assert_eq!(host.connected(), 1, "its session stays");
        drop(mkfs);
        assert_eq!(host.stage(host.stage_request(1)).await.unwrap(), "formatted and mounted");
    });
}

#[test]
fn a_mkfs_that_wrote_nothing_leaves_no_marker() {
    on_host(async |host: &mut TestHost| {
        host.create(1);
        let access = api::FilesystemAccess {
            mkfs_options: vec!["-O".to_owned(), "no_such_thing".to_owned()],
            ..Default::default()
        };
        let access = Some(api::stage_volume_request::Access::Filesystem(access));
        let request = api::StageVolumeRequest { access, ..host.stage_request(1) };
        assert!(code(host.stage(request).await).1.contains("no_such_thing"));
        assert_eq!(host.connected(), 0);
        host.edit_record(1, |record| assert_eq!(*record, None));
    });
}
