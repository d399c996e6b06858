//! `logs`.

use std::io::{self, Write};

use havre_client::{Demultiplexer, LogsOptions, StreamKind};

use crate::App;
use crate::failure::Failure;
use crate::format::units::parse_duration;
use crate::spec::{Args, Arity, Command, switch, text};

pub(super) const LOGS: Command = Command {
    names: &["container logs", "logs"],
    arguments: "CONTAINER",
    about: "Fetch the logs of a container",
    flags: &[&[
        switch("details", "Show the attributes that the log options name"),
        switch("follow", "Wait for more").short('f'),
        text("since", "Lines from then on (2026-01-02T13:23:37Z, or 42m for that long ago)"),
        text("tail", "The last lines only (default \"all\")").short('n'),
        switch("timestamps", "Show the time of each line").short('t'),
        text("until", "Lines before then (2026-01-02T13:23:37Z, or 42m for that long ago)"),
    ]],
    arity: Arity::Exactly(1),
    trailing: false,
    examples: &["logs -f --tail 100 web", "logs --since 10m web"],
    run: logs,
};

/// A point in time for the API: seconds since the epoch with a fraction. A duration means that long ago.
pub(super) fn moment(text: &str, now_nanos: i64) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let form =
        |nanos: i64| format!("{}.{:09}", nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
    if let Ok(ago) = parse_duration(text) {
        return Ok(form(now_nanos.saturating_sub(ago)));
    }
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Ok(text.to_owned());
    }
    // A date, or a date and a time, with or without a zone (ours is taken to be UTC).
    let full = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        13 => format!("{text}:00:00Z"),
        16 => format!("{text}:00Z"),
        _ if text.ends_with('Z') || text.get(10..).is_some_and(|rest| rest.contains(['+', '-'])) => {
            text.to_owned()
        }
        _ => format!("{text}Z"),
    };
    havre_base::Timestamp::parse_rfc3339(&full)
        .map(|time| form(time.as_nanos()))
        .map_err(|_| format!("failed to parse value as time or duration: \"{text}\""))
}

fn logs(app: &App, args: &Args) -> Result<u8, Failure> {
    let now = crate::now_nanos();
    let time = |flag: &str| {
        moment(args.text(flag), now)
            .map_err(|reason| Failure::plain(format!("invalid value for \"{flag}\": {reason}")))
    };
    let options = LogsOptions {
        follow: args.on("follow"),
        since: time("since")?,
        until: time("until")?,
        timestamps: args.on("timestamps"),
        tail: args.text("tail").into(),
        details: args.on("details"),
    };
    app.block(async {
        let client = app.client().await?;
        let name = &args.rest[0];
        let mut answer = client.logs(name, &options).await?;
        let framed = match answer.header("content-type") {
            Some(kind) if kind == havre_api::MULTIPLEXED_STREAM => true,
            Some(kind)
                if kind == havre_api::RAW_STREAM && client.version() >= havre_api::ApiVersion::new(1, 42) =>
            {
                false
            }
            // Older daemons do not say; the container knows whether it has a terminal.
            _ => !client.inspect(name).await?.config.tty,
        };
        let mut frames = Demultiplexer::default();
        let (mut stdout, mut stderr) = (io::BufWriter::new(io::stdout()), io::stderr());
        while let Some(piece) = answer.chunk().await? {
            if framed {
                frames.push(&piece, &mut |kind, bytes| match kind {
                    StreamKind::Stdout => stdout.write_all(bytes),
                    StreamKind::Stderr => stdout.flush().and_then(|()| stderr.write_all(bytes)),
                    StreamKind::System => Err(io::Error::other(format!(
                        "error from daemon in stream: {}",
                        String::from_utf8_lossy(bytes)
                    ))),
                })?;
            } else {
                stdout.write_all(&piece)?;
            }
            stdout.flush()?;
        }
        Ok(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_durations_dates_or_numbers() {
        let now = 1_000_000_000_000;
        for (text, want) in [
            ("", ""),
            ("10s", "990.000000000"),
            ("1700000000.5", "1700000000.5"),
            ("1970-01-01T00:01:00Z", "60.000000000"),
            ("1970-01-02", "86400.000000000"),
            ("1970-01-01T00:01", "60.000000000"),
            ("1970-01-01T00:01:00.5", "60.500000000"),
            ("1970-01-01T01:00:00+01:00", "0.000000000"),
        ] {
            assert_eq!(moment(text, now).as_deref(), Ok(want), "{text}");
        }
        assert!(moment("yesterday", now).is_err());
    }
}
