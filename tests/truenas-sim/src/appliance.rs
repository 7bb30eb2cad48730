//! One appliance: its parts, its start, its restart in stages, its end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backend::Backend;
use crate::backend::memory::Memory;
use crate::config::{BackendChoice, Config};
use crate::control::Control;
use crate::exports::{self, Stage};
use crate::failure::Failure;
use crate::faults::Faults;
use crate::jobs::Jobs;
use crate::login::{Login, is_api_key};
use crate::schemas::Schemas;
use crate::server;
use crate::state::{Journal, Rows, Table, Tables};
use crate::stats::Stats;

/// Behaviour that differs between releases and can be switched on by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// 26: `pool.dataset.delete` of a busy dataset answers true and leaves it there.
    pub busy_delete_returns_true: bool,
    /// 26: a dataset with snapshots is refused by -32602 with errno 39, and a recursive delete takes clones along.
    pub delete_as_26: bool,
}

/// One of two controllers, or a machine alone.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ha {
    /// `failover.status`: SINGLE, MASTER, BACKUP, ELECTING, IMPORTING or ERROR.
    pub status: String,
    /// `failover.licensed`
    pub licensed: bool,
    /// Not empty: every login is answered REDIRECT with these addresses, as the standby does while its peer serves.
    pub redirect: Vec<String>,
}

impl Default for Ha {
    fn default() -> Self {
        Self { status: "SINGLE".into(), licensed: false, redirect: Vec::new() }
    }
}

/// The sharing services, each with the lock that serialises its mutations.
#[derive(Debug, Default)]
pub(crate) struct Services {
    /// `nfs`
    pub nfs: Mutex<()>,
    /// `cifs`
    pub smb: Mutex<()>,
    /// `iscsitarget`
    pub iscsi: Mutex<()>,
    /// `nvmet`
    pub nvmet: Mutex<()>,
}

/// The connections of one boot, so that all of them can be dropped.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    token: Mutex<CancellationToken>,
}

impl Connections {
    /// A token that ends with the connections of this moment.
    pub fn child_token(&self) -> CancellationToken {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).child_token()
    }

    /// Drops every connection without a word.
    pub fn drop_all(&self) {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *token, CancellationToken::new()).cancel();
    }
}

#[derive(Debug)]
struct Boot {
    id: String,
    started: jiff::Timestamp,
    /// The API does not answer.
    down: bool,
    stage: Stage,
}

impl Boot {
    fn new() -> Self {
        let id = uuid::Uuid::new_v4().to_string();
        Self { id, started: jiff::Timestamp::now(), down: false, stage: Stage::Complete }
    }
}

/// Everything that the parts of one appliance share.
pub(crate) struct Shared {
    pub config: Config,
    pub api_key: String,
    pub backend: Arc<dyn Backend>,
    pub memory: Option<Arc<Memory>>,
    rows: Mutex<Rows>,
    pub faults: Faults,
    pub stats: Stats,
    pub jobs: Jobs,
    pub login: Login,
    pub services: Services,
    pub connections: Connections,
    pub schemas: Schemas,
    pub shutdown: CancellationToken,
    profile: Mutex<Profile>,
    ha: Mutex<Ha>,
    boot: Mutex<Boot>,
    /// Moves a manual restart on by one stage.
    next_stage: watch::Sender<u64>,
}

impl Shared {
    /// The configuration rows.
    pub fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn boot(&self) -> MutexGuard<'_, Boot> {
        self.boot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes on every boot.
    pub fn boot_id(&self) -> String {
        self.boot().id.clone()
    }

    /// When this boot began.
    pub fn boot_time(&self) -> jiff::Timestamp {
        self.boot().started
    }

    /// Whether the API is away.
    pub fn is_down(&self) -> bool {
        self.boot().down
    }

    /// How far the exports are up.
    pub fn stage(&self) -> Stage {
        self.boot().stage
    }

    /// Behaviour switches.
    pub fn profile(&self) -> Profile {
        *self.profile.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the behaviour switches.
    pub fn set_profile(&self, profile: Profile) {
        *self.profile.lock().unwrap_or_else(PoisonError::into_inner) = profile;
    }

    /// What it says of its high availability.
    pub fn ha(&self) -> Ha {
        self.ha.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what it says of its high availability.
    pub fn set_ha(&self, ha: Ha) {
        *self.ha.lock().unwrap_or_else(PoisonError::into_inner) = ha;
    }

    /// Lets a restart that waits go on to its next stage.
    pub fn advance(&self) {
        self.next_stage.send_modify(|n| *n += 1);
    }

    async fn enter(self: &Arc<Self>, stage: Stage) -> Result<(), Failure> {
        self.boot().stage = stage;
        let shared = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let _nfs = shared.services.nfs.lock().unwrap_or_else(PoisonError::into_inner);
            let _nvmet = shared.services.nvmet.lock().unwrap_or_else(PoisonError::into_inner);
            let _smb = shared.services.smb.lock().unwrap_or_else(PoisonError::into_inner);
            let _iscsi = shared.services.iscsi.lock().unwrap_or_else(PoisonError::into_inner);
            exports::apply_nfs(&shared)?;
            exports::apply_iscsi(&shared)?;
            exports::apply_smb(&shared)?;
            exports::apply_nvmet(&shared)
        })
        .await
        .unwrap_or_else(|_| Err(Failure::exception("RuntimeError", "the exports could not be applied")))
    }

    /// Takes the appliance down and brings it up again: connections drop, exports go, jobs and the login rate are
    /// forgotten, the boot id changes. After `down` the API answers; then the exports come back stage by stage, each
    /// followed by `pause`, or by a call of [`Shared::advance`] when `manual`.
    pub async fn restart(
        self: &Arc<Self>,
        down: Duration,
        stages: &[Stage],
        pause: Duration,
        manual: bool,
    ) -> Result<(), Failure> {
        let mut steps = self.next_stage.subscribe();
        self.boot().down = true;
        self.connections.drop_all();
        self.enter(Stage::Down).await?;
        self.jobs.reset();
        self.login.reset();
        if !down.is_zero() {
            tokio::time::sleep(down).await;
        }
        {
            let mut boot = self.boot();
            *boot = Boot { stage: Stage::Down, ..Boot::new() };
        }
        for stage in stages {
            self.enter(*stage).await?;
            if manual {
                if steps.changed().await.is_err() {
                    return Ok(());
                }
            } else if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        self.enter(Stage::Complete).await
    }
}

/// A running appliance. Dropping it stops it.
pub struct Appliance {
    shared: Arc<Shared>,
    address: SocketAddr,
    plain: Option<SocketAddr>,
    ca: server::tls::Files,
    _tls_dir: Option<tempfile::TempDir>,
    socket: Option<PathBuf>,
}

impl std::fmt::Debug for Appliance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appliance").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Appliance {
    /// Starts an appliance in the caller's runtime. When this returns it answers.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let api_key = match &config.api_key {
            Some(key) => key.trim().to_owned(),
            None => format!("1-{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>()),
        };
        anyhow::ensure!(
            is_api_key(&api_key),
            "the API key is malformed: expected digits, a dash and a secret of at least 8 characters"
        );
        let (tls_dir, temporary) = match &config.tls_dir {
            Some(directory) => (directory.clone(), None),
            None => {
                let temporary = tempfile::tempdir().context("cannot make a temporary TLS directory")?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("cannot listen on {}", config.listen))?;
        let address = listener.local_addr()?;
        let (acceptor, ca) = server::tls::prepare(&tls_dir, address)?;
        let plain_listener = match config.plain_listen {
            Some(plain) => {
                Some(TcpListener::bind(plain).await.with_context(|| format!("cannot listen on {plain}"))?)
            }
            None => None,
        };
        let plain = plain_listener.as_ref().map(TcpListener::local_addr).transpose()?;
        let control = config.control.clone();
        let shared = Arc::new(Self::assemble(config, api_key)?);
        first_start(&shared)
            .map_err(|f| anyhow::anyhow!("the configuration cannot be made: {}", f.summary()))?;
        shared
            .enter(Stage::Complete)
            .await
            .map_err(|f| anyhow::anyhow!("the exports cannot be applied: {}", f.summary()))?;
        if let Some(path) = &control {
            crate::control::socket::listen(Arc::clone(&shared), path).await?;
        }
        tokio::spawn(server::serve(Arc::clone(&shared), listener, Some(acceptor)));
        if let Some(listener) = plain_listener {
            tokio::spawn(server::serve(Arc::clone(&shared), listener, None));
        }
        Ok(Self { shared, address, plain, ca, _tls_dir: temporary, socket: control })
    }

    fn assemble(config: Config, api_key: String) -> anyhow::Result<Shared> {
        let (journal, tables) = match &config.state_dir {
            Some(directory) => Journal::open(directory)?,
            None => (Journal::volatile(), Tables::new()),
        };
        let journal = Arc::new(journal);
        let rows = Rows::load(&tables, Arc::clone(&journal));
        let (backend, memory): (Arc<dyn Backend>, _) = match config.backend {
            BackendChoice::Memory => {
                let memory = Arc::new(Memory::new(&config.pool, &tables, journal)?);
                (Arc::clone(&memory) as Arc<dyn Backend>, Some(memory))
            }
            BackendChoice::Zfs => {
                let settings = crate::backend::zfs::Settings {
                    pool: config.pool.pool.clone(),
                    smb_dir: config.state_dir.as_ref().map(|directory| directory.join("samba")),
                    smb_user: config.smb_user.clone(),
                };
                (crate::backend::real(&settings)?, None)
            }
        };
        let faults = Faults::default();
        faults.set_latency(None, config.latency);
        Ok(Shared {
            schemas: Schemas::load(config.schemas.as_deref(), config.version)?,
            login: Login::new(config.login_rate),
            api_key,
            backend,
            memory,
            rows: Mutex::new(rows),
            faults,
            stats: Stats::default(),
            jobs: Jobs::default(),
            services: Services::default(),
            connections: Connections::default(),
            shutdown: CancellationToken::new(),
            profile: Mutex::new(config.version.profile()),
            ha: Mutex::default(),
            boot: Mutex::new(Boot::new()),
            next_stage: watch::channel(0).0,
            config,
        })
    }

    /// Address of the TLS listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `wss://<address>/api/current`
    pub fn url(&self) -> String {
        format!("wss://{}/api/current", self.address)
    }

    /// `ws://<address>/api/current` of the listener without TLS.
    pub fn plain_url(&self) -> Option<String> {
        self.plain.map(|address| format!("ws://{address}/api/current"))
    }

    /// The CA that signed the server's certificate, in PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca.ca_pem
    }

    /// The file of that CA; it lives as long as the appliance when no TLS directory was given.
    pub fn ca_file(&self) -> &Path {
        &self.ca.ca
    }

    /// The API key, `<id>-<secret>`.
    pub fn api_key(&self) -> &str {
        &self.shared.api_key
    }

    /// The key's owner.
    pub fn api_key_user(&self) -> &str {
        &self.shared.config.api_key_user
    }

    /// The pool's name.
    pub fn pool(&self) -> &str {
        &self.shared.config.pool.pool
    }

    /// The commands of the control socket, in this process.
    pub fn control(&self) -> Control {
        Control::new(Arc::clone(&self.shared))
    }

    /// The memory backend, to look at what is exported.
    pub fn memory(&self) -> Option<&Memory> {
        self.shared.memory.as_deref()
    }

    /// Stops listening and drops every connection.
    pub fn stop(&self) {
        self.shared.shutdown.cancel();
        self.shared.connections.drop_all();
        // What is held would keep its thread, and with it the process.
        self.shared.faults.clear();
        if let Some(socket) = &self.socket {
            let _ = std::fs::remove_file(socket);
        }
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Rows that a new appliance has: services, the NVMe-oF configuration, the key, a port when one was asked for.
fn first_start(shared: &Arc<Shared>) -> Result<(), Failure> {
    let object = |value: Value| match value {
        Value::Object(map) => map,
        _ => serde_json::Map::new(),
    };
    {
        let mut rows = shared.rows();
        if rows.all(Table::Service).next().is_none() {
            let memory = matches!(shared.config.backend, BackendChoice::Memory);
            let smb = memory || shared.config.smb_user.is_some();
            let iscsi = memory || shared.config.iscsi_portal.is_some();
            for (service, on) in [("cifs", smb), ("iscsitarget", iscsi), ("nfs", true), ("nvmet", true)] {
                let state = if on { "RUNNING" } else { "STOPPED" };
                rows.insert(
                    Table::Service,
                    object(json!({"service": service, "enable": on, "state": state})),
                )?;
            }
        }
        if rows.get(Table::Config, 1).is_none() {
            let host = uuid::Uuid::new_v4();
            let basenqn = format!("nqn.2011-06.com.truenas:uuid:{host}");
            rows.insert(
                Table::Config,
                object(json!({
                    "basenqn": basenqn, "kernel": true, "ana": false, "rdma": false, "xport_referral": true,
                    "host_id": uuid::Uuid::new_v4().simple().to_string(), "global_id": host.to_string(),
                })),
            )?;
        }
        if rows.get(Table::Config, exports::ISCSI_CONFIG).is_none() {
            let port = shared.config.iscsi_portal.map_or(3260, |portal| portal.port());
            let row = json!({
                "basename": "iqn.2005-10.org.freenas.ctl", "isns_servers": [], "listen_port": port,
                "pool_avail_threshold": null, "alua": false, "iser": false,
            });
            rows.insert(Table::Config, object(row))?;
        }
        // After a boot a service runs when it is enabled.
        let restarted: Vec<_> = rows.all(Table::Service).map(|(id, row)| (id, row.clone())).collect();
        for (id, mut row) in restarted {
            let state = if row.get("enable") == Some(&json!(true)) { "RUNNING" } else { "STOPPED" };
            if row.get("state") != Some(&json!(state)) {
                row.insert("state".into(), state.into());
                rows.replace(Table::Service, id, row)?;
            }
        }
    }
    let no_portal = shared.rows().all(Table::IscsiPortal).next().is_none();
    if let Some(portal) = shared.config.iscsi_portal.filter(|_| no_portal) {
        crate::methods::iscsi::portal::insert(shared, &portal.ip().to_string())?;
    }
    if let Some(address) = shared.config.nvmet_port {
        let there = {
            let rows = shared.rows();
            let wanted = (json!(address.ip().to_string()), json!(address.port()));
            rows.all(Table::Port).any(|(_, row)| {
                row.get("addr_traddr") == Some(&wanted.0) && row.get("addr_trsvcid") == Some(&wanted.1)
            })
        };
        if !there {
            crate::methods::nvmet::port::insert(
                shared,
                &address.ip().to_string(),
                i64::from(address.port()),
            )?;
        }
    }
    Ok(())
}
