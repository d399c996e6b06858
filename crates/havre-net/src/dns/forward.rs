//! Questions that are passed on to other servers.
//!
//! Invariants: sockets are of the caller's namespace, each for one question, with a port and an id that cannot be
//! guessed; only the asked server's answer to the very question is taken. Equal questions to the same servers are one
//! question while it is under way, so a server that asks us back what we asked it waits for itself, once, and no
//! circle turns. All is bounded: sockets by number, servers by time, answers by the cache.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::answer::Question;
use super::cache::{Cache, Key};
use super::server::Limits;
use super::wire::{self, Answer};

/// For how long a server that did not answer is asked last.
const SLOW: Duration = Duration::from_secs(30);
/// As many servers are remembered as slow.
const MOST_SLOW: usize = 256;
/// What a question under way has become: `None` in it where no server answered.
type Landed = Option<Option<Arc<Answer>>>;

/// Asks other servers.
#[derive(Debug)]
pub(super) struct Forwarder {
    cache: Cache,
    patience: Duration,
    /// One for each socket.
    sockets: Semaphore,
    /// Protects a look-up: what is under way.
    flights: Mutex<HashMap<Key, watch::Receiver<Landed>>>,
    /// Protects a look-up: who did not answer, and when.
    slow: Mutex<HashMap<SocketAddr, Instant>>,
}

/// A question under way, by who asks it for all.
struct Flight<'a> {
    forwarder: &'a Forwarder,
    key: &'a Key,
    landed: watch::Sender<Landed>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        // Also when the asker is gone: the others see the sender go and one of them asks again.
        lock(&self.forwarder.flights).remove(self.key);
    }
}

enum Role<'a> {
    Lead(Flight<'a>),
    Follow(watch::Receiver<Landed>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Forwarder {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            cache: Cache::new(limits.cached_answers, limits.cached_bytes),
            patience: limits.server_patience,
            sockets: Semaphore::new(limits.sockets),
            flights: Mutex::default(),
            slow: Mutex::default(),
        }
    }

    /// What was kept of it.
    pub(super) fn kept(&self, question: &Question, servers: &Arc<[SocketAddr]>) -> Option<Vec<u8>> {
        let (answer, age) = self.cache.get(&question.key(servers)?, Instant::now())?;
        Some(answer.render(&question.bytes, age, true, question.largest))
    }

    /// The answer of the first server that has one; a failure where none has.
    pub(super) async fn ask(&self, question: &Question, servers: &Arc<[SocketAddr]>) -> Vec<u8> {
        let Some(key) = question.key(servers) else {
            let answer = self.exchange(question, servers).await;
            return finish(question, answer.as_ref());
        };
        // The second time where who asked for all has gone without an answer.
        for _ in 0..2 {
            if let Some(kept) = self.kept(question, servers) {
                return kept;
            }
            match self.board(&key) {
                Role::Lead(flight) => {
                    let answer = self.exchange(question, servers).await.map(Arc::new);
                    if let Some(answer) = &answer {
                        self.cache.put(&key, answer, Instant::now());
                    }
                    flight.landed.send_replace(Some(answer.clone()));
                    return finish(question, answer.as_deref());
                }
                Role::Follow(mut landed) => {
                    let landed = match landed.wait_for(Option::is_some).await {
                        Ok(landed) => landed.clone(),
                        Err(_) => continue,
                    };
                    return finish(question, landed.flatten().as_deref());
                }
            }
        }
        wire::failure(&question.bytes, wire::SERVER_FAILURE)
    }

    fn board<'a>(&'a self, key: &'a Key) -> Role<'a> {
        let mut flights = lock(&self.flights);
        if let Some(landed) = flights.get(key) {
            return Role::Follow(landed.clone());
        }
        let (landed, receiver) = watch::channel(None);
        flights.insert(key.clone(), receiver);
        Role::Lead(Flight { forwarder: self, key, landed })
    }

    async fn exchange(&self, question: &Question, servers: &[SocketAddr]) -> Option<Answer> {
        let mut order = servers.to_vec();
        {
            let slow = lock(&self.slow);
            order.sort_by_key(|server| slow.get(server).is_some_and(|since| since.elapsed() < SLOW));
        }
        let mut last = None;
        for server in order {
            // Beyond the bound nothing waits: the asker hears of it and may come again.
            let Ok(_permit) = self.sockets.try_acquire() else { break };
            let answer = match timeout(self.patience, one(question, server, self.patience)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => {
                    tracing::debug!(%server, %error, "a name server cannot be asked");
                    self.mark(server, true);
                    continue;
                }
                Err(_) => {
                    tracing::debug!(%server, "a name server does not answer");
                    self.mark(server, true);
                    continue;
                }
            };
            self.mark(server, false);
            if matches!(answer.code(), wire::NO_ERROR | wire::NAME_ERROR) {
                return Some(answer);
            }
            // It may be that only this one refuses.
            last = Some(answer);
        }
        last
    }

    fn mark(&self, server: SocketAddr, is_slow: bool) {
        let mut slow = lock(&self.slow);
        if !is_slow {
            slow.remove(&server);
            return;
        }
        if slow.len() >= MOST_SLOW {
            slow.clear();
        }
        slow.insert(server, Instant::now());
    }
}

fn finish(question: &Question, answer: Option<&Answer>) -> Vec<u8> {
    match answer {
        Some(answer) if !(question.over_tcp && answer.is_truncated()) => {
            answer.render(&question.bytes, Duration::ZERO, false, question.largest)
        }
        _ => wire::failure(&question.bytes, wire::SERVER_FAILURE),
    }
}

/// Asks one server, over TCP where the question came so or the answer is too long for UDP.
async fn one(question: &Question, server: SocketAddr, patience: Duration) -> io::Result<Answer> {
    if question.over_tcp {
        return over_tcp(question, server).await;
    }
    let answer = over_udp(question, server, patience).await?;
    if answer.is_truncated() {
        // Without it the asker is told of the truncation and asks us over TCP.
        match timeout(patience / 2, over_tcp(question, server)).await {
            Ok(Ok(whole)) => return Ok(whole),
            Ok(Err(error)) => tracing::debug!(%server, %error, "a name server does not answer over TCP"),
            Err(_) => tracing::debug!(%server, "a name server does not answer over TCP"),
        }
    }
    Ok(answer)
}

/// The question with an id of its own.
fn sealed(question: &Question) -> io::Result<(Vec<u8>, [u8; 2])> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    let mut bytes = question.bytes.clone();
    bytes.splice(..2, id);
    Ok((bytes, id))
}

async fn over_udp(question: &Question, server: SocketAddr, patience: Duration) -> io::Result<Answer> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    // From now on the kernel drops what others send.
    socket.connect(server).await?;
    let (bytes, id) = sealed(question)?;
    // More than was asked for does not come.
    let mut buffer = vec![0; question.largest];
    socket.send(&bytes).await?;
    let first = receive(&socket, &mut buffer, id, question.wire());
    if let Ok(answer) = timeout(patience * 3 / 8, first).await {
        return answer;
    }
    // A datagram may have been lost: the same is sent once more.
    socket.send(&bytes).await?;
    receive(&socket, &mut buffer, id, question.wire()).await
}

/// What is not the answer is passed over: it may be somebody's guess.
async fn receive(socket: &UdpSocket, buffer: &mut [u8], id: [u8; 2], question: &[u8]) -> io::Result<Answer> {
    loop {
        let length = socket.recv(buffer).await?;
        let Some(message) = buffer.get(..length) else { continue };
        if !message.starts_with(&id) {
            continue;
        }
        if let Some(answer) = Answer::parse(message.to_vec(), question) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(question: &Question, server: SocketAddr) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    let (bytes, id) = sealed(question)?;
    stream.write_all(&frame(&bytes)).await?;
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "the answer is not one to the question");
    if !message.starts_with(&id) {
        return Err(broken());
    }
    Answer::parse(message, question.wire()).ok_or_else(broken)
}

/// A message with its length before it, RFC 1035 4.2.2.
pub(super) fn frame(message: &[u8]) -> Vec<u8> {
    // Answers are cut to what a length can say before they come here.
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message.get(..length.into()).unwrap_or(message));
    framed
}
