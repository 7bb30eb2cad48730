//! `csi-conformance`: csi-sanity against the real binaries, every protocol in every way of using a volume.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use conformance::golang;
use conformance::matrix::{Count, Matrix, RUNS};
use conformance::programs::{Layout, Place};

/// Runs csi-sanity v5.5.0 over two sockets against truenas-sim, the controller, the node agent and a helper.
///
/// On any machine, without privilege, the helper is the fake one and the appliance keeps its pool in memory; with
/// --lab, as root in the lab's guest, both are real. Every skipped spec must be on the program's own list. Ends with
/// `N passed, N failed` and status 0 only when nothing failed.
#[derive(Debug, Parser)]
#[command(name = "csi-conformance", version, max_term_width = 110)]
#[command(after_help = "Runs: nfs/filesystem, nvmeof/filesystem, nvmeof/block.\n\n\
    csi-sanity is built once from Go modules and kept in $XDG_CACHE_HOME/tns-csi (default ~/.cache/tns-csi); a copy is \
    put into --bin-dir, from where --lab takes it.")]
struct Arguments {
    /// Directory of truenas-sim, tns-csi, fake-helper and node-helper
    #[arg(long, value_name = "DIR")]
    bin_dir: PathBuf,
    /// Real helper and real pool: only as root in the lab's guest
    #[arg(long)]
    lab: bool,
    /// Only build csi-sanity and put it into --bin-dir
    #[arg(long)]
    prepare: bool,
    /// Run only this one (can be given again)
    #[arg(long = "run", value_name = "NAME")]
    runs: Vec<String>,
    /// Run only the specs whose name matches; skips are then not judged
    #[arg(long, value_name = "REGEX")]
    focus: Option<String>,
    /// A csi-sanity to use instead of the pinned one
    #[arg(long, value_name = "FILE")]
    sanity: Option<PathBuf>,
    /// Directory for logs and reports, made when absent; default: in the work directory, removed when all went well
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// Kubelet's root for the helper; default: in the work directory, with --lab /var/lib/kubelet
    #[arg(long, value_name = "DIR")]
    kubelet_root: Option<PathBuf>,
    /// The appliance's pool, at least 200 GiB (sparse is enough)
    #[arg(long, value_name = "NAME", default_value = "tank")]
    pool: String,
    /// Dataset for the volumes; default: the pool itself
    #[arg(long, value_name = "DATASET")]
    parent_dataset: Option<String>,
    /// Directory of the appliance's JSON Schemas (v25_10_5.json): messages to and from the appliance are checked
    #[arg(long, env = "TNS_CSI_SIM_SCHEMAS", value_name = "DIR")]
    schemas: Option<PathBuf>,
    /// Minutes that each run may take
    #[arg(long, value_name = "MINUTES", default_value_t = 20)]
    minutes: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(Count { failed: 0, .. }) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            println!("csi-conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<Count> {
    if let Some(unknown) = arguments.runs.iter().find(|name| !RUNS.iter().any(|run| run.name == *name)) {
        bail!(
            "no run is called {unknown:?}; there are {}",
            RUNS.iter().map(|run| run.name).collect::<Vec<_>>().join(", ")
        );
    }
    let bin = fs::canonicalize(&arguments.bin_dir)
        .with_context(|| format!("looking at {}", arguments.bin_dir.display()))?;
    let sanity = match &arguments.sanity {
        Some(path) => fs::canonicalize(path).with_context(|| format!("looking at {}", path.display()))?,
        None => pinned(&bin, arguments.lab)?,
    };
    if arguments.prepare {
        println!("{}", sanity.display());
        return Ok(Count::default());
    }
    if arguments.lab && !nix::unistd::geteuid().is_root() {
        bail!("--lab starts the real helper, which needs root");
    }

    let mut work =
        tempfile::Builder::new().prefix("csi-conformance-").tempdir().context("making a work directory")?;
    let root = work.path().to_owned();
    let logs = arguments.log_dir.clone().unwrap_or_else(|| root.join("logs"));
    fs::create_dir_all(&logs).with_context(|| format!("making {}", logs.display()))?;
    let kubelet = arguments.kubelet_root.clone().unwrap_or_else(|| {
        if arguments.lab { PathBuf::from("/var/lib/kubelet") } else { root.join("kubelet") }
    });
    // The form of a TrueNAS key: `<id>-<64 letters and digits>`.
    let random = || uuid::Uuid::new_v4().simple().to_string();
    let layout = Layout {
        place: if arguments.lab { Place::Lab } else { Place::Host },
        bin,
        work: root.clone(),
        logs: fs::canonicalize(&logs).with_context(|| format!("looking at {}", logs.display()))?,
        kubelet,
        pool: arguments.pool,
        schemas: arguments.schemas.filter(|path| !path.as_os_str().is_empty()),
        api_key: format!("1-{}{}\n", random(), random()),
        secret: format!("secret,\"{}", random()),
    };
    let matrix = Matrix {
        layout,
        sanity,
        only: arguments.runs,
        focus: arguments.focus,
        parent: arguments.parent_dataset,
        limit: Duration::from_secs(arguments.minutes.saturating_mul(60)),
    };
    let count = matrix.run().await;
    if count.failed > 0 {
        work.disable_cleanup(true);
        println!(
            "sockets, state and logs are kept in {} and {}",
            root.display(),
            matrix.layout.logs.display()
        );
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    Ok(count)
}

/// The csi-sanity that belongs to this program. In the lab it must be in the directory of the programs; elsewhere it is
/// built when needed and put there.
fn pinned(bin: &Path, lab: bool) -> anyhow::Result<PathBuf> {
    let beside = bin.join(golang::sanity_name());
    if beside.exists() {
        return Ok(beside);
    }
    if lab {
        bail!(
            "{} is missing: run csi-conformance --prepare with this --bin-dir outside the guest",
            beside.display()
        );
    }
    let built = golang::sanity()?;
    let partial = bin.join(format!("{}.partial", golang::sanity_name()));
    fs::copy(&built, &partial).with_context(|| format!("copying csi-sanity to {}", partial.display()))?;
    fs::rename(&partial, &beside).with_context(|| format!("naming {}", beside.display()))?;
    Ok(beside)
}
