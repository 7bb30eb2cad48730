//! The node-helper's process: everything that needs privilege to be settled is settled before anything runs.
//!
//! In order, on the one thread that exists: flags, checks of the host, the socket, the end of all privilege that is
//! not needed. Only then a runtime, and the first request.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use node_helper::attach::{
    Attachments, FabricsDevice, HostInitiator, Iscsi, IscsiTuning, Nvme, NvmeHost, Records, Tuning,
};
use node_helper::cli::{Cli, LogFormat};
use node_helper::config::Config;
use node_helper::device::{Devices, Events, HostRoot, Iqn, Nqn};
use node_helper::filesystem::Filesystems;
use node_helper::host::{Host, identity, kernel, sealing};
use node_helper::ledger::Ledger;
use node_helper::paths::{KubeletRoot, Layout};
use node_helper::sandbox::{capabilities, namespaces, peer::AllowedPeers};
use node_helper::servers::AllowedServers;
use node_helper::service::server;
use node_helper::tool::Tools;
use node_helper::volume::{Parts, Volumes};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Threads for blocking kernel work: each may be held by a silent server.
const BLOCKING_THREADS: usize = 512;
/// How long the blocking pool may take to end; what hangs in the kernel is left to it.
const LAST_GRACE: Duration = Duration::from_secs(1);

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    log_to_stderr(cli.log_format);
    // Each of the threads below waits for the kernel nearly all its life: heaps of their own would cost several MiB. Another
    // allocator than glibc's has its own way.
    let _shared = node_helper_sys::heap::share(1);
    let config = cli.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o027));
    let kernel = kernel::check()?;
    if config.tests.skip_host_checks {
        tracing::warn!("the checks of namespaces and capabilities are switched off: for tests only");
    } else {
        let missing = capabilities::missing()?;
        anyhow::ensure!(
            missing.is_empty(),
            "the helper needs root with capabilities {missing:?}; it has not"
        );
        namespaces::check(&cli.kubelet_root)?;
    }
    let listener = listener(&cli)?;
    capabilities::shed()?;
    let parts = Settled::new(&cli, &config, kernel)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(Duration::from_secs(2))
        .build()?;
    let peers = AllowedPeers::new(cli.allow_uid.clone());
    let outcome = runtime.block_on(run(parts, listener, peers));
    runtime.shutdown_timeout(LAST_GRACE);
    outcome
}

/// Logs to standard error; the level comes from `RUST_LOG`.
fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// The socket that systemd passes, else the one of `--listen`.
fn listener(cli: &Cli) -> anyhow::Result<UnixListener> {
    let mut passed = listenfd::ListenFd::from_env();
    if let Some(listener) = passed.take_unix_listener(0).context("taking the socket that systemd passes")? {
        return Ok(listener);
    }
    let path = cli.listen.as_deref().context("--listen is missing and systemd passes no socket")?;
    let owner = cli.allow_uid.first().context("--allow-uid is missing")?;
    server::bind(path, *owner)
}

/// What is known before the runtime starts.
struct Settled {
    layout: Layout,
    root: KubeletRoot,
    ledger: Ledger,
    host: Host,
    servers: AllowedServers,
    tools: Tools,
    records: Records,
}

impl Settled {
    fn new(cli: &Cli, config: &Config, kernel: String) -> anyhow::Result<Self> {
        let layout = Layout::new(&cli.kubelet_root, &cli.driver_name, &config.paths.extra_parents)
            .map_err(anyhow::Error::msg)?;
        let root = KubeletRoot::open(&cli.kubelet_root)
            .with_context(|| format!("opening kubelet root {}", cli.kubelet_root.display()))?;
        let ledger = Ledger::open(&cli.state_dir)?;
        let uuid = identity::load(&cli.state_dir, Path::new("/etc/machine-id"))?;
        let sealing = Arc::new(sealing::load(&cli.state_dir, &uuid)?);
        let tools = Tools::find(&config.tools.directories);
        for tool in tools.missing() {
            tracing::info!(tool = tool.name(), package = tool.package(), "a program is not installed");
        }
        if cli.allow_server.is_empty() {
            tracing::warn!("no --allow-server: no volume can be staged");
        }
        Ok(Self {
            layout,
            root,
            ledger,
            host: Host {
                node_name: cli.node_name.clone(),
                uuid,
                sealing,
                kernel,
                storage_networks: cli.storage_cidr.clone(),
            },
            servers: AllowedServers::new(cli.allow_server.clone()),
            tools,
            records: Records::find(&config.iscsi.record_directories),
        })
    }
}

async fn run(settled: Settled, listener: UnixListener, peers: AllowedPeers) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let events = Events::listen().context("listening to device events")?;
    let devices = Devices::new(HostRoot::real(), events);
    let identity = NvmeHost { nqn: Nqn::parse(&settled.host.nqn())?, id: settled.host.uuid };
    let fabrics = Arc::new(FabricsDevice::new(devices.host().dev("nvme-fabrics")));
    let nvme = Nvme::new(devices.clone(), identity, Tuning::default(), fabrics);
    let iscsi = Iscsi::new(
        devices.clone(),
        Iqn::parse(&settled.host.initiator_name())?,
        settled.records,
        IscsiTuning::default(),
        Arc::new(HostInitiator::new(settled.tools.clone())),
    );
    let node = settled.host.node_name.clone();
    let volumes = Volumes::new(Parts {
        layout: settled.layout,
        root: settled.root,
        ledger: settled.ledger,
        host: settled.host,
        servers: settled.servers,
        attachments: Attachments::new(devices.clone(), nvme, iscsi),
        devices,
        filesystems: Filesystems::new(settled.tools),
    });
    let socket = listener
        .local_addr()
        .ok()
        .and_then(|address| address.as_pathname().map(|path| path.display().to_string()));
    tracing::info!(socket, node, version = env!("CARGO_PKG_VERSION"), "ready");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "systemd was not told that the helper is ready");
    }
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: running operations end first");
        let _nobody_listens = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    };
    server::serve(listener, peers, Arc::clone(&volumes), stop).await
}
