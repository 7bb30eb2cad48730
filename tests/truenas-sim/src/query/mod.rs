//! Query methods: filters, then order, selection and paging, over rows as JSON objects.
//!
//! The rule it keeps: the semantics of the appliance's `filter_list`, its traps included (`get` without a match is an
//! exception with errno 22; an absent field matches nothing, not even `!=`).

mod filter;
mod path;

use std::cmp::Ordering;

use serde_json::{Map, Value};

use crate::failure::Failure;
pub use filter::check as check_filters;
use path::{Path, get};

/// The most rows that `limit` may ask for.
const LARGEST_LIMIT: i64 = 10_000;

/// Checks the combination of options, in the appliance's words.
pub fn check_options(options: &Value) -> Result<(), String> {
    let number = |key: &str| options.get(key).and_then(Value::as_i64).unwrap_or(0);
    let flag = |key: &str| options.get(key) == Some(&Value::Bool(true));
    if number("limit") > LARGEST_LIMIT || number("limit") < 0 {
        return Err(format!("Options limit must be between 1 and {LARGEST_LIMIT}"));
    }
    if number("offset") < 0 {
        return Err("Options offset must be greater than or equal to 0".into());
    }
    if flag("get") && (number("limit") > 1 || number("offset") > 0) {
        return Err("Invalid options combination. `get` implies a single result.".into());
    }
    for part in options.get("select").and_then(Value::as_array).into_iter().flatten() {
        if let Value::Array(pair) = part
            && !matches!(pair.as_slice(), [Value::String(_), Value::String(_)])
        {
            return Err("A select list must be a field name and its alias".into());
        }
    }
    Ok(())
}

/// A checked query.
#[derive(Debug, Clone)]
pub struct Query<'a> {
    filters: &'a Value,
    options: &'a Value,
}

impl<'a> Query<'a> {
    /// The query of a query method's two parameters.
    pub fn new(params: &'a [Value]) -> Self {
        Self {
            filters: params.first().unwrap_or(&Value::Null),
            options: params.get(1).unwrap_or(&Value::Null),
        }
    }

    /// An `extra` option.
    pub fn extra(&self, key: &str) -> Option<&'a Value> {
        self.options.get("extra")?.get(key)
    }

    /// Whether only the count is asked for.
    pub fn counts(&self) -> bool {
        self.options.get("count") == Some(&Value::Bool(true))
    }

    /// Whether the answer or a filter needs this top-level field; without `select` every field is needed.
    pub fn needs(&self, field: &str) -> bool {
        let select = self.options.get("select").and_then(Value::as_array);
        let starts =
            |text: &str| text == field || text.starts_with(&format!("{field}.")) || text.starts_with('*');
        match select {
            None => true,
            Some(fields) if fields.is_empty() => true,
            Some(fields) => {
                let selected = fields.iter().any(|f| match f {
                    Value::String(name) => starts(name),
                    Value::Array(pair) => pair.first().and_then(Value::as_str).is_some_and(starts),
                    _ => false,
                });
                selected || self.filters.to_string().contains(field)
            }
        }
    }

    /// The exact values of `field` when the filters hold one plain `[field, "=", value]` for it: lets the caller look
    /// up instead of walking. The filters are applied afterwards all the same.
    pub fn exact(&self, field: &str) -> Option<&'a Value> {
        self.filters.as_array()?.iter().find_map(|filter| match filter.as_array()?.as_slice() {
            [Value::String(name), Value::String(op), value] if name == field && op == "=" => Some(value),
            _ => None,
        })
    }

    /// Runs the query over all rows.
    pub fn run(&self, rows: Vec<Value>) -> Result<Value, Failure> {
        let mut kept: Vec<Value> =
            rows.into_iter().filter(|row| filter::matches_all(self.filters, row)).collect();
        if self.counts() {
            return Ok(kept.len().into());
        }
        for key in self.options.get("order_by").and_then(Value::as_array).into_iter().flatten().rev() {
            if let Some(key) = key.as_str() {
                order(&mut kept, key);
            }
        }
        let number = |key: &str| self.options.get(key).and_then(Value::as_u64).unwrap_or(0);
        let limit = match number("limit") {
            0 => usize::MAX,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let offset = usize::try_from(number("offset")).unwrap_or(usize::MAX);
        let select = self.options.get("select").and_then(Value::as_array).filter(|s| !s.is_empty());
        let mut page = kept.into_iter().skip(offset).take(limit).map(|row| match select {
            Some(fields) => choose(&row, fields),
            None => row,
        });
        if self.options.get("get") == Some(&Value::Bool(true)) {
            return page.next().ok_or_else(|| Failure::exception("MatchNotFound", "MatchNotFound()"));
        }
        Ok(Value::Array(page.collect()))
    }
}

fn order(rows: &mut [Value], key: &str) {
    let (key, nulls_first) = match key.strip_prefix("nulls_first:") {
        Some(key) => (key, Some(true)),
        None => match key.strip_prefix("nulls_last:") {
            Some(key) => (key, Some(false)),
            None => (key, None),
        },
    };
    let (field, descending) = match key.strip_prefix('-') {
        Some(field) => (field, true),
        None => (key, false),
    };
    let path = Path::parse(field);
    rows.sort_by(|a, b| {
        let (a, b) = (get(a, &path).unwrap_or(&Value::Null), get(b, &path).unwrap_or(&Value::Null));
        if let (Some(first), true) = (nulls_first, a.is_null() != b.is_null()) {
            return if a.is_null() == first { Ordering::Less } else { Ordering::Greater };
        }
        let ordering = filter::compare(a, b).unwrap_or(Ordering::Equal);
        if descending { ordering.reverse() } else { ordering }
    });
}

/// The selected fields of a row; a dotted name keeps its nesting, an alias becomes a top-level name.
fn choose(row: &Value, fields: &[Value]) -> Value {
    let mut out = Map::new();
    for field in fields {
        match field {
            Value::String(name) => {
                if let Some(value) = row.get(name) {
                    out.insert(name.clone(), value.clone());
                    continue;
                }
                let path = Path::parse(name);
                if let Some(value) = get(row, &path) {
                    nest(&mut out, path.parts(), value.clone());
                }
            }
            Value::Array(pair) => {
                if let [Value::String(name), Value::String(alias)] = pair.as_slice()
                    && let Some(value) = get(row, &Path::parse(name))
                {
                    out.insert(alias.clone(), value.clone());
                }
            }
            _ => {}
        }
    }
    Value::Object(out)
}

fn nest(out: &mut Map<String, Value>, parts: &[String], value: Value) {
    let Some((first, rest)) = parts.split_first() else { return };
    if rest.is_empty() {
        out.insert(first.clone(), value);
        return;
    }
    let inner = out.entry(first.clone()).or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(inner) = inner {
        nest(inner, rest, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows() -> Vec<Value> {
        vec![
            json!({"id": 1, "name": "a", "user_properties": {"x:y": {"rawvalue": "1"}, "a.b": {"rawvalue": "dot"}}}),
            json!({"id": 2, "name": "b", "user_properties": {}, "size": null}),
            json!({"id": 3, "name": "C", "user_properties": {"x:y": {"rawvalue": "2"}}, "size": 7}),
        ]
    }

    fn run(filters: Value, options: Value) -> Value {
        check_filters(&filters).unwrap();
        let params = [filters, options];
        Query::new(&params).run(rows()).unwrap()
    }

    fn ids(filters: Value) -> Vec<i64> {
        let found = run(filters, json!({"select": ["id"]}));
        found.as_array().unwrap().iter().map(|r| r["id"].as_i64().unwrap()).collect()
    }

    #[test]
    fn operators_match_as_the_appliance_does() {
        assert_eq!(ids(json!([["id", "=", 1]])), [1]);
        assert_eq!(ids(json!([["id", "!=", 1]])), [2, 3]);
        assert_eq!(ids(json!([["id", ">", 1], ["id", "<", 3]])), [2]);
        assert_eq!(ids(json!([["id", "in", [1, 3]]])), [1, 3]);
        assert_eq!(ids(json!([["id", "nin", [1, 3]]])), [2]);
        assert_eq!(ids(json!([["name", "~", "[ab]"]])), [1, 2]);
        assert_eq!(ids(json!([["name", "^", "a"]])), [1]);
        assert_eq!(ids(json!([["name", "!^", "a"]])), [2, 3]);
        assert_eq!(ids(json!([["name", "C=", "c"]])), [3]);
        assert_eq!(ids(json!([["name", "rin", "b"]])), [2]);
        assert_eq!(ids(json!([["OR", [["id", "=", 1], [["id", "=", 3], ["name", "=", "C"]]]]])), [1, 3]);
    }

    #[test]
    fn user_properties_are_reached_by_dotted_and_escaped_paths() {
        assert_eq!(ids(json!([["user_properties.x:y.rawvalue", "=", "2"]])), [3]);
        assert_eq!(ids(json!([["user_properties.a\\.b.rawvalue", "=", "dot"]])), [1]);
    }

    #[test]
    fn an_absent_field_matches_nothing_not_even_inequality() {
        assert_eq!(ids(json!([["user_properties.x:y.rawvalue", "!=", "1"]])), [3]);
        assert_eq!(ids(json!([["size", ">", 1]])), [3]);
    }

    #[test]
    fn options_select_order_and_page() {
        let out = run(
            json!([]),
            json!({"select": ["user_properties.x:y.rawvalue", ["name", "n"]], "order_by": ["-id"], "limit": 1}),
        );
        assert_eq!(out, json!([{"user_properties": {"x:y": {"rawvalue": "2"}}, "n": "C"}]));
        assert_eq!(run(json!([]), json!({"count": true})), json!(3));
        assert_eq!(
            run(json!([]), json!({"order_by": ["nulls_last:size", "id"], "offset": 1, "select": ["id"]})),
            json!([{"id": 1}, {"id": 2}])
        );
    }

    #[test]
    fn get_without_a_match_is_an_exception_with_errno_22() {
        let params = [json!([["id", "=", 9]]), json!({"get": true})];
        let failure = Query::new(&params).run(rows()).unwrap_err().to_json();
        assert_eq!(failure["code"], -32001);
        assert_eq!(failure["data"]["error"], 22);
        assert_eq!(failure["data"]["trace"]["class"], "MatchNotFound");
    }
}
