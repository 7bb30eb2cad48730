//! `truenas-sim`: the stand-in appliance as a program.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use truenas_sim::backend::memory::Settings;
use truenas_sim::backend::zfs::SmbUser;
use truenas_sim::{Appliance, BackendChoice, CONTROL_HELP, Config, Version};

/// A stand-in TrueNAS appliance: the API of TrueNAS over WebSocket and TLS, in memory or on a real pool.
///
/// It makes a CA and a certificate in --tls-dir (ca.pem is what a client trusts), reads the API key from
/// --api-key-file (one line, `<id>-<secret>`), keeps its state in --state-dir across restarts, and answers at
/// wss://ADDR/api/current. When it is ready it writes one log line with its address and tells systemd.
#[derive(Debug, Parser)]
#[command(name = "truenas-sim", version, after_long_help = CONTROL_HELP, subcommand_negates_reqs = true)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    /// Where storage happens: `memory` needs no privileges; `zfs` uses a real pool, the kernel's NVMe target and NFS
    /// server and Samba, and needs root.
    #[arg(long, env = "TNS_CSI_BACKEND", value_enum, default_value = "memory")]
    backend: Backend,
    /// Address and port of the API, e.g. 127.0.0.1:8443.
    #[arg(long, env = "TNS_CSI_LISTEN", value_name = "ADDR", required = true)]
    listen: Option<SocketAddr>,
    /// Directory of the state journal; made when absent.
    #[arg(long, env = "TNS_CSI_STATE_DIR", value_name = "DIR", required = true)]
    state_dir: Option<PathBuf>,
    /// File with the API key that may log in.
    #[arg(long, env = "TNS_CSI_API_KEY_FILE", value_name = "FILE", required = true)]
    api_key_file: Option<PathBuf>,
    /// Directory of ca.pem, cert.pem and key.pem; they are made when none of them is there.
    #[arg(long, env = "TNS_CSI_TLS_DIR", value_name = "DIR", required = true)]
    tls_dir: Option<PathBuf>,
    /// TrueNAS release to behave as: 25.04, 25.10 or 26. It chooses methods, parameters, error shapes and behaviour.
    #[arg(long, env = "TNS_CSI_TRUENAS_VERSION", value_name = "VERSION", default_value = "25.10", value_parser = Version::parse)]
    truenas_version: Version,
    /// Delay of every call in milliseconds.
    #[arg(long, env = "TNS_CSI_LATENCY_MS", value_name = "N", default_value_t = 0)]
    latency_ms: u64,
    /// Owner of the API key.
    #[arg(long, env = "TNS_CSI_API_KEY_USER", value_name = "NAME", default_value = "truenas_admin")]
    api_key_user: String,
    /// Name of the pool; with `zfs` it exists already.
    #[arg(long, env = "TNS_CSI_POOL", value_name = "NAME", default_value = "tank")]
    pool: String,
    /// Size of the memory backend's pool in bytes.
    #[arg(long, env = "TNS_CSI_POOL_SIZE", value_name = "BYTES", default_value_t = 1 << 40)]
    pool_size: u64,
    /// An NVMe/TCP port (address:port) that is configured from the first start.
    #[arg(long, env = "TNS_CSI_NVMET_PORT", value_name = "ADDR")]
    nvmet_port: Option<SocketAddr>,
    /// An iSCSI portal (address:port) that is configured from the first start.
    #[arg(long, env = "TNS_CSI_ISCSI_PORTAL", value_name = "ADDR")]
    iscsi_portal: Option<SocketAddr>,
    /// User that SMB clients log in as (zfs backend): an account of this machine. Without it service `cifs` cannot run.
    #[arg(long, env = "TNS_CSI_SMB_USER", value_name = "NAME", requires = "smb_password_file")]
    smb_user: Option<String>,
    /// File whose first line is that user's password.
    #[arg(long, env = "TNS_CSI_SMB_PASSWORD_FILE", value_name = "FILE", requires = "smb_user")]
    smb_password_file: Option<PathBuf>,
    /// Unix socket for control commands (see the end of --help); whoever reaches it may do everything.
    #[arg(long, env = "TNS_CSI_CONTROL", value_name = "PATH")]
    control: Option<PathBuf>,
    /// A second address without TLS. Like the appliance, the stand-in revokes a key that arrives there from another host.
    #[arg(long, env = "TNS_CSI_PLAIN_LISTEN", value_name = "ADDR")]
    plain_listen: Option<SocketAddr>,
    /// Directory of the appliance's JSON Schemas (v25_10_5.json and its siblings); every request and answer is checked against them,
    /// violations are logged and counted.
    #[arg(long, env = "TNS_CSI_SIM_SCHEMAS", value_name = "DIR")]
    schemas: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Sub>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Backend {
    Memory,
    Zfs,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Sends one command to the control socket of a running stand-in and prints the answer.
    #[command(after_help = CONTROL_HELP)]
    Control {
        /// The socket.
        path: PathBuf,
        /// The command as JSON.
        command: String,
    },
}

fn config(cli: Cli) -> anyhow::Result<Config> {
    let key_file = cli.api_key_file.context("--api-key-file is required")?;
    let key = std::fs::read_to_string(&key_file)
        .with_context(|| format!("cannot read the API key file {}", key_file.display()))?;
    Ok(Config {
        listen: cli.listen.context("--listen is required")?,
        plain_listen: cli.plain_listen,
        state_dir: Some(cli.state_dir.context("--state-dir is required")?),
        tls_dir: Some(cli.tls_dir.context("--tls-dir is required")?),
        api_key: Some(key.trim().to_owned()),
        api_key_user: cli.api_key_user,
        control: cli.control,
        version: cli.truenas_version,
        latency: Duration::from_millis(cli.latency_ms),
        backend: match cli.backend {
            Backend::Memory => BackendChoice::Memory,
            Backend::Zfs => BackendChoice::Zfs,
        },
        pool: Settings { pool: cli.pool, size: cli.pool_size, ..Settings::default() },
        nvmet_port: cli.nvmet_port,
        iscsi_portal: cli.iscsi_portal,
        smb_user: cli
            .smb_user
            .zip(cli.smb_password_file)
            .map(|(name, password_file)| SmbUser { name, password_file }),
        failed_login_delay: Duration::from_secs(1),
        schemas: cli.schemas,
        ..Config::default()
    })
}

async fn serve(config: Config) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let appliance = Appliance::start(config).await?;
    tracing::info!(url = %appliance.url(), ca = %appliance.ca_file().display(), "ready");
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    appliance.stop();
    Ok(())
}

async fn run(mut cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command.take() {
        Some(Sub::Control { path, command }) => {
            let answer = truenas_sim::send_control(&path, &command).await?;
            println!("{answer}");
            let ok = answer.get("ok") == Some(&serde_json::Value::Bool(true));
            Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        None => serve(config(cli)?).await.map(|()| ExitCode::SUCCESS),
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("truenas-sim: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
