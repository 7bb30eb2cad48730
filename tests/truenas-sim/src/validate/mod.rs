//! Validation of a call's positional parameters, as the request models of each version's newest API do it.
//!
//! Purpose: one table of names, types, ranges and defaults per version (`v25_10.json` and its siblings, facts of the API
//! in JSON Schema's words), one engine that reads it, and the few cross-field rules that the models carry in code.
//! 25.04 judges a part of its methods by an older engine whose words are not known; they are judged in the newer words.
//!
//! The rule it keeps: findings come in the models' order and with their exact triples; accepted parameters leave with
//! every default filled in.

mod engine;
mod rules;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

use crate::config::Version;
use crate::failure::{Failure, Item};
pub use rules::{check_smb_name, is_dataset_name, is_target_name};

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Anybody, before login.
    None,
    /// Any login.
    Authenticated,
    /// A login with one of the method's roles; the stand-in's key is a full administrator's.
    Role,
}

#[derive(Debug, Deserialize)]
struct Parameter {
    name: String,
    required: bool,
    schema: Value,
}

/// What the table says of one method.
#[derive(Debug, Deserialize)]
pub struct Method {
    auth: Access,
    params: Vec<Parameter>,
    #[serde(default)]
    job: bool,
}

impl Method {
    /// Who may call it.
    pub fn access(&self) -> Access {
        self.auth
    }

    /// Whether it runs as a job.
    pub fn is_job(&self) -> bool {
        self.job
    }
}

#[derive(Debug, Deserialize)]
struct Api {
    types: BTreeMap<String, Value>,
    methods: BTreeMap<String, Method>,
}

#[allow(clippy::expect_used)]
fn read(table: &str) -> Api {
    // The tables are part of the program and read by every test; they cannot fail where the tests passed.
    serde_json::from_str(table).expect("the built-in API table is valid JSON")
}

static V25_04: LazyLock<Api> = LazyLock::new(|| read(include_str!("v25_04.json")));
static V25_10: LazyLock<Api> = LazyLock::new(|| read(include_str!("v25_10.json")));
static V26: LazyLock<Api> = LazyLock::new(|| read(include_str!("v26.json")));

fn api(version: Version) -> &'static Api {
    match version {
        Version::V25_04 => &V25_04,
        Version::V25_10 => &V25_10,
        Version::V26 => &V26,
    }
}

/// The table's entry of a method; `None`: the appliance has no such method (or the stand-in does not know it).
pub fn method(version: Version, name: &str) -> Option<&'static Method> {
    api(version).methods.get(name)
}

/// Every method of the table.
pub fn methods(version: Version) -> impl Iterator<Item = &'static str> {
    api(version).methods.keys().map(String::as_str)
}

/// The options that an SMB share of this purpose has when none are given; `None` when the purpose wants some.
pub fn smb_options(version: Version, purpose: &str) -> Option<Value> {
    let options = serde_json::json!({"purpose": purpose});
    let share = serde_json::json!({"name": "s", "path": "/mnt/s", "purpose": purpose, "options": options});
    let accepted = params(version, "sharing.smb.create", &[share]).ok()?;
    accepted.first()?.get("options").cloned()
}

/// Checks the parameters of a call and fills in defaults.
pub fn params(version: Version, name: &str, given: &[Value]) -> Result<Vec<Value>, Failure> {
    let types = &api(version).types;
    let Some(method) = method(version, name) else {
        return Err(Failure::Protocol { code: -32601, message: "Method does not exist".into() });
    };
    if given.len() > method.params.len() {
        let words = format!("Too many arguments (expected {}, found {})", method.params.len(), given.len());
        return Err(Failure::invalid("", words));
    }
    let mut findings = Vec::new();
    let mut accepted = Vec::with_capacity(method.params.len());
    for (index, parameter) in method.params.iter().enumerate() {
        match given.get(index) {
            None if parameter.required => findings.push(Item::new(&parameter.name, "Field required")),
            None => accepted.push(engine::default_of(types, &parameter.schema).unwrap_or(Value::Null)),
            Some(value) => {
                let mut value = value.clone();
                rules::before(version, name, &parameter.name, &mut value, &mut findings);
                if let Some(value) =
                    engine::check(types, &parameter.schema, &value, &parameter.name, &mut findings)
                {
                    accepted.push(value);
                }
            }
        }
    }
    if version >= Version::V26 {
        findings = rules::in_words_of_26(findings);
    }
    if findings.is_empty() {
        for (parameter, value) in method.params.iter().zip(&accepted) {
            rules::after(name, &parameter.name, value, &mut findings);
        }
    }
    if findings.is_empty() { Ok(accepted) } else { Err(Failure::Invalid(findings)) }
}
