//! Hears when somebody else changes the packet filter.
//!
//! Invariant: no change of somebody else to our table is missed, and none of our own is taken for one. While anybody
//! listens, the kernel makes a message for each element that is added, several kilobytes each until all is sent; so
//! nobody listens while we change much, and the number of the filter's state tells whether somebody else did meanwhile.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use havre_sys::nft::{Event, Nft};
use tokio::sync::Notify;

use crate::Result;

/// A socket that listens, for as long as it is needed.
#[derive(Debug, Default)]
pub(super) struct Ears {
    nft: Mutex<Option<Nft>>,
    /// Something may have happened that was not heard.
    missed: AtomicBool,
    /// Somebody has to look, though nothing can be read.
    look: Notify,
}

/// What others did since it was asked last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heard {
    /// To what is ours in our table.
    pub ours: bool,
    /// Anywhere else.
    pub elsewhere: bool,
}

impl Ears {
    fn nft(&self) -> MutexGuard<'_, Option<Nft>> {
        // Only replaced as a whole.
        self.nft.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to listen; the descriptor is readable when there is something to hear.
    pub(super) fn open(&self) -> Result<OwnedFd> {
        let nft = Nft::open()?;
        nft.listen()?;
        let fd = nft.as_fd().try_clone_to_owned()?;
        *self.nft() = Some(nft);
        Ok(fd)
    }

    /// Ends when something has to be looked at that cannot be read.
    pub(super) async fn look(&self) {
        self.look.notified().await;
    }

    /// What others than `writer` did; `is_ours` tells of a chain or set of our table whether we fill it.
    pub(super) fn heard(&self, writer: u32, table: &str, is_ours: impl Fn(&str) -> bool) -> Result<Heard> {
        let mut heard = Heard { ours: self.missed.swap(false, Ordering::Relaxed), elsewhere: false };
        let mut nft = self.nft();
        let Some(nft) = nft.as_mut() else { return Ok(heard) };
        for event in nft.events_of_others(writer)? {
            match event {
                Event::Generation(_) => {}
                Event::Lost => heard = Heard { ours: true, elsewhere: true },
                Event::Table(of) | Event::TableGone(of) if of.name == table => heard.ours = true,
                Event::Inside { table: of, name, .. } if of == table => heard.ours |= is_ours(&name),
                Event::Table(_) | Event::TableGone(_) | Event::Inside { .. } => heard.elsewhere = true,
            }
        }
        Ok(heard)
    }

    /// Makes one large transaction while nobody listens.
    pub(super) fn covered(
        &self,
        writer: &mut Nft,
        transaction: impl FnOnce(&mut Nft) -> Result<()>,
    ) -> Result<()> {
        let mut nft = self.nft();
        let Some(nft) = nft.as_mut() else { return transaction(writer) };
        let before = writer.generation()?;
        nft.hush()?;
        let done = transaction(writer);
        let listening = nft.listen();
        let after = writer.generation();
        let own = before.wrapping_add(u32::from(done.is_ok()));
        if listening.is_err() || after.is_ok_and(|after| after != own) {
            self.missed.store(true, Ordering::Relaxed);
            self.look.notify_one();
        }
        listening?;
        done
    }
}
