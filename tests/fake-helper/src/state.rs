//! What the fake remembers: one JSON file, written whole before an answer is given, so that a restart changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Everything that survives a restart.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// The host's random UUID.
    pub host: Uuid,
    /// Staged volumes by volume id.
    pub volumes: BTreeMap<String, Volume>,
}

/// A staged volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Volume {
    /// How it is staged; a repeated stage must ask for the same.
    pub staged: Staged,
    /// Where it is staged.
    pub staging_path: String,
    /// The sparse file or directory that stands for the volume's data.
    pub data: PathBuf,
    /// Targets by path.
    pub targets: BTreeMap<String, Target>,
}

/// What a stage asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// nfs or nvmeof.
    pub protocol: String,
    /// What names the volume's data for good: server and export, or NQN and namespace UUID.
    pub identity: String,
    /// File system, empty for raw block.
    pub fs_type: String,
    /// Raw block device and not a file system.
    pub block: bool,
    /// Read-only.
    pub readonly: bool,
    /// Hash of the mount flags, which may hold secrets.
    pub mount_flags: String,
    /// Group that the files belong to.
    #[serde(default)]
    pub group: Option<u32>,
}

/// What a publish asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Never writable there.
    pub readonly: bool,
    /// The only target that may exist.
    pub exclusive: bool,
}

impl State {
    /// Reads the file in `dir`, or begins with a new host.
    ///
    /// # Errors
    /// A file that cannot be read: it is never replaced by a guess.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("state.json");
        match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let state = State { host: Uuid::new_v4(), volumes: BTreeMap::new() };
                state.save(dir)?;
                Ok(state)
            }
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Replaces the file in one step.
    ///
    /// # Errors
    /// The disk's.
    pub fn save(&self, dir: &Path) -> anyhow::Result<()> {
        let (new, path) = (dir.join("state.json.new"), dir.join("state.json"));
        std::fs::write(&new, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("writing {}", new.display()))?;
        std::fs::rename(&new, &path).with_context(|| format!("writing {}", path.display()))
    }
}
