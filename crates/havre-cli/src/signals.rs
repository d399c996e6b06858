//! Signals of the CLI that are meant for the container.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::failure::Failure;

/// What is passed on, by number and the name that the API takes. Left out: what cannot be caught, what
/// is the CLI's own (child, window size, broken pipe, urgent data), and job control.
const PROXIED: [(i32, &str); 9] = [
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (6, "ABRT"),
    (10, "USR1"),
    (12, "USR2"),
    (14, "ALRM"),
    (15, "TERM"),
    (18, "CONT"),
];

/// Signals as they arrive.
pub(crate) struct Signals {
    received: mpsc::Receiver<&'static str>,
    sender: mpsc::Sender<&'static str>,
}

impl Signals {
    /// Catches nothing yet.
    pub(crate) fn none() -> Self {
        let (sender, received) = mpsc::channel(32);
        Self { received, sender }
    }

    /// Catches what is to be passed on.
    pub(crate) fn proxied() -> Result<Self, Failure> {
        let signals = Self::none();
        for (number, name) in PROXIED {
            signals.catch(SignalKind::from_raw(number), name)?;
        }
        Ok(signals)
    }

    /// Catches what ends the CLI, so that the terminal can be restored before.
    pub(crate) fn ending() -> Result<Self, Failure> {
        let signals = Self::none();
        for (number, name) in PROXIED.into_iter().filter(|(number, _)| matches!(number, 1 | 2 | 3 | 15)) {
            signals.catch(SignalKind::from_raw(number), name)?;
        }
        Ok(signals)
    }

    /// Catches changes of the window's size, as `WINCH`.
    pub(crate) fn catch_resize(&self) -> Result<(), Failure> {
        self.catch(SignalKind::window_change(), "WINCH")
    }

    fn catch(&self, kind: SignalKind, name: &'static str) -> Result<(), Failure> {
        let mut source =
            signal(kind).map_err(|error| Failure::plain(format!("cannot catch SIG{name}: {error}")))?;
        let sender = self.sender.clone();
        // Ends with the runtime, or when nobody listens any more.
        tokio::spawn(
            async move { while source.recv().await.is_some() && sender.send(name).await.is_ok() {} },
        );
        Ok(())
    }

    /// The next signal.
    pub(crate) async fn next(&mut self) -> &'static str {
        match self.received.recv().await {
            Some(name) => name,
            // Cannot happen while `self` holds a sender.
            None => std::future::pending().await,
        }
    }
}

/// The exit code of a program ended by a signal.
pub(crate) fn exit_code(name: &str) -> u8 {
    let number = PROXIED.iter().find(|(_, known)| *known == name).map_or(0, |(number, _)| *number);
    128 + u8::try_from(number).unwrap_or(0)
}
