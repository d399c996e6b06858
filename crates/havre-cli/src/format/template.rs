//! Go templates for `--format`, with the functions Docker adds.

use std::collections::BTreeMap;
use std::sync::Arc;

use gotmpl::{MissingKey, Template, Value};

use crate::failure::Failure;

/// A row or an object that a template prints.
pub(crate) type Fields = BTreeMap<&'static str, Value>;

/// A text value.
pub(crate) fn text(value: impl AsRef<str>) -> Value {
    Value::String(value.as_ref().into())
}

/// JSON as a template value.
pub(crate) fn from_json(value: &serde_json::Value) -> Value {
    use serde_json::Value as J;
    match value {
        J::Null => Value::Nil,
        J::Bool(flag) => Value::Bool(*flag),
        J::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(int), _, _) => Value::Int(int),
            (None, Some(uint), _) => Value::Uint(uint),
            (None, None, float) => Value::Float(float.unwrap_or(0.0)),
        },
        J::String(string) => text(string),
        J::Array(list) => Value::List(list.iter().map(from_json).collect()),
        J::Object(map) => {
            Value::Map(Arc::new(map.iter().map(|(k, v)| (k.as_str().into(), from_json(v))).collect()))
        }
    }
}

/// A template value as JSON.
pub(crate) fn to_json(value: &Value) -> serde_json::Value {
    use serde_json::Value as J;
    match value {
        Value::Bool(flag) => J::Bool(*flag),
        Value::Int(int) => J::from(*int),
        Value::Uint(uint) => J::from(*uint),
        Value::Float(float) => J::from(*float),
        Value::String(string) => J::String(string.to_string()),
        Value::List(list) => J::Array(list.iter().map(to_json).collect()),
        Value::Map(map) => J::Object(map.iter().map(|(k, v)| (k.to_string(), to_json(v))).collect()),
        Value::Nil | Value::Function(_) => J::Null,
    }
}

fn string(args: &[Value], index: usize) -> String {
    args.get(index).map(ToString::to_string).unwrap_or_default()
}

fn number(args: &[Value], index: usize) -> usize {
    args.get(index).and_then(Value::as_int).and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
}

fn title(word: &str) -> String {
    let mut start = true;
    word.chars()
        .flat_map(|c| {
            let upper = start && c.is_alphabetic();
            start = c.is_whitespace();
            if upper { c.to_uppercase().collect::<Vec<_>>() } else { vec![c] }
        })
        .collect()
}

fn with_functions(template: Template, header: bool) -> Template {
    let base = template
        .func("println", |args| {
            let words: Vec<String> = args.iter().map(ToString::to_string).collect();
            Ok(text(format!("{}\n", words.join(" "))))
        })
        .func("join", |args| match args.first() {
            Some(Value::List(list)) => {
                let parts: Vec<String> = list.iter().map(ToString::to_string).collect();
                Ok(text(parts.join(&string(args, 1))))
            }
            other => Ok(other.cloned().unwrap_or(Value::Nil)),
        })
        .func("pad", |args| {
            let (before, after) = (number(args, 1), number(args, 2));
            match string(args, 0) {
                empty if empty.is_empty() => Ok(text(empty)),
                word => Ok(text(format!("{}{word}{}", " ".repeat(before), " ".repeat(after)))),
            }
        });
    if header {
        // A heading passes through what is meant for the values.
        let same = |args: &[Value]| Ok(args.first().cloned().unwrap_or(Value::Nil));
        return base
            .func("json", same)
            .func("split", same)
            .func("title", same)
            .func("lower", same)
            .func("upper", same)
            .func("truncate", same);
    }
    base.func("json", |args| Ok(text(args.first().map(to_json).unwrap_or_default().to_string())))
        .func("split", |args| {
            let (word, separator) = (string(args, 0), string(args, 1));
            Ok(Value::List(word.split(separator.as_str()).map(text).collect()))
        })
        .func("title", |args| Ok(text(title(&string(args, 0)))))
        .func("lower", |args| Ok(text(string(args, 0).to_lowercase())))
        .func("upper", |args| Ok(text(string(args, 0).to_uppercase())))
        .func("truncate", |args| Ok(text(string(args, 0).chars().take(number(args, 1)).collect::<String>())))
}

/// A parsed `--format`.
pub(crate) struct Format {
    template: Template,
    header: Option<Template>,
}

impl Format {
    /// Parses a template for one object after another. `\t` and `\n` typed by the user mean what they say.
    pub(crate) fn parse(source: &str) -> Result<Self, Failure> {
        let (table, source) = match source.strip_prefix("table") {
            Some(rest) if rest.is_empty() || rest.starts_with(' ') => (true, rest.trim_start()),
            _ => (false, source),
        };
        let source = if source == "json" { "{{json .}}" } else { source };
        let source = source.replace("\\t", "\t").replace("\\n", "\n");
        let parse = |header| {
            with_functions(Template::new(""), header)
                .missing_key(MissingKey::Error)
                .parse(&source)
                .map_err(|error| Failure::plain(format!("failed to parse template: {error}")))
        };
        Ok(Self { template: parse(false)?, header: if table { Some(parse(true)?) } else { None } })
    }

    /// The text of one object.
    pub(crate) fn render(&self, value: &Value) -> Result<String, Failure> {
        self.template
            .execute_to_string(value)
            .map_err(|error| Failure::plain(format!("failed to execute template: {error}")))
    }

    /// The text of all rows: a table with headings, or one line a row.
    pub(crate) fn rows(
        &self,
        headings: &[(&'static str, &str)],
        rows: Vec<Fields>,
    ) -> Result<String, Failure> {
        let mut lines = Vec::with_capacity(rows.len() + 1);
        if let Some(header) = &self.header {
            let heading = value_of(headings.iter().map(|(field, heading)| (*field, text(heading))));
            let line = header.execute_to_string(&heading);
            lines.push(line.map_err(|error| Failure::plain(format!("failed to execute template: {error}")))?);
        }
        for row in rows {
            lines.push(self.render(&value_of(row.into_iter()))?);
        }
        if self.header.is_some() {
            return Ok(super::table::align(&lines));
        }
        lines.push(String::new());
        Ok(lines.join("\n"))
    }
}

/// Fields as the object a template sees.
pub(crate) fn value_of(fields: impl Iterator<Item = (&'static str, Value)>) -> Value {
    Value::Map(Arc::new(fields.map(|(name, value)| (name.into(), value)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str) -> Fields {
        BTreeMap::from([("Name", text(name)), ("Tags", Value::List([text("a"), text("b")].into()))])
    }

    fn render(format: &str) -> String {
        Format::parse(format).unwrap().rows(&[("Name", "NAME"), ("Tags", "TAGS")], vec![row("web")]).unwrap()
    }

    #[test]
    fn templates_have_docker_functions() {
        for (format, want) in [
            ("{{.Name}}", "web\n"),
            ("{{upper .Name}} {{title .Name}} {{truncate .Name 2}}", "WEB Web we\n"),
            ("{{join .Tags \"+\"}} {{json .Tags}}", "a+b [\"a\",\"b\"]\n"),
            ("{{pad .Name 1 2}}|", " web  |\n"),
            ("{{range split .Name \"e\"}}<{{.}}>{{end}}", "<w><b>\n"),
            ("json", "{\"Name\":\"web\",\"Tags\":[\"a\",\"b\"]}\n"),
            ("table {{.Name}}\\t{{.Name}}", "NAME      NAME\nweb       web\n"),
        ] {
            assert_eq!(render(format), want, "{format}");
        }
    }

    #[test]
    fn a_missing_field_is_an_error() {
        let format = Format::parse("{{.Nope}}").unwrap();
        assert!(format.rows(&[], vec![row("x")]).is_err());
        assert!(Format::parse("{{").is_err());
    }
}
