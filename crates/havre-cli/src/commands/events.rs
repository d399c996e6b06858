//! `events`.

use std::fmt::Write as _;

use havre_api::event::EventMessage;
use havre_base::Timestamp;
use serde_json::value::RawValue;

use super::logs::moment;
use crate::App;
use crate::failure::Failure;
use crate::format::table::harmless;
use crate::format::template::{Absent, Format, Known};
use crate::output;
use crate::spec::{Args, Arity, Command, filter, text};

pub(super) const EVENTS: Command = Command {
    names: &["system events", "events"],
    arguments: "",
    about: "Get real time events from the server",
    flags: &[&[
        filter("Only events that match (type=container, event=die, label=a=b, ...)").short('f'),
        text("format", "Print with a Go template, or 'json'"),
        text("since", "Events from then on, past ones too (2026-01-02T13:23:37Z, or 42m for that long ago)"),
        text("until", "Events until then (2026-01-02T13:23:37Z, or 42m for that long ago)"),
    ]],
    arity: Arity::None,
    trailing: false,
    examples: &[
        "events --since 1h --until 0s",
        "events --filter event=die --format '{{.Actor.Attributes.name}}'",
    ],
    run: events,
};

fn events(app: &App, args: &Args) -> Result<u8, Failure> {
    let now = crate::now_nanos();
    let time = |flag: &str| moment(args.text(flag), now).map_err(Failure::plain);
    let (since, until) = (time("since")?, time("until")?);
    let format = match args.text("format") {
        "" => Shown::Line,
        "json" | "{{json .}}" => Shown::Json,
        source => Shown::Template(Box::new(Format::parse(source).map_err(wrong_format)?)),
    };
    app.block(async {
        let mut answer = app.client().await?.events(&since, &until, &args.filters()).await?;
        let mut lines = havre_client::JsonLines::default();
        while let Some(piece) = answer.chunk().await? {
            let events: Vec<Box<RawValue>> =
                lines.push(&piece).map_err(|error| Failure::plain(error.to_string()))?;
            let mut out = String::new();
            for event in events {
                out.push_str(&show(&format, event.get())?);
                out.push('\n');
            }
            output::print(&out)?;
        }
        Ok(0)
    })
}

fn wrong_format(failure: Failure) -> Failure {
    Failure::new(64, failure.message.replace("template parsing error", "Error parsing format"))
}

/// How an event is shown.
enum Shown {
    Line,
    Json,
    Template(Box<Format>),
}

fn show(shown: &Shown, json: &str) -> Result<String, Failure> {
    let read = || {
        serde_json::from_str::<EventMessage>(json)
            .map_err(|error| Failure::plain(format!("the daemon's answer cannot be read: {error}")))
    };
    match shown {
        Shown::Json => Ok(json.to_owned()),
        Shown::Line => Ok(line(&read()?)),
        Shown::Template(format) => format.guarded(json, KNOWN).map_err(wrong_format),
    }
}

/// `2026-01-02T15:04:05.000000000Z container start 0123... (image=busybox, name=web)`.
fn line(event: &EventMessage) -> String {
    let at = Timestamp::from_nanos(if event.time_nano == 0 {
        event.time.saturating_mul(1_000_000_000)
    } else {
        event.time_nano
    });
    // Nine digits always, so that lines align.
    let seconds = Timestamp::from_nanos(at.as_seconds().saturating_mul(1_000_000_000)).to_string();
    let time = format!("{}.{:09}Z", seconds.trim_end_matches('Z'), at.as_nanos().rem_euclid(1_000_000_000));
    let mut line = format!("{time} {} {} {}", event.kind, event.action, event.actor.id);
    let attributes: Vec<String> =
        event.actor.attributes.iter().map(|(name, text)| format!("{name}={text}")).collect();
    if !attributes.is_empty() {
        // Writing to a String cannot fail.
        write!(line, " ({})", attributes.join(", ")).ok();
    }
    harmless(&line)
}

/// The names that templates use beside the wire's.
const KNOWN: &[Known] = &[(
    "",
    &[
        ("status", Absent::Text),
        ("id", Absent::Text),
        ("from", Absent::Text),
        ("Status", Absent::Named("status")),
        ("ID", Absent::Named("id")),
        ("From", Absent::Named("from")),
        ("Scope", Absent::Named("scope")),
        ("Time", Absent::Named("time")),
        ("TimeNano", Absent::Named("timeNano")),
    ],
)];

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"Type":"container","Action":"die","Actor":{"ID":"ab","Attributes":{"name":"web\u001b","exitCode":"3"}},
        "scope":"local","time":1,"timeNano":1000000005}"#;

    #[test]
    fn an_event_is_a_line_a_json_object_or_a_template() {
        let want = "1970-01-01T00:00:01.000000005Z container die ab (exitCode=3, name=web\\u{1b})";
        assert_eq!(show(&Shown::Line, EVENT).unwrap(), want);
        assert_eq!(show(&Shown::Json, EVENT).unwrap(), EVENT);
        let format = Format::parse("{{.Type}} {{.Actor.Attributes.exitCode}} {{.TimeNano}}").unwrap();
        assert_eq!(show(&Shown::Template(Box::new(format)), EVENT).unwrap(), "container 3 1000000005");
    }
}
