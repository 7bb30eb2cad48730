//! The appliance's configuration database: rows of shares, subsystems, hosts, ports and services.
//!
//! A row is a JSON object with an integer `id`, as the API shows it, except that references are plain ids
//! (`subsys_id`) which the API layer nests when it answers. Ids grow and are never given twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::journal::{Change, Journal, Tables};

/// One row.
pub type Row = Map<String, Value>;

/// The tables of the configuration database, by the namespace they serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// `sharing.nfs`
    Nfs,
    /// `sharing.smb`
    Smb,
    /// `service`
    Service,
    /// `nvmet.subsys`
    Subsys,
    /// `nvmet.namespace`
    Namespace,
    /// `nvmet.port`
    Port,
    /// `nvmet.host`
    Host,
    /// `nvmet.host_subsys`
    HostSubsys,
    /// `nvmet.port_subsys`
    PortSubsys,
    /// `iscsi.portal`
    IscsiPortal,
    /// `iscsi.initiator`
    IscsiInitiator,
    /// `iscsi.auth`
    IscsiAuth,
    /// `iscsi.target`
    IscsiTarget,
    /// `iscsi.extent`
    IscsiExtent,
    /// `iscsi.targetextent`
    IscsiTargetExtent,
    /// Logged-in initiators that stay until their target goes, put there by the control command `seed`
    IscsiSession,
    /// API keys (state of each: revoked or not)
    ApiKey,
    /// `nvmet.global` and other single rows, by id
    Config,
}

impl Table {
    /// All tables.
    pub const ALL: [Self; 18] = [
        Self::Nfs,
        Self::Smb,
        Self::Service,
        Self::Subsys,
        Self::Namespace,
        Self::Port,
        Self::Host,
        Self::HostSubsys,
        Self::PortSubsys,
        Self::IscsiPortal,
        Self::IscsiInitiator,
        Self::IscsiAuth,
        Self::IscsiTarget,
        Self::IscsiExtent,
        Self::IscsiTargetExtent,
        Self::IscsiSession,
        Self::ApiKey,
        Self::Config,
    ];

    /// Name in the journal and in the control command `seed`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nfs => "sharing.nfs",
            Self::Smb => "sharing.smb",
            Self::Service => "service",
            Self::Subsys => "nvmet.subsys",
            Self::Namespace => "nvmet.namespace",
            Self::Port => "nvmet.port",
            Self::Host => "nvmet.host",
            Self::HostSubsys => "nvmet.host_subsys",
            Self::PortSubsys => "nvmet.port_subsys",
            Self::IscsiPortal => "iscsi.portal",
            Self::IscsiInitiator => "iscsi.initiator",
            Self::IscsiAuth => "iscsi.auth",
            Self::IscsiTarget => "iscsi.target",
            Self::IscsiExtent => "iscsi.extent",
            Self::IscsiTargetExtent => "iscsi.targetextent",
            Self::IscsiSession => "iscsi.session",
            Self::ApiKey => "api_key",
            Self::Config => "config",
        }
    }

    /// The table of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }
}

const NEXT_ID: &str = "next_id";

/// All rows, written through to the journal.
#[derive(Debug)]
pub struct Rows {
    tables: BTreeMap<Table, BTreeMap<i64, Row>>,
    next: BTreeMap<Table, i64>,
    journal: Arc<Journal>,
}

impl Rows {
    /// The rows found in the journal's tables.
    pub fn load(tables: &Tables, journal: Arc<Journal>) -> Self {
        let mut rows = Self { tables: BTreeMap::new(), next: BTreeMap::new(), journal };
        for table in Table::ALL {
            let target = rows.tables.entry(table).or_default();
            for (key, value) in tables.get(table.name()).into_iter().flatten() {
                if let (Ok(id), Value::Object(row)) = (key.parse::<i64>(), value) {
                    target.insert(id, row.clone());
                }
            }
            let stored = tables.get(NEXT_ID).and_then(|t| t.get(table.name())).and_then(Value::as_i64);
            let highest = target.keys().next_back().copied().unwrap_or(0);
            rows.next.insert(table, stored.unwrap_or(1).max(highest + 1));
        }
        rows
    }

    /// All rows of a table, by id.
    pub fn all(&self, table: Table) -> impl Iterator<Item = (i64, &Row)> {
        self.tables.get(&table).into_iter().flatten().map(|(id, row)| (*id, row))
    }

    /// One row.
    pub fn get(&self, table: Table, id: i64) -> Option<&Row> {
        self.tables.get(&table)?.get(&id)
    }

    /// The first row whose `field` equals `value`.
    pub fn find(&self, table: Table, field: &str, value: &Value) -> Option<(i64, &Row)> {
        self.all(table).find(|(_, row)| row.get(field) == Some(value))
    }

    /// Adds a row, gives it the next id and returns that.
    pub fn insert(&mut self, table: Table, mut row: Row) -> std::io::Result<i64> {
        let id = self.next.get(&table).copied().unwrap_or(1);
        row.insert("id".into(), id.into());
        self.journal.commit(&[
            Change::put(table.name(), id.to_string(), Value::Object(row.clone())),
            Change::put(NEXT_ID, table.name(), (id + 1).into()),
        ])?;
        self.next.insert(table, id + 1);
        self.tables.entry(table).or_default().insert(id, row);
        Ok(id)
    }

    /// Replaces a row.
    pub fn replace(&mut self, table: Table, id: i64, row: Row) -> std::io::Result<()> {
        self.journal.commit(&[Change::put(table.name(), id.to_string(), Value::Object(row.clone()))])?;
        self.tables.entry(table).or_default().insert(id, row);
        Ok(())
    }

    /// Removes rows of several tables in one transaction.
    pub fn remove(&mut self, gone: &[(Table, i64)]) -> std::io::Result<()> {
        let changes: Vec<Change> =
            gone.iter().map(|(table, id)| Change::remove(table.name(), id.to_string())).collect();
        self.journal.commit(&changes)?;
        for (table, id) in gone {
            if let Some(rows) = self.tables.get_mut(table) {
                rows.remove(id);
            }
        }
        Ok(())
    }
}
