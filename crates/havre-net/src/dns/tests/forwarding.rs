//! What others are asked.

use hickory_proto::op::Edns;
use hickory_proto::rr::rdata::TXT;
use tokio::sync::Semaphore;

use super::*;

#[tokio::test]
async fn other_names_are_asked_once_and_kept_for_those_with_the_same_servers() {
    let one = play(|question, _| match question.queries[0].name.to_string().as_str() {
        "gone.example." => vec![no_such_name(question, 60)],
        _ => vec![with_address(question, "192.0.2.1", 300)],
    });
    let two = play(|question, _| vec![with_address(question, "192.0.2.2", 300)]);
    let world = World::new(&[], patient());
    let (first, second, other) = (
        world.asker(ask(&[one.address])),
        world.asker(ask(&[one.address])),
        world.asker(ask(&[two.address])),
    );
    let answer = first.resolve("www.example.", RecordType::A).await;
    assert_eq!((shown(&answer), code(&answer)), (vec!["192.0.2.1".to_owned()], ResponseCode::NoError));
    let answer = second.resolve("WWW.example.", RecordType::A).await;
    assert!(answer.answers[0].ttl <= 300);
    assert!(answer.queries[0].name.eq_case(&Name::from_ascii("WWW.example.").unwrap()));
    assert_eq!(one.asked(), 1);
    assert_eq!(shown(&other.resolve("www.example.", RecordType::A).await), ["192.0.2.2"]);
    // Single labels too, and other kinds are other questions.
    first.resolve("printer.", RecordType::A).await;
    first.resolve("www.example.", RecordType::AAAA).await;
    assert_eq!(one.asked(), 3);
    for asker in [&first, &second] {
        assert_eq!(code(&asker.resolve("gone.example.", RecordType::A).await), ResponseCode::NXDomain);
    }
    assert_eq!((one.asked(), two.asked()), (4, 1));
    // Over TCP what is kept is as good.
    let answers = tcp(first.server, &[query("www.example.", RecordType::A).to_vec().unwrap()]).await;
    assert_eq!((shown(&answers[0]), one.asked()), (vec!["192.0.2.1".to_owned()], 4));
}

#[tokio::test]
async fn answers_without_time_are_not_kept() {
    let upstream = play(|question, _| match question.queries[0].name.to_string().as_str() {
        "zero.example." => vec![with_address(question, "192.0.2.1", 0)],
        // No SOA says for how long there is no such name.
        "bare.example." => vec![refusal(question, ResponseCode::NXDomain)],
        _ => vec![refusal(question, ResponseCode::ServFail)],
    });
    let world = World::new(&[], patient());
    let asker = world.asker(ask(&[upstream.address]));
    for (at, name) in ["zero.example.", "bare.example.", "broken.example."].into_iter().enumerate() {
        asker.resolve(name, RecordType::A).await;
        asker.resolve(name, RecordType::A).await;
        assert_eq!(upstream.asked(), 2 * (at + 1), "{name}");
    }
}

#[tokio::test]
async fn equal_questions_at_once_are_one() {
    let gate = Arc::new(Semaphore::new(0));
    let (udp_socket, _tcp) = pair();
    let address = udp_socket.local_addr().unwrap();
    udp_socket.set_nonblocking(true).unwrap();
    let socket = tokio::net::UdpSocket::from_std(udp_socket).unwrap();
    let world = World::new(&[], patient());
    let (leader, other) = (world.asker(ask(&[address])), world.asker(ask(&[address])));
    let mut askers = JoinSet::new();
    let question = query("www.example.", RecordType::A).to_vec().unwrap();
    let bytes = question.clone();
    let server = leader.server;
    let lost = tokio::spawn(async move { udp(server, &bytes).await });
    let mut buffer = [0; 512];
    socket.recv_from(&mut buffer).await.unwrap();
    for _ in 0..40 {
        let (bytes, server, gate) = (question.clone(), other.server, Arc::clone(&gate));
        askers.spawn(async move {
            gate.add_permits(1);
            udp(server, &bytes).await
        });
    }
    gate.acquire_many(40).await.unwrap().forget();
    // Who asked for all goes away: one of the others asks again, once.
    drop(leader);
    lost.abort();
    let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
    let answer = with_address(&Message::from_vec(&buffer[..length]).unwrap(), "192.0.2.1", 300);
    socket.send_to(&answer, from).await.unwrap();
    while let Some(answer) = askers.join_next().await {
        assert_eq!(shown(&Message::from_vec(&answer.unwrap()).unwrap()), ["192.0.2.1"]);
    }
    assert!(socket.try_recv_from(&mut buffer).is_err(), "asked more than once");
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_cannot_or_will_not() {
    let silent = play(|_, _| Vec::new());
    let refuses = play(|question, _| vec![refusal(question, ResponseCode::Refused)]);
    let answers = play(|question, _| vec![with_address(question, "192.0.2.1", 0)]);
    // A port on which nobody is.
    let (nobody, _) = pair();
    let nobody = nobody.local_addr().unwrap();
    let world = World::new(&[], hasty());
    let asker = world.asker(ask(&[nobody, refuses.address, silent.address, answers.address]));
    assert_eq!(shown(&asker.resolve("www.example.", RecordType::A).await), ["192.0.2.1"]);
    let asked = silent.asked();
    assert!(asked >= 1 && refuses.asked() == 1);
    // Who did not answer comes last now.
    assert_eq!(shown(&asker.resolve("www.example.", RecordType::A).await), ["192.0.2.1"]);
    assert_eq!((silent.asked(), refuses.asked(), answers.asked()), (asked, 2, 2));
    let none = world.asker(ask(&[nobody, silent.address]));
    assert_eq!(code(&none.resolve("www.example.", RecordType::A).await), ResponseCode::ServFail);
    let refused = world.asker(ask(&[refuses.address, silent.address]));
    assert_eq!(code(&refused.resolve("www.example.", RecordType::A).await), ResponseCode::Refused);
    let without = world.asker(ask(&[]));
    assert_eq!(code(&without.resolve("www.example.", RecordType::A).await), ResponseCode::ServFail);
}

#[tokio::test]
async fn long_answers_are_fetched_over_tcp_and_cut_for_who_takes_less() {
    let upstream = play(|question, over_tcp| {
        let mut answer = reply(question);
        if over_tcp {
            for at in 0..240_u8 {
                let text = TXT::new(vec![format!("{at:0>250}")]);
                let name = question.queries[0].name.clone();
                answer.add_answer(Record::from_rdata(name, 300, RData::TXT(text)));
            }
        } else {
            answer.metadata.truncation = true;
        }
        vec![answer.to_vec().unwrap()]
    });
    let world = World::new(&[], patient());
    let asker = world.asker(ask(&[upstream.address]));
    let short = asker.resolve("long.example.", RecordType::TXT).await;
    assert!(short.metadata.truncation && short.answers.is_empty() && short.edns.is_none());
    assert_eq!(upstream.asked(), 2);
    let long = tcp(asker.server, &[query("long.example.", RecordType::TXT).to_vec().unwrap()]).await;
    assert_eq!((long[0].answers.len(), long[0].metadata.truncation), (240, false));
    // It was kept, whole.
    assert_eq!(upstream.asked(), 2);
    let mut question = query("long.example.", RecordType::TXT);
    question.set_edns(Edns::new());
    let short = asker.ask(&question).await;
    assert!(short.metadata.truncation && short.edns.is_some());
    // A question over TCP is asked over TCP.
    let other = tcp(asker.server, &[query("other.example.", RecordType::TXT).to_vec().unwrap()]).await;
    assert_eq!((other[0].answers.len(), upstream.asked()), (240, 5));
}

#[tokio::test]
async fn extensions_pass_through_and_are_not_shared() {
    use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
    let upstream = play(|question, _| vec![with_address(question, "192.0.2.1", 300)]);
    let world = World::new(&[], patient());
    let asker = world.asker(ask(&[upstream.address]));
    let with = |dnssec: bool, cookie: Option<&[u8]>| {
        let mut question = query("www.example.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_dnssec_ok(dnssec).set_max_payload(1400);
        if let Some(cookie) = cookie {
            edns.options_mut().insert(EdnsOption::Unknown(10, cookie.to_vec()));
        }
        question.set_edns(edns);
        question
    };
    // The played server says back what it was asked with.
    let answer = asker.ask(&with(true, None)).await;
    assert!(answer.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok && edns.max_payload() == 1400));
    asker.ask(&with(true, None)).await;
    assert_eq!(upstream.asked(), 1);
    assert!(!asker.ask(&with(false, None)).await.edns.unwrap().flags().dnssec_ok);
    assert!(asker.resolve("www.example.", RecordType::A).await.edns.is_none());
    assert_eq!(upstream.asked(), 3);
    for (at, cookie) in [b"01234567", b"76543210"].into_iter().enumerate() {
        let answer = asker.ask(&with(true, Some(cookie))).await;
        let option = answer.edns.unwrap().option(EdnsCode::Cookie).cloned();
        assert!(option.is_some(), "{option:?}");
        assert_eq!(upstream.asked(), 4 + at);
    }
}
