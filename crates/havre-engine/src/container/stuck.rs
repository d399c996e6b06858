//! Processes that were killed and do not end, because the kernel waits for a file system or a device that does
//! not answer.
//!
//! Invariant: whoever asked is answered in bounded time. A removal stays wanted: it is done when the last process
//! ends, if this engine lives to see it.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{AfterEnd, Container, KILL, answer};
use crate::EngineError;

/// How long a killed process may take to end, as Docker waits.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// Processes named in a message.
const NAMED: usize = 3;

impl Container {
    /// Kills the container; those who wait for its end hear of it in bounded time.
    pub(super) async fn kill_for_good(&mut self, by: &str) {
        self.signal_quietly(KILL, by).await;
        self.ended_by.get_or_insert_with(|| Instant::now() + ENDS_WITHIN);
    }

    pub(super) fn tell_those_who_wait(&mut self) {
        let why = self.why_not_ended();
        let name = self.now.name.clone();
        tracing::warn!(container = %self.fixed.id, why, "a killed container does not end");
        let mut wanted = false;
        for then in std::mem::take(&mut self.after_end) {
            let stuck = |what| Err(EngineError::Stuck { what, name: name.clone(), why: why.clone() });
            match then {
                AfterEnd::Answer(reply) => answer(reply, stuck("stop")),
                AfterEnd::Start(reply) => answer(reply, stuck("restart")),
                AfterEnd::Remove(reply) => {
                    wanted = true;
                    let text = format!(
                        "removal of container {name} is pending: {why}; it is removed when they have ended"
                    );
                    answer(reply, Err(EngineError::State(text)));
                }
            }
        }
        if wanted {
            // Nobody listens any more.
            self.after_end.push(AfterEnd::Remove(oneshot::channel().0));
        }
    }

    fn why_not_ended(&self) -> String {
        let mut found = self.launcher.uninterruptible(&self.fixed);
        let more = found.len().saturating_sub(NAMED);
        found.truncate(NAMED);
        match (found.is_empty(), more) {
            (true, _) => "its processes were killed and have not ended".to_owned(),
            (false, 0) => {
                format!("processes were killed and wait in the kernel for something: {}", found.join(", "))
            }
            (false, _) => format!(
                "processes were killed and wait in the kernel for something: {} and {more} more",
                found.join(", ")
            ),
        }
    }
}
