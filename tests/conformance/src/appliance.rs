//! Asks the stand-in appliance through its control socket what it holds and whether any message broke the appliance's
//! schemas. `truenas-sim --help` lists the commands.

use std::collections::BTreeSet;

use anyhow::Context;
use harness::control::Control;
use serde_json::{Value, json};

/// What a volume may have beside its dataset, each with the field that names it for people.
const TABLES: [(&str, &str); 8] = [
    ("sharing.nfs", "path"),
    ("sharing.smb", "name"),
    ("nvmet.subsys", "subnqn"),
    ("nvmet.namespace", "device_path"),
    ("iscsi.target", "name"),
    ("iscsi.extent", "name"),
    ("iscsi.initiator", "comment"),
    ("iscsi.auth", "tag"),
];

/// Names of everything that belongs to volumes on the appliance.
///
/// # Errors
/// The stand-in does not answer.
pub async fn contents(control: &Control) -> anyhow::Result<BTreeSet<String>> {
    let datasets = control.send(json!({"command": "datasets"})).await?;
    let texts = datasets.as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut names: BTreeSet<String> = texts.map(|name| format!("dataset {name}")).collect();
    for (table, field) in TABLES {
        let rows = control.send(json!({"command": "rows", "table": table})).await?;
        names.extend(
            rows.as_array()
                .into_iter()
                .flatten()
                .map(|row| format!("{table} {}", row.get(field).unwrap_or(row))),
        );
    }
    Ok(names)
}

/// Every message that broke the appliance's schemas; nothing when they were not checked.
///
/// # Errors
/// The stand-in does not answer.
pub async fn schema_violations(control: &Control) -> anyhow::Result<Option<Vec<String>>> {
    let stats = control.send(json!({"command": "stats"})).await?;
    if stats.get("schemas_checked") != Some(&json!(true)) {
        return Ok(None);
    }
    let violations = stats
        .get("schema_violations")
        .and_then(Value::as_array)
        .context("stats without schema_violations")?;
    Ok(Some(
        violations.iter().map(|text| text.as_str().map_or_else(|| text.to_string(), str::to_owned)).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::UnixListener;

    use super::*;

    /// Answers as many commands as there are answers.
    async fn stand_in(socket: &Path, answers: Vec<Value>) {
        let listener = UnixListener::bind(socket).unwrap();
        for answer in answers {
            let mut stream = BufReader::new(listener.accept().await.unwrap().0);
            stream.read_line(&mut String::new()).await.unwrap();
            stream.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn violations_are_told_apart_from_an_unchecked_run() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let control = Control::new(&socket);
        let stats = |checked: bool| json!({"ok": true, "result": {"schemas_checked": checked, "schema_violations": ["pool.query: x"]}});
        let answers = vec![stats(true), stats(false), json!({"ok": false, "error": "no such command"})];
        let asked = async {
            assert_eq!(schema_violations(&control).await.unwrap(), Some(vec!["pool.query: x".to_owned()]));
            assert_eq!(schema_violations(&control).await.unwrap(), None);
            let error = format!("{:#}", schema_violations(&control).await.unwrap_err());
            assert!(error.contains("no such command"), "{error}");
        };
        tokio::join!(stand_in(&socket, answers), asked);
    }
}
