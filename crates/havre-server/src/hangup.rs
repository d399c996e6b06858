//! Whether the client of a silent stream is still there.
//!
//! HTTP notices a vanished client when it writes. A stream that waits for something to happen may not write
//! for days, so it watches the socket itself.
//!
//! Invariant: a unix client that only ended its sending side is still there; only the kernel's word that
//! both sides are closed counts. Over TCP the two look the same, and an end of sending counts as gone for
//! streams, as it does for Go's server.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::listen::Transport;

/// A connection's socket, held to watch it.
#[derive(Debug, Clone)]
pub(crate) struct Hangup {
    socket: Option<Arc<OwnedFd>>,
    interest: Interest,
}

impl Hangup {
    /// Watches a socket. Without a descriptor to spare the stream only notices when it writes.
    pub(crate) fn of(socket: &impl AsFd, transport: Transport) -> Self {
        // Urgent data never comes over a unix socket: what remains is the hang-up, which is always told.
        let interest = match transport {
            Transport::Unix => Interest::PRIORITY,
            Transport::Tcp(_) | Transport::Tls(_) => Interest::READABLE,
        };
        Self { socket: socket.as_fd().try_clone_to_owned().ok().map(Arc::new), interest }
    }

    /// Completes when the client is gone.
    pub(crate) fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        let (socket, interest) = (self.socket.clone(), self.interest);
        async move {
            #[expect(deprecated, reason = "it is owned here, and so open, for as long as it is watched")]
            let watched = socket.and_then(|socket| AsyncFd::try_with_interest(socket, interest).ok());
            let Some(watched) = watched else { return std::future::pending().await };
            while let Ok(mut guard) = watched.ready(interest).await {
                if guard.ready().is_read_closed() || guard.ready().is_write_closed() {
                    return;
                }
                guard.clear_ready();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_half_closed_client_is_there_and_a_closed_one_is_not() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut gone = Box::pin(Hangup::of(&ours, Transport::Unix).gone());
        theirs.shutdown(Shutdown::Write).unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), gone.as_mut()).await;
        assert!(early.is_err(), "half a close is no end");
        drop(theirs);
        gone.await;
    }
}
