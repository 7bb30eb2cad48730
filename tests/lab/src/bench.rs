//! The bench.

/// Runs it.
pub async fn run() -> anyhow::Result<bool> {
    anyhow::bail!("not built")
}
