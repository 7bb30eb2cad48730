//! `cargo xtask`: the project's tasks.

mod setup;

fn main() -> anyhow::Result<()> {
    setup::host_packages()
}
