//! The server: one set of sockets for each asker.
//!
//! Invariants: an asker has a bounded number of questions under way, of connections, and of answers that it has not
//! taken; what is beyond is refused at once and costs others nothing. What we know ourselves is answered in order and
//! without waiting. Everything of an asker ends when its `Serving` is dropped.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use havre_base::ContainerId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::answer::{self, Came, Decision, LONGEST_QUESTION, Question};
use super::forward::{Forwarder, frame};
use super::{Directory, wire};

/// How long a socket that fails is left alone, so that a lasting failure does not keep a processor busy.
const PAUSE: Duration = Duration::from_millis(50);

/// How much an asker, and all together, may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Questions of one asker that others are being asked, over UDP.
    pub questions: usize,
    /// Connections of one asker.
    pub connections: usize,
    /// The same for one connection; it is not read further beyond.
    pub pipeline: usize,
    /// For how long a connection may be silent, or not take an answer.
    pub idle: Duration,
    /// Sockets to other servers, of all askers.
    pub sockets: usize,
    /// For how long a server is waited for before the next one is asked.
    pub server_patience: Duration,
    /// Answers that are kept.
    pub cached_answers: usize,
    /// Their size in bytes.
    pub cached_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            questions: 128,
            connections: 16,
            pipeline: 8,
            idle: Duration::from_secs(20),
            sockets: 1024,
            // As Docker.
            server_patience: Duration::from_secs(4),
            cached_answers: 4096,
            cached_bytes: 4 << 20,
        }
    }
}

/// Answers questions of all askers.
pub struct Resolver {
    directory: Arc<dyn Directory>,
    forwarder: Forwarder,
    limits: Limits,
    /// How many questions there were; orders addresses.
    number: AtomicU64,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// An asker is being served until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the server"]
pub struct Serving {
    tasks: JoinSet<()>,
}

impl Serving {
    /// Ends it, and returns when nothing of it runs any more.
    pub async fn close(mut self) {
        self.tasks.shutdown().await;
    }
}

impl Resolver {
    /// Answers by this directory.
    pub fn new(directory: Arc<dyn Directory>, limits: Limits) -> Arc<Self> {
        let forwarder = Forwarder::new(&limits);
        Arc::new(Self { directory, forwarder, limits, number: AtomicU64::new(0) })
    }

    /// Serves an asker on these sockets, which the caller has opened where the asker is. Sockets to other servers are
    /// of the namespace of the runtime's threads. To be called within the runtime.
    pub fn serve(
        self: &Arc<Self>,
        asker: &ContainerId,
        udp: UdpSocket,
        tcp: TcpListener,
    ) -> io::Result<Serving> {
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let udp = Arc::new(tokio::net::UdpSocket::from_std(udp)?);
        let tcp = tokio::net::TcpListener::from_std(tcp)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(self).datagrams(asker.clone(), udp));
        tasks.spawn(Arc::clone(self).connections(asker.clone(), tcp));
        Ok(Serving { tasks })
    }

    fn decide(&self, asker: &ContainerId, question: &Question) -> Decision {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        match answer::decide(&*self.directory, asker, question, number) {
            Decision::Forward(servers) => match self.forwarder.kept(question, &servers) {
                Some(kept) => Decision::Answer(kept),
                None => Decision::Forward(servers),
            },
            answer @ Decision::Answer(_) => answer,
        }
    }

    async fn datagrams(self: Arc<Self>, asker: ContainerId, socket: Arc<tokio::net::UdpSocket>) {
        let mut waiting = JoinSet::new();
        // One more, to see what is too long.
        let mut buffer = vec![0; LONGEST_QUESTION + 1];
        loop {
            let received = tokio::select! {
                received = socket.recv_from(&mut buffer) => received,
                Some(_) = waiting.join_next(), if !waiting.is_empty() => continue,
            };
            let (length, from) = match received {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(asker = asker.short(), %error, "cannot receive questions");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let question = match answer::read(buffer.get(..length).unwrap_or_default(), false) {
                Came::Noise => continue,
                Came::Wrong(answer) => {
                    send(&socket, &answer, from).await;
                    continue;
                }
                Came::Question(question) => question,
            };
            match self.decide(&asker, &question) {
                Decision::Answer(answer) => send(&socket, &answer, from).await,
                Decision::Forward(_) if waiting.len() >= self.limits.questions => {
                    tracing::debug!(asker = asker.short(), "too many questions at once");
                    let answer = wire::failure(&question.bytes, wire::SERVER_FAILURE);
                    send(&socket, &answer, from).await;
                }
                Decision::Forward(servers) => {
                    let (this, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    waiting.spawn(async move {
                        let answer = this.forwarder.ask(&question, &servers).await;
                        send(&socket, &answer, from).await;
                    });
                }
            }
        }
    }

    async fn connections(self: Arc<Self>, asker: ContainerId, listener: tokio::net::TcpListener) {
        let mut open = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = open.join_next(), if !open.is_empty() => continue,
            };
            match accepted {
                Ok(_) if open.len() >= self.limits.connections => {
                    tracing::debug!(asker = asker.short(), "too many connections at once");
                }
                Ok((stream, _)) => {
                    // Answers go out whole; waiting for more only delays them.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(asker = asker.short(), %error, "cannot set a connection up");
                    }
                    let (reader, writer) = stream.into_split();
                    open.spawn(Arc::clone(&self).connection(asker.clone(), reader, writer));
                }
                Err(error) => {
                    tracing::debug!(asker = asker.short(), %error, "cannot accept connections");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, asker: ContainerId, reader: OwnedReadHalf, writer: OwnedWriteHalf) {
        let (answers, ready) = mpsc::channel(self.limits.pipeline.max(1));
        let idle = self.limits.idle;
        // Who does not take answers is not read either: the first that ends with a failure ends both.
        let read = self.questions(asker, reader, answers);
        let write = give(writer, ready, idle);
        tokio::pin!(read, write);
        tokio::select! {
            () = &mut write => {}
            () = &mut read => write.await,
        }
    }

    /// Reads questions until there are no more; returns when all are answered.
    async fn questions(
        self: Arc<Self>,
        asker: ContainerId,
        mut reader: OwnedReadHalf,
        answers: mpsc::Sender<Vec<u8>>,
    ) {
        let places = Arc::new(Semaphore::new(self.limits.pipeline.max(1)));
        let mut waiting = JoinSet::new();
        let mut buffer = Vec::new();
        loop {
            // A question is read only when there is room for it.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            while waiting.try_join_next().is_some() {}
            match timeout(self.limits.idle, message(&mut reader, &mut buffer)).await {
                Ok(Ok(())) => {}
                // Closed, or silent for too long: what is under way is still answered.
                Ok(Err(_)) | Err(_) => break,
            }
            let question = match answer::read(&buffer, true) {
                Came::Noise => return,
                Came::Wrong(answer) => {
                    if answers.send(answer).await.is_err() {
                        return;
                    }
                    continue;
                }
                Came::Question(question) => question,
            };
            match self.decide(&asker, &question) {
                Decision::Answer(answer) => {
                    if answers.send(answer).await.is_err() {
                        return;
                    }
                }
                Decision::Forward(servers) => {
                    let (this, answers) = (Arc::clone(&self), answers.clone());
                    waiting.spawn(async move {
                        let answer = this.forwarder.ask(&question, &servers).await;
                        // Fails when the connection has ended.
                        answers.send(answer).await.unwrap_or(());
                        drop(place);
                    });
                }
            }
        }
        while waiting.join_next().await.is_some() {}
    }
}

/// What cannot be sent is lost, as datagrams are.
async fn send(socket: &tokio::net::UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(answer, to).await {
        tracing::trace!(%to, %error, "an answer was not taken");
    }
}

/// The next message with a length before it.
async fn message(reader: &mut OwnedReadHalf, buffer: &mut Vec<u8>) -> io::Result<()> {
    let length = reader.read_u16().await?;
    buffer.resize(length.into(), 0);
    reader.read_exact(buffer).await?;
    Ok(())
}

async fn give(mut writer: OwnedWriteHalf, mut ready: mpsc::Receiver<Vec<u8>>, idle: Duration) {
    while let Some(answer) = ready.recv().await {
        match timeout(idle, writer.write_all(&frame(&answer))).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}
