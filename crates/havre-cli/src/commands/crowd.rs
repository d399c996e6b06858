//! Many requests at once on the one thread of the command line.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

/// Work that goes on while something else is waited for.
type Work<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Work whose results go elsewhere. All of it is looked at when any of it can go on: it is a few hundred
/// requests, not thousands.
#[derive(Default)]
pub(super) struct Crowd<'a>(Vec<Work<'a>>);

impl<'a> Crowd<'a> {
    /// Adds work.
    pub(super) fn add(&mut self, work: impl Future<Output = ()> + 'a) {
        self.0.push(Box::pin(work));
    }

    /// Goes on until `other` is done.
    pub(super) async fn until<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        poll_fn(|context| {
            self.0.retain_mut(|work| work.as_mut().poll(context).is_pending());
            other.as_mut().poll(context)
        })
        .await
    }

    /// Goes on until all work is done.
    pub(super) async fn all(&mut self) {
        poll_fn(|context| {
            self.0.retain_mut(|work| work.as_mut().poll(context).is_pending());
            if self.0.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn work_goes_on_beside_what_is_waited_for() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let count = Cell::new(0);
        runtime.block_on(async {
            let mut crowd = Crowd::default();
            for _ in 0..3 {
                crowd.add(async {
                    tokio::task::yield_now().await;
                    count.set(count.get() + 1);
                });
            }
            assert_eq!(crowd.until(async { 7 }).await, 7);
            crowd.all().await;
        });
        assert_eq!(count.get(), 3);
    }
}
