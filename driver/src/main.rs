//! The program `tns-csi`: reads its flags, starts logging and a small runtime, and serves until it is told to stop.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use tns_csi::cli::{Cli, Command, CommonArgs, ControllerArgs, NodeArgs};
use tns_csi::csi::controller::{self, ControllerOptions};
use tns_csi::csi::identity::{self, Dependency};
use tns_csi::csi::node;
use tns_csi::csi::server::{self, Listener};
use tns_csi::endpoint::UnixEndpoint;
use tns_csi::helper::Helper;
use tns_csi::kubernetes::Kubernetes;
use tns_csi::observe::{Metrics, Monitor, logging};
use tns_csi::process;
use tns_csi_proto::csi::v1::controller_server::ControllerServer;
use tns_csi_proto::csi::v1::identity_server::IdentityServer;
use tns_csi_proto::csi::v1::node_server::NodeServer;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::{error, warn};

/// Longest wait at the end for operations whose callers have gone.
const SETTLE_WITHIN: Duration = Duration::from_secs(4);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (Command::Controller(ControllerArgs { common, .. }) | Command::Node(NodeArgs { common, .. })) =
        &cli.command;
    let endpoint = common.endpoint().unwrap_or_else(|error| error.exit());
    if let Err(error) = logging::start(common.log_format, common.log_level.clone()) {
        eprintln!("tns-csi: logging cannot be started: {error}");
        return ExitCode::FAILURE;
    }
    process::warn_if_privileged();
    match run(cli.command, endpoint) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = format!("{error:#}"), "stopped");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, endpoint: UnixEndpoint) -> anyhow::Result<()> {
    match command {
        // A node agent only passes small messages on: one thread is enough and costs the least memory.
        Command::Node(args) => {
            runtime(&mut Builder::new_current_thread())?.block_on(serve_node(args, endpoint))
        }
        // A second worker keeps answering while the first reads a long list.
        Command::Controller(args) => {
            runtime(Builder::new_multi_thread().worker_threads(2))?.block_on(serve_controller(args, endpoint))
        }
    }
}

fn runtime(builder: &mut Builder) -> anyhow::Result<Runtime> {
    builder.enable_all().build().context("starting the runtime")
}

async fn serve_node(args: NodeArgs, endpoint: UnixEndpoint) -> anyhow::Result<()> {
    let topology = args.common.topology()?;
    let helper = Helper::new(args.helper)?;
    let identity = identity::Service::new(
        args.common.driver_name.as_str().to_owned(),
        Dependency::Helper(helper.clone()),
    )
    .with_topology(!topology.is_empty());
    let node = node::Service::new(helper).with_max_volumes(args.max_volumes_per_node).with_topology(topology);
    let routes = Routes::new(IdentityServer::new(identity)).add_service(NodeServer::new(node));
    serve(&args.common, endpoint, routes, Arc::new(Metrics::new()?)).await
}

async fn serve_controller(args: ControllerArgs, endpoint: UnixEndpoint) -> anyhow::Result<()> {
    let topology = args.common.topology()?;
    let key = truenas::ApiKey::from_file(&args.api_key_file)?;
    let mut urls = args.api_url.into_iter();
    let first = urls.next().context("--api-url is missing")?;
    let client = truenas::Client::new(truenas::Options {
        user: args.api_user,
        ca_file: args.ca_file,
        skip_tls_verify: args.skip_tls_verify,
        allow_plaintext_loopback: args.allow_plaintext_loopback,
        further_urls: urls.collect(),
        ..truenas::Options::new(first, key)
    })?;
    let driver_name = args.common.driver_name.as_str().to_owned();
    let metrics = Arc::new(Metrics::new()?);
    metrics.watch_appliance(client.clone())?;
    let controller = controller::Service::new(
        ControllerOptions {
            driver_name: driver_name.clone(),
            cluster_id: args.cluster_id,
            kubernetes: Kubernetes::in_cluster(),
            topology: topology.clone(),
            metrics: Some(Arc::clone(&metrics)),
        },
        client.clone(),
    );
    let identity = identity::Service::new(driver_name, Dependency::Appliance(client))
        .with_topology(!topology.is_empty());
    let routes =
        Routes::new(IdentityServer::new(identity)).add_service(ControllerServer::new(controller.clone()));
    serve(&args.common, endpoint, routes, metrics).await?;
    // Work outlives the call that began it. What does not end in time is taken up by the retried call.
    if tokio::time::timeout(SETTLE_WITHIN, controller.idle()).await.is_err() {
        warn!(seconds = SETTLE_WITHIN.as_secs(), "operations still run at the end, leaving them to a retry");
    }
    Ok(())
}

/// Serves `routes`, and metrics where they are asked for, until a signal ends it.
async fn serve(
    common: &CommonArgs,
    endpoint: UnixEndpoint,
    routes: Routes,
    metrics: Arc<Metrics>,
) -> anyhow::Result<()> {
    let stop = process::stop_on_signal().context("setting signal handlers")?;
    let listener = Listener::bind(&endpoint).await?;
    if let Some(address) = common.metrics_addr {
        let monitor = Monitor::bind(address).await?;
        tokio::spawn(watch(monitor, Arc::clone(&metrics), stop.clone()));
    }
    process::ready(&endpoint);
    server::serve(listener, routes, metrics, stop).await
}

async fn watch(monitor: Monitor, metrics: Arc<Metrics>, stop: CancellationToken) {
    if let Err(error) = monitor.serve(metrics, stop).await {
        error!(%error, "metrics are no longer served");
    }
}
