//! The user's terminal: raw mode that always ends, its size, and the keys that detach.

use std::io::{IsTerminal, stdin, stdout};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Other settings of the terminal on standard input; dropping it restores what was before.
#[must_use = "dropping it restores the terminal"]
struct Changed(Option<Termios>);

impl Changed {
    /// Nothing happens when standard input is no terminal.
    fn by(how: impl FnOnce(&mut Termios)) -> Self {
        let Ok(before) = tcgetattr(stdin()) else { return Self(None) };
        let mut after = before.clone();
        how(&mut after);
        match tcsetattr(stdin(), OptionalActions::Now, &after) {
            Ok(()) => Self(Some(before)),
            Err(_) => Self(None),
        }
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        if let Some(before) = self.0.take() {
            // The terminal may be gone; then there is nothing to restore.
            tcsetattr(stdin(), OptionalActions::Now, &before).ok();
        }
    }
}

/// Raw mode; dropping it restores what was before.
#[must_use = "dropping it ends raw mode"]
pub(crate) struct Raw(#[expect(dead_code, reason = "kept for its end")] Changed);

impl Raw {
    /// Makes the terminal on standard input raw; nothing happens when there is none.
    pub(crate) fn enter() -> Self {
        Self(Changed::by(Termios::make_raw))
    }
}

/// What is typed is not shown; dropping it ends that.
#[must_use = "dropping it shows what is typed again"]
pub(crate) struct Hidden(#[expect(dead_code, reason = "kept for its end")] Changed);

impl Hidden {
    /// Hides what is typed on standard input; nothing happens when it is no terminal.
    pub(crate) fn enter() -> Self {
        Self(Changed::by(|settings| settings.local_modes.remove(LocalModes::ECHO)))
    }
}

/// Whether standard input is a terminal.
pub(crate) fn input_is_terminal() -> bool {
    stdin().is_terminal()
}

/// Rows and columns of the terminal on standard output, if it is one.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// The keys that detach, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys(Vec<u8>);

impl DetachKeys {
    /// Docker's default: ctrl-p ctrl-q.
    pub(crate) fn standard() -> Self {
        Self(vec![16, 17])
    }

    /// Reads `ctrl-a,b,ctrl-@`; an empty text is the default.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::standard());
        }
        let mut keys = Vec::new();
        for key in text.split(',') {
            let byte = match key.as_bytes() {
                [single] => *single,
                [b'c', b't', b'r', b'l', b'-', letter] => match letter {
                    b'a'..=b'z' => letter - b'a' + 1,
                    b'@' => 0,
                    b'[' => 27,
                    b'\\' => 28,
                    b']' => 29,
                    b'^' => 30,
                    b'_' => 31,
                    _ => return Err(format!("Unknown character: '{key}'")),
                },
                _ => return Err(format!("Unknown character: '{key}'")),
            };
            keys.push(byte);
        }
        Ok(Self(keys))
    }
}

/// Watches input for the detach keys. Keys that turn out not to be the sequence are passed on late.
pub(crate) struct Detector {
    keys: Vec<u8>,
    matched: usize,
}

impl Detector {
    pub(crate) fn new(keys: DetachKeys) -> Self {
        Self { keys: keys.0, matched: 0 }
    }

    /// What of `input` to send on, and whether the sequence is complete.
    pub(crate) fn filter(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(input.len());
        for &byte in input {
            if self.keys.get(self.matched) == Some(&byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (out, true);
                }
                continue;
            }
            out.extend(&self.keys[..self.matched]);
            self.matched = 0;
            if self.keys.first() == Some(&byte) {
                self.matched = 1;
            } else {
                out.push(byte);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_parse_as_docker_writes_them() {
        assert_eq!(DetachKeys::parse(""), Ok(DetachKeys(vec![16, 17])));
        assert_eq!(DetachKeys::parse("ctrl-a,x,ctrl-[,ctrl-@"), Ok(DetachKeys(vec![1, b'x', 27, 0])));
        for bad in ["ctrl-", "ctrl-1", "ab", "a,,b"] {
            assert!(DetachKeys::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_the_whole_sequence_detaches() {
        let mut detector = Detector::new(DetachKeys::standard());
        assert_eq!(detector.filter(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(detector.filter(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(detector.filter(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(detector.filter(b"\x11zz"), (Vec::new(), true));
    }
}
