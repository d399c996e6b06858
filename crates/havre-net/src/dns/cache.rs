//! Answers of other servers, kept for as long as they hold.
//!
//! Invariants: an answer is found only by who asks the same servers, the same question, in the same way; what has
//! outlived its time is not found; never more than so many answers and bytes. When full, those go first that would
//! have gone first.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::wire::Answer;

/// What an entry takes beside its answer: two keys, and the maps' own.
const OVERHEAD: usize = 300;

/// What was asked of whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) servers: Arc<[SocketAddr]>,
    /// The question in lower case.
    pub(super) question: Box<[u8]>,
    /// Flags of the header that change what is answered.
    pub(super) flags: u16,
    /// Flags of EDNS, where it is used.
    pub(super) edns: Option<u16>,
}

#[derive(Debug)]
struct Entry {
    answer: Arc<Answer>,
    since: Instant,
    turn: (Instant, u64),
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Key, Entry>,
    /// By the time at which they end.
    ends: BTreeMap<(Instant, u64), Key>,
    bytes: usize,
    number: u64,
}

/// Bounded in answers and bytes.
#[derive(Debug)]
pub(super) struct Cache {
    most_entries: usize,
    most_bytes: usize,
    /// Protects a few look-ups.
    state: Mutex<State>,
}

impl Cache {
    pub(super) fn new(most_entries: usize, most_bytes: usize) -> Self {
        Self { most_entries, most_bytes, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer and how old it is.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<(Arc<Answer>, Duration)> {
        let mut state = self.state();
        let entry = state.entries.get(key)?;
        if entry.turn.0 <= now {
            state.remove(key);
            return None;
        }
        Some((Arc::clone(&entry.answer), now.saturating_duration_since(entry.since)))
    }

    pub(super) fn put(&self, key: &Key, answer: &Arc<Answer>, now: Instant) {
        let size = size_of_entry(key, answer);
        if answer.life.is_zero() || size > self.most_bytes / 8 {
            return;
        }
        let mut state = self.state();
        state.remove(key);
        while state.entries.len() >= self.most_entries || state.bytes + size > self.most_bytes {
            let Some(first) = state.ends.first_key_value().map(|(_, key)| key.clone()) else { break };
            state.remove(&first);
        }
        state.number += 1;
        let turn = (now + answer.life, state.number);
        state.bytes += size;
        state.ends.insert(turn, key.clone());
        state.entries.insert(key.clone(), Entry { answer: Arc::clone(answer), since: now, turn });
    }
}

fn size_of_entry(key: &Key, answer: &Answer) -> usize {
    answer.size() + key.question.len() * 2 + OVERHEAD
}

impl State {
    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.ends.remove(&entry.turn);
            self.bytes = self.bytes.saturating_sub(size_of_entry(key, &entry.answer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(question: &str, server: &str) -> Key {
        let servers = Arc::from([server.parse().unwrap()]);
        Key { servers, question: question.as_bytes().into(), flags: 0, edns: None }
    }

    /// An answer with one record that holds for so many seconds.
    fn answer(seconds: u32) -> Arc<Answer> {
        let question = [1, b'a', 0, 0, 1, 0, 1];
        let mut bytes = vec![0, 0, 0x80, 0, 0, 1, 0, 1, 0, 0, 0, 0];
        bytes.extend_from_slice(&question);
        bytes.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1]);
        bytes.extend_from_slice(&seconds.to_be_bytes());
        bytes.extend_from_slice(&[0, 4, 192, 0, 2, 1]);
        Arc::new(Answer::parse(bytes, &question).unwrap())
    }

    fn ages(answer: &Answer, age: Duration) -> u32 {
        let asked = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'A', 0, 0, 1, 0, 1];
        let bytes = answer.render(&asked, age, true, 512);
        u32::from_be_bytes(bytes[bytes.len() - 10..bytes.len() - 6].try_into().unwrap())
    }

    #[test]
    fn answers_grow_old_and_go() {
        let (cache, start) = (Cache::new(10, 1 << 20), Instant::now());
        let (one, other) = (key("a", "192.0.2.1:53"), key("a", "192.0.2.2:53"));
        cache.put(&one, &answer(10), start);
        cache.put(&other, &answer(0), start);
        let (kept, age) = cache.get(&one, start + Duration::from_millis(7900)).unwrap();
        assert_eq!((age.as_secs(), ages(&kept, age)), (7, 3));
        assert!(cache.get(&other, start).is_none(), "other servers, and nothing to keep");
        assert!(cache.get(&Key { flags: 16, ..one.clone() }, start).is_none());
        assert!(cache.get(&Key { edns: Some(0), ..one.clone() }, start).is_none());
        assert!(cache.get(&one, start + Duration::from_secs(10)).is_none());
        let state = cache.state();
        assert_eq!((state.bytes, state.ends.len()), (0, 0));
        drop(state);
        // Nobody is believed for ever, and a day is not a second more.
        cache.put(&one, &answer(u32::MAX >> 1), start);
        assert!(cache.get(&one, start + Duration::from_secs(24 * 3600 - 1)).is_some());
        assert!(cache.get(&one, start + Duration::from_secs(24 * 3600)).is_none());
        assert!(answer(u32::MAX).life.is_zero());
    }

    #[test]
    fn n09_neither_entries_nor_bytes_grow_without_bound() {
        let start = Instant::now();
        let size = size_of_entry(&key("1000", "192.0.2.1:53"), &answer(1));
        for (cache, most) in [(Cache::new(10, 1 << 20), 10), (Cache::new(1000, size * 20), 20)] {
            for at in 1000..2000_u32 {
                // The longer ones came first.
                cache.put(&key(&at.to_string(), "192.0.2.1:53"), &answer(5000 - at), start);
                // The same twice is one.
                cache.put(&key(&at.to_string(), "192.0.2.1:53"), &answer(5000 - at), start);
            }
            let state = cache.state();
            assert_eq!((state.entries.len(), state.ends.len(), state.bytes), (most, most, most * size));
            drop(state);
            // What would have gone first has gone first.
            assert!(cache.get(&key("1000", "192.0.2.1:53"), start).is_some());
            assert!(cache.get(&key("1998", "192.0.2.1:53"), start).is_none());
        }
        let small = Cache::new(10, size * 4);
        small.put(&key("1000", "192.0.2.1:53"), &answer(10), start);
        assert!(small.state().entries.is_empty(), "one answer must not take most of the room");
    }
}
