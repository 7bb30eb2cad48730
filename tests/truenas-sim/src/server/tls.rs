//! The appliance's certificate: a CA and a server certificate, made once and kept in the TLS directory.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

const CA: &str = "ca.pem";
const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";

/// The files of the TLS directory.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub ca: PathBuf,
    pub ca_pem: String,
}

/// Loads the certificate of the directory or makes one for `localhost`, the loopback addresses, this machine's
/// addresses and the one listened at.
pub(crate) fn prepare(directory: &Path, listen: SocketAddr) -> anyhow::Result<(TlsAcceptor, Files)> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the TLS directory {}", directory.display()))?;
    let paths = [CA, CERTIFICATE, KEY].map(|name| directory.join(name));
    let there = paths.iter().filter(|p| p.exists()).count();
    match there {
        0 => make(&paths, listen)?,
        3 => {}
        _ => anyhow::bail!(
            "the TLS directory {} holds only part of {CA}, {CERTIFICATE} and {KEY}; remove them to have new ones made",
            directory.display()
        ),
    }
    let [ca, certificate, key] = paths;
    let chain = CertificateDer::pem_file_iter(&certificate)
        .with_context(|| format!("cannot read {}", certificate.display()))?
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("{} is no certificate", certificate.display()))?;
    let private =
        PrivateKeyDer::from_pem_file(&key).with_context(|| format!("{} is no private key", key.display()))?;
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, private)?;
    let ca_pem = std::fs::read_to_string(&ca).with_context(|| format!("cannot read {}", ca.display()))?;
    Ok((TlsAcceptor::from(Arc::new(config)), Files { ca, ca_pem }))
}

fn make([ca_path, certificate_path, key_path]: &[PathBuf; 3], listen: SocketAddr) -> anyhow::Result<()> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.distinguished_name.push(DnType::CommonName, "truenas-sim CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate()?;
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);

    let mut names = vec!["localhost".to_owned()];
    let mut addresses = crate::backend::storage::interface_addresses();
    addresses.push(listen.ip());
    addresses.push(IpAddr::from([127, 0, 0, 1]));
    for address in addresses.iter().filter(|a| !a.is_unspecified()).map(ToString::to_string) {
        if !names.contains(&address) {
            names.push(address);
        }
    }
    let mut server = CertificateParams::new(names)?;
    server.distinguished_name.push(DnType::CommonName, "truenas-sim");
    let key = KeyPair::generate()?;
    let certificate = server.signed_by(&key, &issuer)?;

    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(key_path)
        .with_context(|| format!("cannot make {}", key_path.display()))?;
    file.write_all(key.serialize_pem().as_bytes())?;
    std::fs::write(certificate_path, certificate.pem())
        .with_context(|| format!("cannot write {}", certificate_path.display()))?;
    std::fs::write(ca_path, ca_certificate.pem())
        .with_context(|| format!("cannot write {}", ca_path.display()))
}
