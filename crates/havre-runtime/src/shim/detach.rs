//! The detach key sequence in a terminal's input.
//!
//! Invariant: every byte given is either passed on, in order, or part of a sequence that was completed.

/// What a piece of input contained.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// Pass these bytes on.
    Pass(Vec<u8>),
    /// The sequence was completed; pass these bytes on first.
    Detach(Vec<u8>),
}

/// Watches input for one sequence.
#[derive(Debug)]
pub(super) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    pub(super) fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// Scans the next piece of input. A started sequence is held back until it is complete or broken.
    pub(super) fn scan(&mut self, input: &[u8]) -> Scan {
        if self.keys.is_empty() {
            return Scan::Pass(input.to_vec());
        }
        let mut pass = Vec::with_capacity(input.len() + self.matched);
        for &byte in input {
            if self.keys.get(self.matched) == Some(&byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return Scan::Detach(pass);
                }
                continue;
            }
            pass.extend_from_slice(self.keys.get(..self.matched).unwrap_or(&[]));
            self.matched = usize::from(self.keys.first() == Some(&byte));
            if self.matched == 0 {
                pass.push(byte);
            } else if self.keys.len() == 1 {
                return Scan::Detach(pass);
            }
        }
        Scan::Pass(pass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> DetachKeys {
        DetachKeys::new(vec![16, 17])
    }

    #[test]
    fn a_sequence_detaches_also_when_it_comes_in_pieces() {
        assert_eq!(keys().scan(b"ab\x10\x11"), Scan::Detach(b"ab".to_vec()));
        let mut split = keys();
        assert_eq!(split.scan(b"x\x10"), Scan::Pass(b"x".to_vec()));
        assert_eq!(split.scan(b"\x11y"), Scan::Detach(vec![]));
    }

    #[test]
    fn a_broken_sequence_is_passed_on_whole() {
        let mut keys = keys();
        assert_eq!(keys.scan(b"\x10"), Scan::Pass(vec![]));
        assert_eq!(keys.scan(b"a"), Scan::Pass(b"\x10a".to_vec()));
        assert_eq!(keys.scan(b"\x10\x10\x11"), Scan::Detach(b"\x10".to_vec()));
    }

    #[test]
    fn no_keys_never_detach() {
        assert_eq!(DetachKeys::new(vec![]).scan(b"\x10\x11"), Scan::Pass(b"\x10\x11".to_vec()));
    }
}
