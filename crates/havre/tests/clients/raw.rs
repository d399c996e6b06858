//! A client that writes what it likes and reads what comes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::world::World;

/// How long an answer may stay out.
const PATIENCE: Duration = Duration::from_secs(30);

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
}

/// One connection.
pub(crate) struct Raw {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Raw {
    pub(crate) fn connect(world: &World) -> Self {
        let stream = UnixStream::connect(world.socket()).expect("the daemon listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { stream, buffer: Vec::new() }
    }

    /// Sends bytes; a daemon that has hung up is no error, its answer says why.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        match self.stream.write_all(bytes.as_ref()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("the daemon does not read"),
            _ => self,
        }
    }

    /// Says that no more comes.
    pub(crate) fn half_close(&mut self) -> &mut Self {
        self.stream.shutdown(std::net::Shutdown::Write).expect("a socket");
        self
    }

    /// Fills the buffer; false at the end.
    fn more(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => false,
            Ok(count) => {
                self.buffer.extend_from_slice(&piece[..count]);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("no answer: {error}"),
        }
    }

    /// The next answer with a length, or `None` when the daemon has hung up.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        let end = loop {
            match self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None if !self.more() => return None,
                None => {}
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let headers = String::from_utf8_lossy(&head).into_owned();
        let status = headers.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let lower = headers.to_ascii_lowercase();
        let length = lower
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .map_or(0, |text| text.trim().parse().expect("a length"));
        while self.buffer.len() < length && self.more() {}
        let length = length.min(self.buffer.len());
        let body: Vec<u8> = self.buffer.drain(..length).collect();
        Some(Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
    }

    /// Everything until the daemon hangs up.
    pub(crate) fn rest(&mut self) -> String {
        while self.more() {}
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }
}

/// One request on a connection of its own.
pub(crate) fn ask(world: &World, method: &str, path: &str, body: &str) -> Answer {
    let mut raw = Raw::connect(world);
    let length = body.len();
    raw.send(format!(
        "{method} {path} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    ));
    raw.answer().expect("an answer")
}

/// A port of the loopback interface that leads to the daemon's socket, for programs that know no unix sockets.
pub(crate) fn port(world: &World) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let socket = world.socket().to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(daemon) = UnixStream::connect(&socket) else { return };
            std::thread::spawn(move || join(&client, &daemon));
        }
    });
    address
}

fn join(client: &TcpStream, daemon: &UnixStream) {
    let (Ok(mut from), Ok(mut to)) = (client.try_clone(), daemon.try_clone()) else { return };
    let up = std::thread::spawn(move || {
        io::copy(&mut from, &mut to).ok();
        to.shutdown(std::net::Shutdown::Write).ok();
    });
    let (mut from, mut to) = (daemon, client);
    io::copy(&mut from, &mut to).ok();
    client.shutdown(std::net::Shutdown::Both).ok();
    up.join().ok();
}
