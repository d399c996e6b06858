//! `/events`.

use std::time::Duration;

use bytes::Bytes;
use havre_api::event::{EventActor, EventMessage};
use havre_api::{ApiVersion, Filters};
use havre_base::{Clock as _, SystemClock};
use havre_engine::Happening;
use hyper::header::{ACCEPT, HeaderValue};
use tokio::sync::broadcast::error::RecvError;

use crate::Server;
use crate::body::{self, Answer};
use crate::error::Refusal;
use crate::router::Call;
use crate::routes::streams::moment;

type Handled = Result<Answer, Refusal>;

/// Clients choose the media type, and the fields of the untyped events are gone.
const NEGOTIATED: ApiVersion = ApiVersion::new(1, 52);

const KNOWN: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// How one event follows another (RFC 7464 for the sequence).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Media {
    Json,
    Lines,
    NewlineDelimited,
    Sequence,
}

impl Media {
    fn of(call: &Call) -> Self {
        if call.version < NEGOTIATED {
            return Self::Json;
        }
        let accepts = call.request.headers().get_all(ACCEPT);
        Self::chosen(accepts.iter().filter_map(|value| HeaderValue::to_str(value).ok()))
    }

    /// The one that the client likes best; of equals the first.
    fn chosen<'a>(accepts: impl Iterator<Item = &'a str>) -> Self {
        let mut best = (0.0, Self::Json);
        for range in accepts.flat_map(|text| text.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let media = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
                "application/json-seq" => Self::Sequence,
                "application/jsonl" => Self::Lines,
                "application/x-ndjson" => Self::NewlineDelimited,
                "application/json" => Self::Json,
                _ => continue,
            };
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok()).unwrap_or(1.0);
            if weight > best.0 {
                best = (weight, media);
            }
        }
        best.1
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Lines => "application/jsonl",
            Self::NewlineDelimited => "application/x-ndjson",
            Self::Sequence => "application/json-seq",
        }
    }

    fn piece(self, event: &EventMessage) -> Bytes {
        let mut piece = if self == Self::Sequence { vec![0x1e] } else { Vec::new() };
        piece.extend(body::go_json(event));
        Bytes::from(piece)
    }
}

/// Docker's wire form; the first fields are for clients older than the typed ones.
fn message(event: &Happening, version: ApiVersion) -> EventMessage {
    let untyped = version < NEGOTIATED && matches!(event.kind, "container" | "image");
    let from = if event.kind == "container" { event.attributes.get("image").cloned() } else { None };
    EventMessage {
        status: if untyped { event.action.clone() } else { String::new() },
        id: if untyped { event.id.clone() } else { String::new() },
        from: from.filter(|_| untyped).unwrap_or_default(),
        kind: event.kind.into(),
        action: event.action.clone(),
        actor: EventActor { id: event.id.clone(), attributes: event.attributes.clone() },
        scope: "local".into(),
        time: event.at.as_seconds(),
        time_nano: event.at.as_nanos(),
    }
}

/// `name` and `name:tag` are the same image where no tag was asked for.
fn same_image(wanted: &str, own: &str) -> bool {
    let bare = |name: &str| {
        let end = name.rfind(':').filter(|at| !name[*at..].contains('/')).unwrap_or(name.len());
        name[..end].to_owned()
    };
    own == wanted || bare(own) == wanted
}

fn passes(filters: &Filters, event: &Happening) -> bool {
    let any = |name: &str, test: &dyn Fn(&str) -> bool| !filters.has(name) || filters.values(name).any(test);
    let attribute = |key: &str| event.attributes.get(key).map_or("", String::as_str);
    let object = |kind: &str, value: &str| {
        event.kind == kind
            && !value.is_empty()
            && (event.id.starts_with(value) || attribute("name") == value.trim_start_matches('/'))
    };
    let objects =
        ["container", "volume", "network", "plugin", "daemon", "service", "node", "secret", "config"];
    any("type", &|value| event.kind == value)
        // `exec_create` is `exec_create: sh -c ...`, `health_status` is `health_status: healthy`.
        && any("event", &|value| event.action == value || event.action.split(':').next() == Some(value))
        && objects.iter().all(|kind| any(kind, &|value| object(kind, value)))
        && any("image", &|value| match event.kind {
            "image" => object("image", value) || same_image(value, attribute("name")),
            "container" => same_image(value, attribute("image")),
            _ => false,
        })
        && filters.values("label").all(|value| match value.split_once('=') {
            Some((key, wanted)) => event.attributes.get(key).is_some_and(|own| own == wanted),
            None => event.attributes.contains_key(value),
        })
        && any("scope", &|value| value == "local")
}

pub(crate) fn events(server: &Server, call: &Call) -> Handled {
    let filters = Filters::parse(call.query.get("filters").unwrap_or(""))
        .map_err(|error| Refusal::invalid(error.to_string()))?;
    if let Some(name) = filters.names().find(|name| !KNOWN.contains(name)) {
        return Err(Refusal::invalid(format!("invalid filter '{name}'")));
    }
    let (since, until) = (moment(&call.query, "since")?, moment(&call.query, "until")?);
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        return Err(Refusal::invalid(format!(
            "`since` time ({since}) cannot be after `until` time ({until})"
        )));
    }
    // Zero is a time too: the remembered past is asked for by naming any.
    let replay = until.is_some() || call.query.get("since").is_some_and(|text| !text.is_empty());
    let (past, mut future) = server.engine.events.subscribe();
    let (media, version) = (Media::of(call), call.version);
    let (sink, answer) = body::stream(media.content_type());
    tokio::spawn(async move {
        let wanted = |event: &Happening| {
            since.is_none_or(|since| event.at >= since)
                && until.is_none_or(|until| event.at <= until)
                && passes(&filters, event)
        };
        let piece = |event: &Happening| media.piece(&message(event, version));
        if replay {
            for event in past.iter().filter(|event| wanted(event)) {
                if sink.send(piece(event)).await.is_err() {
                    return;
                }
            }
        }
        drop(past);
        let left = until.map_or(Duration::MAX, |until| until.since(SystemClock.now()));
        let deadline = tokio::time::sleep(left);
        tokio::pin!(deadline);
        loop {
            let event = tokio::select! {
                event = future.recv() => event,
                () = sink.closed() => return,
                () = &mut deadline, if until.is_some() => return,
            };
            match event {
                Ok(event) if wanted(&event) => {
                    if sink.send(piece(&event)).await.is_err() {
                        return;
                    }
                }
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use havre_base::Timestamp;

    use super::*;

    fn event(kind: &'static str, action: &str, attributes: &[(&str, &str)]) -> Happening {
        let attributes: BTreeMap<String, String> =
            attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let (action, id) = (action.to_owned(), "abc1".to_owned());
        Happening { kind, action, id, attributes, at: Timestamp::from_nanos(5_000_000_001) }
    }

    #[test]
    fn the_media_type_is_the_client_s_first_choice() {
        for (accept, media) in [
            ("", Media::Json),
            ("*/*", Media::Json),
            ("application/json-seq", Media::Sequence),
            ("application/jsonl;q=0.5, application/json-seq;q=0.9", Media::Sequence),
            ("text/html, application/x-ndjson", Media::NewlineDelimited),
            ("application/jsonl, application/json", Media::Lines),
        ] {
            assert_eq!(Media::chosen([accept].into_iter()), media, "{accept}");
        }
        let piece = Media::Sequence.piece(&message(&event("container", "start", &[]), NEGOTIATED));
        assert!(piece.starts_with(b"\x1e{\"Type\":\"container\"") && piece.ends_with(b"}\n"));
    }

    #[test]
    fn old_clients_get_the_untyped_fields() {
        let event = event("container", "start", &[("image", "busybox")]);
        let old = message(&event, ApiVersion::new(1, 51));
        assert_eq!((old.status.as_str(), old.id.as_str(), old.from.as_str()), ("start", "abc1", "busybox"));
        let new = message(&event, ApiVersion::CURRENT);
        assert_eq!((new.status.as_str(), new.from.as_str(), new.time_nano), ("", "", 5_000_000_001));
    }

    #[test]
    fn filters_choose_by_kind_action_and_object() {
        let exec =
            event("container", "exec_create: sh", &[("name", "web"), ("image", "busybox:1"), ("a", "b")]);
        for (filters, want) in [
            (r#"{"type":["container"],"event":["exec_create"]}"#, true),
            (r#"{"event":["exec_start"]}"#, false),
            (r#"{"container":["/web"]}"#, true),
            (r#"{"container":["abc"]}"#, true),
            (r#"{"container":["other"]}"#, false),
            (r#"{"image":["busybox"]}"#, true),
            (r#"{"image":["busybox:2"]}"#, false),
            (r#"{"label":["a=b","a"]}"#, true),
            (r#"{"label":["a=c"]}"#, false),
            (r#"{"volume":["x"]}"#, false),
            (r#"{"scope":["swarm"]}"#, false),
        ] {
            assert_eq!(passes(&Filters::parse(filters).unwrap(), &exec), want, "{filters}");
        }
        assert!(same_image("reg:5000/a", "reg:5000/a:1") && !same_image("reg", "reg:5000/a"));
    }
}
