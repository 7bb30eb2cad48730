//! The API's methods, a file per namespace. Parameters arrive checked, with defaults filled in.

mod auth;
mod core;
mod crud;
mod dataset;
mod filesystem;
pub(crate) mod iscsi;
mod nfs;
pub(crate) mod nvmet;
mod pool;
mod service;
mod smb;
mod snapshot;
mod system;
mod zfs_resource;

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::appliance::Shared;
use crate::backend::Scope;
use crate::config::Version;
use crate::failure::Failure;
use crate::query::Query;
use crate::server::session::Session;

/// A call whose parameters were accepted.
pub(crate) struct Call {
    pub shared: Arc<Shared>,
    pub session: Arc<Session>,
    pub params: Vec<Value>,
}

impl Call {
    /// A string parameter (its type was checked).
    pub fn text(&self, index: usize) -> &str {
        self.params.get(index).and_then(Value::as_str).unwrap_or_default()
    }

    /// An integer parameter.
    pub fn number(&self, index: usize) -> i64 {
        self.params.get(index).and_then(Value::as_i64).unwrap_or_default()
    }

    /// An object parameter.
    pub fn object(&self, index: usize) -> &Map<String, Value> {
        static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
        self.params.get(index).and_then(Value::as_object).unwrap_or(&EMPTY)
    }

    /// A boolean field of an object parameter.
    pub fn flag(&self, index: usize, key: &str) -> bool {
        self.object(index).get(key) == Some(&Value::Bool(true))
    }

    /// The filters and options of a query method.
    pub fn query(&self) -> Query<'_> {
        Query::new(&self.params)
    }

    /// Adds what the appliance finds out when it shows a row on a dataset: whether that is locked and, from 26 on, which
    /// one it is. `path` is below `/mnt/` or `zvol/`.
    fn show_place(&self, row: &mut Map<String, Value>, path: &str) {
        row.insert("locked".into(), self.locked_info());
        if self.shared.config.version < Version::V26 {
            return;
        }
        let inside = path.strip_prefix("/mnt/").or_else(|| path.strip_prefix("zvol/")).unwrap_or_default();
        let ends = inside.match_indices('/').map(|(at, _)| at).chain([inside.len()]);
        let prefixes: Vec<String> = ends.filter_map(|end| inside.get(..end).map(str::to_owned)).collect();
        let found = self.shared.backend.datasets(&Scope::Paths(&prefixes)).unwrap_or_default();
        let dataset = found.into_iter().map(|dataset| dataset.name).max_by_key(String::len);
        let relative = dataset.as_ref().and_then(|dataset| inside.strip_prefix(dataset.as_str()));
        let relative = relative.map(|rest| rest.trim_start_matches('/').to_owned());
        row.insert("dataset".into(), dataset.into());
        row.insert("relative_path".into(), relative.into());
    }

    /// `extra.retrieve_locked_info`, true by default.
    fn locked_info(&self) -> Value {
        match self.query().extra("retrieve_locked_info") {
            Some(Value::Bool(false)) => Value::Null,
            _ => Value::Bool(false),
        }
    }
}

/// Runs a method. The few that wait do so here; all others run on a blocking thread.
pub(crate) async fn run(method: &str, call: Call) -> Result<Value, Failure> {
    match method {
        "auth.login_ex" => return auth::login_ex(&call).await,
        "auth.login_with_api_key" => return auth::login_with_api_key(&call).await,
        "core.job_wait" => return core::job_wait(&call).await,
        _ => {}
    }
    let name = method.to_owned();
    tokio::task::spawn_blocking(move || dispatch(&name, &call))
        .await
        .unwrap_or_else(|_| Err(Failure::exception("RuntimeError", "the method ended without an outcome")))
}

fn dispatch(method: &str, call: &Call) -> Result<Value, Failure> {
    let (namespace, verb) = method.rsplit_once('.').unwrap_or(("", method));
    match namespace {
        "auth" => auth::call(verb, call),
        "core" => core::call(verb, call),
        "system" | "system.global" | "failover" | "interface" => system::call(method, call),
        "filesystem" => filesystem::call(verb, call),
        "pool" => pool::call(verb, call),
        "pool.dataset" => dataset::call(verb, call),
        "pool.snapshot" | "zfs.snapshot" => snapshot::call(verb, call),
        "zfs.resource" => zfs_resource::call(verb, call),
        "sharing.nfs" | "nfs" => nfs::call(method, call),
        "sharing.smb" | "smb" => smb::call(method, call),
        "service" => service::call(verb, call),
        "nvmet.global" | "nvmet.subsys" | "nvmet.namespace" | "nvmet.port" | "nvmet.host"
        | "nvmet.host_subsys" | "nvmet.port_subsys" => nvmet::call(namespace, verb, call),
        "iscsi.global" | "iscsi.portal" | "iscsi.initiator" | "iscsi.auth" | "iscsi.target"
        | "iscsi.extent" | "iscsi.targetextent" => iscsi::call(namespace, verb, call),
        _ => Err(unserved(method)),
    }
}

/// A method of the appliance that the stand-in knows but does not perform.
fn unserved(method: &str) -> Failure {
    Failure::Protocol {
        code: -32601,
        message: format!("Method does not exist: the stand-in does not serve {method}"),
    }
}

/// Replaces the given fields of a row.
fn merge(row: &mut Map<String, Value>, changes: &Map<String, Value>) {
    for (key, value) in changes {
        row.insert(key.clone(), value.clone());
    }
}
