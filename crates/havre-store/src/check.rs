//! Whether what is stored is what it should be, and what lies there that nobody needs.
//!
//! Invariants: a check reads and changes nothing; what somebody is at work on is no leftover.
//! Not here: who needs what (`havre-image`).

use std::io::{self, Read as _};
use std::path::PathBuf;

use havre_oci::{Digest, Digester};

use crate::{Content, Driver, Snapshots, StoreError, erofs, folder};

/// How a layer was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// Its archive, written again, has its digest.
    Whole,
    /// Its archive has its digest, but what shows it as files is damaged and can be made again.
    Mendable,
    /// Its archive had something that is not kept (`recipe`), so only its record could be read.
    Unrepeatable,
}

/// Something that nobody needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// What it is, in words.
    pub what: &'static str,
    /// Where.
    pub path: PathBuf,
    /// Bytes of its files.
    pub bytes: u64,
    transfer: bool,
}

impl Leftover {
    fn new(what: &'static str, path: PathBuf, transfer: bool) -> Self {
        Self { what, bytes: folder::size_of(&path), path, transfer }
    }

    /// Removes it, unless somebody is at work on it by now; whether it is gone.
    pub fn remove(&self) -> Result<bool, StoreError> {
        let claimed = self.transfer.then(|| Content::claim(&self.path));
        if matches!(claimed, Some(None)) && self.path.symlink_metadata().is_ok() {
            return Ok(false);
        }
        folder::remove(&self.path).map(|()| true)
    }
}

impl Content {
    /// Reads content to its end and compares its digest; gives its length.
    pub fn verify(&self, digest: &Digest) -> Result<u64, StoreError> {
        let path = self.path(digest);
        let mut file = self.open_blob(digest)?;
        let (mut digester, mut length) = (Digester::new(), 0_u64);
        let mut block = vec![0_u8; 256 << 10];
        loop {
            let read = file.read(&mut block).map_err(|e| StoreError::read(&path, e))?;
            if read == 0 {
                break;
            }
            digester.update(&block[..read]);
            length += u64::try_from(read).unwrap_or(0);
        }
        let found = digester.finish();
        if found != *digest {
            return Err(StoreError::Mismatch { what: "stored content", expected: digest.clone(), found });
        }
        Ok(length)
    }

    /// What lies in the store and is needed by nobody.
    #[must_use]
    pub fn leftovers(&self) -> Vec<Leftover> {
        let strays = self.strays().into_iter().map(|(what, path)| Leftover::new(what, path, false));
        let broken = self.broken_off().into_iter();
        strays.chain(broken.map(|path| Leftover::new("a transfer that broke off", path, true))).collect()
    }
}

impl Snapshots {
    /// Reads a layer to its end and compares its archive's digest.
    pub fn verify(&self, diff_id: &Digest) -> Result<Verified, StoreError> {
        if self.driver == Driver::Erofs {
            let info = self.layer(diff_id).ok_or_else(|| StoreError::Missing(diff_id.clone()))?;
            return erofs::verify(&self.layer_path(diff_id), &info);
        }
        match self.write_tar(diff_id, &mut io::sink()) {
            Ok(()) => Ok(Verified::Whole),
            Err(StoreError::Read { source, .. }) if source.kind() == io::ErrorKind::Unsupported => {
                Ok(Verified::Unrepeatable)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes what shows a layer's archive as files again.
    pub fn mend(&self, diff_id: &Digest) -> Result<(), StoreError> {
        let info = self.layer(diff_id).ok_or_else(|| StoreError::Missing(diff_id.clone()))?;
        match self.driver {
            Driver::Erofs => erofs::mend(&self.layer_path(diff_id), &info),
            // Their files are all there is.
            Driver::Overlay2 | Driver::Vfs | Driver::Btrfs => Ok(()),
        }
    }

    /// What lies in the store and is needed by nobody.
    #[must_use]
    pub fn leftovers(&self) -> Vec<Leftover> {
        self.strays().into_iter().map(|(what, path)| Leftover::new(what, path, false)).collect()
    }
}
