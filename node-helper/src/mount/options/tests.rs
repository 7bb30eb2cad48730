use proptest::prelude::*;

use super::*;

const EXT4_FAMILY: Family = Family::Block(FsType::Ext4);
const XFS_FAMILY: Family = Family::Block(FsType::Xfs);
const BTRFS_FAMILY: Family = Family::Block(FsType::Btrfs);

fn texts(family: Family, flags: &[&str], readonly: bool) -> Result<String, Failure> {
    let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
    MountOptions::parse(family, &flags, readonly).map(|options| options.texts().join(","))
}

#[test]
fn defaults_hold_and_the_caller_wins() {
    assert_eq!(texts(EXT4_FAMILY, &[], false).unwrap(), "errors=remount-ro,noatime");
    assert_eq!(
        texts(EXT4_FAMILY, &["relatime", "errors=continue"], false).unwrap(),
        "errors=continue,relatime"
    );
    assert_eq!(texts(XFS_FAMILY, &["discard"], false).unwrap(), "discard,noatime,nouuid");
    assert_eq!(texts(Family::Nfs, &["soft,nfsvers=4.1,nolock"], false).unwrap(), "soft,vers=4.1");
    assert_eq!(texts(Family::Nfs, &["vers=4"], false).unwrap(), "hard,vers=4.2");
}

#[test]
fn read_only_is_never_undone() {
    let options = MountOptions::parse(EXT4_FAMILY, &["ro".to_owned(), "rw".to_owned()], true).unwrap();
    assert!(options.read_only());
    assert!(options.attributes().contains(MountAttrFlags::MOUNT_ATTR_RDONLY));
    assert!(options.parameters().iter().any(|parameter| parameter.key == "ro"));
    assert!(BindOptions::parse(&["rw".to_owned()], true).unwrap().read_only());
}

#[test]
fn options_that_reach_elsewhere_are_refused_by_name() {
    for (family, option) in [
        (XFS_FAMILY, "logdev=/dev/sda"),
        (XFS_FAMILY, "rtdev=/dev/sda"),
        (EXT4_FAMILY, "journal_path=/dev/sda"),
        (EXT4_FAMILY, "errors=panic"),
        (EXT4_FAMILY, "usrjquota=a"),
        (Family::Nfs, "addr=198.51.100.1"),
        (Family::Nfs, "mountaddr=198.51.100.1"),
        (Family::Nfs, "clientaddr=198.51.100.1"),
        (Family::Nfs, "source=x"),
        (Family::Nfs, "vers=3"),
        (BTRFS_FAMILY, "device=/dev/sda"),
        (EXT4_FAMILY, "context=x"),
        (EXT4_FAMILY, "commit=1x"),
        (EXT4_FAMILY, "suid_dumpable"),
        (EXT4_FAMILY, "noatime=1"),
    ] {
        assert!(texts(family, &[option], false).is_err(), "{option}");
    }
    let failure = texts(EXT4_FAMILY, &["password=hunter2"], false).unwrap_err();
    assert!(failure.message.contains("password") && !failure.message.contains("hunter2"), "{failure}");
    assert!(texts(EXT4_FAMILY, &["x".repeat(5000).as_str()], false).is_err());
}

#[test]
fn an_smb_mount_has_its_defaults_and_the_caller_wins() {
    for (flags, expected) in [
        (&[][..], "dir_mode=0777,file_mode=0777,hard,vers=3.0"),
        (&["vers=3.1.1", "dir_mode=0750"], "dir_mode=0750,file_mode=0777,hard,vers=3.1.1"),
        (&["vers=3.0.2,seal"], "dir_mode=0777,file_mode=0777,hard,seal,vers=3.02"),
        (&["nobrl", "brl"], "brl,dir_mode=0777,file_mode=0777,hard,vers=3.0"),
        (&["serverino,noserverino"], "dir_mode=0777,file_mode=0777,hard,noserverino,vers=3.0"),
        (&["hard,soft", "noatime"], "dir_mode=0777,file_mode=0777,noatime,soft,vers=3.0"),
        (&["sec=krb5,cruid=1000,_netdev"], "cruid=1000,dir_mode=0777,file_mode=0777,hard,sec=krb5,vers=3.0"),
    ] {
        assert_eq!(texts(Family::Cifs, flags, false).unwrap(), expected, "{flags:?}");
    }
}

#[test]
fn smb_options_that_name_credentials_or_other_servers_are_refused_with_the_reason() {
    for (option, reason) in [
        ("credentials=/etc/shadow", "node-stage secret"),
        ("password=hunter2", "node-stage secret"),
        ("pass=hunter2", "node-stage secret"),
        ("password2=hunter2", "node-stage secret"),
        ("user=hunter2", "node-stage secret"),
        ("username=hunter2", "node-stage secret"),
        ("domain=hunter2", "node-stage secret"),
        ("guest", "guest"),
        ("prefixpath=hunter2", "volume"),
        ("unc=hunter2", "volume"),
        ("ip=hunter2", "volume"),
        ("source=hunter2", "volume"),
        ("vers=1.0", "3.0"),
        ("vers=2.1", "3.0"),
        ("sec=ntlm", "needs one of"),
        ("file_mode=0888", "octal"),
        ("dir_mode=07777", "octal"),
    ] {
        let failure = texts(Family::Cifs, &[option], false).expect_err(option);
        let name = option.split('=').next().unwrap();
        assert!(failure.message.contains(name) && failure.message.contains(reason), "{failure}");
        assert!(!failure.message.contains("hunter2") && !failure.message.contains("shadow"), "{failure}");
    }
}

#[test]
fn the_mount_group_owns_an_smb_mount_and_contradictions_are_named() {
    let parse = |flag: &str| MountOptions::parse(Family::Cifs, &[flag.to_owned()], false).unwrap();
    let mut options = parse("gid=2000");
    options.give_to_group(2000).unwrap();
    assert!(options.texts().contains(&"gid=2000".to_owned()));
    assert!(options.texts().contains(&"forcegid".to_owned()));
    for flag in ["gid=3000", "noforcegid"] {
        let failure = parse(flag).give_to_group(2000).unwrap_err();
        assert!(failure.message.contains(flag) && failure.message.contains("2000"), "{failure}");
    }
}

#[test]
fn a_bind_takes_only_what_it_can_carry() {
    let bind = BindOptions::parse(&["noexec,vers=4.2".to_owned(), "discard".to_owned()], false).unwrap();
    assert_eq!(bind.texts(), ["noexec"]);
    assert_eq!(bind.attributes(), (MountAttrFlags::MOUNT_ATTR_NOEXEC, false));
}

proptest! {
    #[test]
    fn what_was_parsed_parses_again_to_the_same(
        flags in proptest::collection::vec("ro|rw|noatime|strictatime|nodev|discard|nodiscard|commit=[0-9]{1,3}|data=journal", 0..8),
        readonly: bool,
    ) {
        let once = MountOptions::parse(EXT4_FAMILY, &flags, readonly).unwrap();
        let again = MountOptions::parse(EXT4_FAMILY, &once.texts(), readonly).unwrap();
        prop_assert_eq!(once.texts(), again.texts());
    }
}
