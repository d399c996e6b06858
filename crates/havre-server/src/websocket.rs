//! WebSockets (RFC 6455), as far as attaching needs them: the handshake and whole frames, no extensions.
//!
//! Invariants: a client's frames are masked and bounded or the connection ends with the right close code; a
//! control frame is answered before anything else is read; nothing is kept of a message but its bytes, so
//! that fragments cost nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use sha1::{Digest as _, Sha1};

/// The largest frame a client may send, in bytes.
const MAX_FRAME: u64 = 1 << 20;
/// What RFC 6455 (1.3) appends to the client's key.
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why a connection is closed (RFC 6455, 7.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Close {
    Normal = 1000,
    GoingAway = 1001,
    Protocol = 1002,
    TooBig = 1009,
    Internal = 1011,
}

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Bytes of a message, text or binary.
    Data(Bytes),
    Ping(Bytes),
    Pong,
    /// The client's close code is to be sent back.
    Close(Option<u16>),
}

/// The answer to a client's key.
pub(crate) fn accept(key: &str) -> String {
    BASE64.encode(Sha1::digest(format!("{key}{MAGIC}")))
}

/// Whether a page of `origin` may speak to the server it reached as `host`: only its own. No origin is no
/// browser.
pub(crate) fn same_origin(origin: Option<&str>, host: Option<&str>) -> bool {
    match (origin, host) {
        (None, _) => true,
        (Some(origin), Some(host)) => {
            let authority = origin.split_once("://").map(|(_, authority)| authority.trim_end_matches('/'));
            authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
        }
        (Some(_), None) => false,
    }
}

/// Takes the next whole frame out of what has arrived; none when more must come.
pub(crate) fn take(buffer: &mut BytesMut) -> Result<Option<Frame>, Close> {
    let [first, second, ..] = buffer[..] else { return Ok(None) };
    let (last, reserved, opcode) = (first & 0x80 != 0, first & 0x70, first & 0x0f);
    let (masked, short) = (second & 0x80 != 0, second & 0x7f);
    let control = opcode & 0x8 != 0;
    if reserved != 0 || !masked || (control && (!last || short > 125)) {
        return Err(Close::Protocol);
    }
    let extended = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some(mut head) = buffer.get(2..2 + extended + 4) else { return Ok(None) };
    let length = match short {
        126 => u64::from(head.get_u16()),
        127 => head.get_u64(),
        length => u64::from(length),
    };
    let mut mask = [0; 4];
    head.copy_to_slice(&mut mask);
    let length = usize::try_from(length).ok().filter(|_| length <= MAX_FRAME).ok_or(Close::TooBig)?;
    let start = 2 + extended + 4;
    if buffer.len() < start + length {
        return Ok(None);
    }
    buffer.advance(start);
    let mut payload = buffer.split_to(length);
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    let payload = payload.freeze();
    match opcode {
        0..=2 => Ok(Some(Frame::Data(payload))),
        8 => match payload.len() {
            0 => Ok(Some(Frame::Close(None))),
            1 => Err(Close::Protocol),
            _ => Ok(Some(Frame::Close(Some(payload.slice(..2).get_u16())))),
        },
        9 => Ok(Some(Frame::Ping(payload))),
        10 => Ok(Some(Frame::Pong)),
        _ => Err(Close::Protocol),
    }
}

/// Writes one whole frame.
fn put(into: &mut BytesMut, opcode: u8, payload: &[u8]) {
    into.put_u8(0x80 | opcode);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ ..126), _) => into.put_u8(length),
        (_, Ok(length)) => {
            into.put_u8(126);
            into.put_u16(length);
        }
        _ => {
            into.put_u8(127);
            into.put_u64(u64::try_from(payload.len()).unwrap_or(u64::MAX));
        }
    }
    into.put_slice(payload);
}

/// A message.
pub(crate) fn data(into: &mut BytesMut, text: bool, payload: &[u8]) {
    put(into, if text { 1 } else { 2 }, payload);
}

/// The answer to a ping.
pub(crate) fn pong(into: &mut BytesMut, payload: &[u8]) {
    put(into, 10, payload);
}

/// The end.
pub(crate) fn close(into: &mut BytesMut, code: u16) {
    put(into, 8, &code.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(first: u8, payload: &[u8]) -> BytesMut {
        let mut frame = BytesMut::new();
        put(&mut frame, 0, payload);
        frame[0] = first;
        frame[1] |= 0x80;
        let at = frame.len() - payload.len();
        let mask = [1, 2, 3, 4];
        let tail = frame.split_off(at);
        frame.extend_from_slice(&mask);
        frame.extend(tail.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    #[test]
    fn the_key_of_the_rfc_has_the_answer_of_the_rfc() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn frames_survive_any_cut() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let payload: Vec<u8> = (0..length).map(|at: usize| u8::try_from(at % 251).unwrap()).collect();
            let wire = client(0x82, &payload);
            let mut buffer = BytesMut::new();
            for cut in [1, 2, 5, 9, wire.len() - 1] {
                buffer.clear();
                buffer.extend_from_slice(&wire[..cut.min(wire.len() - 1)]);
                assert_eq!(take(&mut buffer), Ok(None), "{length} cut at {cut}");
            }
            buffer.clear();
            buffer.extend_from_slice(&wire);
            buffer.extend_from_slice(b"rest");
            assert_eq!(take(&mut buffer), Ok(Some(Frame::Data(payload.into()))));
            assert_eq!(&buffer[..], b"rest");
        }
    }

    #[test]
    fn what_the_rfc_forbids_ends_the_connection() {
        let mut unmasked = BytesMut::new();
        data(&mut unmasked, false, b"x");
        assert_eq!(take(&mut unmasked), Err(Close::Protocol));
        for first in [0x83, 0x8b, 0xc2, 0x09] {
            assert_eq!(take(&mut client(first, b"x")), Err(Close::Protocol), "{first:x}");
        }
        let mut huge = BytesMut::from(&[0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4][..]);
        assert_eq!(take(&mut huge), Err(Close::TooBig));
        assert_eq!(take(&mut client(0x88, &[3, 232])), Ok(Some(Frame::Close(Some(1000)))));
        assert_eq!(take(&mut client(0x88, &[3])), Err(Close::Protocol));
    }

    #[test]
    fn a06_pages_of_others_are_refused() {
        for (origin, host, good) in [
            (None, Some("x"), true),
            (Some("http://localhost:2375"), Some("localhost:2375"), true),
            (Some("http://evil.example"), Some("localhost:2375"), false),
            (Some("null"), Some("null"), false),
            (Some("http://x"), None, false),
        ] {
            assert_eq!(same_origin(origin, host), good, "{origin:?}");
        }
    }
}
