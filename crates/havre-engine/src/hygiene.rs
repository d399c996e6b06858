//! Watermarks: when the disk of the data root is too full, images that nobody named and nothing uses go, oldest first.
//!
//! Invariants: nothing goes that has a name, a container or a child, or is younger than the configuration says; without
//! watermarks nothing goes at all. Looked at after whatever fills disks, and now and then, because containers write
//! unseen.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use havre_image::{ImageUser, Removed};
use havre_oci::Digest;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::Engine;

/// How long after something happened the disk is looked at: much may happen at once.
const SETTLE: Duration = Duration::from_millis(500);
/// How often it is looked at when nothing happens.
const NOW_AND_THEN: Duration = Duration::from_secs(300);

/// A height of the water.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Percent of the file system that are used.
    Used(u8),
    /// Bytes that are free.
    Free(u64),
}

impl fmt::Display for Mark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Used(percent) => write!(out, "{percent}% used"),
            Self::Free(bytes) => write!(out, "{bytes} bytes free"),
        }
    }
}

/// When to remove, until when, and what may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// Above this something has to go.
    pub high: Mark,
    /// Until it is below this.
    pub low: Mark,
    /// Images younger than this stay.
    pub min_age: Duration,
}

/// A file system's size and free space in bytes.
#[derive(Debug, Clone, Copy)]
struct Space {
    all: u64,
    free: u64,
}

impl Space {
    fn of(path: &Path) -> Option<Self> {
        let stat = rustix::fs::statvfs(path).ok()?;
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Some(Self { all: bytes(used.saturating_add(stat.f_bavail)), free: bytes(stat.f_bavail) })
    }

    /// How many bytes are missing until a mark is kept.
    fn missing(self, mark: Mark) -> u64 {
        let wanted = match mark {
            Mark::Used(percent) => self.all / 100 * u64::from(100_u8.saturating_sub(percent)),
            Mark::Free(bytes) => bytes,
        };
        wanted.saturating_sub(self.free)
    }
}

impl Watermarks {
    /// How many bytes have to go.
    fn surplus(&self, space: Space) -> u64 {
        if space.missing(self.high) == 0 { 0 } else { space.missing(self.low) }
    }
}

/// Keeps the disk below the watermarks as long as it is polled.
pub async fn keep_below(engine: Arc<Engine>) {
    let (_, mut happened) = engine.events.subscribe();
    loop {
        if let Some(marks) = engine.settings.live.get().watermarks {
            let engine = Arc::clone(&engine);
            // A panic was told already; the next look is a new one.
            drop(tokio::task::spawn_blocking(move || lower(&engine, marks)).await);
        }
        let watched = engine.settings.live.get().watermarks.is_some();
        tokio::select! {
            // Of any kind: what was missed may have been what matters.
            end = happened.recv() => {
                if matches!(end, Err(RecvError::Closed)) {
                    return;
                }
                tokio::time::sleep(SETTLE).await;
                while !matches!(happened.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed)) {}
            }
            () = tokio::time::sleep(NOW_AND_THEN), if watched => {}
        }
    }
}

fn lower(engine: &Engine, marks: Watermarks) {
    // What was removed and is not deleted yet will be free. Asked first: what is deleted meanwhile counts twice, and too
    // little goes rather than too much.
    let soon = engine.images.in_trash();
    let Some(space) = Space::of(&engine.settings.data_root) else { return };
    let space = Space { free: space.free.saturating_add(soon), ..space };
    let surplus = marks.surplus(space);
    if surplus == 0 {
        return;
    }
    let views = engine.containers.list();
    let users = |image: &Digest| {
        let of_image = views.iter().filter(|view| view.fixed.image == *image);
        let user = |view: &Arc<crate::View>| ImageUser {
            container: view.id().clone(),
            running: view.now.state.is_alive(),
        };
        of_image.map(user).collect()
    };
    match engine.images.remove_nameless(marks.min_age, surplus, &users) {
        Ok((removed, _)) if removed.is_empty() => {
            tracing::debug!(
                surplus,
                "the data root is above its high watermark, and every image has a name or a user"
            );
        }
        Ok((removed, freed)) => {
            for one in removed {
                if let Removed::Image(id) = one {
                    let id = id.to_string();
                    let name = BTreeMap::from([("name".to_owned(), id.clone())]);
                    engine.events.publish("image", "delete", &id, name);
                }
            }
            let (high, low) = (marks.high, marks.low);
            tracing::warn!(
                freed,
                "the data root is above its high watermark ({high}): images without a name were removed; {} bytes are missing to the low one ({low})",
                surplus.saturating_sub(freed)
            );
        }
        Err(error) => {
            tracing::warn!(
                error = havre_base::chain(&error),
                "images without a name could not be removed to make room"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_goes_below_the_high_mark_and_then_as_much_as_the_low_one_wants() {
        let space = |free| Space { all: 1000, free };
        let percent = Watermarks { high: Mark::Used(90), low: Mark::Used(80), min_age: Duration::ZERO };
        assert_eq!([300, 150, 100, 99, 0].map(|free| percent.surplus(space(free))), [0, 0, 0, 101, 200]);
        let bytes = Watermarks { high: Mark::Free(50), low: Mark::Free(70), ..percent };
        assert_eq!([60, 50, 49].map(|free| bytes.surplus(space(free))), [0, 0, 21]);
    }
}
