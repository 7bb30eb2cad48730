//! Whatever a client sends, it gets a verdict and the appliance goes on.
// Helpers of tests may stop at the first surprise as the tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Client, start};
use proptest::prelude::*;
use serde_json::{Value, json};

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-zA-Z@/:. \\-]{0,20}".prop_map(Value::from),
        prop_oneof![Just("name"), Just("path"), Just("tank/a"), Just("OR"), Just("="), Just("VOLUME")]
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let key = prop_oneof![
            "[a-z_]{1,8}",
            Just("name".to_owned()),
            Just("volsize".to_owned()),
            Just("hosts".to_owned()),
            Just("select".to_owned()),
            Just("mechanism".to_owned()),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..5).prop_map(|m| m.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn parameters_of_any_shape_are_judged(index in 0_usize..200, params in prop::collection::vec(any_json(), 0..4)) {
        let methods: Vec<&str> = truenas_sim::known_methods(truenas_sim::Version::V25_10).collect();
        let method = methods[index % methods.len()];
        match truenas_sim::validate_params(method, &params) {
            // What was accepted is accepted again with its defaults filled in.
            Ok(accepted) => prop_assert!(truenas_sim::validate_params(method, &accepted).is_ok(), "{method} {accepted:?}"),
            Err(error) => prop_assert_eq!(&error["code"], &json!(-32602)),
        }
    }
}

#[tokio::test]
async fn accepted_nonsense_is_answered_and_the_connection_lives() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let appliance = start().await;
    let mut client = Client::login(&appliance).await;
    let mut runner = TestRunner::deterministic();
    let methods: Vec<&str> = truenas_sim::known_methods(truenas_sim::Version::V25_10)
        .filter(|m| !m.starts_with("auth.") && *m != "core.job_wait")
        .collect();
    for round in 0..400 {
        let params = prop::collection::vec(any_json(), 0..3).new_tree(&mut runner).unwrap().current();
        let method = methods[round % methods.len()];
        let answer = client.call(method, json!(params)).await.expect("the connection lives");
        let class = &answer["error"]["data"]["trace"]["class"];
        assert_ne!(class, "RuntimeError", "{method} {params:?}: {answer}");
    }
    assert_eq!(client.ok("core.ping", json!([])).await, "pong");
}
