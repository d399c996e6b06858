//! Filters of list, prune and event requests.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// A text in the `filters` parameter that is no filter set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidFilters(pub String);

impl std::fmt::Display for InvalidFilters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "invalid filters: {}", self.0)
    }
}

impl std::error::Error for InvalidFilters {}

/// Values by filter name. Several values of one name are alternatives (for `label`: all must hold).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

impl Filters {
    /// Reads `{"name":{"value":true}}` or the older `{"name":["value"]}`; an empty text is no filter.
    pub fn parse(text: &str) -> Result<Self, InvalidFilters> {
        let mut filters = Self::default();
        if text.trim().is_empty() {
            return Ok(filters);
        }
        let invalid = |what: &str| InvalidFilters(what.into());
        let map: BTreeMap<String, Value> =
            serde_json::from_str(text).map_err(|error| InvalidFilters(error.to_string()))?;
        for (name, values) in map {
            match values {
                Value::Object(set) => {
                    for (value, chosen) in set {
                        match chosen {
                            Value::Bool(true) => filters.add(&name, &value),
                            Value::Bool(false) => {}
                            _ => return Err(invalid(&format!("{name}: want true or false"))),
                        }
                    }
                }
                Value::Array(list) => {
                    for value in list {
                        let Value::String(value) = value else {
                            return Err(invalid(&format!("{name}: want a list of texts")));
                        };
                        filters.add(&name, &value);
                    }
                }
                Value::Null => {}
                _ => return Err(invalid(&format!("{name}: want a map or a list"))),
            }
        }
        Ok(filters)
    }

    /// Adds one value.
    pub fn add(&mut self, name: &str, value: &str) {
        self.0.entry(name.into()).or_default().insert(value.into());
    }

    /// Whether there is no filter at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values of one filter, none when it was not given.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.get(name).into_iter().flatten().map(String::as_str)
    }

    /// Whether the filter was given.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The names that were given.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The text for the `filters` parameter.
    #[must_use]
    pub fn encode(&self) -> String {
        let map: BTreeMap<&str, BTreeMap<&str, bool>> = self
            .0
            .iter()
            .map(|(name, values)| (name.as_str(), values.iter().map(|v| (v.as_str(), true)).collect()))
            .collect();
        serde_json::to_string(&map).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_mean_the_same_and_survive_encoding() {
        let new = Filters::parse(r#"{"label":{"a=b":true,"no":false},"status":{"running":true}}"#).unwrap();
        let old = Filters::parse(r#"{"label":["a=b"],"status":["running"]}"#).unwrap();
        assert_eq!(new, old);
        assert_eq!(Filters::parse(&new.encode()), Ok(new));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["[]", "{", r#"{"a":1}"#, r#"{"a":[1]}"#, r#"{"a":{"b":"c"}}"#] {
            assert!(Filters::parse(bad).is_err(), "{bad}");
        }
        assert!(Filters::parse("").unwrap().is_empty());
    }
}
