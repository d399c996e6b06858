//! The Engine API spoken by hand, for what no command line shows.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime};

use crate::world::World;

/// How long an answer may stay out.
const PATIENCE: Duration = Duration::from_secs(30);

impl World {
    pub(crate) fn connect(&self, request: &str, body: &str) -> (u16, BufReader<UnixStream>) {
        let mut stream = UnixStream::connect(self.socket()).expect("the daemon listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let length = body.len();
        write!(
            stream,
            "{request}\r\nHost: engine\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .expect("the daemon reads");
        let mut reader = BufReader::new(stream);
        let mut status = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).expect("a header");
            match line.trim() {
                "" => break,
                text if text.starts_with("HTTP/") => {
                    status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
                }
                _ => {}
            }
        }
        (status, reader)
    }

    /// One request and the whole answer. HTTP/1.0, so that the end of the answer is the end of the stream.
    pub(crate) fn api(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let (status, mut reader) = self.connect(&format!("{method} {path} HTTP/1.0"), body);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("an answer");
        (status, text)
    }

    /// The body of one request, as it comes.
    pub(crate) fn stream(&self, path: &str) -> BufReader<UnixStream> {
        self.ask(&format!("GET {path} HTTP/1.0"))
    }

    /// The body of a request with headers of its own.
    pub(crate) fn ask(&self, request: &str) -> BufReader<UnixStream> {
        let (status, reader) = self.connect(request, "");
        assert_eq!(status, 200);
        reader
    }

    /// The present time as the API takes it.
    pub(crate) fn now(&self) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a sane clock");
        format!("{}.{:09}", now.as_secs(), now.subsec_nanos())
    }

    /// Attaches to a container's output, as clients that upgrade the connection do.
    pub(crate) fn hijack(&self, id: &str) -> BufReader<UnixStream> {
        let path = format!("/containers/{id}/attach?stream=1&stdout=1&stderr=1");
        let request = format!("POST {path} HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp");
        let (status, reader) = self.connect(&request, "");
        assert_eq!(status, 101);
        reader
    }

    /// What happened to a container so far.
    pub(crate) fn events(&self, id: &str) -> Vec<String> {
        let until = self.now();
        let (status, text) = self.api("GET", &format!("/events?since=0&until={until}&{}", filter(id)), "");
        assert_eq!(status, 200, "{text}");
        text.lines().map(action).collect()
    }

    /// Waits until something happened to a container.
    pub(crate) fn wait_event(&self, id: &str, wanted: &str) {
        let (_, reader) = self.connect(&format!("GET /events?since=0&{} HTTP/1.0", filter(id)), "");
        let found = reader.lines().map_while(Result::ok).any(|line| action(&line) == wanted);
        assert!(found, "no {wanted} event of {id}");
    }
}

fn filter(id: &str) -> String {
    format!("filters=%7B%22container%22%3A%5B%22{id}%22%5D%7D")
}

fn action(line: &str) -> String {
    let event: serde_json::Value = serde_json::from_str(line).expect("an event");
    event["Action"].as_str().unwrap_or_default().to_owned()
}
