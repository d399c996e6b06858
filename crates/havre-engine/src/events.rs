//! What happened: the stream that `events` shows, with a bounded memory of the past.
//!
//! Invariants: events are published in order and only after they are true; a subscriber that does not
//! keep up loses the oldest and is told so by the channel, and never delays the publisher.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use havre_base::{Clock as _, SystemClock, Timestamp};
use tokio::sync::broadcast;

/// How many past events are kept, as Docker keeps.
const KEPT: usize = 256;
/// How many a subscriber may lag behind.
const LAG: usize = 1024;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// `container`, `image`, ...
    pub kind: &'static str,
    /// `start`, `die`, ...
    pub action: String,
    /// The object's id.
    pub id: String,
    /// Name, image, labels, exit code.
    pub attributes: BTreeMap<String, String>,
    /// When.
    pub at: Timestamp,
}

/// The stream of events.
#[derive(Debug)]
pub struct Events {
    /// Protects the memory, and the order of memory and stream.
    past: Mutex<VecDeque<Happening>>,
    stream: broadcast::Sender<Happening>,
}

impl Default for Events {
    fn default() -> Self {
        Self { past: Mutex::new(VecDeque::with_capacity(16)), stream: broadcast::channel(LAG).0 }
    }
}

impl Events {
    /// Tells everybody.
    pub fn publish(&self, kind: &'static str, action: &str, id: &str, attributes: BTreeMap<String, String>) {
        let event = Happening {
            kind,
            action: action.to_owned(),
            id: id.to_owned(),
            attributes,
            at: SystemClock.now(),
        };
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() == KEPT {
            past.pop_front();
        }
        past.push_back(event.clone());
        // No subscriber is no error.
        self.stream.send(event).map(drop).unwrap_or(());
    }

    /// The remembered past and everything from now on, without a gap.
    #[must_use]
    pub fn subscribe(&self) -> (Vec<Happening>, broadcast::Receiver<Happening>) {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        (past.iter().cloned().collect(), self.stream.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_subscriber_sees_past_and_future_without_a_gap() {
        let events = Events::default();
        for n in 0..300 {
            events.publish("container", "start", &n.to_string(), BTreeMap::new());
        }
        let (past, mut future) = events.subscribe();
        assert_eq!((past.len(), past[0].id.as_str()), (256, "44"));
        events.publish("container", "die", "x", BTreeMap::new());
        assert_eq!(future.recv().await.unwrap().action, "die");
    }
}
