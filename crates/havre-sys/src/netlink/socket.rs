//! A netlink socket: requests and their answers, listings, and events.
//!
//! Invariants: requests are carried out by the kernel while they are being sent, so that everything it has
//! to say is there when the sending ends; only the kernel is listened to.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags,
    SocketFlags, SocketType,
};

use super::message::{DONE, ERROR, Message, Messages, Received};
use super::{NetlinkError, Result};
use crate::check;

/// More than the kernel puts into one datagram (`NLMSG_GOODSIZE`, and 32 KiB in listings).
const RECEIVE: usize = 64 * 1024;
/// How many bytes of answers and events may wait to be read.
const BACKLOG: i32 = 4 << 20;
/// How often a listing is begun anew because something changed.
const ATTEMPTS: usize = 64;
/// What the kernel lets wait for sending unless told otherwise is at least this.
const DEFAULT_SEND: usize = 64 * 1024;

/// A netlink socket of the namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port: u32,
    next: u32,
    sendable: usize,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket for `protocol` in the caller's network namespace.
    pub fn open(protocol: Option<Protocol>) -> Result<Self> {
        let fd =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
                .map_err(NetlinkError::io("open a netlink socket"))?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))
            .map_err(NetlinkError::io("bind a netlink socket"))?;
        let name =
            rustix::net::getsockname(&fd).map_err(NetlinkError::io("ask for a netlink socket's address"))?;
        let name =
            SocketAddrNetlink::try_from(name).map_err(NetlinkError::io("read a netlink socket's address"))?;
        let socket = Self { fd, port: name.pid(), next: 1, sendable: DEFAULT_SEND, buffer: Vec::new() };
        // Comforts that old kernels lack: their refusals then come without words.
        for comfort in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK, libc::NETLINK_GET_STRICT_CHK] {
            let _old_kernel = socket.set(libc::SOL_NETLINK, comfort, 1);
        }
        // Beyond the system's limit only with privileges in this namespace; what cannot be held is noticed.
        let _unprivileged = socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BACKLOG);
        Ok(socket)
    }

    fn set(&self, level: i32, option: i32, value: i32) -> std::io::Result<()> {
        let size = libc::socklen_t::try_from(size_of::<i32>()).unwrap_or(4);
        // SAFETY: the option's value is one integer that lives until the call returns, and its size is given.
        let result =
            unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, option, (&raw const value).cast(), size) };
        check(result.into()).map(drop)
    }

    /// Wants to hear the events of this group.
    pub fn join(&self, group: u32) -> Result<()> {
        let group = i32::try_from(group).map_err(|_| NetlinkError::Garbled("there is no such group"))?;
        self.set(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)
            .map_err(NetlinkError::io("listen to events of the kernel"))
    }

    /// Wants to hear the events of this group no more.
    pub fn leave(&self, group: u32) -> Result<()> {
        let group = i32::try_from(group).map_err(|_| NetlinkError::Garbled("there is no such group"))?;
        self.set(libc::SOL_NETLINK, libc::NETLINK_DROP_MEMBERSHIP, group)
            .map_err(NetlinkError::io("stop listening to events of the kernel"))
    }

    /// The number by which the kernel knows the socket, and tells others who changed something.
    #[must_use]
    pub const fn port(&self) -> u32 {
        self.port
    }

    /// Sends all in one call. Answers other than success and failure go to `answer`. All messages are
    /// carried out, also those behind one that is refused; the error is that of the first.
    pub fn transact(&mut self, messages: &mut Messages, answer: impl FnMut(&Message<'_>)) -> Result<()> {
        let Some(last) = messages.count().checked_sub(1) else { return Ok(()) };
        self.transact_until(messages, last, answer)
    }

    /// The same, where the last message that is answered is the one at `last`.
    pub(crate) fn transact_until(
        &mut self,
        messages: &mut Messages,
        last: usize,
        mut answer: impl FnMut(&Message<'_>),
    ) -> Result<()> {
        // Failures are always told; of success one word is enough, behind everything else.
        let count = messages.count();
        messages.want_answer(last);
        let first = self.send(messages)?;
        let (mut failure, mut answered) = (None, false);
        loop {
            let port = self.port;
            let Some(received) = self.receive(RecvFlags::DONTWAIT)? else { break };
            for message in received {
                let index = usize::try_from(message.number.wrapping_sub(first)).unwrap_or(usize::MAX);
                if message.port != port || index >= count || message.is_nothing() {
                    continue;
                }
                if message.kind != ERROR {
                    answer(&message);
                    continue;
                }
                let told = message.answer().ok_or(NetlinkError::Garbled("an answer without a code"))?;
                answered |= index == last;
                if told.errno.is_some() && failure.as_ref().is_none_or(|(earlier, _)| index < *earlier) {
                    failure = Some((index, told));
                }
            }
        }
        match failure {
            Some((index, told)) => Err(refused(messages, index, told)),
            None if answered => Ok(()),
            None => Err(NetlinkError::Unanswered),
        }
    }

    /// Sends one request for a listing and reads it with `read`, which may pass over messages. A listing during
    /// which something changed is begun anew.
    pub fn list<T>(
        &mut self,
        request: &mut Messages,
        mut read: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>> {
        for _ in 0..ATTEMPTS {
            let mut found = Vec::new();
            if self.list_once(request, |message| found.extend(read(message)))? {
                return Ok(found);
            }
        }
        Err(NetlinkError::Unsteady)
    }

    /// Whether the listing was of one moment.
    fn list_once(&mut self, request: &mut Messages, mut read: impl FnMut(&Message<'_>)) -> Result<bool> {
        let first = self.send(request)?;
        let port = self.port;
        let mut steady = true;
        loop {
            // The rest of a listing is made when it is asked for, so that waiting cannot be in vain.
            let Some(received) = self.receive(RecvFlags::empty())? else { continue };
            for message in received {
                if message.port != port || message.number != first || message.is_nothing() {
                    continue;
                }
                steady &= !message.is_interrupted();
                if message.kind != ERROR && message.kind != DONE {
                    read(&message);
                    continue;
                }
                let told = message.answer().ok_or(NetlinkError::Garbled("an answer without a code"))?;
                return match told.errno {
                    Some(Errno::INTR | Errno::AGAIN) => Ok(false),
                    Some(_) => Err(refused(request, 0, told)),
                    None => Ok(steady),
                };
            }
        }
    }

    /// What has happened in the groups that were joined, without waiting; `None` when there is nothing more.
    pub fn events(&mut self) -> Result<Option<Received<'_>>> {
        self.receive(RecvFlags::DONTWAIT)
    }

    fn send(&mut self, messages: &mut Messages) -> Result<u32> {
        let first = self.next;
        if messages.length() > self.sendable {
            self.make_room(messages.length())?;
        }
        self.next = first.wrapping_add(u32::try_from(messages.count()).unwrap_or(u32::MAX)).max(1);
        let bytes = messages.numbered(first)?;
        let sent = loop {
            let mut control = SendAncillaryBuffer::default();
            let call = rustix::net::sendmsg_addr(
                &self.fd,
                &SocketAddrNetlink::new(0, 0),
                &[IoSlice::new(bytes)],
                &mut control,
                SendFlags::empty(),
            );
            match call {
                Err(Errno::INTR) => {}
                other => break other.map_err(NetlinkError::io("send a netlink request"))?,
            }
        };
        if sent == bytes.len() { Ok(first) } else { Err(NetlinkError::Garbled("a request was sent in part")) }
    }

    /// The kernel takes a request only if all of it fits the socket's buffer.
    fn make_room(&mut self, length: usize) -> Result<()> {
        let wanted = i32::try_from(length.saturating_add(64 * 1024)).unwrap_or(i32::MAX);
        self.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, wanted)
            .or_else(|_| self.set(libc::SOL_SOCKET, libc::SO_SNDBUF, wanted))
            .map_err(NetlinkError::io("make room for a large netlink request"))?;
        self.sendable = length;
        Ok(())
    }

    /// One datagram of the kernel.
    fn receive(&mut self, flags: RecvFlags) -> Result<Option<Received<'_>>> {
        self.buffer.resize(RECEIVE, 0);
        loop {
            let mut control = RecvAncillaryBuffer::default();
            let call =
                rustix::net::recvmsg(&self.fd, &mut [IoSliceMut::new(&mut self.buffer)], &mut control, flags);
            let received = match call {
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::NOBUFS) => return Err(NetlinkError::Overrun),
                other => other.map_err(NetlinkError::io("read from a netlink socket"))?,
            };
            let from = received.address.and_then(|address| SocketAddrNetlink::try_from(address).ok());
            if from.is_none_or(|from| from.pid() != 0) {
                continue; // Of another process.
            }
            if received.flags.contains(ReturnFlags::TRUNC) {
                return Err(NetlinkError::Garbled("it is longer than any that the kernel should send"));
            }
            return Ok(Some(Received::new(self.buffer.get(..received.bytes).unwrap_or_default())));
        }
    }
}

fn refused(messages: &Messages, index: usize, told: super::message::Answer) -> NetlinkError {
    NetlinkError::Refused {
        what: messages.what(index).to_owned(),
        index,
        errno: told.errno.unwrap_or(Errno::PROTO),
        text: told.text,
        offset: told.offset,
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
