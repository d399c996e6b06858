//! How a transfer tells what happens.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

/// Between two reports of mere progress.
const OFTEN: Duration = Duration::from_millis(100);
/// Events that may wait to be taken.
const WAITING: usize = 64;

/// Where events go. One that nobody takes holds the transfer up, except for mere progress.
#[derive(Debug)]
pub struct Reports<E>(mpsc::Sender<E>);

impl<E> Clone for Reports<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<E> Reports<E> {
    /// A place for events, and where they come out.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<E>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), receiver)
    }

    pub(crate) async fn tell(&self, event: E) {
        // Nobody listens: then nobody needs to know.
        self.0.send(event).await.unwrap_or(());
    }

    /// Tells how far something is, unless that was told a moment ago or nobody takes it now.
    pub(crate) fn progress(&self, last: &mut Instant, event: impl FnOnce() -> E) {
        if last.elapsed() >= OFTEN {
            *last = Instant::now();
            self.0.try_send(event()).unwrap_or(());
        }
    }
}
