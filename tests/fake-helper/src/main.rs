//! `fake-helper`: the node-helper's API without privilege.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use fake_helper::{FakeHelper, Options};
use tokio::signal::unix::{SignalKind, signal};

/// A node-helper that behaves, without privilege: block devices are sparse files, mounts are links.
///
/// For csi-sanity and tests on machines where nothing may be mounted. Never for data.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where to serve, unix:///absolute/path.sock
    #[arg(long, env = "TNS_CSI_LISTEN", value_name = "unix:///PATH")]
    listen: String,
    /// Root below which every path of a request must lie
    #[arg(long, env = "TNS_CSI_KUBELET_ROOT", value_name = "DIR")]
    kubelet_root: PathBuf,
    /// Where records and pretended devices lie
    #[arg(long, env = "TNS_CSI_STATE_DIR", value_name = "DIR")]
    state_dir: PathBuf,
    /// Kubernetes node name
    #[arg(long, env = "TNS_CSI_NODE_NAME", value_name = "NAME", default_value = "fake-node")]
    node_name: String,
    /// Driver name, a part of kubelet's staging paths
    #[arg(long, env = "TNS_CSI_DRIVER_NAME", value_name = "NAME", default_value = "tns.csi.io")]
    driver_name: String,
    /// The node-helper's configuration file (TOML); only [paths] extra_parents counts here
    #[arg(long, env = "TNS_CSI_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Revision of the helper API to claim, to play an older helper
    #[arg(long, default_value_t = tns_csi_proto::HELPER_REVISION)]
    revision: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "stopped");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let socket =
        arguments.listen.strip_prefix("unix://").context("--listen takes unix:///absolute/path.sock")?;
    let extra_parents =
        arguments.config.as_deref().map(fake_helper::extra_parents).transpose()?.unwrap_or_default();
    let helper = FakeHelper::new(Options {
        kubelet_root: arguments.kubelet_root,
        state_dir: arguments.state_dir,
        node_name: arguments.node_name,
        driver_name: arguments.driver_name,
        extra_parents,
        revision: arguments.revision,
    })?;
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let running = fake_helper::start(helper, socket)?;
    tracing::info!(socket = %running.socket().display(), "ready");
    // Outside systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}
