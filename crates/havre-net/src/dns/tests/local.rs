//! What is answered from our own names.

use std::collections::BTreeSet;

use hickory_proto::op::Edns;

use super::*;

const NAMES: &[(&str, &[&str])] = &[
    ("web", &["198.18.0.2", "fd00::2"]),
    ("only4", &["198.18.0.3"]),
    ("three", &["198.18.0.4", "198.18.0.5", "198.18.0.6"]),
    ("nothing", &[]),
];

#[tokio::test]
async fn names_and_addresses_are_answered_in_any_spelling() {
    let upstream = play(|question, _| vec![with_address(question, "192.0.2.1", 60)]);
    let world = World::new(NAMES, patient());
    let asker = world.asker(ask(&[upstream.address]));
    for name in ["web.", "WEB.", "wEb"] {
        let v4 = asker.resolve(name, RecordType::A).await;
        assert_eq!((shown(&v4), v4.answers[0].ttl), (vec!["198.18.0.2".to_owned()], 600));
        assert!(v4.queries[0].name.eq_ignore_root_case(&Name::from_ascii(name).unwrap()));
        assert!(v4.metadata.recursion_available && v4.metadata.recursion_desired);
        assert!(!v4.metadata.truncation && v4.edns.is_none());
        assert_eq!(shown(&asker.resolve(name, RecordType::AAAA).await), ["fd00::2"]);
        assert_eq!(asker.resolve(name, RecordType::ANY).await.answers.len(), 2);
    }
    let pointer = asker.resolve("3.0.18.198.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!((shown(&pointer), pointer.answers[0].ttl), (vec!["only4.front.".to_owned()], 600));
    let v6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.";
    assert_eq!(shown(&asker.resolve(v6, RecordType::PTR).await), ["web.front."]);
    let several: Vec<Vec<u8>> =
        ["web.", "only4."].iter().map(|name| query(name, RecordType::A).to_vec().unwrap()).collect();
    assert_eq!(tcp(asker.server, &several).await.len(), 2);
    // Nobody else was asked, whatever was asked of our names.
    for (name, kind) in [
        ("only4.", RecordType::AAAA),
        ("nothing.", RecordType::A),
        ("web.", RecordType::MX),
        ("web.", RecordType::TXT),
        ("web.", RecordType::HTTPS),
        ("web.", RecordType::SRV),
    ] {
        let answer = asker.resolve(name, kind).await;
        assert_eq!((code(&answer), answer.answers.len()), (ResponseCode::NoError, 0), "{name} {kind}");
    }
    assert_eq!(upstream.asked(), 0);
}

#[tokio::test]
async fn several_addresses_come_in_every_order() {
    let world = World::new(NAMES, patient());
    let asker = world.asker(Upstreams::Never);
    let mut orders = BTreeSet::new();
    for _ in 0..400 {
        let answer = asker.resolve("three.", RecordType::A).await;
        assert_eq!(answer.answers.len(), 3);
        orders.insert(shown(&answer));
        // As a C library asks: both families in turn.
        asker.resolve("three.", RecordType::AAAA).await;
    }
    assert_eq!(orders.len(), 6);
}

#[tokio::test]
async fn answers_are_as_long_as_the_asker_takes() {
    let many: Vec<String> = (0..5000).map(|at| format!("198.18.{}.{}", at / 250, at % 250 + 1)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let world = World::new(&[("many", &many)], patient());
    let asker = world.asker(Upstreams::Never);
    let question = query("many.", RecordType::A);
    let bytes = udp(asker.server, &question.to_vec().unwrap()).await;
    let answer = Message::from_vec(&bytes).unwrap();
    assert!(bytes.len() <= 512 && answer.metadata.truncation && answer.answers.len() > 20, "{}", bytes.len());
    for (size, least) in [(100, 20), (1232, 60), (4096, 220), (65_535, 3200)] {
        let mut question = query("many.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        question.set_edns(edns);
        let bytes = udp(asker.server, &question.to_vec().unwrap()).await;
        let answer = Message::from_vec(&bytes).unwrap();
        assert!(bytes.len() <= usize::from(size).max(512) && answer.metadata.truncation, "{size}");
        assert!(answer.answers.len() >= least, "{size}: {} in {}", answer.answers.len(), bytes.len());
        assert_eq!(answer.edns.unwrap().max_payload(), 4096);
    }
    let answers = tcp(asker.server, &[question.to_vec().unwrap()]).await;
    assert!(answers[0].answers.len() > 3200 && !answers[0].metadata.truncation);
}

#[tokio::test]
async fn single_labels_stay_with_who_asked_for_dots() {
    let upstream = play(|question, _| vec![with_address(question, "192.0.2.1", 60)]);
    let world = World::new(NAMES, patient());
    let servers = Arc::from([upstream.address]);
    let asker = world.asker(Upstreams::Servers { servers, single_labels_stay: true });
    let answer = asker.resolve("printer.", RecordType::A).await;
    assert_eq!((code(&answer), answer.answers.len(), upstream.asked()), (ResponseCode::NoError, 0, 0));
    assert_eq!(shown(&asker.resolve("printer.example.", RecordType::A).await), ["192.0.2.1"]);
}

#[tokio::test]
async fn a_server_that_is_closed_frees_its_port() {
    let world = World::new(NAMES, patient());
    let Asker { server, serving, .. } = world.asker(Upstreams::Never);
    udp(server, &query("web.", RecordType::A).to_vec().unwrap()).await;
    serving.close().await;
    UdpSocket::bind(server).unwrap();
    TcpListener::bind(server).unwrap();
}

/// Run by hand: `cargo test --release -p havre-net --lib -- --ignored --nocapture answers_a_second`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, for release builds"]
async fn answers_a_second() {
    const WINDOW: usize = 32;
    const EACH: usize = 100_000;
    for containers in [2, 1000] {
        let world = crate::dns::names::tests::many(containers);
        let resolver = Resolver::new(world.directory, Limits::default());
        let (socket, listener) = pair();
        let server = socket.local_addr().unwrap();
        let serving = resolver.serve(&world.asker, socket, listener).unwrap();
        let question = query(&format!("c{}.", containers - 1), RecordType::A).to_vec().unwrap();
        // A client with some questions under way, as a busy container has.
        let seconds = tokio::task::spawn_blocking(move || {
            let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            client.connect(server).unwrap();
            client.set_read_timeout(Some(LONG)).unwrap();
            let start = std::time::Instant::now();
            let mut buffer = [0; 512];
            for _ in 0..WINDOW {
                client.send(&question).unwrap();
            }
            for at in 0..EACH {
                assert!(client.recv(&mut buffer).unwrap() > question.len());
                if at + WINDOW < EACH {
                    client.send(&question).unwrap();
                }
            }
            start.elapsed().as_secs_f64()
        });
        let seconds = seconds.await.unwrap();
        println!("{containers} containers: {:.0} answers a second", EACH as f64 / seconds);
        serving.close().await;
    }
}
