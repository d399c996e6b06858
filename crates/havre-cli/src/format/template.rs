//! Go templates for `--format`, with the functions Docker adds.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use gotmpl::{MissingKey, Template, Value};
use serde_json::value::RawValue;

use crate::failure::Failure;

/// A row or an object that a template prints.
pub(crate) type Fields = BTreeMap<&'static str, Value>;

/// A text value.
pub(crate) fn text(value: impl AsRef<str>) -> Value {
    Value::String(value.as_ref().into())
}

/// The JSON text of objects that a template may print whole, by the address of the object: a template's
/// map is sorted and unescaped, the daemon's text is neither.
#[derive(Clone, Default)]
struct Originals(Arc<Mutex<HashMap<usize, String>>>);

impl Originals {
    fn keep(&self, value: &Value, text: String) {
        if let Value::Map(map) = value {
            // A panic cannot leave a map of texts half done.
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::as_ptr(map).addr(), text);
        }
    }

    /// The value as JSON.
    fn json(&self, value: &Value) -> String {
        match value {
            Value::Map(map) => {
                let kept = self
                    .0
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get(&Arc::as_ptr(map).addr())
                    .cloned();
                kept.unwrap_or_else(|| to_json(value).to_string())
            }
            Value::List(list) => {
                let items: Vec<String> = list.iter().map(|item| self.json(item)).collect();
                format!("[{}]", items.join(","))
            }
            _ => to_json(value).to_string(),
        }
    }

    /// Reads JSON, remembering the text of every object in it.
    fn read(&self, text: &str) -> Result<Value, serde_json::Error> {
        Ok(match text.as_bytes().first() {
            Some(b'{') => {
                let members: BTreeMap<&str, Box<RawValue>> = match serde_json::from_str(text) {
                    Ok(members) => members,
                    // A name with escapes in it cannot be borrowed.
                    Err(_) => return serde_json::from_str(text).map(|value| from_json(&value)),
                };
                let mut map = BTreeMap::new();
                for (name, member) in members {
                    map.insert(name.into(), self.read(member.get())?);
                }
                let value = Value::Map(Arc::new(map));
                self.keep(&value, text.to_owned());
                value
            }
            Some(b'[') => {
                let items: Vec<Box<RawValue>> = serde_json::from_str(text)?;
                Value::List(items.iter().map(|item| self.read(item.get())).collect::<Result<_, _>>()?)
            }
            _ => from_json(&serde_json::from_str(text)?),
        })
    }
}

/// Go escapes these in the JSON of a row.
fn escape_html(text: &str) -> String {
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
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

fn with_functions(template: Template, header: bool, originals: Originals) -> Template {
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
    base.func("json", move |args| Ok(text(args.first().map_or("null".into(), |value| originals.json(value)))))
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
    originals: Originals,
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
        let originals = Originals::default();
        let parse = |header| {
            with_functions(Template::new(""), header, originals.clone())
                .missing_key(MissingKey::Error)
                .parse(&source)
                .map_err(|error| Failure::plain(format!("failed to parse template: {error}")))
        };
        Ok(Self { template: parse(false)?, header: if table { Some(parse(true)?) } else { None }, originals })
    }

    /// The text of one object as the daemon sent it. `known` names, per parent, the fields that may be
    /// absent: a template may ask for them all the same.
    pub(crate) fn object(&self, json: &str, known: &[(&str, &[&'static str])]) -> Result<String, Failure> {
        let mut value = self
            .originals
            .read(json)
            .map_err(|error| Failure::plain(format!("the daemon's answer cannot be read: {error}")))?;
        for (parent, names) in known {
            let Value::Map(root) = &mut value else { break };
            let target = if parent.is_empty() { Some(&value) } else { root.get(*parent) };
            let Some(Value::Map(map)) = target else { continue };
            let mut completed = (**map).clone();
            for name in *names {
                completed.entry((*name).into()).or_insert(Value::Nil);
            }
            let before = self.originals.json(&Value::Map(map.clone()));
            let completed = Value::Map(Arc::new(completed));
            self.originals.keep(&completed, before);
            if parent.is_empty() {
                value = completed;
            } else if let Value::Map(root) = &mut value {
                let text = self.originals.json(&Value::Map(root.clone()));
                let mut copy = (**root).clone();
                copy.insert((*parent).into(), completed);
                value = Value::Map(Arc::new(copy));
                self.originals.keep(&value, text);
            }
        }
        self.render(&value)
    }

    /// The text of one object.
    pub(crate) fn render(&self, value: &Value) -> Result<String, Failure> {
        self.template
            .execute_to_string(value)
            // Only a known field without a value prints so: an unknown one is an error.
            .map(|text| text.replace("<no value>", "<nil>"))
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
            let value = value_of(row.into_iter());
            self.originals.keep(&value, escape_html(&to_json(&value).to_string()));
            lines.push(self.render(&value)?);
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
    fn objects_keep_the_order_of_the_daemon() {
        let json = r#"{"State":{"Running":true,"Dead":false,"L":[{"z":1,"a":"<"}]}}"#;
        let known: &[(&str, &[&str])] = &[("", &["Size"]), ("State", &["Health"])];
        for (format, want) in [
            ("{{json .State}}", r#"{"Running":true,"Dead":false,"L":[{"z":1,"a":"<"}]}"#),
            ("{{json .State.L}}", r#"[{"z":1,"a":"<"}]"#),
            ("{{json .}}", json),
            ("{{.State.Health}} {{.Size}} {{if .State.Health}}x{{end}}", "<nil> <nil> "),
            ("{{.State.Running}}", "true"),
        ] {
            assert_eq!(Format::parse(format).unwrap().object(json, known).unwrap(), want, "{format}");
        }
    }

    #[test]
    fn a_missing_field_is_an_error() {
        let format = Format::parse("{{.Nope}}").unwrap();
        assert!(format.rows(&[], vec![row("x")]).is_err());
        assert!(Format::parse("{{").is_err());
    }
}
