//! What is kept on disk: the state database, documents by digest, layers and writable layers.
//!
//! Invariants: what is there is whole and verified, or it is not there; temporary files and trash have
//! their own folders, which are emptied at start; every folder of ours is closed to other users.
//! Not here: names, tags, registries, containers.

mod capture;
mod check;
pub mod content;
pub mod db;
mod driver;
mod erofs;
mod error;
mod extract;
mod folder;
mod recipe;
pub mod snapshot;
pub mod stream;
mod tree;
mod writable;
pub use havre_archive::{ArchiveError, tar};

pub use check::{Leftover, Verified};
pub use content::{BlobWriter, Content, Partial};
pub use db::{Batch, Db, Table};
pub use driver::Driver;
pub use error::StoreError;
pub use extract::Limits;
pub use snapshot::{LayerInfo, Pending, Snapshots};
pub use writable::{Difference, Writable};
