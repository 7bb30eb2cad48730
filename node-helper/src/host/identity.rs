//! The host's own UUID: made once, kept across reboots, replaced on a cloned machine.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

const FILE: &str = "host.json";

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    uuid: Uuid,
    /// Content of the machine-id file when the UUID was made; absent on hosts without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    machine_id: Option<String>,
}

/// Loads the host's UUID from `state`, making it at the first start, and anew when `machine_id` (the path of
/// `/etc/machine-id`) names another machine than the one it was made on: a cloned disk must not be a second host of the
/// same name.
///
/// # Errors
/// When the file is not what was written (removing it makes a new identity), or cannot be written.
pub fn load(state: &Path, machine_id: &Path) -> anyhow::Result<Uuid> {
    let path = state.join(FILE);
    let machine = machine_id_of(machine_id);
    match fs::read(&path) {
        Ok(text) => {
            let stored: Stored = serde_json::from_slice(&text).map_err(|error| {
                anyhow::anyhow!(
                    "host identity {} cannot be read ({error}); restore it, or remove it to get a new identity when \
                     no volume is in use on this host",
                    path.display()
                )
            })?;
            match (&stored.machine_id, &machine) {
                (Some(then), Some(now)) if then != now => {
                    tracing::warn!("this machine is a copy of another one: it gets an identity of its own");
                    make(state, &path, machine)
                }
                _ => Ok(stored.uuid),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(state, &path, machine),
        Err(error) => Err(anyhow::anyhow!("host identity {}: {error}", path.display())),
    }
}

fn make(state: &Path, path: &Path, machine_id: Option<String>) -> anyhow::Result<Uuid> {
    let stored = Stored { uuid: Uuid::new_v4(), machine_id };
    let fresh = path.with_extension("new");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state)?;
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
    file.write_all(&serde_json::to_vec_pretty(&stored)?)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    fs::File::open(state)?.sync_all()?;
    Ok(stored.uuid)
}

/// machine-id(5): 32 hexadecimal digits, or "uninitialized" early at first boot.
fn machine_id_of(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "0123456789abcdef0123456789abcdef\n";

    #[test]
    fn the_identity_stays_and_a_cloned_machine_gets_its_own() {
        let state = tempfile::tempdir().unwrap();
        let machine = state.path().join("machine-id");
        fs::write(&machine, MACHINE).unwrap();
        let first = load(state.path(), &machine).unwrap();
        assert_eq!(load(state.path(), &machine).unwrap(), first);
        fs::write(&machine, "uninitialized\n").unwrap();
        assert_eq!(load(state.path(), &machine).unwrap(), first, "an unknown machine id proves nothing");
        fs::write(&machine, MACHINE.replace('0', "9")).unwrap();
        let second = load(state.path(), &machine).unwrap();
        assert_ne!(second, first);
        assert_eq!(load(state.path(), &machine).unwrap(), second);
    }

    #[test]
    fn a_torn_file_is_refused_and_left() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join(FILE), "{\"uuid\":").unwrap();
        let error = load(state.path(), Path::new("/nonexistent")).unwrap_err();
        assert!(error.to_string().contains(FILE), "{error}");
        assert_eq!(fs::read(state.path().join(FILE)).unwrap(), b"{\"uuid\":");
    }
}
