//! Validation of a call's positional parameters, as the request models of API v25.10.5 do it.
//!
//! Purpose: one table of names, types, ranges and defaults (`v25_10.json`, facts of the API in JSON Schema's words), one
//! engine that reads it, and the few cross-field rules that the models carry in code.
//!
//! The rule it keeps: findings come in the models' order and with their exact triples; accepted parameters leave with
//! every default filled in.

mod engine;
mod rules;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

use crate::failure::{Failure, Item};
pub use rules::{is_dataset_name, is_target_name};

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
static API: LazyLock<Api> = LazyLock::new(|| {
    // The table is part of the program and read by every test; it cannot fail where the tests passed.
    serde_json::from_str(include_str!("v25_10.json")).expect("the built-in API table is valid JSON")
});

/// The table's entry of a method; `None`: the appliance has no such method (or the stand-in does not know it).
pub fn method(name: &str) -> Option<&'static Method> {
    API.methods.get(name)
}

/// Every method of the table.
pub fn methods() -> impl Iterator<Item = &'static str> {
    API.methods.keys().map(String::as_str)
}

/// The options that an SMB share of this purpose has when none are given; `None` when the purpose wants some.
pub fn smb_options(purpose: &str) -> Option<Value> {
    let options = serde_json::json!({"purpose": purpose});
    let share = serde_json::json!({"name": "s", "path": "/mnt/s", "purpose": purpose, "options": options});
    let accepted = params("sharing.smb.create", &[share]).ok()?;
    accepted.first()?.get("options").cloned()
}

/// Checks the parameters of a call and fills in defaults.
pub fn params(name: &str, given: &[Value]) -> Result<Vec<Value>, Failure> {
    let Some(method) = method(name) else {
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
            None => accepted.push(engine::default_of(&API.types, &parameter.schema).unwrap_or(Value::Null)),
            Some(value) => {
                let mut value = value.clone();
                rules::before(name, &parameter.name, &mut value, &mut findings);
                if let Some(value) =
                    engine::check(&API.types, &parameter.schema, &value, &parameter.name, &mut findings)
                {
                    accepted.push(value);
                }
            }
        }
    }
    if findings.is_empty() {
        for (parameter, value) in method.params.iter().zip(&accepted) {
            rules::after(name, &parameter.name, value, &mut findings);
        }
    }
    if findings.is_empty() { Ok(accepted) } else { Err(Failure::Invalid(findings)) }
}
