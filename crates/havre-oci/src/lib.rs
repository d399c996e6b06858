//! OCI documents and names: digests, references, platforms, images, layers, runtime specifications.
//!
//! Invariants: no disk, no network; a value that exists is valid; documents are read with bounds and with
//! unknown fields kept out, so whoever needs the exact bytes (their digest) keeps the bytes.

pub mod digest;
pub mod image;
pub mod layer;
pub mod platform;
pub mod reference;
pub mod runtime;

pub use digest::{Digest, Digester, InvalidDigest};
pub use platform::{InvalidPlatform, Platform};
pub use reference::{InvalidReference, Reference};
