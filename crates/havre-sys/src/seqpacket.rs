//! Whole messages with descriptors over unix sockets of type SOCK_SEQPACKET.
//!
//! Invariants: a message arrives whole or the call fails; descriptors that arrive are close-on-exec and
//! owned, and are closed when the message is refused. Empty messages are not sent, because a reader
//! could not tell them from the end.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// The longest message.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The most descriptors with one message.
pub const MAX_FDS: usize = 8;

/// A message and the descriptors that came with it.
pub type Message = (Vec<u8>, Vec<OwnedFd>);

/// Two connected sockets.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// An address holds 107 bytes of path: a longer path goes through a descriptor of its folder, which must stay
/// open until the address was used.
fn address(path: &Path) -> io::Result<(SocketAddrUnix, Option<OwnedFd>)> {
    match (SocketAddrUnix::new(path), path.parent(), path.file_name()) {
        (Err(rustix::io::Errno::NAMETOOLONG), Some(parent), Some(name)) => {
            use rustix::fs::{Mode, OFlags};
            let folder = rustix::fs::open(parent, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
            Ok((SocketAddrUnix::new(short)?, Some(folder)))
        }
        (address, _, _) => Ok((address?, None)),
    }
}

/// A socket that listens at `path`, which must not exist.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let (address, _folder) = address(path)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

/// The next connection of a listening socket.
pub fn accept(socket: impl AsFd) -> io::Result<OwnedFd> {
    Ok(retry(|| rustix::net::accept_with(socket.as_fd(), SocketFlags::CLOEXEC))?)
}

/// A connection to the socket that listens at `path`.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let (address, _folder) = address(path)?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

/// Sends one message of 1 to [`MAX_MESSAGE`] bytes with up to [`MAX_FDS`] descriptors.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if bytes.is_empty() || bytes.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "message is empty, too long, or has too many fds",
        ));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many fds"));
    }
    let sent = retry(|| {
        rustix::net::sendmsg(socket.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::WriteZero, "message was cut"))
    }
}

/// Receives one message; `None` when the peer has closed.
pub fn recv(socket: impl AsFd) -> io::Result<Option<Message>> {
    let mut buffer = vec![0; MAX_MESSAGE];
    let Some((length, fds)) = recv_into(socket, &mut buffer)? else { return Ok(None) };
    buffer.truncate(length);
    buffer.shrink_to_fit();
    Ok(Some((buffer, fds)))
}

/// Receives one message into `buffer`; `None` when the peer has closed. A message that does not fit, or
/// that came with too many descriptors, is lost and an error.
pub fn recv_into(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = retry(|| {
        rustix::net::recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message or its descriptors were cut"));
    }
    Ok((received.bytes > 0).then_some((received.bytes, fds)))
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_path_longer_than_an_address_works() {
        let base = std::env::temp_dir().join(format!("havre-seqpacket-{}", std::process::id()));
        let folder = base.join("x".repeat(120));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("socket");
        let listener = listen(&path).unwrap();
        let client = connect(&path).unwrap();
        send(&client, b"far", &[]).unwrap();
        assert_eq!(recv(accept(&listener).unwrap()).unwrap().unwrap().0, b"far");
        std::fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn messages_keep_their_bounds_and_their_descriptors() {
        let (a, b) = pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        send(&a, b"one", &[writer.as_fd()]).unwrap();
        send(&a, &vec![7; MAX_MESSAGE], &[]).unwrap();
        drop((a, writer));

        let (bytes, mut fds) = recv(&b).unwrap().unwrap();
        assert_eq!(bytes, b"one");
        let mut file = std::fs::File::from(fds.pop().unwrap());
        file.write_all(b"through").unwrap();
        drop(file);
        let mut text = String::new();
        std::fs::File::from(reader).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");

        assert_eq!(recv(&b).unwrap().unwrap().0.len(), MAX_MESSAGE);
        assert!(recv(&b).unwrap().is_none());
    }

    #[test]
    fn what_cannot_be_received_whole_is_an_error() {
        let (a, b) = pair().unwrap();
        send(&a, b"too long", &[]).unwrap();
        assert_eq!(recv_into(&b, &mut [0; 3]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(send(&a, b"", &[]).is_err());
        assert!(send(&a, &vec![0; MAX_MESSAGE + 1], &[]).is_err());
        assert!(send(&a, b"x", &[a.as_fd(); MAX_FDS + 1]).is_err());
    }
}
