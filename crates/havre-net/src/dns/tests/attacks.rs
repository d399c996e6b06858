//! What hostile askers and servers send.

use tokio::sync::mpsc;

use super::*;
use crate::dns::answer::{Came, read};

/// Bytes that look random and are the same in each run (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}

#[tokio::test]
async fn n04_an_internal_network_never_makes_a_server_be_asked() {
    let upstream = play(|question, _| vec![with_address(question, "192.0.2.1", 300)]);
    let world = World::new(&[("web", &["198.18.0.2"])], patient());
    let (outer, inner) = (world.asker(ask(&[upstream.address])), world.asker(Upstreams::Never));
    // Something is kept that could be told.
    outer.resolve("www.example.", RecordType::A).await;
    assert_eq!(upstream.asked(), 1);
    for name in ["www.example.", "secret.data.attacker.example.", "printer.", "2.2.0.192.in-addr.arpa.", "."]
    {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::PTR, RecordType::TXT, RecordType::ANY] {
            let question = query(name, kind);
            let answer = inner.ask(&question).await;
            assert_eq!((code(&answer), answer.answers.len()), (ResponseCode::ServFail, 0), "{name} {kind}");
            let answers = tcp(inner.server, &[question.to_vec().unwrap()]).await;
            assert_eq!(code(&answers[0]), ResponseCode::ServFail);
        }
    }
    assert_eq!(shown(&inner.resolve("web.", RecordType::A).await), ["198.18.0.2"]);
    assert_eq!(upstream.asked(), 1);
    // Its only way out is taken from a container: from the next question on nothing leaves, kept or not.
    world.directory.upstreams.lock().unwrap().insert(outer.id.clone(), Upstreams::Never);
    assert_eq!(code(&outer.resolve("www.example.", RecordType::A).await), ResponseCode::ServFail);
    assert_eq!(code(&outer.resolve("new.example.", RecordType::A).await), ResponseCode::ServFail);
    assert_eq!(upstream.asked(), 1);
}

#[test]
fn n09_loops_bad_labels_and_noise_are_told_and_never_panic() {
    let header = |questions: u8, additionals: u8| vec![7, 7, 1, 0, 0, questions, 0, 0, 0, 0, 0, additionals];
    let with =
        |questions: u8, additionals: u8, rest: &[u8]| [&header(questions, additionals)[..], rest].concat();
    let long_label = [&[63][..], &[b'a'; 63], &[64], &[b'b'; 64], &[0, 0, 1, 0, 1]].concat();
    let long_name = [[&[63][..], &[b'a'; 63]].concat().repeat(4), vec![1, b'a', 0, 0, 1, 0, 1]].concat();
    let many = [&[0, 0, 1, 0, 1][..]; 2].concat();
    let opt = |at: u8| [&[1, b'a', 0, 0, 1, 0, 1, 0xC0, at][..], &[0, 41, 16, 0, 0, 0, 0, 0, 0, 0]].concat();
    let wrong = [
        with(1, 0, &[0xC0, 12, 0, 1, 0, 1]),
        with(1, 0, &[1, b'a', 0xC0, 12, 0, 1, 0, 1]),
        with(1, 0, &[0xC0, 14, 0xC0, 12, 0, 1, 0, 1]),
        with(1, 0, &[0x40, 1, 0, 0, 1, 0, 1]),
        with(1, 0, &[0x80, 1, 0, 0, 1, 0, 1]),
        with(1, 0, &long_label),
        with(1, 0, &long_name),
        with(1, 0, &[5, b'a']),
        with(1, 0, &[0, 0, 1, 0]),
        with(1, 0, &[]),
        with(0, 0, &[]),
        with(2, 0, &many),
        with(255, 0, &many),
        with(1, 1, &[1, b'a', 0, 0, 1, 0, 1]),
        with(1, 1, &opt(19)),
        with(1, 255, &opt(12)),
        [header(1, 0), vec![1; 5000]].concat(),
    ];
    for message in wrong {
        let Came::Wrong(answer) = read(&message, false) else { panic!("taken: {message:?}") };
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!((code(&answer), answer.metadata.id), (ResponseCode::FormErr, 0x0707), "{message:?}");
    }
    // No answer to an answer, nor to what has no header.
    let mut answer = query("a.", RecordType::A).to_vec().unwrap();
    answer[2] |= 0x80;
    for noise in [&answer[..], &answer[..11], &[]] {
        assert!(matches!(read(noise, true), Came::Noise));
    }
    let mut noise = Noise(0x1234_5678_9ABC_DEF1);
    let whole = {
        let mut message = query("some.name.example.", RecordType::A);
        message.set_edns(hickory_proto::op::Edns::new());
        message.to_vec().unwrap()
    };
    let (mut taken, mut told) = (0, 0);
    for round in 0..60_000_u64 {
        let mut message = if round % 3 == 0 {
            let length = usize::try_from(noise.next() % 80).unwrap();
            noise.bytes(length)
        } else {
            let mut message = whole.clone();
            for _ in 0..noise.next() % 4 {
                let at = usize::try_from(noise.next()).unwrap() % message.len();
                message[at] = noise.next().to_le_bytes()[0];
            }
            message.truncate(usize::try_from(noise.next()).unwrap() % (2 * whole.len()));
            message
        };
        if let Some(flags) = message.get_mut(2) {
            *flags &= 0x7F;
        }
        match read(&message, round % 2 == 0) {
            Came::Question(question) => {
                taken += 1;
                question.key(&Arc::from([]));
                // What servers answer is as hostile.
                crate::dns::wire::Answer::parse(noise.bytes(90), question.wire());
            }
            Came::Wrong(answer) => {
                told += 1;
                Message::from_vec(&answer).unwrap();
            }
            Came::Noise => {}
        }
    }
    assert!(taken > 1000 && told > 1000, "{taken} {told}");
}

#[tokio::test]
async fn n09_only_plain_questions_of_the_internet_are_answered() {
    let world = World::new(&[("web", &["198.18.0.2"])], patient());
    let asker = world.asker(Upstreams::Never);
    let plain = query("web.", RecordType::A).to_vec().unwrap();
    let end = plain.len();
    let changed = |at: usize, value: u8| {
        let mut message = plain.clone();
        message[at] = value;
        message
    };
    for (message, expected) in [
        (changed(2, 0x29), ResponseCode::NotImp),
        (changed(2, 0x11), ResponseCode::NotImp),
        (changed(end - 1, 3), ResponseCode::Refused),
        (changed(end - 3, 252), ResponseCode::Refused),
        (changed(end - 1, 255), ResponseCode::NoError),
    ] {
        let answer = Message::from_vec(&udp(asker.server, &message).await).unwrap();
        assert_eq!((code(&answer), answer.metadata.id), (expected, u16::from_be_bytes([plain[0], plain[1]])));
    }
    let mut newer = query("web.", RecordType::A);
    let mut edns = hickory_proto::op::Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    let answer = asker.ask(&newer).await;
    assert_eq!((u16::from(code(&answer)), answer.answers.len()), (u16::from(ResponseCode::BADVERS), 0));
}

#[tokio::test]
async fn n09_localhost_is_nobody_elses_name() {
    let upstream = play(|question, _| vec![with_address(question, "192.0.2.1", 300)]);
    let world = World::new(&[("localhost", &["198.18.0.66"]), ("a.localhost", &["198.18.0.66"])], patient());
    let asker = world.asker(ask(&[upstream.address]));
    for name in ["localhost.", "LocalHost.", "a.localhost."] {
        assert_eq!(shown(&asker.resolve(name, RecordType::A).await), ["127.0.0.1"]);
        assert_eq!(shown(&asker.resolve(name, RecordType::AAAA).await), ["::1"]);
        assert!(asker.resolve(name, RecordType::TXT).await.answers.is_empty());
    }
    assert_eq!(upstream.asked(), 0);
}

#[tokio::test]
async fn n09_a_flood_is_refused_and_others_do_not_notice() {
    let (sender, mut asked) = mpsc::channel(64);
    let (socket, _tcp) = pair();
    let address = socket.local_addr().unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket = Arc::new(tokio::net::UdpSocket::from_std(socket).unwrap());
    let reader = Arc::clone(&socket);
    let _reading = tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = reader.recv_from(&mut buffer).await {
            sender.send((buffer[..length].to_vec(), from)).await.unwrap();
        }
    });
    let world = World::new(&[("web", &["198.18.0.2"])], Limits { questions: 4, ..patient() });
    let (hostile, honest) = (world.asker(ask(&[address])), world.asker(ask(&[address])));
    let client = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    client.connect(hostile.server).await.unwrap();
    let mut buffer = [0; 512];
    for at in 0..4 {
        let question = query(&format!("n{at}.example."), RecordType::A);
        client.send(&question.to_vec().unwrap()).await.unwrap();
    }
    let mut under_way = Vec::new();
    for _ in 0..4 {
        under_way.push(timeout(LONG, asked.recv()).await.unwrap().unwrap());
    }
    for at in 0..200 {
        let question = query(&format!("more{at}.example."), RecordType::A);
        client.send(&question.to_vec().unwrap()).await.unwrap();
        let length = timeout(LONG, client.recv(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(code(&Message::from_vec(&buffer[..length]).unwrap()), ResponseCode::ServFail);
    }
    // Own names are still told, and the other asker has its own share.
    assert_eq!(shown(&hostile.resolve("web.", RecordType::A).await), ["198.18.0.2"]);
    let server = honest.server;
    let other =
        tokio::spawn(
            async move { udp(server, &query("www.example.", RecordType::A).to_vec().unwrap()).await },
        );
    under_way.push(timeout(LONG, asked.recv()).await.unwrap().unwrap());
    for (question, from) in under_way {
        let answer = with_address(&Message::from_vec(&question).unwrap(), "192.0.2.1", 300);
        socket.send_to(&answer, from).await.unwrap();
    }
    assert_eq!(shown(&Message::from_vec(&other.await.unwrap()).unwrap()), ["192.0.2.1"]);
    for _ in 0..4 {
        let length = timeout(LONG, client.recv(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(shown(&Message::from_vec(&buffer[..length]).unwrap()), ["192.0.2.1"]);
    }
}

#[tokio::test]
async fn n09_connections_are_bounded_pipelined_and_not_kept_idle() {
    let limits = Limits { connections: 2, idle: Duration::from_millis(300), ..Limits::default() };
    let world = World::new(&[("web", &["198.18.0.2"])], limits);
    let asker = world.asker(Upstreams::Never);
    // Two say nothing: a third is closed at once, and soon there is room again.
    let connect = || tokio::net::TcpStream::connect(asker.server);
    let (mut one, mut two) = (connect().await.unwrap(), connect().await.unwrap());
    let mut three = connect().await.unwrap();
    for stream in [&mut three, &mut one, &mut two] {
        assert_eq!(timeout(LONG, stream.read(&mut [0; 4])).await.unwrap().unwrap_or(0), 0);
    }
    let world = World::new(&[("web", &["198.18.0.2"])], patient());
    let asker = world.asker(Upstreams::Never);
    // Thousands of questions in one piece, then the largest message that can be said, then one more question.
    let mut messages: Vec<Vec<u8>> =
        (0..2000).map(|_| query("web.", RecordType::A).to_vec().unwrap()).collect();
    let mut huge = query("web.", RecordType::A).to_vec().unwrap();
    huge.resize(65_535, 1);
    messages.push(huge);
    messages.push(query("web.", RecordType::A).to_vec().unwrap());
    let all: Vec<u8> = messages.iter().flat_map(|message| crate::dns::forward::frame(message)).collect();
    let stream = tokio::net::TcpStream::connect(asker.server).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let writing = tokio::spawn(async move {
        writer.write_all(&all).await.unwrap();
        writer
    });
    for message in &messages {
        let mut answer = vec![0; timeout(LONG, reader.read_u16()).await.unwrap().unwrap().into()];
        reader.read_exact(&mut answer).await.unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.metadata.id.to_be_bytes(), message[..2]);
        let expected = if message.len() > 4096 { ResponseCode::FormErr } else { ResponseCode::NoError };
        assert_eq!(code(&answer), expected);
    }
    drop(writing.await.unwrap());
}

#[tokio::test]
async fn n09_guessed_answers_are_passed_over() {
    let upstream = play(|question, over_tcp| {
        assert!(!over_tcp);
        let mut wrong_id = question.clone();
        wrong_id.metadata.id ^= 1;
        let mut wrong_name = question.clone();
        wrong_name.queries[0].name = Name::from_ascii("bank.example.").unwrap();
        let mut wrong_kind = question.clone();
        wrong_kind.queries[0].query_type = RecordType::AAAA;
        let no_answer = question.to_vec().unwrap();
        let right = with_address(question, "192.0.2.1", 300);
        let mut cut = right.clone();
        cut.truncate(right.len() - 2);
        let mut looping = right.clone();
        let at = looping.len() - 16;
        looping[at..at + 2].copy_from_slice(&[0xC0, u8::try_from(at).unwrap()]);
        let mut all: Vec<Vec<u8>> = [wrong_id, wrong_name, wrong_kind]
            .iter()
            .map(|one| with_address(one, "192.0.2.66", 300))
            .collect();
        all.extend([no_answer, cut, looping, Vec::new(), right]);
        all
    });
    let world = World::new(&[], patient());
    let asker = world.asker(ask(&[upstream.address]));
    assert_eq!(shown(&asker.resolve("www.example.", RecordType::A).await), ["192.0.2.1"]);
    assert_eq!(shown(&asker.resolve("www.example.", RecordType::A).await), ["192.0.2.1"]);
    assert_eq!(upstream.asked(), 1);
}

#[tokio::test]
async fn n09_a_server_that_asks_us_back_makes_no_circle() {
    let (relay, _tcp) = pair();
    let address = relay.local_addr().unwrap();
    relay.set_nonblocking(true).unwrap();
    let relay = tokio::net::UdpSocket::from_std(relay).unwrap();
    let world = World::new(&[], hasty());
    let asker = world.asker(ask(&[address]));
    let (server, mut asked) = (asker.server, 0);
    let question = query("www.example.", RecordType::A);
    let mut answer = Box::pin(asker.ask(&question));
    let back = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut buffer = [0; 512];
    // Whatever it is asked, it asks us.
    let answer = loop {
        tokio::select! {
            received = relay.recv_from(&mut buffer) => {
                asked += 1;
                back.send_to(&buffer[..received.unwrap().0], server).await.unwrap();
            }
            answer = &mut answer => break answer,
        }
    };
    assert_eq!(code(&answer), ResponseCode::ServFail);
    // Once, and once more because it did not answer.
    assert_eq!(asked, 2);
}
