//! Command line of `tns-csi`: subcommands, flags and their environment variables.
//!
//! Every flag `--some-flag` can also be given as `TNS_CSI_SOME_FLAG`; the flag wins. No flag takes a secret, because
//! every user of a host can read a process's arguments.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use tracing_subscriber::filter::Targets;
use url::Url;

use crate::endpoint::UnixEndpoint;
use crate::observe::logging::LogFormat;
use crate::volume::topology::{Segment, Topology};

/// The variable by which Kubernetes' sidecars and examples name the CSI socket.
const CSI_ENDPOINT: &str = "CSI_ENDPOINT";

/// CSI driver for TrueNAS: NFS, SMB, iSCSI and NVMe-oF/TCP volumes.
///
/// Neither subcommand needs privileges: run both as an unprivileged user without capabilities. What needs them on a
/// node is done by the separate program node-helper.
#[derive(Debug, Parser)]
#[command(name = "tns-csi", version, max_term_width = 110)]
pub struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The two halves of the driver.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the CSI Controller and Identity services; talks to TrueNAS.
    ///
    /// One per cluster (several may run: the sidecars elect). Needs the appliance's API key as a file.
    Controller(ControllerArgs),
    /// Serve the CSI Node and Identity services; talks to the node-helper of this host.
    ///
    /// One per node, beside a node-helper. Holds no credential, opens no device and no volume path.
    Node(NodeArgs),
}

/// Flags of both subcommands.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// CSI socket to serve on: unix:///absolute/path.sock; CSI_ENDPOINT counts where neither flag nor variable is set
    #[arg(long, env = "TNS_CSI_ENDPOINT", value_name = "unix:///PATH")]
    endpoint: Option<UnixEndpoint>,
    /// Name of the driver, as in the StorageClass's provisioner and the CSIDriver object
    #[arg(long, env = "TNS_CSI_DRIVER_NAME", value_name = "NAME", default_value = "tns.csi.io")]
    pub driver_name: DriverName,
    /// Address of /metrics and /healthz over HTTP; not served without it
    #[arg(long, env = "TNS_CSI_METRICS_ADDR", value_name = "IP:PORT")]
    pub metrics_addr: Option<SocketAddr>,
    /// Topology, as KEY=VALUE (topology.kubernetes.io/zone=east): for a node agent where its host is, for the controller from
    /// where the appliance is reached; give it to all or to none. Volumes are then placed where all of the controller's hold
    #[arg(long, env = "TNS_CSI_TOPOLOGY", value_name = "KEY=VALUE", value_delimiter = ',')]
    topology: Vec<Segment>,
    /// Log lines on standard error: text or json
    #[arg(long, env = "TNS_CSI_LOG_FORMAT", value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,
    /// Log level (error, warn, info, debug, trace), or levels by module: info,truenas=debug
    #[arg(long, env = "TNS_CSI_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: Targets,
}

impl CommonArgs {
    /// The topology.
    ///
    /// # Errors
    /// A usage error when a key was given twice.
    pub fn topology(&self) -> Result<Topology, clap::Error> {
        let twice = |words| Cli::command().error(ErrorKind::ValueValidation, words);
        Topology::new(self.topology.iter().cloned()).map_err(twice)
    }

    /// The CSI socket.
    ///
    /// # Errors
    /// A usage error when none was given or `CSI_ENDPOINT` is none.
    pub fn endpoint(&self) -> Result<UnixEndpoint, clap::Error> {
        self.endpoint_or(std::env::var(CSI_ENDPOINT).ok().as_deref())
    }

    fn endpoint_or(&self, fallback: Option<&str>) -> Result<UnixEndpoint, clap::Error> {
        match (&self.endpoint, fallback) {
            (Some(endpoint), _) => Ok(endpoint.clone()),
            (None, Some(text)) => text.parse().map_err(|e| {
                Cli::command().error(ErrorKind::ValueValidation, format!("{CSI_ENDPOINT}: {e}"))
            }),
            (None, None) => Err(Cli::command().error(
                ErrorKind::MissingRequiredArgument,
                "no CSI socket: give --endpoint unix:///PATH, TNS_CSI_ENDPOINT or CSI_ENDPOINT",
            )),
        }
    }
}

/// Flags of `tns-csi controller`.
#[derive(Debug, Args)]
pub struct ControllerArgs {
    /// What both subcommands take.
    #[command(flatten)]
    pub common: CommonArgs,
    /// The appliance, e.g. wss://nas.example/api/current; a port goes after the host. For an HA pair several, the virtual
    /// address first: tried in turn until one is the active controller
    #[arg(long, env = "TNS_CSI_API_URL", value_name = "URL", value_delimiter = ',', required = true)]
    pub api_url: Vec<Url>,
    /// File with the TrueNAS API key, in the form ID-SECRET; a changed file is read at the next login, and ends the
    /// refusal of the key before
    #[arg(long, env = "TNS_CSI_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: PathBuf,
    /// TrueNAS user that owns the API key; without it the default administrator and then the key alone are tried
    #[arg(long, env = "TNS_CSI_API_USER", value_name = "NAME")]
    pub api_user: Option<String>,
    /// PEM file with certificates to trust besides the system's
    #[arg(long, env = "TNS_CSI_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Accept any certificate of the appliance; whoever answers at the address then gets the API key
    #[arg(long, env = "TNS_CSI_SKIP_TLS_VERIFY", value_parser = BoolishValueParser::new())]
    pub skip_tls_verify: bool,
    /// Allow ws:// to a loopback address; TrueNAS revokes a key that reaches it in clear from elsewhere
    #[arg(long, env = "TNS_CSI_ALLOW_PLAINTEXT_LOOPBACK", value_parser = BoolishValueParser::new())]
    pub allow_plaintext_loopback: bool,
    /// Name of this cluster, written on its volumes; volumes of another cluster are then never touched
    #[arg(long, env = "TNS_CSI_CLUSTER_ID", value_name = "ID")]
    pub cluster_id: Option<String>,
}

/// Flags of `tns-csi node`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// What both subcommands take.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Socket of this host's node-helper
    #[arg(long, env = "TNS_CSI_HELPER", value_name = "unix:///PATH")]
    pub helper: UnixEndpoint,
    /// Volumes of this driver that this host may have at once; the scheduler places pods accordingly [default: no limit]
    #[arg(long, env = "TNS_CSI_MAX_VOLUMES_PER_NODE", value_name = "NUMBER")]
    pub max_volumes_per_node: Option<NonZeroU32>,
}

/// A CSI driver name (CSI 1.12, GetPluginInfo: domain name notation, at most 63 characters of letters, digits, `.` and
/// `-`, beginning and ending with a letter or digit).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverName(String);

impl DriverName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DriverName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let valid = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric());
        if valid {
            Ok(DriverName(text.to_owned()))
        } else {
            Err("expected 1 to 63 letters, digits, '.' and '-', beginning and ending with a letter or digit"
                .into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(args: &[&str]) -> Result<NodeArgs, clap::Error> {
        let all = ["tns-csi", "node", "--helper", "unix:///run/helper.sock"].iter().chain(args);
        Cli::try_parse_from(all).map(|cli| match cli.command {
            Command::Node(node) => node,
            Command::Controller(_) => panic!("not a node"),
        })
    }

    #[test]
    fn a_limit_of_volumes_is_a_number_above_zero() {
        assert_eq!(node(&[]).unwrap().max_volumes_per_node, None);
        let limited = node(&["--max-volumes-per-node", "120"]).unwrap();
        assert_eq!(limited.max_volumes_per_node.map(NonZeroU32::get), Some(120));
        assert!(node(&["--max-volumes-per-node", "0"]).is_err());
    }

    #[test]
    fn a_topology_has_each_key_once() {
        let two = node(&["--topology", "zone=east,rack=r1"]).unwrap().common;
        assert_eq!(two.topology().unwrap().to_string(), "rack=r1,zone=east");
        let twice = node(&["--topology", "zone=east", "--topology", "zone=west"]).unwrap().common;
        assert_eq!(twice.topology().unwrap_err().exit_code(), 2);
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_endpoint_comes_from_the_flag_or_csi_endpoint() {
        let flagged = node(&["--endpoint", "unix:///run/a.sock"]).unwrap().common;
        assert_eq!(
            flagged.endpoint_or(Some("unix:///run/b.sock")).unwrap().to_string(),
            "unix:///run/a.sock"
        );
        let bare = node(&[]).unwrap().common;
        assert_eq!(bare.endpoint_or(Some("unix:///run/b.sock")).unwrap().to_string(), "unix:///run/b.sock");
        assert!(bare.endpoint_or(None).unwrap_err().to_string().contains("--endpoint"));
        assert!(bare.endpoint_or(Some("tcp://x")).unwrap_err().to_string().contains("CSI_ENDPOINT"));
    }

    #[test]
    fn bad_values_are_usage_errors() {
        for args in [
            ["--endpoint", "/run/a.sock"],
            ["--driver-name", "-x"],
            ["--driver-name", ""],
            ["--metrics-addr", "8080"],
            ["--log-format", "xml"],
            ["--log-level", "info,=x=y"],
            ["--topology", "zone"],
        ] {
            assert_eq!(node(&args).unwrap_err().exit_code(), 2, "{args:?}");
        }
    }

    #[test]
    fn a_controller_without_an_appliance_is_a_usage_error() {
        let without = Cli::try_parse_from(["tns-csi", "controller", "--api-key-file=/etc/key"]).unwrap_err();
        assert!(without.to_string().contains("--api-url"), "{without}");
        let empty = ["tns-csi", "controller", "--api-key-file=/etc/key", "--api-url=wss://a,"];
        assert_eq!(Cli::try_parse_from(empty).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn the_controllers_flags_are_those_of_the_contract() {
        let cli = Cli::try_parse_from([
            "tns-csi",
            "controller",
            "--endpoint=unix:///run/csi.sock",
            "--api-url=wss://nas.example/api/current",
            "--api-url=wss://nas-a.example,wss://nas-b.example",
            "--api-key-file=/etc/key",
            "--ca-file=/etc/ca",
            "--skip-tls-verify",
            "--driver-name=tns.csi.io",
            "--cluster-id=lab",
            "--metrics-addr=127.0.0.1:0",
            "--api-user=csi",
            "--allow-plaintext-loopback",
            "--log-format=json",
        ])
        .unwrap();
        let Command::Controller(controller) = cli.command else { panic!("not a controller") };
        let hosts: Vec<_> = controller.api_url.iter().filter_map(Url::host_str).collect();
        assert_eq!(hosts, ["nas.example", "nas-a.example", "nas-b.example"]);
        assert!(controller.skip_tls_verify && controller.allow_plaintext_loopback);
        assert_eq!(controller.common.log_format, LogFormat::Json);
    }
}
