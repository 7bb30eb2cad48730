//! The commands and what they do.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::appliance::{Ha, Profile, Shared};
use crate::backend::{DatasetKind, NewDataset, Scope};
use crate::exports::{self, Stage};
use crate::failure::Failure;
use crate::faults::When;
use crate::state::Table;

/// The commands in words, for `--help`.
pub const HELP: &str = r#"Control socket (--control PATH): one JSON command per line, one JSON answer per line, {"ok":true,"result":...} or
{"ok":false,"error":"..."}. `truenas-sim control PATH '<json>'` sends one. METHOD is a full name or a prefix with `*`; CALL counts
matching calls from now on (1: the next); WHEN is "before" or "after" the effect.

  {"command":"latency","ms":50}                                     delay every call; with "method":METHOD only that one
  {"command":"reload_time","ms":180}                                time of a service's reload, under that service's lock
  {"command":"drop","method":METHOD,"call":CALL,"when":WHEN}        drop the connection at that call
  {"command":"fail","method":METHOD,"call":CALL,"times":N,"when":WHEN,"error":{"errno":14,"reason":"..."}}
                                                                    answer with an error; N 0: until `clear`; also
                                                                    {"code":-32000,"message":"..."} and
                                                                    {"fields":[["attribute","message",22]]}
  {"command":"hold","method":METHOD,"when":WHEN}                    let calls wait until `release`; "halfway" holds
                                                                    pool.dataset.create when the dataset is there and
                                                                    its user properties are not
  {"command":"wait_held","method":METHOD,"when":WHEN,"count":1,"timeout_ms":5000}
  {"command":"release","method":METHOD}                             "*" releases all
  {"command":"refuse_logins","with":"AUTH_ERR"}                     or EXPIRED, OTP_REQUIRED, REDIRECT, DENIED; null: stop
  {"command":"disconnect"}                                          drop every connection
  {"command":"restart","down_ms":0,"stages":["port","subsystem","host"],"stage_ms":200,"manual":false}
                                                                    reboot; answers when all is served again (manual:
                                                                    at once, and each `next_stage` goes on)
  {"command":"next_stage"}
  {"command":"pool_full","full":true}
  {"command":"busy","dataset":NAME,"busy":true}                     its deletion is refused as busy
  {"command":"lock","dataset":NAME,"locked":true}                   unload the key of an encrypted dataset (memory backend)
  {"command":"device_delay","ms":5}                                 how late a new zvol's device appears (memory backend)
  {"command":"profile","busy_delete_returns_true":true,"delete_as_26":true}
  {"command":"ha","status":"BACKUP","licensed":true,"redirect":["wss://192.0.2.2/api/current"]}
                                                                    one of two controllers; a redirect answers every
                                                                    login; {"command":"ha"}: a machine alone again
  {"command":"seed","datasets":[{"name":N,"kind":"VOLUME","properties":{},"user_properties":{}}],
     "snapshots":["tank/a@s"],"directories":["/mnt/tank/x"],"rows":{"sharing.smb":[{...}]}}
  {"command":"stats"} {"command":"reset_stats"} {"command":"clear"}  counters; `clear` disarms every fault
  {"command":"rows","table":"nvmet.host_subsys"} {"command":"datasets"} {"command":"exports"}
"#;

/// The only method that can be held halfway.
const HALFWAY: &str = "pool.dataset.create";

fn one() -> u64 {
    1
}

fn yes() -> bool {
    true
}

/// An error to answer with.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Error {
    /// -32602 with these triples.
    Fields {
        /// `[attribute, message, errno]`
        fields: Vec<(Option<String>, String, i32)>,
    },
    /// Any JSON-RPC code without data.
    Protocol {
        /// Code.
        code: i32,
        /// Message.
        message: String,
    },
    /// -32001
    Call {
        /// Errno.
        errno: i32,
        /// Reason.
        reason: String,
        /// Python class in the trace.
        #[serde(default)]
        class: Option<String>,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Fields { fields } => Self::Invalid(
                fields
                    .into_iter()
                    .map(|(attribute, message, errno)| crate::failure::Item { attribute, message, errno })
                    .collect(),
            ),
            Error::Protocol { code, message } => Self::Protocol { code, message },
            Error::Call { errno, reason, class } => match Self::call(errno, reason) {
                Self::Call { errno, reason, prefixed, extra, class: usual } => {
                    Self::Call { errno, reason, prefixed, extra, class: class.unwrap_or(usual) }
                }
                other => other,
            },
        }
    }
}

/// A dataset to put in place, in ZFS's own property names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewObject {
    /// Full name; missing parents are made.
    pub name: String,
    /// `FILESYSTEM` (default) or `VOLUME`.
    #[serde(default = "filesystem")]
    pub kind: DatasetKind,
    /// Native properties; a volume needs `volsize`.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
    /// User properties.
    #[serde(default)]
    pub user_properties: BTreeMap<String, String>,
}

fn filesystem() -> DatasetKind {
    DatasetKind::Filesystem
}

/// Objects to put in place without the API's checks.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seed {
    /// Datasets.
    pub datasets: Vec<NewObject>,
    /// Snapshots, `dataset@name`.
    pub snapshots: Vec<String>,
    /// Plain directories.
    pub directories: Vec<String>,
    /// Rows by table.
    pub rows: BTreeMap<String, Vec<Map<String, Value>>>,
}

/// One control command; [`HELP`] describes each.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Command {
    Latency {
        ms: u64,
        #[serde(default)]
        method: Option<String>,
    },
    ReloadTime {
        ms: u64,
    },
    Drop {
        method: String,
        #[serde(default = "one")]
        call: u64,
        #[serde(default)]
        when: When,
    },
    Fail {
        method: String,
        #[serde(default = "one")]
        call: u64,
        #[serde(default = "one")]
        times: u64,
        #[serde(default)]
        when: When,
        error: Error,
    },
    Hold {
        method: String,
        #[serde(default)]
        when: When,
    },
    WaitHeld {
        method: String,
        #[serde(default)]
        when: When,
        #[serde(default = "one")]
        count: u64,
        timeout_ms: u64,
    },
    Release {
        method: String,
    },
    RefuseLogins {
        with: Option<String>,
    },
    Disconnect,
    Restart {
        #[serde(default)]
        down_ms: u64,
        #[serde(default)]
        stages: Vec<Stage>,
        #[serde(default)]
        stage_ms: u64,
        #[serde(default)]
        manual: bool,
    },
    NextStage,
    PoolFull {
        full: bool,
    },
    Busy {
        dataset: String,
        #[serde(default = "yes")]
        busy: bool,
    },
    Lock {
        dataset: String,
        #[serde(default = "yes")]
        locked: bool,
    },
    DeviceDelay {
        ms: u64,
    },
    Profile(Profile),
    Ha(Ha),
    Seed(Seed),
    Stats,
    ResetStats,
    Clear,
    Rows {
        table: String,
    },
    Datasets,
    Exports,
}

/// The rows of a table.
pub(super) fn rows(shared: &Shared, table: &str) -> Result<Vec<Value>, String> {
    let known = || Table::ALL.map(Table::name).join(", ");
    let table = Table::by_name(table).ok_or_else(|| format!("no table {table:?}; tables: {}", known()))?;
    Ok(shared.rows().all(table).map(|(_, row)| Value::Object(row.clone())).collect())
}

/// Runs a command.
pub(super) async fn run(shared: &Arc<Shared>, command: Command) -> Result<Value, String> {
    let faults = &shared.faults;
    let ms = Duration::from_millis;
    match command {
        Command::Drop { when: When::Halfway, .. } | Command::Fail { when: When::Halfway, .. } => {
            return Err("only a hold can be halfway".to_owned());
        }
        Command::Hold { method, when: When::Halfway } if method != HALFWAY => {
            return Err(format!("only {HALFWAY} can be held halfway"));
        }
        Command::Latency { ms: latency, method } => faults.set_latency(method, ms(latency)),
        Command::ReloadTime { ms: time } => faults.set_reload(ms(time)),
        Command::Drop { method, call, when } => faults.add_drop(method, call, when),
        Command::Fail { method, call, times, when, error } => {
            faults.add_fail(method, call, times, when, error.into());
        }
        Command::Hold { method, when } => faults.hold(method, when),
        Command::WaitHeld { method, when, count, timeout_ms } => {
            let waiting = faults.wait_held(&method, when, count);
            if tokio::time::timeout(ms(timeout_ms), waiting).await.is_err() {
                return Err(format!("fewer than {count} calls of {method} wait after {timeout_ms} ms"));
            }
        }
        Command::Release { method } => faults.release(&method),
        Command::RefuseLogins { with } => faults.refuse_logins(with),
        Command::Disconnect => shared.connections.drop_all(),
        Command::Restart { down_ms, stages, stage_ms, manual } => {
            let shared = Arc::clone(shared);
            let restart = async move {
                shared.restart(ms(down_ms), &stages, ms(stage_ms), manual).await.map_err(|f| f.summary())
            };
            if manual {
                tokio::spawn(restart);
            } else {
                restart.await?;
            }
        }
        Command::NextStage => shared.advance(),
        Command::PoolFull { full } => faults.set_pool_full(full),
        Command::Busy { dataset, busy } => faults.set_busy(dataset, busy),
        Command::Lock { dataset, locked } => match &shared.memory {
            Some(memory) => memory.set_locked(&dataset, locked)?,
            None => return Err("only the memory backend can unload a key".into()),
        },
        Command::DeviceDelay { ms: delay } => match &shared.memory {
            Some(memory) => memory.set_device_delay(ms(delay)),
            None => return Err("only the memory backend has a device delay".into()),
        },
        Command::Profile(profile) => shared.set_profile(profile),
        Command::Ha(ha) => shared.set_ha(ha),
        Command::Seed(seed) => {
            let shared = Arc::clone(shared);
            tokio::task::spawn_blocking(move || put(&shared, seed)).await.map_err(|e| e.to_string())??;
        }
        Command::Stats => {
            let snapshot = shared.stats.snapshot(shared.schemas.is_on());
            return serde_json::to_value(snapshot).map_err(|e| e.to_string());
        }
        Command::ResetStats => shared.stats.reset(),
        Command::Clear => faults.clear(),
        Command::Rows { table } => return rows(shared, &table).map(Value::Array),
        Command::Datasets => {
            let all = shared.backend.datasets(&Scope::All).map_err(|e| e.text)?;
            return Ok(all.into_iter().map(|d| Value::String(d.name)).collect());
        }
        Command::Exports => {
            let Some(memory) = &shared.memory else { return Err("only the memory backend can tell".into()) };
            let ((running, exports), target) = (memory.exports(), memory.target());
            let (smb, shares) = memory.shares();
            return Ok(json!({
                "smb": {"running": smb, "shares": shares.iter().map(|s| json!({"name": s.name, "path": s.path, "hosts": s.hosts_allow})).collect::<Vec<_>>()},
                "nfs": {"running": running, "exports": exports.iter().map(|e| json!({"path": e.path, "hosts": e.hosts})).collect::<Vec<_>>()},
                "nvmet": {
                    "running": target.running,
                    "subsystems": target.subsystems.iter().map(|s| json!({
                        "nqn": s.nqn, "namespaces": s.namespaces.len(), "hosts": s.allowed_hosts,
                        "ports": target.ports.iter().filter(|p| p.subsystems.contains(&s.nqn)).map(|p| p.index).collect::<Vec<_>>(),
                    })).collect::<Vec<_>>(),
                },
            }));
        }
    }
    Ok(Value::Null)
}

fn put(shared: &Arc<Shared>, seed: Seed) -> Result<(), String> {
    let backend = &shared.backend;
    let exists = |name: &str| {
        let paths = [name.to_owned()];
        backend.datasets(&Scope::Paths(&paths)).map(|found| !found.is_empty()).map_err(|e| e.text)
    };
    for object in seed.datasets {
        let parents: Vec<&str> =
            object.name.match_indices('/').filter_map(|(at, _)| object.name.get(..at)).collect();
        for parent in parents {
            if !exists(parent)? {
                let between = NewDataset {
                    name: parent.to_owned(),
                    kind: DatasetKind::Filesystem,
                    properties: BTreeMap::new(),
                    user_properties: BTreeMap::new(),
                };
                backend.create_dataset(&between).map_err(|e| e.text)?;
            }
        }
        let NewObject { name, kind, properties, user_properties } = object;
        backend
            .create_dataset(&NewDataset { name, kind, properties, user_properties })
            .map_err(|e| e.text)?;
    }
    for id in seed.snapshots {
        let (dataset, name) = id.split_once('@').ok_or_else(|| format!("{id:?} is no snapshot"))?;
        backend.create_snapshot(&[dataset.to_owned()], name, &BTreeMap::new()).map_err(|e| e.text)?;
    }
    for directory in seed.directories {
        backend.make_directory(&directory).map_err(|e| e.text)?;
    }
    for (table, list) in seed.rows {
        let known = Table::by_name(&table).ok_or_else(|| format!("no table {table:?}"))?;
        for row in list {
            shared.rows().insert(known, row).map_err(|e| e.to_string())?;
        }
    }
    let _nfs = shared.services.nfs.lock().unwrap_or_else(PoisonError::into_inner);
    let _nvmet = shared.services.nvmet.lock().unwrap_or_else(PoisonError::into_inner);
    let _smb = shared.services.smb.lock().unwrap_or_else(PoisonError::into_inner);
    let _iscsi = shared.services.iscsi.lock().unwrap_or_else(PoisonError::into_inner);
    exports::apply_nfs(shared)
        .and_then(|()| exports::apply_iscsi(shared))
        .and_then(|()| exports::apply_smb(shared))
        .and_then(|()| exports::apply_nvmet(shared))
        .map_err(|f| f.summary())
}
