//! The key pair to which the controller seals secrets for this host (`tns_csi_proto::sealed`).
//!
//! The private key lies beside the host's identity, readable by root alone, and belongs to it: a cloned machine, which gets
//! an identity of its own, gets a key of its own too, so that one copy cannot read what is meant for the other.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use tns_csi_proto::sealed::PrivateKey;
use uuid::Uuid;
use zeroize::Zeroizing;

const FILE: &str = "sealing.key";
/// The host's UUID and the private key.
const LENGTH: usize = 16 + 32;

/// Loads the host's private key from `state`, making it at the first start, and anew when it belongs to another host.
///
/// # Errors
/// When the file is not what was written (removing it makes a new key; volumes with authentication then have to be
/// published again), others than its owner may read it, or it cannot be written.
pub fn load(state: &Path, host: &Uuid) -> anyhow::Result<PrivateKey> {
    let path = state.join(FILE);
    let content = match fs::read(&path) {
        Ok(content) => Zeroizing::new(content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return make(state, host),
        Err(error) => return Err(anyhow::anyhow!("sealing key {}: {error}", path.display())),
    };
    let mode = fs::metadata(&path)?.permissions().mode();
    anyhow::ensure!(
        mode & 0o077 == 0,
        "sealing key {} has mode {:o}: others may have read it; remove it to get a new one",
        path.display(),
        mode & 0o7777
    );
    let parts = content.split_first_chunk::<16>();
    let parts = parts.and_then(|(owner, key)| Some((owner, <&[u8; 32]>::try_from(key).ok()?)));
    let Some((owner, key)) = parts else {
        anyhow::bail!(
            "sealing key {} has {} bytes, expected {LENGTH}; restore it, or remove it to get a new one (volumes with \
             DH-HMAC-CHAP then have to be published to this node again)",
            path.display(),
            content.len()
        );
    };
    if owner != host.as_bytes() {
        tracing::warn!("the sealing key belongs to another host: this one gets a key of its own");
        return make(state, host);
    }
    Ok(PrivateKey::from_bytes(key))
}

fn make(state: &Path, host: &Uuid) -> anyhow::Result<PrivateKey> {
    let key = PrivateKey::generate();
    let path = state.join(FILE);
    let fresh = path.with_extension("new");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state)?;
    // What is left of an attempt that was cut off may have another mode.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&fresh)?;
    file.write_all(host.as_bytes())?;
    file.write_all(key.to_bytes().as_slice())?;
    file.sync_all()?;
    fs::rename(&fresh, &path)?;
    fs::File::open(state)?.sync_all()?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Uuid = Uuid::from_u128(7);

    #[test]
    fn the_key_stays_and_is_readable_by_its_owner_alone() {
        let state = tempfile::tempdir().unwrap();
        let first = load(state.path(), &HOST).unwrap().public_key();
        assert_eq!(load(state.path(), &HOST).unwrap().public_key(), first);
        let path = state.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(load(state.path(), &HOST).unwrap_err().to_string().contains("mode 640"));
    }

    #[test]
    fn a_cloned_machine_gets_a_key_of_its_own() {
        let state = tempfile::tempdir().unwrap();
        let first = load(state.path(), &HOST).unwrap().public_key();
        let second = load(state.path(), &Uuid::from_u128(8)).unwrap().public_key();
        assert_ne!(first, second);
        assert_eq!(load(state.path(), &Uuid::from_u128(8)).unwrap().public_key(), second);
    }

    #[test]
    fn a_torn_file_is_refused_and_left() {
        let state = tempfile::tempdir().unwrap();
        load(state.path(), &HOST).unwrap();
        let path = state.path().join(FILE);
        fs::write(&path, [1, 2, 3]).unwrap();
        let error = load(state.path(), &HOST).unwrap_err().to_string();
        assert!(error.contains(FILE) && error.contains("3 bytes"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), [1, 2, 3]);
    }
}
