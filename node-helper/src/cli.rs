//! The command line. Every flag also reads the variable `TNS_CSI_<FLAG>`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use ipnet::IpNet;

/// Privileged helper of the TrueNAS CSI driver: the only process that connects, mounts, formats and grows volumes.
///
/// It serves the driver's node agent on a unix socket and refuses everyone else. It must run as root in the host's
/// mount and network namespaces (a systemd unit, or a DaemonSet with bidirectional mount propagation and the host's
/// network). It keeps only the capabilities that it needs and never talks to the appliance's API.
#[derive(Debug, Parser)]
#[command(name = "node-helper", version, max_term_width = 110)]
pub struct Cli {
    /// Socket to listen on, as unix:///path. Its directory is made with mode 0750 when absent. Not needed when systemd
    /// passes the socket.
    #[arg(long, env = "TNS_CSI_LISTEN", value_name = "unix:///PATH", value_parser = socket_path)]
    pub listen: Option<PathBuf>,

    /// Kubelet's root directory. Volumes are staged and published below it and nowhere else.
    #[arg(long, env = "TNS_CSI_KUBELET_ROOT", value_name = "DIR", default_value = "/var/lib/kubelet")]
    pub kubelet_root: PathBuf,

    /// Directory for the ledger, the host's identity and its key for sealed secrets; must survive reboots.
    #[arg(long, env = "TNS_CSI_STATE_DIR", value_name = "DIR", default_value = "/var/lib/tns-csi")]
    pub state_dir: PathBuf,

    /// Name of this node in Kubernetes.
    #[arg(long, env = "TNS_CSI_NODE_NAME", value_name = "NAME", value_parser = node_name)]
    pub node_name: String,

    /// User id that may call, as the kernel reports it for the socket's peer; may be repeated. The socket belongs to
    /// the first one.
    #[arg(long, env = "TNS_CSI_ALLOW_UID", value_name = "UID", required = true, value_delimiter = ',')]
    pub allow_uid: Vec<u32>,

    /// Name of the CSI driver; a part of kubelet's staging paths.
    #[arg(long, env = "TNS_CSI_DRIVER_NAME", value_name = "NAME", default_value = "tns.csi.io")]
    pub driver_name: String,

    /// Network in which storage servers may be, as CIDR; may be repeated. Without one no volume can be staged.
    #[arg(long, env = "TNS_CSI_ALLOW_SERVER", value_name = "CIDR", value_delimiter = ',', value_parser = network)]
    pub allow_server: Vec<IpNet>,

    /// Network through which this host reaches the storage, as CIDR; may be repeated. Its addresses here are those the
    /// appliance grants access to. Default: the addresses of the default route's interface.
    #[arg(long, env = "TNS_CSI_STORAGE_CIDR", value_name = "CIDR", value_delimiter = ',', value_parser = network)]
    pub storage_cidr: Vec<IpNet>,

    /// Configuration file (TOML) with further settings: paths.extra_parents, tools.directories, tests.*
    #[arg(long, env = "TNS_CSI_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Form of the log lines on standard error. Verbosity: variable RUST_LOG, default "info".
    #[arg(long, env = "TNS_CSI_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

fn socket_path(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') && path.len() > 1 => Ok(PathBuf::from(path)),
        _ => Err("expected unix:///absolute/path".to_owned()),
    }
}

fn node_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 253 {
        return Err("expected 1 to 253 bytes".to_owned());
    }
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.')) {
        Ok(text.to_owned())
    } else {
        Err("expected letters, digits, '-' and '.'".to_owned())
    }
}

/// A CIDR, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .map_err(|_| format!("{text:?} is neither a CIDR (192.0.2.0/24) nor an address"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent_and_every_flag_has_its_variable() {
        let command = Cli::command();
        command.clone().debug_assert();
        for argument in command
            .get_arguments()
            .filter(|argument| !matches!(argument.get_id().as_str(), "help" | "version"))
        {
            let name = argument.get_long().expect("a long flag").to_uppercase().replace('-', "_");
            let variable = argument.get_env().expect("a variable").to_str().expect("text");
            assert_eq!(variable, format!("TNS_CSI_{name}"));
        }
    }

    #[test]
    fn the_contract_of_flags_parses() {
        let cli = Cli::try_parse_from([
            "node-helper",
            "--listen=unix:///run/tns-csi/helper.sock",
            "--kubelet-root=/var/lib/kubelet",
            "--state-dir=/var/lib/tns-csi",
            "--node-name=n1",
            "--allow-uid=65532",
            "--allow-server=192.0.2.0/24,198.51.100.7",
        ])
        .unwrap();
        assert_eq!(cli.allow_uid, [65532]);
        assert_eq!(cli.allow_server.len(), 2);
        for bad in ["--listen=/run/x", "--listen=tcp://x", "--allow-server=nas", "--node-name=a/b"] {
            let line = ["node-helper", "--node-name=n", "--allow-uid=1", bad];
            assert!(Cli::try_parse_from(line).is_err(), "{bad}");
        }
    }
}
