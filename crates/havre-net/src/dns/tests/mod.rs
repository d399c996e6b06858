//! The server with real sockets, other servers that are played, and a directory of few lines.

mod attacks;
mod forwarding;
mod local;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use havre_base::ContainerId;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Directory, Limits, Resolver, Serving, Upstreams};

/// Longer than anything takes that works.
const LONG: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Few {
    names: BTreeMap<String, Vec<IpAddr>>,
    upstreams: Mutex<BTreeMap<ContainerId, Upstreams>>,
}

impl Directory for Few {
    fn addresses(&self, _: &ContainerId, name: &str) -> Option<Vec<IpAddr>> {
        self.names.get(&name.to_lowercase()).cloned()
    }

    fn name_of(&self, _: &ContainerId, address: IpAddr) -> Option<String> {
        let (name, _) = self.names.iter().find(|(_, addresses)| addresses.contains(&address))?;
        Some(format!("{name}.front"))
    }

    fn upstreams(&self, asker: &ContainerId) -> Upstreams {
        self.upstreams.lock().unwrap().get(asker).cloned().unwrap_or(Upstreams::Never)
    }
}

/// A server with askers.
struct World {
    directory: Arc<Few>,
    resolver: Arc<Resolver>,
}

/// Somebody who is served.
struct Asker {
    id: ContainerId,
    server: SocketAddr,
    serving: Serving,
}

fn few(names: &[(&str, &[&str])]) -> Few {
    let addresses = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
    let names = names.iter().map(|(name, list)| ((*name).to_owned(), addresses(list))).collect();
    Few { names, upstreams: Mutex::default() }
}

/// As usual, but servers that do not answer are given up soon.
fn hasty() -> Limits {
    Limits { server_patience: Duration::from_secs(1), ..Limits::default() }
}

/// Time does not matter.
fn patient() -> Limits {
    Limits { server_patience: LONG, idle: LONG, ..Limits::default() }
}

impl World {
    fn new(names: &[(&str, &[&str])], limits: Limits) -> Self {
        let directory = Arc::new(few(names));
        let resolver = Resolver::new(Arc::clone(&directory) as Arc<dyn Directory>, limits);
        Self { directory, resolver }
    }

    fn asker(&self, upstreams: Upstreams) -> Asker {
        let id = ContainerId::random();
        self.directory.upstreams.lock().unwrap().insert(id.clone(), upstreams);
        let (udp, tcp) = pair();
        let server = udp.local_addr().unwrap();
        let serving = self.resolver.serve(&id, udp, tcp).unwrap();
        Asker { id, server, serving }
    }
}

/// Both sockets on one port.
fn pair() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
            return (udp, tcp);
        }
    }
}

fn ask(servers: &[SocketAddr]) -> Upstreams {
    Upstreams::Servers { servers: servers.into(), single_labels_stay: false }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn udp(server: SocketAddr, message: &[u8]) -> Vec<u8> {
    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.send_to(message, server).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let (length, from) = timeout(LONG, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(from, server);
    buffer.truncate(length);
    buffer
}

async fn tcp(server: SocketAddr, messages: &[Vec<u8>]) -> Vec<Message> {
    let mut stream = tokio::net::TcpStream::connect(server).await.unwrap();
    let all: Vec<u8> = messages.iter().flat_map(|message| super::forward::frame(message)).collect();
    stream.write_all(&all).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answers = Vec::new();
    while let Ok(length) = timeout(LONG, stream.read_u16()).await.unwrap() {
        let mut answer = vec![0; length.into()];
        stream.read_exact(&mut answer).await.unwrap();
        answers.push(Message::from_vec(&answer).unwrap());
    }
    answers
}

impl Asker {
    async fn ask(&self, message: &Message) -> Message {
        let answer = Message::from_vec(&udp(self.server, &message.to_vec().unwrap()).await).unwrap();
        assert_eq!(answer.metadata.id, message.metadata.id);
        answer
    }

    async fn resolve(&self, name: &str, kind: RecordType) -> Message {
        self.ask(&query(name, kind)).await
    }
}

fn shown(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

/// What a played server answers to a question: any number of datagrams.
type Play = dyn Fn(&Message, bool) -> Vec<Vec<u8>> + Send + Sync;

/// A server that is played.
struct Played {
    address: SocketAddr,
    count: Arc<AtomicUsize>,
    /// Ends it.
    _tasks: JoinSet<()>,
}

impl Played {
    fn asked(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

fn play(script: impl Fn(&Message, bool) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Played {
    let (udp, tcp) = pair();
    let address = udp.local_addr().unwrap();
    udp.set_nonblocking(true).unwrap();
    tcp.set_nonblocking(true).unwrap();
    let (udp, tcp) =
        (tokio::net::UdpSocket::from_std(udp).unwrap(), tokio::net::TcpListener::from_std(tcp).unwrap());
    let (count, script): (_, Arc<Play>) = (Arc::new(AtomicUsize::new(0)), Arc::new(script));
    let mut tasks = JoinSet::new();
    let (seen, datagrams) = (Arc::clone(&count), Arc::clone(&script));
    tasks.spawn(async move {
        let mut buffer = vec![0; 65_535];
        loop {
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            seen.fetch_add(1, Ordering::SeqCst);
            for answer in datagrams(&Message::from_vec(&buffer[..length]).unwrap(), false) {
                udp.send_to(&answer, from).await.unwrap();
            }
        }
    });
    let seen = Arc::clone(&count);
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let Ok(length) = stream.read_u16().await else { continue };
            let mut message = vec![0; length.into()];
            stream.read_exact(&mut message).await.unwrap();
            seen.fetch_add(1, Ordering::SeqCst);
            for answer in script(&Message::from_vec(&message).unwrap(), true) {
                stream.write_all(&super::forward::frame(&answer)).await.unwrap();
            }
        }
    });
    Played { address, count, _tasks: tasks }
}

fn reply(question: &Message) -> Message {
    let mut answer = question.clone().into_response();
    answer.metadata.recursion_available = true;
    answer
}

fn with_address(question: &Message, address: &str, ttl: u32) -> Vec<u8> {
    let mut answer = reply(question);
    let data = RData::A(A(address.parse().unwrap()));
    answer.add_answer(Record::from_rdata(question.queries[0].name.clone(), ttl, data));
    answer.to_vec().unwrap()
}

fn refusal(question: &Message, code: ResponseCode) -> Vec<u8> {
    let mut answer = reply(question);
    answer.metadata.response_code = code;
    answer.to_vec().unwrap()
}

fn no_such_name(question: &Message, minimum: u32) -> Vec<u8> {
    let mut answer = reply(question);
    answer.metadata.response_code = ResponseCode::NXDomain;
    let zone = Name::from_ascii("example.").unwrap();
    let soa = SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, minimum);
    answer.add_authority(Record::from_rdata(zone, 900, RData::SOA(soa)));
    answer.to_vec().unwrap()
}
