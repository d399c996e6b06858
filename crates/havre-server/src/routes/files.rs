//! `/containers/{id}/archive`, `export`, `changes`, and `/commit`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::io;
use std::sync::Arc;

use havre_api::container::{Change, Config};
use havre_api::{IdResponse, PathStat};
use havre_engine::{ChangeKind, CommitRequest, ExtractSpec};
use havre_oci::Reference;
use havre_oci::image::ContainerConfig;
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use tokio::sync::mpsc;

use crate::Server;
use crate::body::{self, Answer};
use crate::error::Refusal;
use crate::router::Call;

type Handled = Result<Answer, Refusal>;

/// Pieces of an upload that may wait for the disk.
const PIECES: usize = 8;
/// How long the rest of a refused upload is read.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(1);
const STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

fn path(call: &Call) -> Result<&str, Refusal> {
    match call.query.get("path") {
        None | Some("") => Err(Refusal::invalid("bad parameter: path cannot be empty")),
        Some(path) if path.contains('\0') => Err(Refusal::invalid("bad parameter: path with a zero byte")),
        Some(path) => Ok(path),
    }
}

/// Go's bits of a file's type and mode (`io/fs.FileMode`).
fn go_mode(mode: u32) -> u32 {
    let kind = match mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        0o020_000 => (1 << 26) | (1 << 21),
        _ => 0,
    };
    let bit = |kernel: u32, go: u32| if mode & kernel == 0 { 0 } else { go };
    kind | bit(0o4000, 1 << 23) | bit(0o2000, 1 << 22) | bit(0o1000, 1 << 20) | (mode & 0o777)
}

fn stat_header(stat: &havre_engine::PathStat) -> Result<HeaderValue, Refusal> {
    let stat = PathStat {
        name: stat.name.clone(),
        size: stat.size,
        mode: go_mode(stat.mode),
        mtime: stat.modified.to_string(),
        link_target: stat.link_target.clone(),
    };
    let text = serde_json::to_vec(&stat).unwrap_or_default();
    HeaderValue::from_str(&BASE64.encode(&text)).map_err(|error| Refusal::invalid(error.to_string()))
}

pub(crate) async fn stat(server: &Server, call: &Call, id: &str) -> Handled {
    let stat = server.engine.files.stat(id, path(call)?).await?;
    let mut answer = body::empty(StatusCode::OK);
    answer.headers_mut().insert(STAT, stat_header(&stat)?);
    Ok(answer)
}

pub(crate) async fn get(server: &Server, call: &Call, id: &str) -> Handled {
    let (out, mut answer) = body::fallible("application/x-tar");
    let stat = server.engine.files.archive(id, path(call)?, out).await?;
    answer.headers_mut().insert(STAT, stat_header(&stat)?);
    Ok(answer)
}

pub(crate) async fn export(server: &Server, id: &str) -> Handled {
    let (out, answer) = body::fallible("application/octet-stream");
    server.engine.files.export(id, out).await?;
    Ok(answer)
}

pub(crate) async fn put(server: &Server, call: Call, id: &str) -> Handled {
    let path = path(&call)?.to_owned();
    let spec = ExtractSpec { keep_kinds: call.query.flag("noOverwriteDirNonDir"), owner: None };
    let as_user = call.query.flag("copyUIDGID");
    let (sender, input) = mpsc::channel(PIECES);
    let mut body = call.request.into_body();
    let feed = async move {
        let mut sender = Some(sender);
        while let Some(frame) = body.frame().await {
            let piece = match frame.map(hyper::body::Frame::into_data) {
                Ok(Ok(data)) => Ok(data),
                Ok(Err(_)) => continue,
                Err(error) => Err(io::Error::other(error)),
            };
            let ends = piece.is_err();
            if let Some(open) = &sender
                && open.send(piece).await.is_err()
            {
                sender = None;
            }
            if ends {
                return;
            }
        }
    };
    // Both in this task: when the connection ends, so does the upload.
    let extract = server.engine.files.extract(id, &path, spec, as_user, input);
    tokio::pin!(feed, extract);
    let mut fed = false;
    let result = tokio::select! {
        result = &mut extract => result,
        () = &mut feed, if !fed => {
            fed = true;
            extract.await
        }
    };
    if result.is_err() && !fed {
        // A client that is still sending when the connection closes would not see the answer.
        tokio::time::timeout(DRAIN, feed).await.unwrap_or(());
    }
    result?;
    Ok(body::empty(StatusCode::OK))
}

pub(crate) async fn changes(server: &Server, id: &str) -> Handled {
    let changes = server.engine.files.changes(id).await?;
    let kind = |kind: ChangeKind| match kind {
        ChangeKind::Modified => 0,
        ChangeKind::Added => 1,
        ChangeKind::Deleted => 2,
    };
    let list: Vec<Change> =
        changes.into_iter().map(|change| Change { kind: kind(change.kind), path: change.path }).collect();
    // Docker says null when nothing changed.
    Ok(body::json(&(!list.is_empty()).then_some(list)))
}

pub(crate) async fn commit(server: &Server, call: Call) -> Handled {
    let query = &call.query;
    let text = |name: &str| query.get(name).unwrap_or("").to_owned();
    let container = text("container");
    // Before anything is refused: a client that still sends may not read why.
    let config: Option<Config> = body::read_json(call.request.into_body(), true).await?;
    if container.is_empty() {
        return Err(Refusal::invalid("invalid name or ID supplied: \"\""));
    }
    let invalid = |error: havre_oci::InvalidReference| Refusal::invalid(error.to_string());
    let reference = match (text("repo").as_str(), text("tag").as_str()) {
        ("", _) => None,
        (repo, "") => Some(Reference::parse(repo).map_err(invalid)?),
        (repo, tag) => Some(Reference::parse(&format!("{repo}:{tag}")).map_err(invalid)?),
    };
    let changes = query.all("changes").flat_map(|text| text.split('\n')).map(str::to_owned).collect();
    let (author, comment) = (text("author"), text("comment"));
    // Since 1.13, as the default.
    let pause = query.flag_or("pause", true);
    let config = match config {
        None => ContainerConfig::default(),
        Some(config) => serde_json::to_value(&config)
            .and_then(serde_json::from_value)
            .map_err(|error| Refusal::invalid(format!("invalid JSON: {error}")))?,
    };
    let request = CommitRequest { reference, author, comment, changes, config, pause };
    let id = match server.engine.files.commit(&container, request).await {
        Err(error) if havre_engine::is_want_of_space(&error) => {
            let (engine, refusal) = (Arc::clone(&server.engine), Refusal::from(error));
            let space = tokio::task::spawn_blocking(move || engine.containers.space()).await;
            let message = format!("{}: {}", refusal.message, space.unwrap_or_default());
            return Err(Refusal { message, ..refusal });
        }
        other => other?,
    };
    Ok(body::json_bytes(StatusCode::CREATED, &IdResponse { id: id.to_string() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_go_s() {
        assert_eq!(go_mode(0o040_755), 2_147_484_141);
        assert_eq!(go_mode(0o120_777), 134_218_239);
        assert_eq!(go_mode(0o010_644), 33_554_852);
        assert_eq!(go_mode(0o104_755), (1 << 23) | 0o755);
    }
}
