//! The daemon's log on standard error: a line an event, as dockerd writes it, or JSON.
//!
//! Invariants: one event is one line, whatever is in it; the level may change while the daemon runs; only
//! what this project says is logged below the level `warn`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use havre_base::{Clock as _, SystemClock};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

/// The level in force, as a number: higher says more.
static LEVEL: AtomicU8 = AtomicU8::new(3);

fn number(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

/// Puts a level in force, by its name.
pub(crate) fn set_level(name: &str) {
    let level = match name {
        "trace" => 5,
        "debug" => 4,
        "warn" | "warning" => 2,
        "error" | "fatal" | "panic" => 1,
        _ => 3,
    };
    LEVEL.store(level, Ordering::Relaxed);
    tracing::callsite::rebuild_interest_cache();
}

/// Starts to log; once a process.
pub(crate) fn start(level: &str, json: bool) {
    set_level(level);
    // Somebody else logs already: then we do not.
    tracing::subscriber::set_global_default(Log { json, spans: AtomicU64::new(1) }).unwrap_or(());
}

struct Log {
    json: bool,
    /// The next span's number. Spans are not shown, but must have numbers.
    spans: AtomicU64,
}

impl Subscriber for Log {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let level = number(*metadata.level());
        level <= LEVEL.load(Ordering::Relaxed)
            && metadata.is_event()
            && (level <= 2 || metadata.target().starts_with("havre"))
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        None
    }

    fn event(&self, event: &Event<'_>) {
        let mut said = Said::default();
        event.record(&mut said);
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let time = SystemClock.now().to_string();
        let line = if self.json { said.json(&time, level) } else { said.text(&time, level) };
        // A log that cannot be written has nobody to be reported to.
        std::io::stderr().lock().write_all(line.as_bytes()).unwrap_or(());
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed))
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The fields of one event.
#[derive(Default)]
struct Said {
    message: String,
    fields: Vec<(&'static str, serde_json::Value)>,
}

impl Said {
    fn put(&mut self, field: &Field, value: serde_json::Value) {
        match (field.name(), value) {
            ("message", serde_json::Value::String(text)) => self.message = text,
            (name, value) => self.fields.push((name, value)),
        }
    }

    /// `time="..." level=info msg="..." key=value`
    fn text(&self, time: &str, level: &str) -> String {
        let mut line = format!("time=\"{time}\" level={level} msg={}", quoted(&self.message));
        for (name, value) in &self.fields {
            let text = match value {
                serde_json::Value::String(text) => quoted(text),
                other => other.to_string(),
            };
            write!(line, " {name}={text}").unwrap_or(());
        }
        line.push('\n');
        line
    }

    fn json(self, time: &str, level: &str) -> String {
        let mut map: serde_json::Map<String, serde_json::Value> =
            self.fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        map.insert("level".into(), level.into());
        map.insert("msg".into(), self.message.into());
        map.insert("time".into(), time.into());
        let mut line = serde_json::Value::Object(map).to_string();
        line.push('\n');
        line
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_u128(&mut self, field: &Field, value: u128) {
        self.put(field, u64::try_from(value).unwrap_or(u64::MAX).into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}

/// A value as it stands in a line: bare when nothing in it could be taken for something else.
fn quoted(text: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '/' | '@' | '^' | '+');
    if !text.is_empty() && text.chars().all(bare) {
        return text.to_owned();
    }
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => write!(out, "\\u{:04x}", u32::from(c)).unwrap_or(()),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Said {
        Said {
            message: "it\nis \"so\"".into(),
            fields: vec![("path", "/a/b".into()), ("count", 3.into()), ("empty", "".into())],
        }
    }

    #[test]
    fn a_line_is_a_line_whatever_is_in_it() {
        assert_eq!(
            said().text("T", "info"),
            "time=\"T\" level=info msg=\"it\\nis \\\"so\\\"\" path=/a/b count=3 empty=\"\"\n"
        );
        assert_eq!(quoted("\u{1b}[31m"), "\"\\u001b[31m\"");
        assert_eq!(quoted("plain"), "plain");
    }

    #[test]
    fn json_has_the_fields_of_dockerd() {
        let value: serde_json::Value = serde_json::from_str(&said().json("T", "debug")).unwrap();
        assert_eq!(value["level"], "debug");
        assert_eq!(value["msg"], "it\nis \"so\"");
        assert_eq!((&value["time"], &value["count"]), (&"T".into(), &3.into()));
    }
}
