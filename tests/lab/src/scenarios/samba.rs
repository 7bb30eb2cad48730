//! The stand-in's SMB server and its encrypted datasets, without the driver.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use harness::wait;
use truenas_sim::backend::zfs::{Settings, SmbUser, Zfs};
use truenas_sim::backend::{Backend, DatasetKind, Encryption, Key, NewDataset, Scope, SmbShare};

use crate::guest::{APPLIANCE, OTHER_ADDRESS, PARENT, POOL, RUN, run};
use crate::scenario::{Run, Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "smb-backend",
            about: "Samba of the stand-in serves its shares, admits hosts by list and cuts the clients of a share that goes",
            run: Run::Guest(|| Box::pin(samba())),
        },
        Scenario {
            name: "encrypted-backend",
            about: "datasets of the stand-in are encrypted by ZFS with a key or passphrase of their own",
            run: Run::Guest(|| Box::pin(encrypted())),
        },
    ]
}

/// A password with what breaks option strings.
const PASSWORD: &str = "a,b\"c'd e";

fn zfs() -> anyhow::Result<Zfs> {
    let password_file = Path::new(RUN).join("smb-password");
    fs::write(&password_file, format!("{PASSWORD}\n"))?;
    Zfs::new(&Settings {
        pool: POOL.to_owned(),
        smb_dir: Some(Path::new(RUN).join("samba")),
        smb_user: Some(SmbUser { name: "root".into(), password_file }),
    })
}

fn dataset(name: &str) -> NewDataset {
    NewDataset {
        name: name.to_owned(),
        kind: DatasetKind::Filesystem,
        properties: [("acltype", "nfsv4"), ("aclmode", "restricted"), ("casesensitivity", "insensitive")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        user_properties: BTreeMap::new(),
    }
}

fn share(name: &str, dataset: &str, hosts: &[&str]) -> SmbShare {
    SmbShare {
        id: 1,
        name: name.to_owned(),
        path: format!("/mnt/{dataset}"),
        comment: String::new(),
        read_only: false,
        browsable: true,
        access_based: false,
        hosts_allow: hosts.iter().map(|host| (*host).to_owned()).collect(),
        hosts_deny: hosts.iter().take(1).map(|_| "ALL".to_owned()).collect(),
        guest_ok: false,
        auxiliary: String::new(),
    }
}

/// Mounts with the password in a file of its own. Each mount is a connection of its own.
fn mount(server: &str, name: &str, at: &Path) -> anyhow::Result<()> {
    let credentials = Path::new(RUN).join("smb-credentials");
    fs::write(&credentials, format!("username=root\npassword={PASSWORD}\n"))?;
    fs::create_dir_all(at)?;
    let options = format!("credentials={},vers=3.1.1,nosharesock,echo_interval=1", credentials.display());
    let (source, target) = (format!("//{server}/{name}"), at.display().to_string());
    run("mount", &["-t", "cifs", "-o", &options, &source, &target])
}

async fn samba() -> anyhow::Result<()> {
    let zfs = zfs()?;
    let (one, two) = (format!("{PARENT}/smb-one"), format!("{PARENT}/smb-two"));
    zfs.create_dataset(&dataset(&one))?;
    zfs.create_dataset(&dataset(&two))?;
    let all = [share("one", &one, &[]), share("two", &two, &[])];
    zfs.apply_smb(true, &all)?;
    let (at_one, at_two) = (Path::new(RUN).join("at-one"), Path::new(RUN).join("at-two"));
    wait::until("Samba", Duration::from_secs(60), || Ok(mount(OTHER_ADDRESS, "one", &at_one).is_ok()))
        .await?;
    mount(OTHER_ADDRESS, "two", &at_two).context("the second share")?;
    fs::write(at_one.join("File"), "over smb")?;
    let file = Path::new(APPLIANCE).join(format!("mnt/{one}/File"));
    let metadata = file.metadata()?;
    ensure!((metadata.uid(), metadata.gid()) == (0, 0), "{metadata:?}");
    ensure!(fs::read_to_string(at_one.join("fILE"))? == "over smb", "names differ by case");

    let listed = [share("one", &one, &["192.0.2.9"]), share("two", &two, &[])];
    zfs.apply_smb(true, &listed)?;
    fs::write(at_one.join("after"), "live").context("a changed list of hosts ended a live mount")?;
    let again = Path::new(RUN).join("at-again");
    ensure!(mount(OTHER_ADDRESS, "one", &again).is_err(), "a host that is not listed was admitted");

    zfs.apply_smb(true, &all[..1])?;
    let cut = || Ok(fs::write(at_two.join("late"), "no").is_err());
    wait::until("the cut of the share that went", Duration::from_secs(60), cut).await?;
    fs::write(at_one.join("still"), "here").context("another share was cut too")?;
    for at in [&at_one, &at_two] {
        run("umount", &["-l", &at.display().to_string()])?;
    }
    zfs.apply_smb(false, &[])?;
    ensure!(mount(OTHER_ADDRESS, "one", &again).is_err(), "a stopped service serves");
    for name in [one, two] {
        let gone = || Ok(zfs.destroy_dataset(&name, true, true).is_ok());
        wait::until("the datasets' destruction", Duration::from_secs(30), gone).await?;
    }
    Ok(())
}

async fn encrypted() -> anyhow::Result<()> {
    let zfs = zfs()?;
    let (keyed, locked) = (format!("{PARENT}/keyed"), format!("{PARENT}/locked"));
    let key = Key::Hex("0123456789abcdef".repeat(4));
    zfs.create_encrypted(&dataset(&keyed), &Encryption { algorithm: "aes-256-gcm".into(), key })?;
    let key = Key::Passphrase { secret: PASSWORD.to_owned(), iterations: 350_000 };
    let volume = NewDataset {
        kind: DatasetKind::Volume,
        properties: [("volsize".to_owned(), "16777216".to_owned())].into(),
        ..dataset(&locked)
    };
    zfs.create_encrypted(&volume, &Encryption { algorithm: "aes-128-ccm".into(), key })?;
    let found = zfs.datasets(&Scope::Paths(&[keyed.clone(), locked.clone()]))?;
    for (name, algorithm, format, rounds) in
        [(&keyed, "aes-256-gcm", "hex", "0"), (&locked, "aes-128-ccm", "passphrase", "350000")]
    {
        let dataset = found.iter().find(|dataset| dataset.name == *name).context("it is not listed")?;
        for (property, value) in [
            ("encryption", algorithm),
            ("keyformat", format),
            ("keystatus", "available"),
            ("encryptionroot", name.as_str()),
            ("pbkdf2iters", rounds),
        ] {
            ensure!(dataset.raw(property) == Some(value), "{property} is {:?}", dataset.raw(property));
        }
    }
    zfs.destroy_dataset(&keyed, false, false)?;
    zfs.destroy_dataset(&locked, false, false)?;
    Ok(())
}
