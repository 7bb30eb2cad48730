//! The optional configuration file: what is rare enough to stay off the command line.
//!
//! TOML; an unknown key is an error, so that a misspelt one is noticed:
//!
//! ```toml
//! [paths]
//! extra_parents = ["csi-sanity"]   # below <kubelet root>/csi-sanity any path of one or two components is accepted
//!
//! [tools]
//! directories = ["/usr/local/sbin"] # looked at first for mkfs, blkid, …
//!
//! [iscsi]
//! record_directories = ["/usr/local/etc/iscsi"] # where open-iscsi keeps its records, beside the usual places
//!
//! [tests]
//! skip_host_checks = false          # for tests only: run outside the host's namespaces or without privilege
//! ```

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The file's content; every table may be absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which paths are accepted.
    pub paths: Paths,
    /// Where external programs lie.
    pub tools: ToolPaths,
    /// open-iscsi on this host.
    pub iscsi: IscsiPaths,
    /// Switches for tests.
    pub tests: Tests,
}

/// Table `paths`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Paths {
    /// Directories relative to the kubelet root; below each, every path of one or two components is accepted as a
    /// staging or target path.
    pub extra_parents: Vec<String>,
}

/// Table `tools`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ToolPaths {
    /// Absolute directories that are searched before the usual ones.
    pub directories: Vec<PathBuf>,
}

/// Table `iscsi`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IscsiPaths {
    /// Absolute directories in which open-iscsi keeps its records (`nodes`, `ifaces`), beside `/var/lib/iscsi` and
    /// `/etc/iscsi`.
    pub record_directories: Vec<PathBuf>,
}

/// Table `tests`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tests {
    /// Starts although mounts would not reach kubelet, or capabilities are missing. For tests only: volumes staged
    /// this way are seen by nobody else.
    pub skip_host_checks: bool,
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// In words, naming the file and the line.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| anyhow::anyhow!("configuration file {}: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| anyhow::anyhow!("configuration file {}: {error}", path.display()))
    }

    /// Parses the file's text.
    ///
    /// # Errors
    /// Of TOML or an unknown key, with its place.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn the_documented_file_parses_and_a_misspelt_key_is_named() {
        let config =
            Config::parse("[paths]\nextra_parents = [\"csi-sanity\"]\n[tests]\nskip_host_checks = true\n")
                .unwrap();
        assert_eq!(config.paths.extra_parents, ["csi-sanity"]);
        assert!(config.tests.skip_host_checks);
        assert!(
            Config::parse("[paths]\nextra_parent = []\n").unwrap_err().to_string().contains("extra_parent")
        );
    }
}
