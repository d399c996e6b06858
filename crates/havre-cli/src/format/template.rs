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
        let address = match value {
            Value::Map(map) => Arc::as_ptr(map).addr(),
            Value::List(list) => Arc::as_ptr(list).addr(),
            _ => return,
        };
        self.lock().insert(address, text);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<usize, String>> {
        // A panic cannot leave a map of texts half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value as JSON.
    fn json(&self, value: &Value) -> String {
        match value {
            Value::Map(map) => {
                let kept = self.lock().get(&Arc::as_ptr(map).addr()).cloned();
                kept.unwrap_or_else(|| to_json(value).to_string())
            }
            Value::List(list) => {
                if let Some(kept) = self.lock().get(&Arc::as_ptr(list).addr()) {
                    return kept.clone();
                }
                let items: Vec<String> = list.iter().map(|item| self.json(item)).collect();
                format!("[{}]", items.join(","))
            }
            _ => to_json(value).to_string(),
        }
    }

    /// Reads JSON, remembering the text of every object in it; with `guarded`, texts are made harmless to
    /// the terminal.
    fn read(&self, text: &str, guarded: bool) -> Result<Value, serde_json::Error> {
        Ok(match text.as_bytes().first() {
            Some(b'{') => {
                let members: BTreeMap<&str, Box<RawValue>> = match serde_json::from_str(text) {
                    Ok(members) => members,
                    // A name with escapes in it cannot be borrowed.
                    Err(_) => return serde_json::from_str(text).map(|value| from_json(&value)),
                };
                let mut map = BTreeMap::new();
                for (name, member) in members {
                    map.insert(name.into(), self.read(member.get(), guarded)?);
                }
                let value = Value::Map(Arc::new(map));
                self.keep(&value, text.to_owned());
                value
            }
            Some(b'[') => {
                let items: Vec<Box<RawValue>> = serde_json::from_str(text)?;
                Value::List(
                    items.iter().map(|item| self.read(item.get(), guarded)).collect::<Result<_, _>>()?,
                )
            }
            _ => match from_json(&serde_json::from_str(text)?) {
                Value::String(word) if guarded => self::text(super::table::harmless(&word)),
                value => value,
            },
        })
    }
}

/// A field that is left out of a document when it is empty, and what a template sees in its place.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Absent {
    /// Nothing.
    Nil,
    /// An empty text.
    Text,
    /// Zero.
    Zero,
    /// A list without entries, where the document has none or says `null`.
    List,
    /// A map without entries, where the document has none or says `null`.
    Map,
    /// The same field by the name that it has in the document.
    Named(&'static str),
}

/// The fields of one part of a document (of the whole when the name is empty) that may be absent.
pub(crate) type Known = (&'static str, &'static [(&'static str, Absent)]);

/// Undoes what Go's encoder does to these characters where a document travels.
fn plain_html(text: &str) -> String {
    if !text.contains("\\u00") {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let plain = match rest.get(..6) {
            Some("\\u003c") => Some('<'),
            Some("\\u003e") => Some('>'),
            Some("\\u0026") => Some('&'),
            _ => None,
        };
        // Any other escape is two characters or more; the second is never the start of one.
        let length = if plain.is_some() { 6 } else { rest.len().min(2) };
        match plain {
            Some(plain) => out.push(plain),
            None => out.push_str(&rest[..length]),
        }
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
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
        Value::Map(map) => {
            let data = map.iter().filter(|(_, value)| !value.is_function());
            J::Object(data.map(|(k, v)| (k.to_string(), to_json(v))).collect())
        }
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
            Ok(Value::List(match separator.as_str() {
                "" => word.chars().map(|c| text(c.to_string())).collect(),
                separator => word.split(separator).map(text).collect(),
            }))
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
        let source = method_calls(&source.replace("\\t", "\t").replace("\\n", "\n"));
        let originals = Originals::default();
        let parse = |header| {
            with_functions(Template::new(""), header, originals.clone())
                .missing_key(MissingKey::Error)
                .parse(&source)
                .map_err(|error| unreadable(&error.to_string()))
        };
        Ok(Self { template: parse(false)?, header: if table { Some(parse(true)?) } else { None }, originals })
    }

    /// The text of one object as the daemon sent it. `known` names, per parent, the fields that may be
    /// absent: a template may ask for them all the same.
    pub(crate) fn object(&self, json: &str, known: &[Known]) -> Result<String, Failure> {
        self.document(json, known, false)
    }

    /// The same, whose texts are anybody's and must not reach the terminal as they are.
    pub(crate) fn guarded(&self, json: &str, known: &[Known]) -> Result<String, Failure> {
        self.document(json, known, true)
    }

    fn document(&self, json: &str, known: &[Known], guarded: bool) -> Result<String, Failure> {
        let mut value = self
            .originals
            .read(&plain_html(json), guarded)
            .map_err(|error| Failure::plain(format!("the daemon's answer cannot be read: {error}")))?;
        for (parent, names) in known {
            let Value::Map(root) = &mut value else { break };
            let target = if parent.is_empty() { Some(&value) } else { root.get(*parent) };
            let Some(Value::Map(map)) = target else { continue };
            let mut completed = (**map).clone();
            for (name, absent) in *names {
                self.complete(&mut completed, name, *absent);
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
            .map_err(|error| {
                let error = error.to_string();
                // Go finds this while parsing.
                match error.strip_prefix("undefined function: ") {
                    Some(name) => Failure::new(
                        64,
                        format!("template parsing error: template: :1: function \"{name}\" not defined"),
                    ),
                    None => Failure::plain(format!("template parsing error: template: :1: {error}")),
                }
            })
    }

    /// Puts in what a document leaves out.
    fn complete(&self, map: &mut BTreeMap<Arc<str>, Value>, name: &'static str, absent: Absent) {
        let there = map.get(name);
        let null = there.is_none_or(|value| matches!(value, Value::Nil));
        let value = match absent {
            Absent::Named(other) => map.get(other).cloned().unwrap_or(Value::Nil),
            Absent::List if null => Value::List(Vec::new().into()),
            Absent::Map if null => Value::Map(Arc::default()),
            _ if there.is_some() => return,
            Absent::Text => text(""),
            Absent::Zero => Value::Int(0),
            _ => Value::Nil,
        };
        if matches!(absent, Absent::List | Absent::Map) {
            if !null {
                return;
            }
            self.originals.keep(&value, "null".into());
        }
        map.insert(name.into(), value);
    }

    /// The text of one object that holds lists of rows, in this order.
    pub(crate) fn groups<const N: usize>(
        &self,
        groups: [(&'static str, Vec<Fields>); N],
    ) -> Result<String, Failure> {
        let mut texts = Vec::new();
        let mut lists = Vec::new();
        for (name, rows) in groups {
            let rows: Vec<Value> = rows.into_iter().map(|row| self.row(row)).collect();
            let list = Value::List(rows.into());
            texts.push(format!("\"{name}\":{}", self.originals.json(&list)));
            lists.push((name, list));
        }
        let object = value_of(lists.into_iter());
        self.originals.keep(&object, format!("{{{}}}", texts.join(",")));
        self.render(&object)
    }

    /// A row as a template sees it.
    fn row(&self, row: Fields) -> Value {
        let value = value_of(row.into_iter());
        self.originals.keep(&value, escape_html(&to_json(&value).to_string()));
        value
    }

    /// A row without values, to try a template on.
    pub(crate) fn empty(&self, headings: &[(&'static str, &str)]) -> Value {
        let label: Value = Value::Function(Arc::new(|_| Ok(text(""))));
        let fields = headings.iter().map(|(field, _)| (*field, text("")));
        let value = value_of(fields.chain([("Label", label)]));
        self.originals.keep(&value, "{}".into());
        value
    }

    /// The text of all rows: a table with headings, or one line a row.
    pub(crate) fn rows(
        &self,
        headings: &[(&'static str, &str)],
        rows: Vec<Fields>,
    ) -> Result<String, Failure> {
        let mut lines = Vec::with_capacity(rows.len() + 1);
        if let Some(header) = &self.header {
            let label: Value = Value::Function(Arc::new(|args| Ok(text(label_heading(&string(args, 0))))));
            let fields = headings.iter().map(|(field, heading)| (*field, text(heading)));
            let heading = value_of(fields.chain([("Label", label)]));
            let line = header.execute_to_string(&heading);
            lines.push(line.map_err(|error| unreadable(&error.to_string()))?);
        }
        for row in rows {
            lines.push(self.render(&self.row(row))?);
        }
        if self.header.is_some() {
            return Ok(super::table::align(&lines));
        }
        lines.push(String::new());
        Ok(lines.join("\n"))
    }
}

/// A template that cannot be read, in the form of Go's errors.
fn unreadable(error: &str) -> Failure {
    let error = error.strip_prefix("template: ").unwrap_or(error);
    // Line and column, of which Go says the line.
    let (place, reason) = error.split_once(": ").unwrap_or(("1", error));
    let line = place.split(':').next().filter(|line| line.bytes().all(|b| b.is_ascii_digit()));
    let (line, reason) = line.map_or(("1", error), |line| (line, reason));
    Failure::plain(format!("template parsing error: template: :{line}: {reason}"))
}

/// `.Label "x"` is a call of what the field holds.
fn method_calls(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find(".Label ") {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let argument = after[".Label ".len()..].trim_start().starts_with(['"', '`', '$', '(']);
        if argument && out.ends_with([' ', '{', '(', '|', '\t']) {
            out.push_str("call ");
        }
        out.push_str(".Label ");
        rest = &after[".Label ".len()..];
    }
    out.push_str(rest);
    out
}

/// The column of a label: the last part of its name, dashes and underscores opened.
fn label_heading(label: &str) -> String {
    label.rsplit('.').next().unwrap_or(label).replace(['-', '_'], " ")
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
        let known: &[Known] = &[
            ("", &[("Size", Absent::Nil), ("ID", Absent::Named("Id")), ("Links", Absent::List)]),
            ("State", &[("Health", Absent::Nil), ("Error", Absent::Text)]),
        ];
        for (format, want) in [
            ("{{json .State}}", r#"{"Running":true,"Dead":false,"L":[{"z":1,"a":"<"}]}"#),
            ("{{json .State.L}}", r#"[{"z":1,"a":"<"}]"#),
            ("{{json .}}", json),
            ("{{.State.Health}} {{.Size}} {{if .State.Health}}x{{end}}", "<nil> <nil> "),
            ("{{.State.Running}}", "true"),
            ("{{.Links}} {{json .Links}} {{.State.Error}}|", "[] null |"),
        ] {
            assert_eq!(Format::parse(format).unwrap().object(json, known).unwrap(), want, "{format}");
        }
    }

    #[test]
    fn a_missing_field_is_an_error() {
        let format = Format::parse("{{.Nope}}").unwrap();
        assert!(format.rows(&[], vec![row("x")]).is_err());
        assert!(Format::parse("{{").is_err());
        let function = Format::parse("{{nope}}").unwrap().rows(&[], vec![row("x")]).unwrap_err();
        assert_eq!(
            (function.code, function.message.as_str()),
            (64, "template parsing error: template: :1: function \"nope\" not defined")
        );
    }

    #[test]
    fn labels_are_asked_for_by_name() {
        let label = |args: &[Value]| Ok(text(if string(args, 0) == "a.b-c" { "found" } else { "" }));
        let mut fields = row("web");
        fields.insert("Label", Value::Function(Arc::new(label)));
        let rows = |format: &str| Format::parse(format).unwrap().rows(&[], vec![fields.clone()]).unwrap();
        assert_eq!(rows("{{.Label \"a.b-c\"}}{{if (.Label \"x\")}}y{{end}}"), "found\n");
        assert_eq!(rows("table {{.Label \"a.b-c\"}}"), "b c\nfound\n");
        assert!(!rows("json").contains("Label"));
    }

    #[test]
    fn escapes_of_go_are_undone_and_others_kept() {
        assert_eq!(plain_html(r#"{"a":"\u003c\\u003e\"\u0026\n"}"#), r#"{"a":"<\\u003e\"&\n"}"#);
    }
}
