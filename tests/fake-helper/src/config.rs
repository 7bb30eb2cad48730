//! The part of the node-helper's configuration file that matters here; the rest of the file is passed over.

use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    paths: Paths,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Paths {
    extra_parents: Vec<String>,
}

/// `[paths] extra_parents` of the TOML file.
///
/// # Errors
/// A file that cannot be read, or is no TOML of that form.
pub fn extra_parents(file: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let config: Config = toml::from_str(&text).with_context(|| format!("reading {}", file.display()))?;
    Ok(config.paths.extra_parents)
}
