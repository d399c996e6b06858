//! Attach and logs.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use havre_api::{ApiVersion, MULTIPLEXED_STREAM, RAW_STREAM};
use havre_base::ErrorKind;
use havre_base::{Clock as _, SystemClock, Timestamp};
use havre_engine::{AttachSpec, View};
use havre_log::{Entry, ReadSpec, Reader, Stream};
use hyper::StatusCode;
use tokio::io::Interest;
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};

use crate::body::{self, Answer, Sink};
use crate::error::Refusal;
use crate::query::Query;
use crate::router::Call;
use crate::{Server, convert, hijack};

type Handled = Result<Answer, Refusal>;

/// A piece of a log answer, in bytes: large enough to be cheap, small enough to be prompt.
const PIECE: usize = 32 * 1024;

/// What a client that attaches wants, of whom.
pub(crate) struct Wish {
    view: Arc<View>,
    spec: AttachSpec,
    logs: bool,
    stream: bool,
    /// The container's start waits for this client.
    announced: Option<oneshot::Sender<(AttachSpec, OwnedFd)>>,
}

impl Wish {
    /// Reads it. With `framed`, output is in frames unless the container has a terminal.
    pub(crate) async fn read(
        server: &Server,
        query: &Query,
        id: &str,
        framed: bool,
    ) -> Result<Self, Refusal> {
        let view = server.engine.containers.view(id)?;
        let keys = convert::detach_keys(query.get("detachKeys").unwrap_or(""))?;
        let (logs, stream) = (query.flag("logs"), query.flag("stream"));
        let spec = AttachSpec {
            stdin: query.flag("stdin"),
            stdout: query.flag("stdout"),
            stderr: query.flag("stderr"),
            multiplexed: framed && !view.fixed.spec.tty,
            detach_keys: keys,
        };
        if view.now.state.word() == "paused" {
            return Err(havre_engine::EngineError::State(format!(
                "container {id} is paused, unpause the container before attach"
            ))
            .into());
        }
        // Before the answer: a start that follows it must not overtake the client.
        let announced =
            if stream { server.engine.containers.announce(view.id().as_str()).await? } else { None };
        Ok(Self { view, spec, logs, stream, announced })
    }

    /// Gives the client to the container.
    pub(crate) async fn hand_over(self, server: &Server, client: OwnedFd) {
        let Self { view, spec, logs, stream, announced } = self;
        let client = if logs {
            match replay(server, &view, client, &spec).await {
                Some(client) => client,
                None => return,
            }
        } else {
            client
        };
        let client = match announced {
            // The start gave up waiting when this fails: then the container runs.
            Some(announced) => match announced.send((spec, client)) {
                Ok(()) => return,
                Err(client) => client,
            },
            None => (spec, client),
        };
        if stream
            && let Err(error) = server.engine.containers.attach(view.id().as_str(), client.0, client.1).await
        {
            tracing::debug!(container = %view.id(), %error, "attach failed");
        }
    }
}

pub(crate) async fn attach(server: &Server, call: Call, id: &str) -> Handled {
    let Call { version, query, mut request } = call;
    let wish = Wish::read(server, &query, id, true).await?;
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, input) = request.into_parts();
    let (answer, client) = hijack::promise(&parts, upgrade, Some(input), version, wish.view.fixed.spec.tty)
        .map_err(no_socket)?;
    let server = server.clone();
    tokio::spawn(async move {
        match client.descriptor(&server).await {
            Ok(client) => wish.hand_over(&server, client).await,
            Err(error) => tracing::debug!(%error, "a client that wanted a stream did not take it"),
        }
    });
    Ok(answer)
}

/// Waits, briefly, until the client has read the head of the answer: some clients (docker-py) read the head
/// through a buffer and the stream past it, and would lose what arrives together.
async fn head_is_read(client: &tokio::net::UnixStream) {
    const BRIEFLY: Duration = Duration::from_millis(200);
    let read = async {
        // Each read of the peer makes the socket writable anew.
        while matches!(havre_engine::is_drained(client), Ok(false)) {
            let nothing = || Err::<(), _>(std::io::ErrorKind::WouldBlock.into());
            client.try_io(Interest::WRITABLE, nothing).unwrap_or(());
            // A client that went away will not read, and its socket is ready for ever.
            match client.ready(Interest::WRITABLE).await {
                Ok(ready) if !ready.is_write_closed() => {}
                _ => break,
            }
        }
    };
    tokio::time::timeout(BRIEFLY, read).await.unwrap_or(());
}

/// The same for a client that is handed on.
pub(crate) async fn until_head_is_read(client: OwnedFd) -> std::io::Result<OwnedFd> {
    let client = std::os::unix::net::UnixStream::from(client);
    client.set_nonblocking(true)?;
    let client = tokio::net::UnixStream::from_std(client)?;
    head_is_read(&client).await;
    let client = client.into_std()?;
    client.set_nonblocking(false)?;
    Ok(client.into())
}

/// Out of descriptors.
pub(crate) fn no_socket(error: std::io::Error) -> Refusal {
    Refusal::new(ErrorKind::Internal, format!("cannot make a socket for the stream: {error}"))
}

/// Sends what is in the log so far.
async fn replay(server: &Server, view: &View, client: OwnedFd, spec: &AttachSpec) -> Option<OwnedFd> {
    let path = server.engine.containers.log_path(view);
    let mut reader = Reader::open(&path, ReadSpec::default()).ok()?;
    let client = std::os::unix::net::UnixStream::from(client);
    client.set_nonblocking(true).ok()?;
    let mut client = tokio::net::UnixStream::from_std(client).ok()?;
    head_is_read(&client).await;
    while let Ok(Some(entry)) = reader.next() {
        let wanted = if entry.stream == Stream::Stdout { spec.stdout } else { spec.stderr };
        if wanted {
            let mut piece = BytesMut::new();
            frame(&mut piece, entry.stream, &entry.line, spec.multiplexed);
            tokio::io::AsyncWriteExt::write_all(&mut client, &piece).await.ok()?;
        }
    }
    let client = client.into_std().ok()?;
    client.set_nonblocking(false).ok()?;
    Some(client.into())
}

/// Writes a message to a hijacked connection, best effort.
pub(crate) async fn tell(client: OwnedFd, text: &[u8], multiplexed: bool) {
    let client = std::os::unix::net::UnixStream::from(client);
    let mut piece = BytesMut::new();
    frame(&mut piece, Stream::Stdout, text, multiplexed);
    let sent = async {
        client.set_nonblocking(true)?;
        let mut client = tokio::net::UnixStream::from_std(client)?;
        tokio::io::AsyncWriteExt::write_all(&mut client, &piece).await?;
        tokio::io::AsyncWriteExt::shutdown(&mut client).await
    };
    // A client that does not read its error message does not keep us.
    match tokio::time::timeout(Duration::from_secs(5), sent).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "cannot tell a client why its process did not start"),
        Err(_) => tracing::debug!("a client does not read why its process did not start"),
    }
}

fn frame(into: &mut BytesMut, stream: Stream, bytes: &[u8], multiplexed: bool) {
    if multiplexed {
        into.put_u8(if stream == Stream::Stdout { 1 } else { 2 });
        into.put_bytes(0, 3);
        into.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    }
    into.put_slice(bytes);
}

/// What a client wants of a log.
struct Wanted {
    stdout: bool,
    stderr: bool,
    timestamps: bool,
    details: bool,
    follow: bool,
    multiplexed: bool,
    read: ReadSpec,
}

/// A time as Docker's clients send it: seconds with a fraction since the epoch, RFC 3339, or a Go
/// duration into the past.
pub(crate) fn moment(query: &Query, name: &str) -> Result<Option<Timestamp>, Refusal> {
    let Some(text) = query.get(name).filter(|text| !text.is_empty() && *text != "0") else { return Ok(None) };
    let invalid = || Refusal::invalid(format!("invalid value for \"{name}\": {text:?}"));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if let Ok(seconds) = whole.parse::<i64>() {
        if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        let nanos: i64 = format!("{fraction:0<9}").parse().map_err(|_| invalid())?;
        return Ok(Some(Timestamp::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))));
    }
    Timestamp::parse_rfc3339(text).map(Some).map_err(|_| invalid())
}

pub(crate) fn logs(server: &Server, call: &Call, id: &str) -> Handled {
    let query = &call.query;
    let view = server.engine.containers.view(id)?;
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !stdout && !stderr {
        return Err(Refusal::invalid("Bad parameters: you must choose at least one stream"));
    }
    if view.fixed.spec.log.none {
        return Err(Refusal {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message: "configured logging driver does not support reading".into(),
        });
    }
    let tail = match query.get("tail") {
        None | Some("" | "all") => None,
        // A negative number is all of them, as for Docker.
        Some(text) => match text.parse::<i64>() {
            Ok(lines) => usize::try_from(lines).ok(),
            Err(_) => return Err(Refusal::invalid(format!("invalid value for tail: {text:?} is no number"))),
        },
    };
    let terminal = view.fixed.spec.tty;
    let wanted = Wanted {
        stdout,
        stderr,
        timestamps: query.flag("timestamps"),
        details: query.flag("details"),
        follow: query.flag("follow"),
        multiplexed: !terminal,
        read: ReadSpec { since: moment(query, "since")?, until: moment(query, "until")?, tail },
    };
    let kind =
        if terminal || call.version < ApiVersion::new(1, 42) { RAW_STREAM } else { MULTIPLEXED_STREAM };
    let (sink, answer) = body::stream(kind);
    let server = server.clone();
    tokio::spawn(async move {
        if let Err(error) = send_log(&server, &view, &wanted, &sink).await {
            tracing::debug!(container = %view.id(), error = havre_base::chain(&*error), "log stream ended");
        }
    });
    Ok(answer)
}

async fn send_log(
    server: &Server,
    view: &View,
    wanted: &Wanted,
    sink: &Sink,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let path = server.engine.containers.log_path(view);
    let mut life = server.engine.containers.watch(view.id().as_str())?;
    // Watched before it is read: what is written in between is noticed.
    let watch = if wanted.follow {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // Any descriptor that becomes readable will do for tokio's pipe.
        Some(pipe::Receiver::from_owned_fd_unchecked(havre_log::watch(&path)?.into())?)
    } else {
        None
    };
    let mut reader = Reader::open(&path, wanted.read)?;
    let result = pass_on(wanted, sink, &mut life, watch.as_ref(), &mut reader).await;
    let skipped = reader.skipped();
    if skipped > 0 {
        tracing::warn!(container = %view.id(), skipped, "lines of a log that are no whole records were skipped");
    }
    result
}

/// Sends records until nothing more is wanted or can come.
async fn pass_on(
    wanted: &Wanted,
    sink: &Sink,
    life: &mut watch::Receiver<Arc<View>>,
    watch: Option<&pipe::Receiver>,
    reader: &mut Reader,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut entry = Entry::default();
    loop {
        let ended = !life.borrow_and_update().now.state.is_alive();
        loop {
            let mut piece = BytesMut::with_capacity(PIECE);
            let more = fill(reader, &mut entry, wanted, &mut piece)?;
            if !piece.is_empty() && sink.send(piece.freeze()).await.is_err() {
                return Ok(());
            }
            if !more {
                break;
            }
        }
        let Some(watch) = watch else { return Ok(()) };
        // A container that rests between restarts, or was never started, may still write.
        let resting = matches!(life.borrow().now.state.word(), "exited" | "removing" | "created");
        if (ended && resting) || reader.finished() || life.borrow().removed {
            return Ok(());
        }
        let until = wanted.read.until.map(|until| until.since(SystemClock.now()));
        tokio::select! {
            ready = watch.readable() => {
                ready?;
                drain(watch)?;
            }
            changed = life.changed() => if changed.is_err() { return Ok(()) },
            () = sink.closed() => return Ok(()),
            () = tokio::time::sleep(until.unwrap_or(Duration::MAX)), if until.is_some() => return Ok(()),
        }
    }
}

/// Takes away pending notices; what they say is looked up in the log.
fn drain(watch: &pipe::Receiver) -> std::io::Result<()> {
    let mut buffer = [0; 1024];
    loop {
        match watch.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Reads until the piece is full (true) or the log's present end (false).
fn fill(
    reader: &mut Reader,
    entry: &mut Entry,
    wanted: &Wanted,
    piece: &mut BytesMut,
) -> Result<bool, havre_log::LogError> {
    while piece.len() < PIECE {
        if !reader.read_into(entry)? {
            return Ok(false);
        }
        let asked = if entry.stream == Stream::Stdout { wanted.stdout } else { wanted.stderr };
        if !asked {
            continue;
        }
        if wanted.timestamps || wanted.details {
            let mut line = Vec::with_capacity(entry.line.len() + 40);
            if wanted.timestamps {
                line.extend_from_slice(padded(entry.time).as_bytes());
                line.push(b' ');
            }
            if wanted.details {
                details(&entry.attributes, &mut line);
                line.push(b' ');
            }
            line.extend_from_slice(&entry.line);
            frame(piece, entry.stream, &line, wanted.multiplexed);
        } else {
            frame(piece, entry.stream, &entry.line, wanted.multiplexed);
        }
    }
    Ok(true)
}

/// `name=value,name=value`, each escaped as in a query.
fn details(attributes: &BTreeMap<String, String>, line: &mut Vec<u8>) {
    let escape = |text: &str, line: &mut Vec<u8>| {
        for byte in text.bytes() {
            match byte {
                b' ' => line.push(b'+'),
                b'-' | b'_' | b'.' | b'~' => line.push(byte),
                byte if byte.is_ascii_alphanumeric() => line.push(byte),
                byte => line.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            }
        }
    };
    for (index, (name, value)) in attributes.iter().enumerate() {
        if index > 0 {
            line.push(b',');
        }
        escape(name, line);
        line.push(b'=');
        escape(value, line);
    }
}

/// Nine digits of fraction, so that lines align, as `docker logs -t` prints them.
fn padded(at: Timestamp) -> String {
    let text = at.to_string();
    let bare = text.trim_end_matches('Z');
    match bare.split_once('.') {
        Some((seconds, fraction)) => format!("{seconds}.{fraction:0<9}Z"),
        None => format!("{bare}.000000000Z"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_form() {
        let read = |text: &str| moment(&Query::parse(&format!("since={text}")), "since");
        assert_eq!(read("5.5").unwrap(), Some(Timestamp::from_nanos(5_500_000_000)));
        assert_eq!(read("1970-01-01T00:00:01Z").unwrap(), Some(Timestamp::from_nanos(1_000_000_000)));
        assert_eq!(read("").unwrap(), None);
        assert!(read("soon").is_err());
    }

    #[test]
    fn time_stamps_have_nine_digits() {
        assert_eq!(padded(Timestamp::from_nanos(500_000_000)), "1970-01-01T00:00:00.500000000Z");
        assert_eq!(padded(Timestamp::from_nanos(0)), "1970-01-01T00:00:00.000000000Z");
    }
}
