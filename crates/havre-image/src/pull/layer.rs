//! One layer on its way: from the registry to the disk, decompressed, digested and extracted while it comes.

use std::io::{self, Read, Write as _};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf as _, Bytes};
use havre_oci::Digest;
use havre_oci::image::Descriptor;
use havre_registry::{RegistryError, Repository};
use havre_store::{Limits, Partial, Pending, StoreError};
use tokio::sync::mpsc;

use super::{PullEvent, Step, Taken};
use crate::reports::Reports;
use crate::{ImageError, Images, Result, blocking};

/// Pieces that wait for the disk: what comes in is at most so much ahead.
const WAITING: usize = 32;

/// A layer as the extraction reads it: what was there, and what comes. What comes is kept beside, so that a pull that is
/// interrupted goes on from there.
struct Feed<R> {
    there: R,
    pieces: mpsc::Receiver<Bytes>,
    current: Bytes,
    partial: Partial,
    /// How much is still to come.
    left: u64,
    _taken: Taken,
}

impl<R: Read> Read for Feed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let old = self.there.read(into)?;
        if old > 0 || into.is_empty() {
            return Ok(old);
        }
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => {
                    self.partial.write_all(&piece)?;
                    self.left = self.left.saturating_sub(u64::try_from(piece.len()).unwrap_or(0));
                    self.current = piece;
                }
                None if self.left == 0 => return Ok(0),
                None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            }
        }
        let count = self.current.len().min(into.len());
        self.current.copy_to_slice(into.get_mut(..count).unwrap_or(&mut []));
        Ok(count)
    }
}

impl Images {
    pub(super) async fn fetch_layer(
        self: &Arc<Self>,
        blob: &Descriptor,
        layer: &Digest,
        taken: &Taken,
        repository: &Repository<'_>,
        reports: &Reports<PullEvent>,
    ) -> Result<Pending> {
        let mut partial = self.content.partial(&blob.digest)?;
        if partial.have() > blob.size {
            partial.restart()?;
        }
        let resumed = partial.have() > 0;
        match self.attempt(blob, layer, partial, taken, repository, reports).await {
            // What was there from an earlier time may have been damaged with its machine.
            Err(ImageError::Store(error)) if resumed && !matches!(error, StoreError::Write { .. }) => {
                tracing::debug!(blob = %blob.digest, %error, "starting over");
                let mut partial = self.content.partial(&blob.digest)?;
                partial.restart()?;
                self.attempt(blob, layer, partial, taken, repository, reports).await
            }
            other => other,
        }
    }

    async fn attempt(
        self: &Arc<Self>,
        blob: &Descriptor,
        layer: &Digest,
        partial: Partial,
        taken: &Taken,
        repository: &Repository<'_>,
        reports: &Reports<PullEvent>,
    ) -> Result<Pending> {
        let mut have = partial.have();
        let (sender, pieces) = mpsc::channel(WAITING);
        let there = partial.reader()?;
        let (left, _taken) = (blob.size - have, Arc::clone(taken));
        let feed = Feed { there, pieces, current: Bytes::new(), partial, left, _taken };
        let images = Arc::clone(self);
        let extraction =
            tokio::spawn(blocking(move || Ok(images.snapshots.extract(feed, Limits::default())?)));
        // Its length is known before anything of it.
        reports.step(&blob.digest, Step::Downloading { have, of: blob.size }).await;
        let mut last = Instant::now();
        let coming: std::result::Result<(), RegistryError> = async {
            let mut content = repository.blob(&blob.digest, blob.size, have);
            while let Some(piece) = content.next().await? {
                have += u64::try_from(piece.len()).unwrap_or(0);
                reports.progress(&mut last, || {
                    PullEvent::Layer(blob.digest.clone(), Step::Downloading { have, of: blob.size })
                });
                if sender.send(piece).await.is_err() {
                    // The extraction has ended; it says why.
                    break;
                }
            }
            Ok(())
        }
        .await;
        drop(sender);
        if coming.is_ok() {
            reports.step(&blob.digest, Step::Downloaded).await;
        }
        let made = match extraction.await {
            Ok(made) => made,
            Err(error) => {
                Err(ImageError::Pull(format!("the extraction of layer {} failed: {error}", blob.digest)))
            }
        };
        // That the stream broke off is the cause of what the extraction says of it.
        coming?;
        let checked = made.and_then(|pending| verify(pending, blob, layer));
        if let Err(ImageError::Store(error)) = &checked
            && !matches!(error, StoreError::Write { .. })
        {
            // Not what it should be: the same bytes would not become better.
            self.content.partial(&blob.digest)?.remove()?;
        }
        let pending = checked?;
        reports.step(&blob.digest, Step::Complete).await;
        Ok(pending)
    }
}

fn verify(pending: Pending, blob: &Descriptor, layer: &Digest) -> Result<Pending> {
    let (digest, length) = &pending.blob;
    let differ = |what, expected: &Digest, found: &Digest| -> Result<()> {
        Err(StoreError::Mismatch { what, expected: expected.clone(), found: found.clone() }.into())
    };
    if *digest != blob.digest || *length != blob.size {
        differ("blob of a layer", &blob.digest, digest)?;
    }
    if pending.info.diff_id != *layer {
        differ("layer", layer, &pending.info.diff_id)?;
    }
    Ok(pending)
}
