//! What an administrator of the stand-in appliance sees and does on its pool, beside what the driver does.

use crate::guest::{output, run};

/// Datasets and zvols below a dataset, itself not counted.
pub fn datasets_below(dataset: &str) -> anyhow::Result<Vec<String>> {
    let text = output("zfs", &["list", "-H", "-r", "-t", "filesystem,volume", "-o", "name", dataset])?;
    Ok(text.lines().filter(|name| *name != dataset).map(str::to_owned).collect())
}

/// A property of a dataset as `zfs get -p` prints it.
pub fn property(dataset: &str, name: &str) -> anyhow::Result<String> {
    Ok(output("zfs", &["get", "-Hp", "-o", "value", name, dataset])?.trim().to_owned())
}

/// Destroys whatever lies below a dataset, with all that depends on it: the lab's own clearing up after a failure.
pub fn destroy_below(dataset: &str) -> anyhow::Result<()> {
    for child in
        output("zfs", &["list", "-H", "-d", "1", "-t", "filesystem,volume,snapshot", "-o", "name", dataset])?
            .lines()
    {
        if child != dataset {
            run("zfs", &["destroy", "-R", "-f", child])?;
        }
    }
    Ok(())
}
