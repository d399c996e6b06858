//! Streams inside bodies: frames of stdout and stderr, and one JSON object after another.

use std::io;

use serde::de::DeserializeOwned;

/// Which stream a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Standard output (or input echoed).
    Stdout,
    /// Standard error.
    Stderr,
    /// An error of the daemon itself.
    System,
}

/// Splits frames (`[stream, 0, 0, 0, length in four bytes, big endian]`, payload) that arrive in
/// arbitrary pieces. Payload is passed on as it arrives, never collected.
#[derive(Debug, Default)]
pub struct Demultiplexer {
    header: [u8; 8],
    have: usize,
    left: usize,
}

impl Demultiplexer {
    /// Takes a piece and hands each part of a payload to `sink`.
    pub fn push(
        &mut self,
        mut piece: &[u8],
        sink: &mut dyn FnMut(StreamKind, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        while !piece.is_empty() {
            if self.left == 0 {
                let (taken, rest) = piece.split_at(piece.len().min(8 - self.have));
                self.header[self.have..self.have + taken.len()].copy_from_slice(taken);
                self.have += taken.len();
                piece = rest;
                if self.have < 8 {
                    return Ok(());
                }
                let [_, _, _, _, a, b, c, d] = self.header;
                self.left = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(io::Error::other)?;
                if self.left == 0 {
                    self.have = 0;
                }
                continue;
            }
            let (taken, rest) = piece.split_at(piece.len().min(self.left));
            let kind = match self.header[0] {
                0 | 1 => StreamKind::Stdout,
                2 => StreamKind::Stderr,
                3 => StreamKind::System,
                other => {
                    return Err(io::Error::other(format!(
                        "unrecognized stream type {other} in the daemon's output"
                    )));
                }
            };
            sink(kind, taken)?;
            self.left -= taken.len();
            piece = rest;
            if self.left == 0 {
                self.have = 0;
            }
        }
        Ok(())
    }
}

/// Collects JSON objects that follow each other, with or without line breaks.
#[derive(Debug, Default)]
pub struct JsonLines(Vec<u8>);

impl JsonLines {
    /// Takes a piece and returns the objects that are complete now.
    pub fn push<T: DeserializeOwned>(&mut self, piece: &[u8]) -> Result<Vec<T>, serde_json::Error> {
        self.0.extend_from_slice(piece);
        let mut objects = Vec::new();
        let mut stream = serde_json::Deserializer::from_slice(&self.0).into_iter::<T>();
        let mut used = 0;
        while let Some(object) = stream.next() {
            match object {
                Ok(object) => objects.push(object),
                Err(error) if error.is_eof() => break,
                Err(error) => return Err(error),
            }
            used = stream.byte_offset();
        }
        self.0.drain(..used);
        Ok(objects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let mut wire = Vec::new();
        for (kind, text) in [(1_u8, "out"), (2, ""), (2, "err"), (1, "more")] {
            wire.extend([kind, 0, 0, 0, 0, 0, 0, u8::try_from(text.len()).unwrap()]);
            wire.extend(text.bytes());
        }
        for step in 1..wire.len() {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let mut demultiplexer = Demultiplexer::default();
            for piece in wire.chunks(step) {
                let mut sink = |kind, bytes: &[u8]| {
                    if kind == StreamKind::Stdout {
                        out.extend(bytes)
                    } else {
                        err.extend(bytes)
                    }
                    Ok(())
                };
                demultiplexer.push(piece, &mut sink).unwrap();
            }
            assert_eq!((out.as_slice(), err.as_slice()), (&b"outmore"[..], &b"err"[..]), "cut every {step}");
        }
    }

    #[test]
    fn an_unknown_stream_is_an_error() {
        let mut sink = |_: StreamKind, _: &[u8]| Ok(());
        assert!(Demultiplexer::default().push(&[9, 0, 0, 0, 0, 0, 0, 1, 0], &mut sink).is_err());
    }

    #[test]
    fn objects_are_complete_or_wait() {
        let mut lines = JsonLines::default();
        assert_eq!(lines.push::<serde_json::Value>(b"{\"a\":1}\r\n{\"b\"").unwrap().len(), 1);
        assert_eq!(lines.push::<serde_json::Value>(b":2}{\"c\":3}").unwrap().len(), 2);
        assert!(lines.push::<serde_json::Value>(b"}").is_err());
    }
}
