//! Documents by digest: configurations, manifests, and whatever else is kept as it came.
//!
//! Invariants: `blobs/sha256/<hex>` is whole and has that digest, or it is not there. It is written beside,
//! digested while written, synced, and renamed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use havre_oci::{Digest, Digester};
use rustix::fs::FlockOperation;

use crate::{StoreError, folder};

/// What broke off and was not asked for again this long is not kept.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// The content store.
#[derive(Debug)]
pub struct Content {
    blobs: PathBuf,
    ingest: PathBuf,
    partial: PathBuf,
}

impl Content {
    /// Opens the store in `root`, making it when it is not there, and removes what was being written.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self {
            blobs: root.join("blobs/sha256"),
            ingest: root.join("ingest"),
            partial: root.join("partial"),
        };
        folder::private(root)?;
        folder::private(&root.join("blobs"))?;
        folder::private(&store.blobs)?;
        folder::private(&store.ingest)?;
        folder::empty(&store.ingest);
        folder::private(&store.partial)?;
        folder::remove_older(&store.partial, PATIENCE);
        Ok(store)
    }

    /// Where the content is, if it is here.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    /// The length of the content, if it is here.
    #[must_use]
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        self.path(digest).metadata().ok().map(|meta| meta.len())
    }

    /// Opens content for reading.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.path(digest);
        File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Missing(digest.clone()),
            _ => StoreError::read(&path, error),
        })
    }

    /// Reads content of at most `limit` bytes and verifies it.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.path(digest);
        let mut bytes = Vec::new();
        let read = self.open_blob(digest)?.take(limit + 1).read_to_end(&mut bytes);
        read.map_err(|e| StoreError::read(&path, e))?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
            return Err(havre_archive::ArchiveError::Limit { what: "bytes in a document", limit }.into());
        }
        let found = Digest::of_bytes(&bytes);
        if found != *digest {
            return Err(StoreError::Mismatch { what: "stored content", expected: digest.clone(), found });
        }
        Ok(bytes)
    }

    /// Stores `bytes`.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of_bytes(bytes);
        if self.size(&digest).is_some() {
            return Ok(digest);
        }
        let mut writer = self.writer()?;
        writer.write_all(bytes).map_err(|e| StoreError::write(&writer.path, e))?;
        writer.commit(Some(&digest))
    }

    /// Begins to store something whose digest may not be known yet.
    pub fn writer(&self) -> Result<BlobWriter<'_>, StoreError> {
        let path = folder::unused(&self.ingest);
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|e| StoreError::write(&path, e))?;
        Ok(BlobWriter { store: self, path, file, digester: Digester::new(), size: 0 })
    }

    /// Files that are no content, and are not being written.
    pub(crate) fn strays(&self) -> Vec<(&'static str, PathBuf)> {
        let mut found = Vec::new();
        for name in folder::names(&self.blobs).iter().filter(|name| Digest::from_hex(name).is_none()) {
            found.push(("what is no content", self.blobs.join(name)));
        }
        for name in folder::names(&self.ingest).iter().filter(|name| !folder::is_ours(name)) {
            found.push(("half-written content", self.ingest.join(name)));
        }
        found
    }

    /// Transfers that broke off and that nobody continues now.
    pub(crate) fn broken_off(&self) -> Vec<PathBuf> {
        let paths = folder::names(&self.partial).into_iter().map(|name| self.partial.join(name));
        paths.filter(|path| Self::claim(path).is_some()).collect()
    }

    /// Takes what broke off from those who might continue it, as long as the file is open.
    pub(crate) fn claim(path: &Path) -> Option<File> {
        let file = File::open(path).ok()?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok().map(|()| file)
    }

    /// Removes content; absent counts as removed.
    pub fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        folder::remove(&self.path(digest))
    }

    /// All content.
    #[must_use]
    pub fn list(&self) -> Vec<Digest> {
        folder::names(&self.blobs).iter().filter_map(|name| Digest::from_hex(name)).collect()
    }
}

/// Content being written; dropping it without `commit` removes it.
#[derive(Debug)]
pub struct BlobWriter<'a> {
    store: &'a Content,
    path: PathBuf,
    file: File,
    digester: Digester,
    size: u64,
}

impl BlobWriter<'_> {
    /// How much was written.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Makes the content durable and visible, if it is what was expected.
    pub fn commit(mut self, expected: Option<&Digest>) -> Result<Digest, StoreError> {
        let found = std::mem::take(&mut self.digester).finish();
        if let Some(expected) = expected.filter(|expected| **expected != found) {
            return Err(StoreError::Mismatch { what: "content", expected: expected.clone(), found });
        }
        self.file.sync_data().map_err(|e| StoreError::write(&self.path, e))?;
        folder::rename(&self.path, &self.store.path(&found))?;
        folder::sync(&self.store.blobs)?;
        Ok(found)
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.digester.update(&bytes[..count]);
        self.size += u64::try_from(count).unwrap_or(0);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        // After a commit there is nothing under this name; otherwise the next start removes what stays.
        let _gone = std::fs::remove_file(&self.path);
    }
}

/// Content that comes in pieces and may break off: what has come stays for the next try, also after a restart. Nobody
/// takes it for the content itself: it is digested from its first byte when it is whole.
#[derive(Debug)]
pub struct Partial {
    path: PathBuf,
    file: File,
    have: u64,
}

impl Content {
    /// Opens what is there of some content, or nothing. One at a time for each digest.
    pub fn partial(&self, digest: &Digest) -> Result<Partial, StoreError> {
        let path = self.partial.join(digest.hex());
        let open = || -> io::Result<(File, u64)> {
            loop {
                let file = File::options().read(true).append(true).create(true).open(&path)?;
                // Says that it is in use; a check that is just removing it has the lock for that moment.
                rustix::fs::flock(&file, FlockOperation::LockShared)?;
                let meta = file.metadata()?;
                if meta.nlink() > 0 {
                    return Ok((file, meta.len()));
                }
            }
        };
        let (file, have) = open().map_err(|e| StoreError::write(&path, e))?;
        Ok(Partial { path, file, have })
    }
}

impl Content {
    /// Removes what broke off and was not asked for again for long.
    pub fn remove_old_partials(&self) {
        folder::remove_older(&self.partial, PATIENCE);
    }
}

impl Partial {
    /// How much is there.
    #[must_use]
    pub const fn have(&self) -> u64 {
        self.have
    }

    /// Forgets what is there.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        self.file.set_len(0).map_err(|e| StoreError::write(&self.path, e))?;
        self.have = 0;
        Ok(())
    }

    /// Reads what is there from its start; writing goes on at the end.
    pub fn reader(&self) -> Result<impl Read + Send + 'static, StoreError> {
        let file = File::open(&self.path).map_err(|e| StoreError::read(&self.path, e))?;
        Ok(file.take(self.have))
    }

    /// Removes it: it is not wanted any more.
    pub fn remove(self) -> Result<(), StoreError> {
        folder::remove(&self.path)
    }
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
