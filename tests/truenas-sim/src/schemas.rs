//! Checks every request and answer against the appliance's own JSON Schemas, when their directory is given.
//!
//! The rule it keeps: what it finds is an error in the log and in the statistics; it never changes an answer.

use std::path::Path;

use serde_json::Value;

use crate::config::Version;
use crate::stats::Stats;

/// The check, on or off.
#[derive(Debug, Default)]
pub(crate) struct Schemas {
    #[cfg(feature = "schemas")]
    methods: Option<std::collections::BTreeMap<String, checked::Method>>,
}

impl Schemas {
    /// Loads the schemas of the version from a directory.
    pub fn load(directory: Option<&Path>, version: Version) -> anyhow::Result<Self> {
        let Some(directory) = directory else { return Ok(Self::default()) };
        #[cfg(feature = "schemas")]
        {
            Ok(Self { methods: Some(checked::load(&directory.join(version.schema_file()))?) })
        }
        #[cfg(not(feature = "schemas"))]
        {
            let _ = version;
            anyhow::bail!(
                "this build cannot check against {}: it was made without the feature `schemas`",
                directory.display()
            )
        }
    }

    /// Whether messages are checked.
    pub fn is_on(&self) -> bool {
        #[cfg(feature = "schemas")]
        {
            self.methods.is_some()
        }
        #[cfg(not(feature = "schemas"))]
        {
            false
        }
    }

    /// Checks the parameters of a request.
    pub fn request(&self, stats: &Stats, method: &str, params: &[Value]) {
        #[cfg(feature = "schemas")]
        if let Some(methods) = &self.methods {
            checked::request(methods, stats, method, params);
        }
        #[cfg(not(feature = "schemas"))]
        let _ = (stats, method, params);
    }

    /// Checks the result of a call.
    pub fn answer(&self, stats: &Stats, method: &str, result: &Value) {
        #[cfg(feature = "schemas")]
        if let Some(methods) = &self.methods {
            checked::answer(methods, stats, method, result);
        }
        #[cfg(not(feature = "schemas"))]
        let _ = (stats, method, result);
    }
}

#[cfg(feature = "schemas")]
mod checked {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::OnceLock;

    use anyhow::Context as _;
    use jsonschema::Validator;
    use serde_json::{Value, json};

    use crate::stats::Stats;

    /// The schemas of one method, compiled when they are first needed.
    #[derive(Debug)]
    pub(super) struct Method {
        params: Vec<(String, bool, Lazy)>,
        result: Lazy,
        /// A query with `select` gives parts of the rows; then only the outer shape holds.
        query: bool,
    }

    #[derive(Debug)]
    struct Lazy {
        schema: Value,
        compiled: OnceLock<Result<Validator, String>>,
    }

    impl Lazy {
        fn new(schema: Value) -> Self {
            Self { schema, compiled: OnceLock::new() }
        }

        fn errors(&self, value: &Value) -> Option<String> {
            let compiled = self
                .compiled
                .get_or_init(|| jsonschema::validator_for(&self.schema).map_err(|e| e.to_string()));
            match compiled {
                Err(e) => Some(format!("the schema itself is unusable: {e}")),
                Ok(validator) => {
                    let found: Vec<String> = validator
                        .iter_errors(value)
                        .take(3)
                        .map(|e| format!("at {:?}: {}", e.instance_path.to_string(), e.masked()))
                        .collect();
                    (!found.is_empty()).then(|| found.join("; "))
                }
            }
        }
    }

    pub(super) fn load(file: &Path) -> anyhow::Result<BTreeMap<String, Method>> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let all: Value =
            serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
        let methods = all.get("methods").and_then(Value::as_object).context("the schemas list no methods")?;
        let mut out = BTreeMap::new();
        for (name, method) in methods {
            let mut params = Vec::new();
            for parameter in method.get("params").and_then(Value::as_array).into_iter().flatten() {
                params.push((
                    parameter.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
                    parameter.get("required") == Some(&Value::Bool(true)),
                    Lazy::new(parameter.get("schema").cloned().unwrap_or(Value::Bool(true))),
                ));
            }
            let query = params.iter().map(|(n, _, _)| n.as_str()).eq(["filters", "options"]);
            // The classes before Pydantic say nothing of the nulls that the appliance answers with.
            let legacy = method.get("schema_dialect").is_some_and(|dialect| dialect == "legacy");
            let result = method.get("result").filter(|_| !legacy).cloned();
            let mut result = result.unwrap_or(Value::Bool(true));
            loosen(&mut result);
            let result = Lazy::new(result);
            out.insert(name.clone(), Method { params, result, query });
        }
        Ok(out)
    }

    /// An answer lacks the tag that tells the members of a tagged union apart (an SMB share's options carry no
    /// purpose), so several members fit where exactly one was meant.
    fn loosen(schema: &mut Value) {
        match schema {
            Value::Object(map) => {
                if map.contains_key("discriminator")
                    && let Some(members) = map.remove("oneOf")
                {
                    map.insert("anyOf".into(), members);
                }
                map.values_mut().for_each(loosen);
            }
            Value::Array(list) => list.iter_mut().for_each(loosen),
            _ => {}
        }
    }

    pub(super) fn request(methods: &BTreeMap<String, Method>, stats: &Stats, name: &str, params: &[Value]) {
        let Some(method) = methods.get(name) else {
            stats.violation(format!("request {name}: no such method in the schemas"));
            return;
        };
        if params.len() > method.params.len() {
            stats.violation(format!(
                "request {name}: {} parameters, at most {}",
                params.len(),
                method.params.len()
            ));
        }
        for (index, (parameter, required, schema)) in method.params.iter().enumerate() {
            match params.get(index) {
                None if *required => {
                    stats.violation(format!("request {name}: parameter {parameter} is missing"))
                }
                None => {}
                Some(value) => {
                    // The server copies an SMB share's purpose into its options before it validates.
                    let mut value = value.clone();
                    let purpose = value.get("purpose").cloned();
                    if let (true, Some(purpose), Some(options)) = (
                        name.starts_with("sharing.smb."),
                        purpose,
                        value.get_mut("options").and_then(Value::as_object_mut),
                    ) {
                        options.insert("purpose".into(), purpose);
                    }
                    if let Some(errors) = schema.errors(&value) {
                        stats.violation(format!("request {name}: parameter {parameter}: {errors}"));
                    }
                }
            }
        }
    }

    pub(super) fn answer(methods: &BTreeMap<String, Method>, stats: &Stats, name: &str, result: &Value) {
        let Some(method) = methods.get(name) else { return };
        let plain = on_paper(result);
        if let Some(errors) = method.result.errors(&plain) {
            // A selection with an alias has names that no schema knows.
            if method.query
                && plain.as_array().is_some_and(|rows| rows.iter().any(|row| row.get("id").is_none()))
            {
                return;
            }
            stats.violation(format!("answer of {name}: {errors}"));
        }
    }

    /// Moments travel as `{"$date": ms}`; the schemas describe them as text.
    fn on_paper(value: &Value) -> Value {
        match value {
            Value::Object(map) if map.len() == 1 && map.contains_key("$date") => {
                let ms = map.get("$date").and_then(Value::as_i64).unwrap_or(0);
                jiff::Timestamp::from_millisecond(ms).map_or(Value::Null, |t| json!(t.to_string()))
            }
            Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), on_paper(v))).collect(),
            Value::Array(list) => list.iter().map(on_paper).collect(),
            other => other.clone(),
        }
    }
}
