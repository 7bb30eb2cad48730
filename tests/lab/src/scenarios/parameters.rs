//! What a class says about the dataset, held against real ZFS: given the class, what `zfs get` shows afterwards.

use anyhow::{Context, ensure};
use tns_csi_proto::csi::v1::volume_capability::access_mode::Mode;

use super::common::{nfs, smb};
use crate::appliance::property;
use crate::kubelet::{Class, GIB};
use crate::lab::Lab;
use crate::scenario::{Run, Scenario};

/// Parameters of a class and the properties that follow from them.
type Case = (&'static [(&'static str, &'static str)], &'static [(&'static str, &'static str)]);

const FILES: &[Case] = &[
    (
        &[
            ("zfs.compression", "zstd-3"),
            ("zfs.dedup", "verify"),
            ("zfs.atime", "on"),
            ("zfs.sync", "disabled"),
            ("zfs.recordsize", "64K"),
            ("zfs.copies", "2"),
            ("zfs.snapdir", "visible"),
            ("zfs.exec", "off"),
        ],
        &[
            ("compression", "zstd-3"),
            ("dedup", "verify"),
            ("atime", "on"),
            ("sync", "disabled"),
            ("recordsize", "65536"),
            ("copies", "2"),
            ("snapdir", "visible"),
            ("exec", "off"),
        ],
    ),
    (
        &[
            ("compression", "LZ4"),
            ("zfs.readonly", "on"),
            ("zfs.acltype", "off"),
            ("zfs.casesensitivity", "insensitive"),
            ("datasetEnableReservation", "true"),
        ],
        &[
            ("compression", "lz4"),
            ("readonly", "on"),
            ("acltype", "off"),
            ("casesensitivity", "insensitive"),
            ("refquota", "1073741824"),
            ("refreservation", "1073741824"),
        ],
    ),
];

const BLOCKS: &[Case] = &[
    (
        &[
            ("zfs.compression", "gzip-9"),
            ("zfs.dedup", "on"),
            ("zfs.sync", "always"),
            ("zfs.copies", "3"),
            ("zfs.volblocksize", "32K"),
        ],
        &[
            ("compression", "gzip-9"),
            ("dedup", "on"),
            ("sync", "always"),
            ("copies", "3"),
            ("volblocksize", "32768"),
            ("volsize", "1073741824"),
            ("refreservation", "0"),
        ],
    ),
    (&[("zfs.sparse", "true")], &[("volblocksize", "16384"), ("refreservation", "0")]),
];

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "parameters-on-zfs",
        about: "every zfs parameter of a class is a property of the real dataset or zvol afterwards, on every protocol",
        run: Run::Chain(|lab| Box::pin(parameters(lab))),
    }]
}

async fn parameters(lab: &mut Lab) -> anyhow::Result<()> {
    for (class, cases) in [
        (nfs(), FILES),
        (smb(), FILES.get(..1).unwrap_or_default()),
        (Class::block("iscsi", Mode::SingleNodeWriter), BLOCKS),
        (Class::block("nvmeof", Mode::SingleNodeWriter), BLOCKS),
    ] {
        for (parameters, properties) in cases {
            let class = parameters.iter().fold(class.clone(), |class, (key, value)| class.with(key, value));
            holds(lab, &class, properties).await.with_context(|| format!("{:?}", class.parameters))?;
        }
    }
    // A thick zvol keeps all its space.
    let thick = Class::block("nvmeof", Mode::SingleNodeWriter).with("zfs.sparse", "false");
    let volume = lab.kubelet.create("pvc-thick", &thick, GIB).await.context("CreateVolume")?;
    let kept: u64 = property(&volume.id, "refreservation")?.parse().context("reading refreservation")?;
    ensure!(kept >= 1 << 30, "a thick zvol of 1 GiB keeps {kept} bytes");
    lab.kubelet.remove(&volume).await
}

async fn holds(lab: &Lab, class: &Class, properties: &[(&str, &str)]) -> anyhow::Result<()> {
    let volume = lab.kubelet.create("pvc-parameters", class, GIB).await.context("CreateVolume")?;
    for (name, wanted) in properties {
        let found = property(&volume.id, name)?;
        ensure!(found == *wanted, "{name} is {found:?} instead of {wanted:?}");
    }
    lab.kubelet.remove(&volume).await
}
