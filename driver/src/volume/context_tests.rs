use proptest::prelude::*;

use super::*;

fn nvmeof() -> Connection {
    Connection::Nvmeof {
        portals: vec![Portal::new("192.0.2.10", 4420), Portal::new("2001:db8::10", 4420)],
        subsystem_nqn: "nqn.2026-01.io.tns-csi:pvc-1".to_owned(),
        namespace_uuid: Uuid::from_u128(7),
        io_queues: Some(4),
        queue_size: None,
        capacity_bytes: 1 << 30,
        never_format: true,
        sealed_dhchap: Some(vec![1, 2, 3]),
    }
}

fn iscsi() -> Connection {
    Connection::Iscsi {
        portals: vec![Portal::new("nas.example", 3260)],
        iqn: "iqn.2005-10.org.freenas.ctl:pvc-1".to_owned(),
        lun: 0,
        serial: Some("a1b2c3".to_owned()),
        naa: None,
        capacity_bytes: 1 << 30,
        never_format: false,
    }
}

fn samples() -> Vec<Connection> {
    vec![
        Connection::Nfs {
            portal: Portal::new("nas.example", 2049),
            export: "/mnt/tank/k8s/pvc 1,ü".to_owned(),
        },
        Connection::Smb { portal: Portal::new("2001:db8::1", 445), share: "pvc-1".to_owned() },
        iscsi(),
        nvmeof(),
    ]
}

#[test]
fn every_protocol_reads_back_to_itself() {
    for connection in samples() {
        let context = connection.to_publish_context().unwrap();
        assert_eq!(Connection::from_publish_context(&context), Ok(connection));
    }
}

#[test]
fn unknown_keys_are_ignored() {
    let mut context = nvmeof().to_publish_context().unwrap();
    context.insert("fromTheFuture".to_owned(), "yes".to_owned());
    assert_eq!(Connection::from_publish_context(&context), Ok(nvmeof()));
}

#[test]
fn a_lost_key_is_named_and_never_defaulted() {
    let optional = ["ioQueues", "queueSize", "sealedDHCHAP"];
    for connection in samples() {
        let context = connection.to_publish_context().unwrap();
        for key in context.keys().filter(|key| !optional.contains(&key.as_str())) {
            for lost in [None, Some(String::new())] {
                let mut broken = context.clone();
                broken.remove(key);
                lost.map(|empty| broken.insert(key.clone(), empty));
                let error = Connection::from_publish_context(&broken).unwrap_err();
                assert!(matches!(error, ContextError::Missing(named) if named == key), "{key}: {error}");
            }
        }
    }
}

#[test]
fn malformed_values_are_named() {
    let cases = [
        ("protocol", "nvme"),
        ("portals", "192.0.2.10"),
        ("portals", "192.0.2.10:0"),
        ("portals", "192.0.2.10:04420"),
        ("portals", "192.0.2.10:70000"),
        ("portals", "2001:db8::1:4420"),
        ("portals", "[192.0.2.1]:4420"),
        ("portals", "192.0.2.10:4420,"),
        ("portals", "a b:4420"),
        ("portals", "-a:4420"),
        ("subsystemNQN", "pvc-1"),
        ("subsystemNQN", "nqn.2026-01.io.x:a,hostnqn=b"),
        ("subsystemNQN", "nqn.2026-01.io.x:a\nb"),
        ("namespaceUUID", "not-a-uuid"),
        ("namespaceUUID", "00000000-0000-0000-0000-000000000000"),
        ("ioQueues", "0"),
        ("ioQueues", "1025"),
        ("queueSize", "15"),
        ("queueSize", "many"),
        ("capacityBytes", "0"),
        ("capacityBytes", "-1"),
        ("capacityBytes", "+5"),
        ("neverFormat", "1"),
        ("neverFormat", "TRUE"),
        ("sealedDHCHAP", "***"),
    ];
    for (key, value) in cases {
        let mut context = nvmeof().to_publish_context().unwrap();
        context.insert(key.to_owned(), value.to_owned());
        let error = Connection::from_publish_context(&context).unwrap_err();
        assert!(
            matches!(error, ContextError::Malformed { key: named, .. } if named == key),
            "{key}={value}: {error}"
        );
    }
}

#[test]
fn a_sealed_key_is_not_shown_in_an_error() {
    let mut context = nvmeof().to_publish_context().unwrap();
    context.insert("sealedDHCHAP".to_owned(), "not+base64url".to_owned());
    let error = Connection::from_publish_context(&context).unwrap_err().to_string();
    assert!(!error.contains("not+base64url"), "{error}");
}

#[test]
fn what_a_node_could_not_read_is_not_written() {
    let nfs = |address: &str, export: &str| Connection::Nfs {
        portal: Portal::new(address, 2049),
        export: export.to_owned(),
    };
    assert!(nfs("192.0.2.1", "relative").to_publish_context().is_err());
    assert!(nfs("192.0.2.1", &format!("/{}", "x".repeat(1024))).to_publish_context().is_err());
    assert!(nfs("", "/mnt/tank/a").to_publish_context().is_err());
    let mut none = nvmeof();
    if let Connection::Nvmeof { portals, .. } = &mut none {
        portals.clear();
    }
    assert_eq!(none.to_publish_context(), Err(ContextError::Missing("portals")));
}

#[test]
fn a_context_over_4_kib_is_refused() {
    let long = |n: usize| Portal::new(format!("{}.{n}", vec!["x".repeat(60); 4].join(".")), 4420);
    let mut big = nvmeof();
    if let Connection::Nvmeof { portals, .. } = &mut big {
        *portals = (0..MAX_PORTALS).map(long).collect();
    }
    assert!(matches!(big.to_publish_context(), Err(ContextError::TooLong(_))));
}

#[test]
fn iscsi_needs_serial_or_naa() {
    let mut by_naa = iscsi();
    if let Connection::Iscsi { serial, naa, .. } = &mut by_naa {
        *serial = None;
        *naa = Some("6589cfc000000abc".to_owned());
    }
    let context = by_naa.to_publish_context().unwrap();
    assert_eq!(Connection::from_publish_context(&context), Ok(by_naa));
}

#[test]
fn the_class_names_the_file_system() {
    let context = |value: &str| BTreeMap::from([("fsType".to_owned(), value.to_owned())]);
    assert_eq!(default_fs_type(&context("xfs")), Some("xfs"));
    assert_eq!(default_fs_type(&context("")), None);
    assert_eq!(default_fs_type(&BTreeMap::new()), None);
}

proptest! {
    #[test]
    fn no_context_makes_it_panic(values in proptest::collection::btree_map(
        prop_oneof!["protocol", "portal", "portals", "lun", "neverFormat", "[a-z]{1,9}"],
        prop_oneof!["nfs", "smb", "iscsi", "nvmeof", any::<String>()], 0..9)) {
        let _ = Connection::from_publish_context(&values);
    }

    #[test]
    fn portals_read_back(address in prop_oneof![
        any::<std::net::Ipv4Addr>().prop_map(|a| a.to_string()),
        any::<Ipv6Addr>().prop_map(|a| a.to_string()),
        "[a-z0-9]{1,20}(\\.[a-z0-9]{1,20}){0,3}"], port in 1_u16..) {
        let portal = Portal::new(address, port);
        prop_assert_eq!(portal.to_string().parse(), Ok(portal));
    }
}
