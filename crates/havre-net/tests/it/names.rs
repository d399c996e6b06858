//! Where a container reaches its name server.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use havre_net::dns::Sockets;
use havre_net::sandbox::Sandbox;
use havre_sys::netns;

use super::on_a_host;

const SERVER: &str = "127.0.0.11:53";

#[test]
fn questions_go_to_the_newest_sockets_and_answers_come_from_port_53() {
    on_a_host(|_| {
        let sandbox = Sandbox::create().unwrap();
        let patient = |socket: UdpSocket| {
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            socket
        };
        let ask = |text: &str| {
            let asker = netns::enter_with(sandbox.fd(), || UdpSocket::bind("127.0.0.1:0")).unwrap();
            asker.send_to(text.as_bytes(), SERVER).unwrap();
            patient(asker)
        };
        let serve = |socket: &UdpSocket, wanted: &str| {
            let mut buffer = [0; 16];
            let socket = patient(socket.try_clone().unwrap());
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], wanted.as_bytes());
            socket.send_to(b"yes", from).unwrap();
        };
        let heard = |asker: &UdpSocket| {
            let mut buffer = [0; 16];
            let (length, from) = asker.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (&b"yes"[..], SERVER.parse::<SocketAddr>().unwrap()));
        };
        let first = Sockets::open(sandbox.fd()).unwrap();
        let asker = ask("one");
        serve(&first.udp, "one");
        heard(&asker);
        // Somebody keeps them while nobody serves: what is asked meanwhile waits.
        let kept = first.keep().unwrap();
        drop(first);
        let asker = ask("two");
        let stream = netns::enter_with(sandbox.fd(), || TcpStream::connect(SERVER)).unwrap();
        let first = Sockets::kept(kept).unwrap();
        serve(&first.udp, "two");
        heard(&asker);
        assert_eq!(first.tcp.accept().unwrap().1, stream.local_addr().unwrap());
        // Others in their place, where nobody has kept them, or beside them.
        let second = Sockets::open(sandbox.fd()).unwrap();
        let asker = ask("three");
        serve(&second.udp, "three");
        heard(&asker);
        let stream = netns::enter_with(sandbox.fd(), || TcpStream::connect(SERVER)).unwrap();
        assert_eq!(second.tcp.accept().unwrap().1, stream.local_addr().unwrap());
        // A server of the container's own has port 53 of all addresses.
        let own = netns::enter_with(sandbox.fd(), || UdpSocket::bind("0.0.0.0:53")).unwrap();
        let asker = ask("four");
        serve(&second.udp, "four");
        heard(&asker);
        drop(own);
        // What is none of ours is not taken.
        let udp = OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
        let tcp = OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
        assert!(Sockets::kept(vec![udp, tcp]).is_none());
        assert!(Sockets::kept(Vec::new()).is_none());
    });
}
