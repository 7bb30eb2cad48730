//! The verdicts of the appliance's own request models, where their record is at hand.
// Helpers of tests may stop at the first surprise as the tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::facts;
use serde_json::{Value, json};
use truenas_sim::Version;

/// The record shortens long values like this.
fn expand(value: &Value) -> Value {
    match value {
        Value::String(text) => match text.strip_prefix('<').and_then(|t| t.strip_suffix(" x characters>")) {
            Some(count) => json!("x".repeat(count.parse().unwrap())),
            None => value.clone(),
        },
        Value::Array(list) => list.iter().map(expand).collect(),
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), expand(v))).collect(),
        other => other.clone(),
    }
}

#[test]
fn parameters_are_judged_as_the_appliance_s_models_judge_them() {
    let Some(facts) = facts() else {
        eprintln!(
            "NOT CHECKED: the record of the appliance's verdicts is not here; validation is not compared with it"
        );
        return;
    };
    let text = std::fs::read_to_string(facts.join("validation-cases.json")).unwrap();
    let record: Value = serde_json::from_str(&text).unwrap();
    for (version, api) in [(Version::V25_10, "v25.10.5"), (Version::V26, "v26.0.0")] {
        judge(version, record["cases"][api].as_array().unwrap());
    }
}

fn judge(version: Version, cases: &[Value]) {
    let known: Vec<&str> = truenas_sim::known_methods(version).collect();
    let (mut judged, mut unknown, mut wrong) = (0, Vec::new(), Vec::new());
    for case in cases {
        let method = case["method"].as_str().unwrap();
        if !known.contains(&method) {
            unknown.push(method);
            continue;
        }
        judged += 1;
        let params = expand(&case["params"]);
        let verdict = truenas_sim::validate_params_of(version, method, params.as_array().unwrap());
        let found = verdict.err().map_or(json!([]), |error| error["data"]["extra"].clone());
        let expected = if case["accepted"] == true { json!([]) } else { case["errors"].clone() };
        // The stand-in keeps objects by key, so what it finds of several unknown fields comes in that order.
        let only_unknown = |list: &Value| {
            list.as_array().is_some_and(|all| all.iter().all(|e| e[1] == "Extra inputs are not permitted"))
        };
        let ordered = |list: &Value| {
            let mut all: Vec<String> = list.as_array().into_iter().flatten().map(Value::to_string).collect();
            all.sort_unstable();
            all
        };
        let same = found == expected || (only_unknown(&expected) && ordered(&found) == ordered(&expected));
        if !same {
            wrong.push(format!("{method} {}\n  expected {expected}\n  found    {found}", case["params"]));
        }
    }
    unknown.sort_unstable();
    unknown.dedup();
    eprintln!(
        "{version:?}: {judged} cases judged; methods not served and not judged: {}",
        unknown.join(", ")
    );
    assert!(wrong.is_empty(), "{} of {judged} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(judged >= 55, "only {judged} cases were judged");
}

#[test]
fn defaults_are_filled_in() {
    let accepted =
        truenas_sim::validate_params("sharing.nfs.create", &[json!({"path": "/mnt/tank/a"})]).unwrap();
    assert_eq!(accepted[0]["enabled"], true);
    assert_eq!(accepted[0]["hosts"], json!([]));
    let accepted = truenas_sim::validate_params("pool.dataset.delete", &[json!("tank/a")]).unwrap();
    assert_eq!(accepted[1], json!({"recursive": false, "force": false}));
    let accepted = truenas_sim::validate_params("nvmet.host.query", &[]).unwrap();
    assert_eq!(accepted[1]["limit"], 0);
}

#[test]
fn every_kind_of_wrong_value_is_named() {
    for (method, params, attribute, message) in [
        ("pool.dataset.delete", json!([5]), "id", "Input should be a valid string"),
        ("sharing.nfs.update", json!(["1", {}]), "id", "Input should be a valid integer"),
        (
            "sharing.nfs.update",
            json!([1, []]),
            "data",
            "Input should be a valid dictionary or instance of NfsShareUpdate",
        ),
        ("sharing.nfs.update", json!([1, {"hosts": "a"}]), "data.hosts", "Input should be a valid list"),
        (
            "sharing.nfs.update",
            json!([1, {"hosts": [""]}]),
            "data.hosts.0",
            "String should have at least 1 character",
        ),
        ("sharing.nfs.update", json!([1, {"enabled": 1}]), "data.enabled", "Input should be a valid boolean"),
        (
            "nvmet.port_subsys.create",
            json!([{"port_id": true, "subsys_id": 1}]),
            "nvmet_port_subsys_create.port_id",
            "Input should be a valid integer",
        ),
        (
            "nvmet.host.create",
            json!([{"hostnqn": "short"}]),
            "nvmet_host_create.hostnqn",
            "String should have at least 11 characters",
        ),
        (
            "core.get_jobs",
            json!([[["id", "=", 1]], {"limit": -1}]),
            "options",
            "Value error, Options limit must be between 1 and 10000",
        ),
        ("core.get_jobs", json!([["x"]]), "filters", "Value error, Invalid filter name"),
    ] {
        let error = truenas_sim::validate_params(method, params.as_array().unwrap()).unwrap_err();
        assert_eq!(error["data"]["extra"][0], json!([attribute, message, 22]), "{method} {params}");
    }
}
