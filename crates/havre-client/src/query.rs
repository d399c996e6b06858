//! Paths with parameters.

use std::fmt::Write as _;

/// A path of the API with its query, escaped.
#[derive(Debug, Clone)]
pub struct Query(String);

impl Query {
    /// A path such as `/containers/json`.
    #[must_use]
    pub fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    /// A path of three parts whose middle comes from the user.
    #[must_use]
    pub fn of(before: &str, name: &str, after: &str) -> Self {
        let mut path = before.to_owned();
        escape(&mut path, name, b"/:@");
        path.push_str(after);
        Self(path)
    }

    /// Adds a parameter.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(name);
        self.0.push('=');
        escape(&mut self.0, value, b"");
        self
    }

    /// Adds a parameter unless its value is empty.
    #[must_use]
    pub fn with_some(self, name: &str, value: &str) -> Self {
        if value.is_empty() { self } else { self.with(name, value) }
    }

    /// Adds `name=1` when `flag` holds.
    #[must_use]
    pub fn flag(self, name: &str, flag: bool) -> Self {
        if flag { self.with(name, "1") } else { self }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::ops::Deref for Query {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

fn escape(out: &mut String, text: &str, also: &[u8]) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || also.contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            write!(out, "%{byte:02X}").ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_types_cannot_leave_its_place() {
        let query = Query::of("/images/", "host:1/a b?x#y", "/json").with("filters", r#"{"a":["b&c"]}"#);
        assert_eq!(
            query.as_str(),
            "/images/host:1/a%20b%3Fx%23y/json?filters=%7B%22a%22%3A%5B%22b%26c%22%5D%7D"
        );
    }
}
