//! Filters and options of `*.query` methods.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

/// One `[field, operator, value]`. All filters of a query must match.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter(Value);

impl Filter {
    /// `field` equals `value` exactly. Paths are dotted; a dot inside a key is written `\\.`.
    pub fn eq(field: &str, value: impl Into<Value>) -> Self {
        Self(json!([field, "=", value.into()]))
    }

    /// `field` is one of `values`.
    pub fn one_of<V: Into<Value>>(field: &str, values: impl IntoIterator<Item = V>) -> Self {
        let values: Vec<Value> = values.into_iter().map(Into::into).collect();
        Self(json!([field, "in", values]))
    }

    /// `field` is greater than `value` (paging by id).
    pub fn greater(field: &str, value: impl Into<Value>) -> Self {
        Self(json!([field, ">", value.into()]))
    }

    /// `field` begins with `value`. Never for existence checks: a prefix takes another volume for this one.
    pub fn starts_with(field: &str, value: impl Into<Value>) -> Self {
        Self(json!([field, "^", value.into()]))
    }

    /// At least one of `branches` matches.
    #[must_use]
    pub fn any(branches: Vec<Filter>) -> Self {
        Self(json!(["OR", branches.into_iter().map(|f| f.0).collect::<Vec<_>>()]))
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// Options of a query; empty ones are not sent.
///
/// `count` and `get` are left out on purpose: `count` ignores the filters of `pool.dataset.query`, and `get` without a
/// match is an unspecific error.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Query {
    /// Fields to return, dotted paths into them too; empty means all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub select: Vec<Cow<'static, str>>,
    /// Fields to sort by, `-field` descending.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub order_by: Vec<&'static str>,
    /// At most this many (1 to 10,000); `None` means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u16>,
    /// Skip this many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Method-specific options.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub extra: Map<String, Value>,
}

impl Query {
    /// Adds a method-specific option.
    #[must_use]
    pub fn extra(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(key.to_owned(), value.into());
        self
    }

    /// Returns these fields only. A dotted path gives the row's nesting, with that part alone in it.
    #[must_use]
    pub fn select(mut self, fields: &[&'static str]) -> Self {
        self.select = fields.iter().copied().map(Cow::Borrowed).collect();
        self
    }

    /// Returns this field too.
    #[must_use]
    pub fn and_select(mut self, field: String) -> Self {
        self.select.push(Cow::Owned(field));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_and_options_have_the_wire_shape() {
        let filters =
            [Filter::eq("path", "/mnt/tank/a"), Filter::one_of("id", [1, 2]), Filter::greater("id", "x")];
        assert_eq!(
            serde_json::to_string(&filters).unwrap(),
            r#"[["path","=","/mnt/tank/a"],["id","in",[1,2]],["id",">","x"]]"#
        );
        assert_eq!(serde_json::to_string(&Query::default()).unwrap(), "{}");
        let query = Query { limit: Some(5), ..Query::default().select(&["id"]).extra("flat", true) };
        assert_eq!(
            serde_json::to_string(&query).unwrap(),
            r#"{"select":["id"],"limit":5,"extra":{"flat":true}}"#
        );
    }
}
