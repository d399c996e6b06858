//! Tar streams, and trees of files from and to them.
//!
//! Invariants: memory is bounded whatever the archive or the tree; nothing outside the root of a tree is
//! read or changed, even while somebody hostile changes it; nothing but folders, regular files and links is
//! ever opened. The daemon and the command line use the same code.
//! Not here: layers (`havre-store` adds whiteouts), compression, and what the archives are for.

mod error;
pub mod pack;
pub mod tar;
pub mod unpack;

pub use error::ArchiveError;
