//! The client against a daemon that answers from a script, byte by byte.

#![expect(clippy::unwrap_used, reason = "the helpers of a test binary are tests too")]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::JoinHandle;

use havre_api::ApiVersion;
use havre_client::{AttachOptions, Client, ClientError, Endpoint};
use tempfile::TempDir;

/// What the daemon does with one connection: for each request head, what to answer (`None`: close).
type Script = Vec<Vec<&'static str>>;

/// Serves the script and returns the request lines it saw, by connection.
fn daemon(script: Script) -> (TempDir, Client, JoinHandle<Vec<Vec<String>>>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let served = std::thread::spawn(move || {
        script
            .into_iter()
            .map(|answers| {
                let (mut stream, _) = listener.accept().unwrap();
                answers
                    .into_iter()
                    .map(|answer| {
                        let head = read_head(&mut stream);
                        stream.write_all(answer.as_bytes()).unwrap();
                        head.lines().next().unwrap_or_default().to_owned()
                    })
                    .collect()
            })
            .collect()
    });
    let client = client(&path);
    (folder, client, served)
}

fn client(path: &Path) -> Client {
    Client::new(Endpoint::Unix(path.into()), ApiVersion::CURRENT, false)
}

/// Reads up to the empty line, and the body that `content-length` announces.
fn read_head(stream: &mut UnixStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap() == 0 {
            return String::new();
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(|n| n.parse().unwrap()))
        .unwrap_or(0);
    stream.read_exact(&mut vec![0; length]).unwrap();
    head
}

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

const TOO_NEW: &str = "HTTP/1.1 400 Bad Request\r\nContent-Length: 97\r\n\r\n{\"message\":\"client version 1.56 is too new. Maximum supported API version is 1.41, please upgrade\"}";
const EMPTY_LIST: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]";

#[test]
fn a_refusal_of_the_version_names_the_one_to_use() {
    let refusal = TOO_NEW.replace("97", &TOO_NEW.split("\r\n\r\n").nth(1).unwrap().len().to_string());
    let (_folder, client, served) =
        daemon(vec![vec![Box::leak(refusal.into_boxed_str()), EMPTY_LIST, EMPTY_LIST]]);
    block(async {
        client.images(false, &Default::default()).await.unwrap();
        client.images(false, &Default::default()).await.unwrap();
    });
    assert_eq!(client.version(), ApiVersion::new(1, 41));
    let want = [
        "GET /v1.56/images/json HTTP/1.1",
        "GET /v1.41/images/json HTTP/1.1",
        "GET /v1.41/images/json HTTP/1.1",
    ];
    assert_eq!(served.join().unwrap(), [want], "all on one connection");
}

#[test]
fn a_connection_that_the_daemon_closed_is_replaced() {
    let (_folder, client, served) = daemon(vec![vec![EMPTY_LIST], vec![EMPTY_LIST]]);
    block(async {
        client.images(false, &Default::default()).await.unwrap();
        client.images(false, &Default::default()).await.unwrap();
    });
    assert_eq!(served.join().unwrap().len(), 2);
}

#[test]
fn errors_carry_the_daemons_message() {
    let answer =
        "HTTP/1.1 404 Not Found\r\nContent-Length: 36\r\n\r\n{\"message\":\"No such container: nope\"}";
    let answer = answer.replace("36", "37");
    let (_folder, client, served) = daemon(vec![vec![Box::leak(answer.into_boxed_str())]]);
    let error = block(client.inspect("nope")).unwrap_err();
    assert_eq!((error.to_string().as_str(), error.status()), ("No such container: nope", Some(404)));
    served.join().unwrap();
}

#[test]
fn nonsense_is_an_error_and_not_a_hang() {
    for answer in ["HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{{{", "garbage\r\n\r\n", ""] {
        let (_folder, client, served) = daemon(vec![vec![answer]]);
        assert!(block(client.inspect("x")).is_err(), "{answer:?}");
        served.join().unwrap();
    }
}

#[test]
fn nobody_listening_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let error = block(client(&folder.path().join("none.sock")).info()).unwrap_err();
    assert!(error.nobody_listens() && matches!(error, ClientError::Connect { .. }));
}

#[test]
fn a_hijacked_stream_keeps_early_bytes_and_closes_by_halves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let head = read_head(&mut stream);
        // The first output travels with the answer's head.
        stream
            .write_all(b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly")
            .unwrap();
        let mut input = String::new();
        stream.read_to_string(&mut input).unwrap();
        stream.write_all(b"late").unwrap();
        (head, input)
    });
    let client = client(&path);
    let options =
        AttachOptions { stdin: true, stdout: true, detach_keys: "ctrl-a".into(), ..AttachOptions::default() };
    let mut hijacked = block(client.attach("x", &options)).unwrap();
    assert_eq!(hijacked.multiplexed, Some(true));
    hijacked.socket.write_all(b"input").unwrap();
    hijacked.socket.close_write().unwrap();
    let mut output = hijacked.early.to_vec();
    hijacked.socket.read_to_end(&mut output).unwrap();
    assert_eq!(output, b"earlylate");
    let (head, input) = served.join().unwrap();
    assert_eq!(input, "input");
    assert!(
        head.starts_with("POST /v1.56/containers/x/attach?stream=1&stdin=1&stdout=1&detachKeys=ctrl-a "),
        "{head}"
    );
    assert!(
        head.to_lowercase().contains("upgrade: tcp") && head.to_lowercase().contains("connection: upgrade")
    );
}

#[test]
fn an_upload_asks_for_the_version_first() {
    let ping = "HTTP/1.1 200 OK\r\nApi-Version: 1.43\r\nContent-Length: 2\r\n\r\nOK";
    let (_folder, client, served) = daemon(vec![vec![ping, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]]);
    block(async {
        let (sender, body) = tokio::sync::mpsc::channel(1);
        sender.send(Ok("archive".into())).await.unwrap();
        drop(sender);
        client.load(true, &[], body).await.unwrap();
    });
    let lines = served.join().unwrap();
    assert_eq!(lines, [["GET /_ping HTTP/1.1", "POST /v1.43/images/load?quiet=1 HTTP/1.1"]]);
}
